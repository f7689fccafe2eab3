"""Audio in and out, and the four spectral front ends (paper section 4.1; each stage of TASTE has its own).

Axes: B batch, S samples, F mel frames, M mel bands.

    read_audio / write_audio   files, 16 kHz mono float32 in [-1, 1]
    read_windows               the same for long recordings, 30 s at a time
    log_mel                    Whisper's log-mel: 16 kHz, hop 10 ms, 30 s windows        -> encoder, S3 units
    vocoder_mel                CosyVoice's log-mel: 22.05 kHz, hop 256, 80 bands         -> flow, vocoder
    kaldi_fbank                Kaldi log filter banks: 16 kHz, hop 10 ms, 80 bands        -> CAM++ speaker embedding
"""

import functools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
import torchaudio

from .errors import TasteError

SAMPLE_RATE = 16_000  # Hz, everything on the encoder side
VOCODER_RATE = 22_050  # Hz, everything on the decoder side
MEL_FFT, MEL_HOP = 1024, 256  # samples: window and step of the mel spectrogram that flow and vocoder share
WINDOW_SECONDS = 30  # Whisper's window
MAX_SECONDS = 3600  # longest recording read at once
MAX_STREAM_SECONDS = 24 * 3600  # longest one read window by window
BLOCK = 2**14  # frames read at a time: a header may claim any length
LARGEST_FILTER = 2**22  # taps of a resampling filter, 34 MB; 44.1 kHz to 16 kHz takes 70,560
N_FFT, HOP = 400, 160  # Whisper's 25 ms window and 10 ms hop at 16 kHz
SILENCE = 1e-3  # peak below -60 dBFS


def check_audio(wav: torch.Tensor, name: str = "the audio") -> torch.Tensor:
    """Return `wav (S,)` as float32 when it is usable speech input.

    Raises TasteError for empty, multi-channel, non-finite, silent or overlong audio.
    """
    wav = torch.as_tensor(wav)
    if wav.ndim != 1:
        raise TasteError(f"{name} must be one channel of shape (samples,), got shape {tuple(wav.shape)}.")
    if wav.numel() < N_FFT:
        raise TasteError(f"{name} is empty or shorter than 25 ms; give a recording with at least one spoken word.")
    if wav.numel() > MAX_SECONDS * SAMPLE_RATE:
        raise TasteError(_too_long(name, wav.numel() / SAMPLE_RATE, MAX_SECONDS))
    wav = wav.float()
    if not torch.isfinite(wav).all():
        raise TasteError(f"{name} contains NaN or infinite samples; export the recording again.")
    if wav.abs().max() < SILENCE:
        raise TasteError(f"{name} is silent (peak below -60 dBFS); check the microphone or the file.")
    return wav


def _too_long(name: str, seconds: float, limit: int) -> str:
    return f"{name} lasts {seconds / 3600:.1f} h; split it into pieces of at most {limit // 3600} h."


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE, convert: bool = False) -> torch.Tensor:
    """Read an audio file as `(S,)` float32 at `sample_rate` Hz.

    Without `convert` the file must be mono at `sample_rate`, so that no quality is lost unnoticed. With `convert` the
    channels are averaged and a higher rate is resampled down; a lower rate is refused, as in the original (there is
    nothing to fill the missing band with).

    Raises TasteError when the file is missing, not audio, empty, NaN, silent, too long, or in another format.
    """
    with _opened(path, sample_rate, convert, MAX_SECONDS) as file:
        wav, _ = _read_until(file, torch.zeros(0), math.inf)
        return check_audio(_resampled(wav, file.samplerate, sample_rate), Path(path).name)


