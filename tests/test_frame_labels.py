"""Frame labels: pitch of known tones, levels in dB, and labels on hand-made alignments."""

import numpy as np
import pytest

from taste_min import frame_labels as labels
from taste_min.align import Word
from taste_min.clips import human_clips


def buzz(hertz, seconds=0.5):
    """A voice-like pulse train: 20 harmonics, falling level."""
    time = np.arange(int(16000 * seconds)) / 16000
    return sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 20) if hertz * k < 7000)


@pytest.mark.parametrize("hertz", [80, 113.7, 220, 370])
def test_pitch_of_a_steady_voice(hertz):
    track = labels.pitch(buzz(hertz))
    assert len(track) == 25
    voiced = track[2:-2]
    assert (voiced > 0).all()
    np.testing.assert_allclose(voiced, hertz, rtol=0.01)  # an octave error would be 100 %


def test_pitch_ignores_loudness_and_finds_none_in_noise_or_silence():
    wav = buzz(150)
    np.testing.assert_allclose(labels.pitch(0.01 * wav), labels.pitch(wav), rtol=1e-6)
    noise = np.random.default_rng(0).normal(size=16000)
    assert (labels.pitch(noise) > 0).mean() < 0.3
    assert (labels.pitch(np.concatenate([wav, np.zeros(8000)]))[28:] == 0).all()


def test_pitch_is_timed_right():
    track = labels.pitch(np.concatenate([buzz(100, 0.4), buzz(200, 0.4)]))
    change = np.flatnonzero(track > 150)[0]
    assert abs(change - 20) <= 1  # 0.4 s = frame 20


def test_loudness_is_relative_and_in_decibel():
    tone = np.sin(np.arange(8000) * 0.3)
    level = labels.loudness(np.concatenate([tone, 0.1 * tone, np.zeros(8000)]))
    assert level.max() == 0
    np.testing.assert_allclose(level[28:48], -20, atol=0.3)
    np.testing.assert_allclose(level[52:], -60)


def test_word_labels_share_one_grid():
    words = [Word("a", 0.02, 0.06), Word("dog", 0.08, 0.12)]
    np.testing.assert_array_equal(labels.word_index(words, 7), [-1, 0, 0, -1, 1, 1, -1])
    np.testing.assert_allclose(labels.place_in_word(words, 7), [np.nan, 0.25, 0.75, np.nan, 0.25, 0.75, np.nan])
    np.testing.assert_array_equal(labels.word_starts(words, 7, within=0.011), [1, 1, 0, 1, 1, 0, 0])
    phones = [labels.Phone("D", 0.08, 0.10, 1), labels.Phone("AO", 0.10, 0.12, 1)]
    assert labels.phone_labels(phones, 7).tolist() == ["SIL"] * 4 + ["D", "AO", "SIL"]


def test_parts_of_sounds(monkeypatch):
    phones = [labels.Phone("D", 0.08, 0.14, 1), labels.Phone("AO", 0.14, 0.22, 1), labels.Phone("T", 0.24, 0.26, 2)]
    monkeypatch.setattr(labels, "align_phones", lambda wav, text: phones)
    parts = labels.sound_parts(np.zeros(4480), "a dot", 14)
    assert parts == ["SIL"] * 4 + ["D0", "D1", "D2", "AO0", "AO1", "AO1", "AO2", "SIL", "T1", "SIL"]
    assert [part.rstrip("012") for part in parts] == labels.phone_labels(phones, 14).tolist()
    monkeypatch.setattr(labels, "align_phones", lambda wav, text: None)
    assert labels.sound_parts(np.zeros(4480), "a dot", 14) == [""] * 14


@pytest.mark.assets
def test_phones_tile_their_words():
    clip = human_clips()[1]
    phones = labels.align_phones(clip.wav.numpy(), clip.text)
    assert [phone.label for phone in phones[:5]] == ["HH", "IY", "W", "AH", "Z"]  # "he was"
    for index, word in enumerate(clip.words):
        mine = [phone for phone in phones if phone.word == index]
        assert mine[0].start == pytest.approx(word.start, abs=0.06)  # the second pass moves borders by a few frames
        assert mine[-1].end == pytest.approx(word.end, abs=0.06)
        assert all(a.end == pytest.approx(b.start) for a, b in zip(mine, mine[1:], strict=False))


@pytest.mark.assets
def test_phones_of_the_wrong_text_are_not_invented():
    clip = human_clips()[1]
    assert labels.align_phones(clip.wav.numpy(), " ".join(["incomprehensibility"] * 12)) is None
