"""Other codecs, run here: the peers of the reconstruction table (paper section 4.2, table 1).

    opus[:BITS]          Opus through libsndfile; BITS per second that are asked for, 6000 at least (the default)
    codec2[:BITS]        Codec2, 8 kHz, 700 to 3200 bit/s; package pycodec2
    encodec[:N]          N codebooks of Encodec (24 kHz), of
    mimi[:N]             Mimi, of
    dac[:N]              DAC (16 kHz): transformers' classes; weights from a hub id or a folder
    speechtokenizer[:N]  N codebooks of SpeechTokenizer; its own package, a folder with config.json and weights

Bits are those that were written: packets without the Ogg container, frames, or codes times log2 of the codebook size.

Axes: S samples, N codebooks, T frames.
"""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from .audio import SAMPLE_RATE
from .errors import TasteError

# (S,) at 16 kHz -> what is heard (S',), its sample rate in Hz, bits spent
Peer = Callable[[torch.Tensor], tuple[torch.Tensor, int, float]]

OPUS_LOWEST, OPUS_SPAN = 6000, 250_000  # bit/s at libsndfile's compression levels 1 and 0: lowest, and how many more
CODEC2_RATE, CODEC2_MODES = 8000, (700, 1200, 1300, 1400, 1600, 2400, 3200)
# name -> (transformers' class, usual weights, codebooks of the paper's table or about 1000 bit/s)
NEURAL = {
    "encodec": ("EncodecModel", "facebook/encodec_24khz", 4),
    "mimi": ("MimiModel", "kyutai/mimi", 8),
    "dac": ("DacModel", "descript/dac_16khz", 2),
}
SPEECHTOKENIZER_FILES = "give --weights a folder with the config.json and SpeechTokenizer.pt of SpeechTokenizer."
PEERS = ("opus", "codec2", *NEURAL, "speechtokenizer")


def ogg_packets(data: bytes) -> list[int]:
    """Sizes in bytes of the packets of an Ogg stream, without the container (RFC 3533).

    Raises TasteError when the bytes are no whole Ogg pages.
    """
    sizes, size, at = [], 0, 0
    while at < len(data):
        if data[at : at + 4] != b"OggS" or at + 27 > len(data):
            raise TasteError("these bytes are no Ogg stream.")
        segments = data[at + 27 : at + 27 + data[at + 26]]
        for length in segments:
            size += length
            if length < 255:  # the packet ends here
                sizes.append(size)
                size = 0
        at += 27 + len(segments) + sum(segments)
    return sizes


class Opus:
    """Opus as libsndfile writes it, at about `bits_per_second` (variable: silence costs less)."""

    def __init__(self, bits_per_second: int | None = None):
        self.bits_per_second = OPUS_LOWEST if bits_per_second is None else bits_per_second
        if not OPUS_LOWEST <= self.bits_per_second <= OPUS_LOWEST + OPUS_SPAN:
            raise TasteError(f"opus takes {OPUS_LOWEST} to {OPUS_LOWEST + OPUS_SPAN} bit/s, not {bits_per_second}.")

    def __call__(self, wav: torch.Tensor) -> tuple[torch.Tensor, int, float]:
        file, level = io.BytesIO(), 1 - (self.bits_per_second - OPUS_LOWEST) / OPUS_SPAN
        samples = wav.clamp(-1, 1).numpy()
        soundfile.write(file, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=level)
        heard, rate = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
        _, _, *packets = ogg_packets(file.getvalue())  # the first two hold the header and its comments
        return torch.from_numpy(heard), rate, 8 * sum(packets)


class Codec2:
    """Codec2 (Rowe 2010), a parametric codec for radio: 8 kHz, frames of 20 or 40 ms."""

    def __init__(self, bits_per_second: int | None = None):
        self.bits_per_second = CODEC2_MODES[0] if bits_per_second is None else bits_per_second
        if self.bits_per_second not in CODEC2_MODES:
            raise TasteError(f"codec2 takes {', '.join(map(str, CODEC2_MODES))} bit/s, not {bits_per_second}.")
        _codec2()

    def __call__(self, wav: torch.Tensor) -> tuple[torch.Tensor, int, float]:
        codec = _codec2()(self.bits_per_second)  # it remembers the frames before, so every recording gets a new one
        size = codec.samples_per_frame()
        narrow = torchaudio.functional.resample(wav, SAMPLE_RATE, CODEC2_RATE)
        samples = (narrow.clamp(-1, 1).numpy() * 32767).astype(np.int16)
        frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
        heard = np.concatenate([codec.decode(codec.encode(frame)) for frame in frames])[: len(samples)]
        return torch.from_numpy(heard.astype(np.float32) / 32768), CODEC2_RATE, len(frames) * codec.bits_per_frame()


def _codec2():
    try:
        from pycodec2 import Codec2 as Binding
    except ImportError as error:
        raise TasteError("codec2 needs pycodec2; run `pip install 'taste_min[peers]'`.") from error
    return Binding