def read_windows(path: str | Path, convert: bool = False) -> Iterator[torch.Tensor]:
    """Read a recording of up to a day as consecutive windows (S,) of at most 30 s at 16 kHz, one in memory at a time.

    It is cut as by `split_windows`, before it is resampled. Raises TasteError as `read_audio` does; whether there is
    anything but silence is known with the last window.
    """
    with _opened(path, SAMPLE_RATE, convert, MAX_STREAM_SECONDS) as file:
        rate, rest, last, heard = file.samplerate, torch.zeros(0), False, False
        while not last:
            wav, last = _read_until(file, rest, WINDOW_SECONDS * rate)
            cut = len(wav)
            if not last:
                cut = quiet_cut(wav[: WINDOW_SECONDS * rate], rate)
                cut -= cut % (rate // math.gcd(rate, SAMPLE_RATE))  # so that no fraction of a sample is lost
            window, rest = _resampled(wav[:cut], rate, SAMPLE_RATE), wav[cut:]
            silent = bool(window.abs().amax() < SILENCE) if len(window) else True
            if not silent or (last and not heard):
                window = check_audio(window, Path(path).name)
            heard = heard or not silent
            yield window


@contextmanager
def _opened(path: str | Path, sample_rate: int, convert: bool, limit: int) -> Iterator[soundfile.SoundFile]:
    """An audio file whose header is fine, see `_check_format`."""
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file also for names that no file can have
        raise TasteError(f"{str(path):.300} is not a file; give the path of a recording (wav, flac, ogg or mp3).")
    try:
        with soundfile.SoundFile(str(path)) as file:
            _check_format(path.name, file, sample_rate, convert, limit)
            yield file
    except soundfile.LibsndfileError as error:
        raise TasteError(f"{path.name} is not a readable audio file; convert it to wav or flac first.") from error


def _read_until(file: soundfile.SoundFile, begun: torch.Tensor, n_samples: float) -> tuple[torch.Tensor, bool]:
    """Go on after `begun (S,)` until there are more than `n_samples`, channels averaged; and whether the file ended."""
    parts, n = [begun.numpy()], len(begun)
    while n <= n_samples:
        block = file.read(BLOCK, dtype="float32", always_2d=True)  # (BLOCK, channels)
        if not len(block):
            return torch.from_numpy(np.concatenate(parts)), True
        parts.append(block.mean(axis=1))
        n += len(block)
    return torch.from_numpy(np.concatenate(parts)), False


def _resampled(wav: torch.Tensor, rate: int, sample_rate: int) -> torch.Tensor:
    return wav if rate == sample_rate or not len(wav) else torchaudio.functional.resample(wav, rate, sample_rate)


def _check_format(name: str, file: soundfile.SoundFile, sample_rate: int, convert: bool, limit: int) -> None:
    """Raises TasteError for what the header alone tells: too long, too low or too odd a rate, several channels."""
    rate = file.samplerate
    if file.frames > limit * rate:
        raise TasteError(_too_long(name, file.frames / rate, limit))
    if file.frames == 0:
        raise TasteError(f"{name} is empty; give a recording with at least one spoken word.")
    if rate < sample_rate:
        raise TasteError(f"{name} has {rate} Hz; record at {sample_rate} Hz or more (up-sampling adds no detail).")
    if not convert and (rate != sample_rate or file.channels != 1):
        raise TasteError(
            f"{name} has {rate} Hz and {file.channels} channel(s) instead of {sample_rate} Hz mono; "
            "add --convert (convert=True) to average the channels and resample."
        )
    if rate * sample_rate // math.gcd(rate, sample_rate) ** 2 > LARGEST_FILTER:
        raise TasteError(
            f"{name} has {rate} Hz, an unusual rate; convert it to {sample_rate}, 44100 or 48000 Hz first."
        )


def write_audio(path: str | Path, wav: torch.Tensor, sample_rate: int = VOCODER_RATE) -> None:
    """Write `wav (S,)`, clipped to [-1, 1]; the suffix decides the format (wav, flac, mp3, ogg).

    The file appears whole or not at all. Raises TasteError when it cannot be written, for example to a full disk.
    """
    path, samples = Path(path), np.clip(wav.detach().cpu().float().numpy(), -1, 1)
    partial = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        soundfile.write(str(partial), samples, sample_rate)
    except soundfile.LibsndfileError as error:
        partial.unlink(missing_ok=True)
        raise TasteError(f"{path} cannot be written; make room on the disk or choose another folder.") from error
    os.replace(partial, path)


def split_windows(wav: torch.Tensor) -> list[tuple[int, int]]:
    """Cut `wav (S,)` into windows of at most 30 s: [(first sample, last sample + 1), ...].

    Each cut is made at the quietest tenth of a second in the last five seconds of its window, so that words stay whole.
    """
    window, windows, start = WINDOW_SECONDS * SAMPLE_RATE, [], 0
    while len(wav) - start > window:
        end = start + quiet_cut(wav[start : start + window], SAMPLE_RATE)
        windows.append((start, end))
        start = end
    return [*windows, (start, len(wav))]


def quiet_cut(wav: torch.Tensor, rate: int) -> int:
    """The middle of the quietest tenth of a second in the last five seconds of `wav (S,)`, as a sample number."""
    search, block = 5 * rate, rate // 10
    energy = wav[-search:].unfold(0, block, block).square().mean(dim=1)  # one value per 100 ms
    return len(wav) - search + int(energy.argmin()) * block + block // 2


@functools.cache
def mel_filters(n_mels: int, sample_rate: int, n_fft: int) -> torch.Tensor:
    """Slaney mel filters from 0 to 8 kHz, as in librosa's `filters.mel`: (M, n_fft // 2 + 1)."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, 8000.0, sample_rate, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters.T).float()


def log_mel(wav: torch.Tensor, n_mels: int = 80, pad: bool = True) -> torch.Tensor:
    """Whisper's log-mel spectrogram (reference: Radford et al. 2023, section 2.2).

    wav: (S,) or (B, S) at 16 kHz. With `pad` it is cut or zero-padded to 30 s, as the encoder expects.
    Returns (M, F) or (B, M, F) with 100 frames per second; F = 3000 with `pad`.
    """
    if pad:
        n_samples = WINDOW_SECONDS * SAMPLE_RATE
        wav = F.pad(wav[..., :n_samples], (0, max(0, n_samples - wav.shape[-1])))
    window = torch.hann_window(N_FFT, device=wav.device)
    stft = torch.stft(wav, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    power = stft[..., :-1].abs() ** 2  # the last frame is dropped
    log = torch.log10((mel_filters(n_mels, SAMPLE_RATE, N_FFT).to(wav.device) @ power).clamp(min=1e-10))
    floor = log.amax(dim=(-2, -1), keepdim=True) - 8.0  # 80 dB below the loudest point of each recording
    return (torch.maximum(log, floor) + 4.0) / 4.0


def vocoder_mel(wav: torch.Tensor) -> torch.Tensor:
    """Natural-log mel spectrogram that flow and vocoder share: (S,) or (B, S) at 22.05 kHz -> (80, F) or (B, 80, F).

    n_fft and window 1024, hop 256 (86.13 frames per second), 0-8 kHz, magnitudes, F = S // 256.
    """
    stft = vocoder_stft(wav if wav.ndim == 2 else wav[None])
    magnitude = torch.sqrt(stft.real**2 + stft.imag**2 + 1e-9)
    mel = torch.log((mel_filters(80, VOCODER_RATE, MEL_FFT).to(wav.device) @ magnitude).clamp(min=1e-5))
    return mel if wav.ndim == 2 else mel[0]


def vocoder_stft(wav: torch.Tensor) -> torch.Tensor:
    """The short-time spectrum under `vocoder_mel`: (B, S) -> (B, 513, F), complex."""
    pad = (MEL_FFT - MEL_HOP) // 2
    padded = F.pad(wav[:, None], (pad, pad), mode="reflect")[:, 0]
    window = torch.hann_window(MEL_FFT, device=wav.device)
    return torch.stft(padded, MEL_FFT, MEL_HOP, window=window, center=False, return_complex=True)


def kaldi_fbank(wav: torch.Tensor) -> torch.Tensor:
    """Kaldi log filter banks of `wav (S,)` at 16 kHz in [-1, 1]: (F, 80). CAM++ reads them minus their mean over F."""
    return torchaudio.compliance.kaldi.fbank(wav[None], num_mel_bins=80, sample_frequency=SAMPLE_RATE)
