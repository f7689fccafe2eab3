"""The fundamental frequency on the mel grid: what the vocoder's F0 network learns from (HiFT).

Axes: S samples, F mel frames, L lags.
"""

import torch
import torch.nn.functional as F

from .audio import VOCODER_RATE

HOP = 256  # samples per mel frame


def mel_pitch(wav: torch.Tensor, low: float = 60.0, high: float = 450.0, threshold: float = 0.55) -> torch.Tensor:
    """F0 of `wav (S,)` at 22.05 kHz per mel frame of `audio.vocoder_mel`, in Hz, 0 where there is no voice: (F,).

    A periodic sound equals itself one period later. Per frame, 30 ms of sound (below 1 kHz, so that formants do not
    pass for short periods) are correlated with themselves at every lag; the first lag that comes within a tenth of the
    best one is the period. Frames 45 dB under the loudest are unvoiced, and a running median removes single errors.
    """
    rate, size = VOCODER_RATE, int(0.03 * VOCODER_RATE)
    shortest, longest = int(rate / high), int(rate / low)
    n_frames = len(wav) // HOP
    spectrum = torch.fft.rfft(wav.double())
    spectrum[torch.fft.rfftfreq(len(wav), 1 / rate, device=wav.device) > 1000] = 0
    smooth = torch.fft.irfft(spectrum, len(wav))

    span = size + longest  # centred on the middle of the mel frame
    before = span // 2 - HOP // 2
    pieces = F.pad(smooth, (before, span)).unfold(0, span, HOP)[:n_frames]  # (F, span)
    n_fft = 1 << (span + size).bit_length()
    products = torch.fft.irfft(torch.fft.rfft(pieces[:, :size], n_fft).conj() * torch.fft.rfft(pieces, n_fft), n_fft)[
        :, : longest + 1
    ]  # (F, L)
    energy = F.pad(pieces.square().cumsum(dim=1), (1, 0))
    energy = energy[:, size : size + longest + 1] - energy[:, : longest + 1]  # (F, L) of the piece at each lag
    correlation = products / (energy[:, :1] * energy).clamp(min=1e-12).sqrt()

    middle = correlation[:, 1:-1]
    is_peak = (middle >= correlation[:, :-2]) & (middle > correlation[:, 2:])
    is_peak[:, : shortest - 1] = False
    peaks = torch.where(is_peak, middle, 0.0)
    best = peaks.amax(dim=1)
    lag = 1 + (peaks >= 0.9 * best[:, None].clamp(min=1e-6)).int().argmax(dim=1)  # (F,)
    left, here, right = (correlation.gather(1, (lag + step)[:, None])[:, 0] for step in (-1, 0, 1))
    bend = (left - 2 * here + right).clamp(max=-1e-9)
    exact = lag + (0.5 * (left - right) / bend).clamp(-0.5, 0.5)  # vertex of the parabola through three points
    voiced = (best > threshold) & (energy[:, 0] > 10**-4.5 * energy[:, 0].max())
    track = torch.where(voiced, rate / exact, 0.0)
    median = F.pad(track, (2, 2)).unfold(0, 5, 1).median(dim=1).values
    return torch.where(voiced, median, 0.0).float()
