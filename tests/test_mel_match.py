"""Scaling a waveform to a mel spectrogram: it comes closer, changes nothing that fits, and leaves the rest alone."""

from dataclasses import replace

import torch
from fake_taste import tiny_config, tiny_taste

from taste_min.audio import MEL_HOP, VOCODER_RATE, vocoder_mel, vocoder_stft
from taste_min.mel_match import match_mel, overlap_add


def noise(seed: int, n_frames: int = 60) -> torch.Tensor:
    """White noise that gets louder and back, (1, S)."""
    n = n_frames * MEL_HOP
    swell = torch.hann_window(n)
    return 0.1 * swell * torch.randn(1, n, generator=torch.Generator().manual_seed(seed))


def tone(hertz: float, n_frames: int = 60) -> torch.Tensor:
    return 0.1 * torch.sin(torch.arange(n_frames * MEL_HOP) * 2 * torch.pi * hertz / VOCODER_RATE)[None]


def distance(wav: torch.Tensor, mel: torch.Tensor) -> float:
    return float((vocoder_mel(wav) - mel).abs().mean())


def test_every_time_brings_it_closer():
    wav, mel = noise(0), vocoder_mel(noise(1) + tone(1000))
    far = [distance(match_mel(wav, mel, n), mel) for n in range(4)]
    assert far == sorted(far, reverse=True) and far[3] < 0.6 * far[0]
    assert torch.equal(match_mel(wav, mel, 0), wav)


def test_what_fits_is_not_changed_and_what_is_too_quiet_becomes_louder():
    wav = tone(300) + tone(1200) + tone(2500)
    mel, inside = vocoder_mel(wav), slice(4 * MEL_HOP, -4 * MEL_HOP)  # a tone that breaks off has every frequency
    for quiet in (1.0, 0.5):
        matched = match_mel(quiet * wav, mel, 1)
        torch.testing.assert_close(matched[:, inside], wav[:, inside], atol=5e-3, rtol=0)
    assert (0.5 * wav - wav).abs().max() > 0.1  # what no match would leave


def test_overlap_add_undoes_the_frames():
    wav = noise(2)
    window = torch.hann_window(1024)
    frames = torch.fft.irfft(vocoder_stft(wav), n=1024, dim=1) * window[:, None]
    weight = overlap_add(window.square()[None, :, None].expand(1, -1, frames.shape[2]))
    torch.testing.assert_close(overlap_add(frames) / weight, wav, atol=1e-5, rtol=0)


def test_frequencies_above_the_highest_band_keep_their_level():
    high = tone(9500)
    matched = match_mel(high + noise(0), vocoder_mel(0.01 * noise(1)), 1)
    middle = slice(20 * MEL_HOP, 40 * MEL_HOP)
    ratio = (matched * high)[0, middle].sum() / high.square()[0, middle].sum()
    assert 0.9 < ratio < 1.1
    low = match_mel(tone(1000) + noise(0), vocoder_mel(0.01 * noise(1)), 1)
    assert (low * tone(1000))[0, middle].sum() / tone(1000).square()[0, middle].sum() < 0.2


def test_rows_of_a_batch_are_independent():
    wavs, mels = torch.cat((noise(0), noise(1))), vocoder_mel(torch.cat((noise(2), noise(3))))
    together = match_mel(wavs, mels, 2)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], match_mel(wavs[i : i + 1], mels[i : i + 1], 2))


def test_one_frame_is_enough():
    wav = noise(0, 4)[:, : 2 * MEL_HOP]
    assert torch.isfinite(match_mel(wav, vocoder_mel(wav), 1)).all()


def test_the_decoder_matches_as_often_as_it_is_configured():
    mel = vocoder_mel(noise(1))[0]
    config = tiny_config()
    far = []
    for n in (0, 2):
        taste = tiny_taste(config=replace(config, vocoder=replace(config.vocoder, mel_matches=n)))
        far.append(distance(taste.vocode(mel)[None], mel[None]))
    assert far[1] < far[0]
