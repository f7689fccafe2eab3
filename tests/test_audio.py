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
    read_windows,
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
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::256]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(1025)[:-1])).T
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


def test_a_file_is_read_in_the_windows_that_its_recording_is_cut_into(tmp_path, monkeypatch):
    path = tmp_path / "long.flac"
    noise = torch.randn(70 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    noise[: 31 * SAMPLE_RATE] = 0  # silence first is no reason to refuse
    soundfile.write(path, noise.numpy(), SAMPLE_RATE)
    wav, read = read_audio(path), []
    reader = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *a, **k: read.append(reader(*a, **k)) or read[-1])
    windows = read_windows(path)
    first = next(windows)
    assert sum(map(len, read)) < 31 * SAMPLE_RATE  # the rest is not in memory yet
    windows = [first, *windows]
    assert [len(window) for window in windows] == [end - start for start, end in split_windows(wav)]
    assert torch.equal(torch.cat(windows), wav) and len(windows) == 3


def test_windows_of_a_converted_file_lose_nothing(tmp_path):
    stereo = np.random.default_rng(0).normal(0, 0.1, (35 * 44_100, 2)).cumsum(axis=0) % 1 - 0.5
    soundfile.write(tmp_path / "a.wav", stereo, 44_100)
    with pytest.raises(TasteError, match="add --convert"):
        next(read_windows(tmp_path / "a.wav"))
    windows, whole = list(read_windows(tmp_path / "a.wav", convert=True)), read_audio(tmp_path / "a.wav", convert=True)
    assert len(windows) == 2 and sum(map(len, windows)) == len(whole)
    apart = (torch.cat(windows) - whole).abs()
    assert apart[: len(windows[0]) - 100].max() < 1e-6  # only at the cut the filter hears silence beyond it


def test_windows_of_bad_files_get_one_sentence(tmp_path):
    silent = np.zeros(65 * SAMPLE_RATE, "float32")
    soundfile.write(tmp_path / "silent.flac", silent, SAMPLE_RATE)
    with pytest.raises(TasteError, match="silent.flac is silent"):
        list(read_windows(tmp_path / "silent.flac"))
    silent[40 * SAMPLE_RATE] = np.nan
    soundfile.write(tmp_path / "nan.wav", silent, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(TasteError, match="nan.wav contains NaN"):
        list(read_windows(tmp_path / "nan.wav"))
    soundfile.write(tmp_path / "days.flac", np.zeros(25 * 3600 * 10, "int16"), 10)
    with pytest.raises(TasteError, match="lasts 25.0 h; split it into pieces of at most 24 h"):
        next(read_windows(tmp_path / "days.flac"))
    for name, content in (("text.wav", b"this is no recording"), ("empty.wav", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TasteError, match="not a readable"):
            next(read_windows(tmp_path / name))