class Neural:
    """Encodec, Mimi or DAC: their first `n_codebooks` residual codebooks, encoded and decoded again."""

    def __init__(self, model: torch.nn.Module, n_codebooks: int):
        self.model, self.n_codebooks, self.kind = model.eval(), n_codebooks, model.config.model_type
        if getattr(model.config, "audio_channels", 1) != 1 or getattr(model.config, "chunk_length_s", None):
            raise TasteError("only codecs of one channel that read a recording in one go are peers here.")

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> torch.Tensor:
        """(S,) at the model's own rate -> codes (N, T). Raises TasteError when it has fewer codebooks."""
        wav = wav[None, None].to(self.model.device)
        if self.kind == "encodec":
            codes = self.model.encode(wav, bandwidth=max(self.model.config.target_bandwidths)).audio_codes[0, 0]
        elif self.kind == "dac":
            size = math.prod(self.model.config.downsampling_ratios)  # it wants whole frames
            codes = self.model.encode(torch.nn.functional.pad(wav, (0, -wav.shape[-1] % size))).audio_codes[0]
        else:
            codes = self.model.encode(wav).audio_codes[0]
        if not 1 <= self.n_codebooks <= len(codes):
            raise TasteError(f"{self.kind} has 1 to {len(codes)} codebooks, not {self.n_codebooks}.")
        return codes[: self.n_codebooks]  # residual: fewer codebooks are the first ones

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (N, T) -> (S,) at the model's own rate."""
        if self.kind == "encodec":
            return self.model.decode(codes[None, None], [None]).audio_values.flatten().cpu()
        return self.model.decode(audio_codes=codes[None]).audio_values.flatten().cpu()

    def __call__(self, wav: torch.Tensor) -> tuple[torch.Tensor, int, float]:
        rate = self.model.config.sampling_rate
        own = torchaudio.functional.resample(wav, SAMPLE_RATE, rate)
        codes = self.encode(own)
        return self.decode(codes)[: len(own)], rate, codes.numel() * math.log2(self.model.config.codebook_size)


class SpeechTokenizerPeer:
    """SpeechTokenizer (Zhang et al. 2024) through its own package: 16 kHz, 50 frames per second, eight codebooks."""

    def __init__(self, model, n_codebooks: int):
        self.model, self.n_codebooks = model.eval(), n_codebooks

    @classmethod
    def load(cls, folder: str | Path, n_codebooks: int) -> "SpeechTokenizerPeer":
        """folder: holds config.json and SpeechTokenizer.pt, perhaps further down. Raises TasteError otherwise."""
        try:
            from speechtokenizer import SpeechTokenizer
        except ImportError as error:
            packages = "speechtokenizer beartype tensorboard"  # it imports the last two without asking for them
            raise TasteError(f"speechtokenizer needs its own package; run `pip install {packages}`.") from error
        configs = [file.with_name("config.json") for file in sorted(Path(folder).rglob("SpeechTokenizer.pt"))]
        config = next(filter(Path.is_file, configs), None)
        if config is None:
            raise TasteError(SPEECHTOKENIZER_FILES)
        model = SpeechTokenizer.load_from_checkpoint(str(config), str(config.with_name("SpeechTokenizer.pt")))
        model.codebook_size = json.loads(config.read_text(encoding="utf-8"))["codebook_size"]
        return cls(model, n_codebooks)

    @torch.no_grad()
    def __call__(self, wav: torch.Tensor) -> tuple[torch.Tensor, int, float]:
        codes = self.model.encode(wav[None, None])  # (N, 1, T)
        if not 1 <= self.n_codebooks <= len(codes):
            raise TasteError(f"speechtokenizer has 1 to {len(codes)} codebooks, not {self.n_codebooks}.")
        codes = codes[: self.n_codebooks]
        heard = self.model.decode(codes).flatten()[: len(wav)].cpu()
        return heard, SAMPLE_RATE, codes.numel() * math.log2(self.model.codebook_size)


def load_peer(name: str, weights: str | None = None, device: str = "cpu") -> Peer:
    """name: one of PEERS, or NAME:N. weights: a folder or a hub id, None for the usual one.

    Raises TasteError for unknown names and numbers, missing packages, and weights that cannot be had or are not whole.
    """
    kind, _, number = name.partition(":")
    if kind not in PEERS or (":" in name and not number.isdecimal()):
        raise TasteError(f"there is no peer '{name}'; choose from {', '.join(PEERS)}, as NAME or NAME:N.")
    n = int(number) if number else None
    if kind in ("opus", "codec2"):
        if weights is not None:
            raise TasteError(f"{kind} has no weights; leave out --weights.")
        return Opus(n) if kind == "opus" else Codec2(n)
    if kind == "speechtokenizer":
        if weights is None:
            raise TasteError(SPEECHTOKENIZER_FILES)
        return SpeechTokenizerPeer.load(weights, n or 4)
    import transformers

    class_name, usual, codebooks = NEURAL[kind]
    try:
        model, facts = getattr(transformers, class_name).from_pretrained(weights or usual, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise TasteError(f"the weights of {kind} cannot be had from {weights or usual}; name a folder.") from error
    if facts["missing_keys"] or facts["mismatched_keys"]:
        raise TasteError(f"{weights or usual} does not hold the weights of {kind}; parts of it are missing.")
    return Neural(model.to(device), codebooks if n is None else n)
