"""The paper's speech units: the S3 tokenizer of CosyVoice, which the released checkpoint brings (paper section 3.1).

Axes: M mel bands, F mel frames, U units.
"""

from pathlib import Path

import torch

from .audio import HOP, SAMPLE_RATE, WINDOW_SECONDS, check_audio, log_mel
from .onnx_session import open_graph


class S3Tokenizer:
    """The S3 tokenizer, version 1, through onnxruntime. Its graph is a black box: log-mel in, unit ids out."""

    n_units = 4096
    unit_rate = 50  # Hz
    n_mels = 128

    def __init__(self, path: str | Path):
        """path: `speech_tokenizer_v1.onnx` of the released checkpoint."""
        self.session = open_graph(path, n_inputs=2)

    def encode(self, wav: torch.Tensor) -> torch.Tensor:
        """Units of a recording (samples,) at 16 kHz: (U,) int64, 50 per second.

        More than 30 s are read in windows of 30 s. Raises TasteError for unusable audio.
        """
        # dev: s3-windows  the original returns no units at all for more than 30 s
        windows = check_audio(wav).cpu().split(WINDOW_SECONDS * SAMPLE_RATE)
        if len(windows) > 1 and len(windows[-1]) < 2 * HOP:  # shorter than one unit
            windows = windows[:-1]
        return torch.cat([self._window(window) for window in windows])

    def _window(self, wav: torch.Tensor) -> torch.Tensor:
        mel = log_mel(wav, self.n_mels, pad=False)[None]  # (1, M, F)
        features, length = (node.name for node in self.session.get_inputs())
        n_frames = torch.tensor([mel.shape[2]], dtype=torch.int32)
        ids = self.session.run(None, {features: mel.numpy(), length: n_frames.numpy()})[0]
        return torch.from_numpy(ids).flatten().long()  # (U,)
