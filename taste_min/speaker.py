"""Speaker embeddings: who speaks, as one vector (paper section 3.1, speech decoder).

The released checkpoint uses CAM++ (192 numbers, an ONNX graph), the mini preset GE2E (256 numbers, an LSTM; Wan et al.
2018). Both classes have the same method `speaker_embedding(*wavs) -> (S,)`.

Axes: B batch, F mel frames, M mel bands, S embedding width.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .audio import SAMPLE_RATE, check_audio, kaldi_fbank, mel_filters
from .errors import TasteError
from .onnx_session import open_graph
from .released_files import unpickle


class CAMPPlus:
    """CAM++ through onnxruntime: Kaldi filter banks (1, F, 80) with zero mean -> 192 numbers."""

    dim = 192

    def __init__(self, path: str | Path):
        """path: `speaker_embed.onnx` of the released checkpoint, or CosyVoice's `campplus.onnx`."""
        self.session = open_graph(path, n_inputs=1)

    def speaker_embedding(self, *wavs: torch.Tensor) -> torch.Tensor:
        """Mean over recordings of one speaker, each (samples,) at 16 kHz -> (192,) of length 1.

        Raises TasteError for unusable audio.
        """
        name = self.session.get_inputs()[0].name
        vectors = []
        for wav in wavs:
            features = kaldi_fbank(check_audio(wav).cpu())  # (F, 80)
            features = (features - features.mean(dim=0))[None]  # (1, F, 80), the recording's channel taken out
            vectors.append(torch.from_numpy(self.session.run(None, {name: features.numpy()})[0]).flatten())
        return F.normalize(torch.stack(vectors).mean(dim=0), dim=0)


class GE2E(nn.Module):
    """Three LSTM layers over mel frames; the last state, through a ReLU, is the speaker."""

    dim = 256
    n_mels, n_fft, hop = 40, 400, 160  # 25 ms windows every 10 ms at 16 kHz
    n_frames = 160  # of one partial utterance, 1.6 s
    partials_per_second = 1.3
    loudness = -30.0  # dB full scale; quieter recordings are raised to it

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(self.n_mels, self.dim, 3, batch_first=True)
        self.linear = nn.Linear(self.dim, self.dim)

    @classmethod
    def from_file(cls, path: str | Path) -> "GE2E":
        """path: `pretrained.pt` of the ge2e asset. Raises TasteError when it holds something else."""
        content = unpickle(Path(path))
        weights = content.get("model_state") if isinstance(content, dict) else None
        weights = weights if isinstance(weights, dict) else {}
        weights = {key: value for key, value in weights.items() if not str(key).startswith("similarity")}  # loss only
        model = cls().eval()
        own = {key: value.shape for key, value in model.state_dict().items()}
        if {key: getattr(value, "shape", None) for key, value in weights.items()} != own:
            raise TasteError(f"{Path(path).name} does not hold the GE2E speaker encoder; run `taste-min fetch ge2e`.")
        model.load_state_dict(weights)
        return model

    def mel(self, wav: torch.Tensor) -> torch.Tensor:
        """Power mel spectrogram, no logarithm: (samples,) -> (F, 40)."""
        window = torch.hann_window(self.n_fft, device=wav.device)
        stft = torch.stft(wav, self.n_fft, self.hop, window=window, pad_mode="constant", return_complex=True)
        return (mel_filters(self.n_mels, SAMPLE_RATE, self.n_fft).to(wav.device) @ stft.abs().square()).T

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Partial utterances (B, 160, 40) -> (B, 256) of length 1."""
        _, (state, _) = self.lstm(mel)
        return F.normalize(F.relu(self.linear(state[-1])), dim=-1)

    def partials(self, n_samples: int) -> list[int]:
        """First frames of the partial utterances, 1.3 per second; a last one with less than 3/4 speech is left out."""
        step = round(SAMPLE_RATE / self.partials_per_second / self.hop)
        n_frames = math.ceil((n_samples + 1) / self.hop)
        starts = list(range(0, max(1, n_frames - self.n_frames + step + 1), step))
        covered = (n_samples - starts[-1] * self.hop) / (self.n_frames * self.hop)
        return starts[:-1] if covered < 0.75 and len(starts) > 1 else starts

    @torch.no_grad()
    def speaker_embedding(self, *wavs: torch.Tensor) -> torch.Tensor:
        """Mean over recordings of one speaker, each (samples,) at 16 kHz -> (256,) of length 1.

        Raises TasteError for unusable audio.
        """
        return F.normalize(torch.stack([self._utterance(check_audio(wav)) for wav in wavs]).mean(dim=0), dim=0)

    def _utterance(self, wav: torch.Tensor) -> torch.Tensor:
        wav = wav.to(self.linear.weight)
        gain = self.loudness - 10 * torch.log10(wav.square().mean())
        wav = wav * 10 ** (gain.clamp(min=0) / 20)
        starts = self.partials(len(wav))
        missing = (starts[-1] + self.n_frames) * self.hop - len(wav)
        mel = self.mel(F.pad(wav, (0, max(0, missing))))  # (F, 40)
        vectors = self(torch.stack([mel[start : start + self.n_frames] for start in starts]))  # (B, 256)
        return F.normalize(vectors.mean(dim=0), dim=0)


def load_speaker_encoder(path: str | Path | None = None) -> "CAMPPlus | GE2E":
    """The GE2E encoder of the mini preset, or with `path` to an .onnx graph CAM++.

    Raises TasteError when the asset or the file cannot be had.
    """
    if path is None:
        from .assets import fetch

        return GE2E.from_file(fetch("ge2e") / "pretrained.pt")
    return CAMPPlus(path)
