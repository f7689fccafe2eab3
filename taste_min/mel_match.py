"""Scale a waveform until it has the mel spectrogram that it was made from: the last step of the mini preset.

A vocoder that has learnt for a few hours places waves and harmonics well and gets the level of its bands wrong by some
decibels. But the level is known: it is the mel spectrogram that the vocoder was given. So the short-time spectrum is
multiplied with what is missing. The original's vocoder needs no such help.

Axes: B batch, S = 256 F samples, F mel frames, M mel bands, K = 513 frequencies.
"""

import torch
import torch.nn.functional as F

from .audio import MEL_FFT, MEL_HOP, VOCODER_RATE, mel_filters, vocoder_stft

MOST_GAIN = 20.0  # and least: 1 / MOST_GAIN
QUIET = 1e-5  # magnitude below which vocoder_mel hears nothing


def match_mel(wav: torch.Tensor, mel: torch.Tensor, n: int) -> torch.Tensor:
    """Scale wav (B, S) at 22.05 kHz towards the natural-log mel spectrogram mel (B, M, F), n times: (B, S).

    Frequencies above the highest band keep their level. Overlapping frames disagree a little about the gain, so the
    result comes closer each time and is never exact.
    """
    # dev: mel-match
    filters = mel_filters(mel.shape[1], VOCODER_RATE, MEL_FFT).to(wav.device)  # (M, K)
    cover = filters.sum(dim=0)  # (K,)
    share = (filters / cover.clamp(min=1e-6)).T  # (K, M), how much each band has to say about a frequency
    window = torch.hann_window(MEL_FFT, device=wav.device)
    weight = overlap_add(window.square()[None, :, None].expand(1, -1, mel.shape[2]))  # (1, S)
    for _ in range(n):
        stft = vocoder_stft(wav)  # (B, K, F)
        gain = mel.exp() / (filters @ stft.abs() + QUIET)  # (B, M, F)
        gain = share @ gain.clamp(1 / MOST_GAIN, MOST_GAIN)  # (B, K, F)
        gain = torch.where(cover[:, None] > 1e-6, gain, 1.0)
        frames = torch.fft.irfft(stft * gain, n=MEL_FFT, dim=1) * window[:, None]  # (B, 1024, F)
        wav = overlap_add(frames) / weight
    return wav


def overlap_add(frames: torch.Tensor) -> torch.Tensor:
    """Add frames (B, 1024, F) where `audio.vocoder_stft` took them from: (B, S)."""
    n_frames, edge = frames.shape[2], (MEL_FFT - MEL_HOP) // 2
    size = MEL_FFT + MEL_HOP * (n_frames - 1)
    added = F.fold(frames, (1, size), (1, MEL_FFT), stride=(1, MEL_HOP))  # (B, 1, 1, size)
    return added[:, 0, 0, edge : size - edge]
