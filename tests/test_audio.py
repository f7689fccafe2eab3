"""Audio reading with its refusals, and the spectral front ends against independent implementations."""

import numpy as np
import pytest
import soundfile
import torch

from taste_min.audio import (
    MAX_SECONDS,
    SAMPLE_RATE,
    check_audio,
    kaldi_fbank,
    log_mel,
    read_audio,
    split_windows,
    vocoder_mel,
    write_audio,
)
from taste_min.errors import TasteError


def tone(seconds: float = 0.5, rate: int = SAMPLE_RATE, hz: float = 220.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype("float32")


def test_round_trip_through_a_file(tmp_path):
    wav = torch.from_numpy(tone())
    for suffix, tolerance in ((".wav", 1e-4), (".flac", 1e-4)):
        write_audio(tmp_path / f"a{suffix}", wav, SAMPLE_RATE)
        torch.testing.assert_close(read_audio(tmp_path / f"a{suffix}"), wav, atol=tolerance, rtol=0)


def test_convert_averages_channels_and_resamples(tmp_path):
    stereo = np.stack([tone(rate=48_000), np.zeros(24_000, "float32")], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 48_000)
    with pytest.raises(TasteError, match=r"48000 Hz and 2 channel\(s\).*--convert"):
        read_audio(tmp_path / "a.wav")
    wav = read_audio(tmp_path / "a.wav", convert=True)
    assert len(wav) == 8000
    middle = slice(1000, 7000)  # away from the filter's edges
    torch.testing.assert_close(wav[middle], torch.from_numpy(tone())[middle] / 2, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "data", "rate", "message"),
    [
        ("empty.wav", np.zeros(0, "float32"), SAMPLE_RATE, "empty"),
        ("nan.wav", np.full(8000, np.nan, "float32"), SAMPLE_RATE, "NaN"),
        ("low.wav", tone(rate=8000), 8000, "8000 Hz; record at 16000 Hz or more"),
        ("stereo.wav", np.zeros((8000, 2), "float32"), SAMPLE_RATE, "2 channel"),
        ("silence.wav", np.zeros(8000, "float32"), SAMPLE_RATE, "silent"),
        ("short.wav", tone(0.01), SAMPLE_RATE, "shorter than 25 ms"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, name, data, rate, message):
    soundfile.write(tmp_path / name, data, rate, subtype="FLOAT")
    with pytest.raises(TasteError, match=message) as error:
        read_audio(tmp_path / name)
    assert "\n" not in str(error.value)


def test_not_audio_missing_and_too_long(tmp_path):
    (tmp_path / "text.wav").write_text("this is no recording")
    with pytest.raises(TasteError, match="not a readable audio file"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(TasteError, match="is not a file"):
        read_audio(tmp_path / "nothing.wav")
    soundfile.write(tmp_path / "long.flac", np.zeros((MAX_SECONDS + 60) * 100, "int16"), 100)
    with pytest.raises(TasteError, match="split it into pieces"):
        read_audio(tmp_path / "long.flac")
    with pytest.raises(TasteError, match="one channel"):
        check_audio(torch.zeros(2, 100))


def test_log_mel_equals_transformers_feature_extractor():
    from transformers import WhisperFeatureExtractor

    torch.manual_seed(0)
    wav = torch.randn(24_000) * 0.1
    theirs = WhisperFeatureExtractor(feature_size=80)(wav.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
    ours = log_mel(wav)
    assert ours.shape == (80, 3000)
    torch.testing.assert_close(ours, theirs.input_features[0], atol=1e-5, rtol=0)
    assert (log_mel(wav.flip(0)) - ours).abs().max() > 0.1


def test_log_mel_of_a_batch_and_without_padding():
    wav = torch.randn(2, 16_000)
    torch.testing.assert_close(log_mel(wav)[1], log_mel(wav[1]))
    assert log_mel(wav[0], n_mels=128, pad=False).shape == (128, 100)


def test_vocoder_mel_equals_librosa():
    import librosa

    wav = torch.from_numpy(tone(1.0, 22_050)) + 0.01 * torch.randn(22_050)
    ours = vocoder_mel(wav)
    padded = np.pad(wav.numpy(), 384, mode="reflect")
    magnitude = np.abs(librosa.stft(padded, n_fft=1024, hop_length=256, center=False))
    filters = librosa.filters.mel(sr=22_050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    theirs = np.log(np.maximum(filters @ magnitude, 1e-5))
    assert ours.shape == (80, 22_050 // 256)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-3)
    torch.testing.assert_close(vocoder_mel(torch.stack([wav, wav]))[1], ours)


def test_kaldi_fbank_shape_and_gain():
    """Kaldi features are log energies: twice the amplitude adds 2 ln 2."""
    wav = torch.randn(16_000) * 0.1
    quiet, loud = kaldi_fbank(wav), kaldi_fbank(2 * wav)
    assert quiet.shape == (98, 80)
    torch.testing.assert_close(loud - quiet, torch.full_like(quiet, 2 * np.log(2)), atol=1e-3, rtol=0)


def test_windows_cover_everything_and_cut_where_it_is_quiet():
    torch.manual_seed(0)
    wav = torch.randn(70 * SAMPLE_RATE)
    quiet = slice(27 * SAMPLE_RATE, 27 * SAMPLE_RATE + SAMPLE_RATE // 5)
    wav[quiet] = 0
    windows = split_windows(wav)
    assert windows[0][0] == 0
    assert windows[-1][1] == len(wav)
    assert all(a[1] == b[0] for a, b in zip(windows, windows[1:], strict=False))
    assert all(end - start <= 30 * SAMPLE_RATE for start, end in windows)
    assert quiet.start < windows[0][1] < quiet.stop
    assert split_windows(wav[:1000]) == [(0, 1000)]
