"""The pitch track: harmonic glides, octaves, pauses, noise, silence, and recordings shorter than a window."""

import math

import pytest
import torch

from taste_min.pitch import mel_pitch

RATE, HOP = 22050, 256


def voice(f0: torch.Tensor, loudness: tuple[float, ...]) -> torch.Tensor:
    """Harmonics of f0 (S,) in Hz, with the given amplitudes."""
    phase = 2 * math.pi * f0.cumsum(0) / RATE
    return 0.1 * sum(a * torch.sin(k * phase) for k, a in enumerate(loudness, start=1))


def test_pitch_follows_a_harmonic_glide_and_ignores_noise():
    f0 = 100 + 60 * torch.arange(2 * RATE) / RATE  # Hz, 100 -> 220
    track = mel_pitch(voice(f0, tuple(1 / k for k in range(1, 8))))
    assert track.shape == (2 * RATE // HOP,)
    truth = f0[HOP // 2 :: HOP][: len(track)]
    error = (track / truth).log2().abs()[3:-5] * 12
    assert error.max() < 0.3  # semitones
    assert (track[:-4] / truth[4:]).log2().abs()[3:-5].max() * 12 > 0.3  # four frames late would not pass
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    assert (mel_pitch(noise) > 0).float().mean() < 0.1


@pytest.mark.parametrize("hertz", [80, 110, 160, 220, 300, 420])
def test_a_strong_second_harmonic_is_not_taken_for_the_pitch(hertz):
    wav = voice(torch.full((RATE,), float(hertz)), (0.3, 1.0, 0.2, 0.1))
    track = mel_pitch(wav)[5:-5]
    assert (track / hertz).log2().abs().max() * 12 < 0.3  # semitones
    loudest = float(torch.fft.rfft(wav).abs().argmax())  # 1 Hz per bin
    assert abs(math.log2(loudest / hertz)) * 12 > 11  # the loudest harmonic would be an octave too high


def test_pauses_are_unvoiced_and_not_bridged():
    tone = (1.0, 0.5, 0.3, 0.2)
    low, high = (voice(torch.full((RATE // 2,), hertz), tone) for hertz in (120.0, 240.0))
    track = mel_pitch(torch.cat([low, torch.zeros(RATE // 2), high]))
    first, pause, last = (
        slice(int(a * RATE / HOP), int(b * RATE / HOP)) for a, b in ((0.1, 0.4), (0.6, 0.9), (1.1, 1.4))
    )
    assert not track[pause].any()
    for part, hertz in ((first, 120), (last, 240)):
        assert (track[part] / hertz).log2().abs().max() * 12 < 0.3
    voiced = track[track > 0]
    assert (((voiced / 120).log2().abs() < 0.1) | ((voiced / 240).log2().abs() < 0.1)).all()  # nothing between the two


def test_silence_has_no_pitch():
    assert not mel_pitch(torch.zeros(RATE)).any()


@pytest.mark.parametrize("n_samples", [0, 1, 255, 256, 300, 1000, 3000])
def test_short_recordings_get_one_value_per_mel_frame(n_samples):
    for wav in (torch.zeros(n_samples), voice(torch.full((n_samples,), 150.0), (1.0, 0.5))):
        track = mel_pitch(wav)
        assert track.shape == (n_samples // HOP,) and track.dtype == torch.float32
        assert track.isfinite().all() and ((track == 0) | ((track >= 60) & (track <= 500))).all()
