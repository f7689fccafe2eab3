"""The fundamental frequency on the mel grid: what the vocoder's F0 network learns from (HiFT), and part of the units.

SwiftF0 (Nieradzik 2025), a small convolutional network that comes with its package, finds the pitch.

Axes: S samples, F mel frames.
"""

import functools

import numpy as np
import torch
import torchaudio
from swift_f0 import SwiftF0

from .audio import MEL_HOP, SAMPLE_RATE, VOCODER_RATE


@functools.cache
def tracker() -> SwiftF0:
    return SwiftF0(threads=1, spin=False)


def mel_pitch(wav: torch.Tensor, low: float = 60.0, high: float = 500.0) -> torch.Tensor:
    """F0 of `wav (S,)` at 22.05 kHz per mel frame of `audio.vocoder_mel`, in Hz, 0 where there is no voice: (F,).

    The tracker gives a value every 16 ms; between them it is interpolated on a logarithmic scale, and a mel frame has a
    voice where the nearer of its two neighbours has one. The result is on the CPU. A pure tone is no voice to the
    tracker: it wants harmonics.
    """
    n_frames = len(wav) // MEL_HOP
    if not n_frames:
        return torch.zeros(0)
    sound = torchaudio.functional.resample(wav.cpu().float(), VOCODER_RATE, SAMPLE_RATE)
    found = tracker().detect(sound.numpy(), SAMPLE_RATE, low, high)
    voiced = found.confidence >= 0.5
    if not voiced.any():
        return torch.zeros(n_frames)
    middles = (np.arange(n_frames) + 0.5) * MEL_HOP / VOCODER_RATE
    f0 = np.exp(np.interp(middles, found.timestamps[voiced], np.log(found.pitch_hz[voiced])))
    has_voice = np.interp(middles, found.timestamps, voiced.astype(float)) >= 0.5
    return torch.from_numpy(np.where(has_voice, f0, 0.0)).float()
