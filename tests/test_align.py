"""Forced alignment: one word per written word, in order, where the words are; and failures that say so."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import taste_min
from taste_min.align import MARGIN, _decoder, align, in_dictionary
from taste_min.audio import read_audio
from taste_min.errors import TasteError
from taste_min.pronounce import letters_to_phones, pronounce, spell_number, spoken_form

SAMPLES = Path(taste_min.__file__).parent / "samples"


@pytest.fixture(scope="module")
def sample():
    with (SAMPLES / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return read_audio(SAMPLES / row["audio"], convert=True), row["text"]


def errors(words, truth):
    return np.abs([[w.start - s, w.end - e] for w, (s, e) in zip(words, truth, strict=True)]).ravel()


def test_one_word_per_written_word_in_order(sample):
    wav, text = sample
    words = align(wav, text)
    assert [word.text for word in words] == text.split()
    times = [t for word in words for t in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(wav) / 16_000
    assert all(word.duration >= 0.03 for word in words)  # three frames of 10 ms
    assert words[0].start < words[0].centre < words[0].end


def test_a_shift_of_the_recording_shifts_the_words(sample):
    wav, text = sample
    before = align(wav, text)
    after = align(np.concatenate([np.zeros(8000, np.float32), wav.numpy()]), text)
    assert np.median(errors(after, [(w.start + 0.5, w.end + 0.5) for w in before])) <= 0.02
    assert np.median(errors(after, [(w.start, w.end) for w in before])) > 0.3  # the check can fail


def test_the_same_recording_gives_the_same_times_whatever_came_before(sample):
    wav, text = sample
    _decoder.cache_clear()
    first = align(wav, text)
    align(wav * 0.1, text)
    assert align(wav, text) == first


def test_written_forms(sample):
    wav, text = sample
    dashed = text.split()
    dashed.insert(2, "-")
    words = align(wav, " ".join(dashed))
    assert words[2].text == "-" and words[2].duration == 0 and words[2].start == words[1].end


def test_a_wrong_text_fails(sample):
    wav, text = sample
    with pytest.raises(TasteError, match="does not fit"):
        align(wav, " ".join([text] * 6))


@pytest.mark.parametrize(
    ("wav", "text", "rate", "message"),
    [
        (np.zeros(16_000), "hello", 22_050, "16000"),
        (np.zeros((2, 16_000)), "hello", 16_000, "one channel"),
        (np.zeros(100), "hello", 16_000, "0.1 s"),
        (np.full(16_000, np.nan), "hello", 16_000, "finite"),
        (np.ones(16_000), "--- ...", 16_000, "no words"),
    ],
)
def test_bad_input_is_refused(wav, text, rate, message):
    with pytest.raises(TasteError, match=message):
        align(wav, text, rate)


@pytest.mark.assets
def test_human_speech_matches_the_published_times():
    """Times of pocketsphinx's own test data, made by another of its search modes: most boundaries within 20 ms."""
    from taste_min import assets

    measured, control = [], []
    for path in sorted(assets.fetch("librivox", progress=False).glob("*[0-9].json")):
        document = json.loads(path.read_text())
        spoken = [w for w in document["w"] if w["t"][0] not in "<["]
        truth = [(w["b"], w["b"] + w["d"]) for w in spoken]
        wav, _ = soundfile.read(path.with_suffix(".wav"), dtype="float32")
        words = align(wav, document["t"])
        measured.append(errors(words, truth))
        even = np.linspace(0, len(wav) / 16_000, len(words) + 1)
        control.append(np.abs([[a - s, b - e] for a, b, (s, e) in zip(even, even[1:], truth, strict=False)]).ravel())
    measured, control = np.concatenate(measured), np.concatenate(control)
    assert np.median(measured) <= 0.01 and np.mean(measured <= 0.02) > 0.9
    assert np.median(control) > 0.1  # evenly spread words


def test_numbers_and_joined_words():
    assert spell_number(1984) == "one thousand nine hundred eighty four"
    assert spell_number(20) == "twenty" and spell_number(0) == "zero" and spell_number(1_000_001) == "one million one"
    assert spoken_form("Well-known,") == ["well", "known"]
    assert spoken_form("1,500") == ["one", "thousand", "five", "hundred"]
    assert spoken_form("o\u2019clock.") == ["o'clock"] and spoken_form("...") == []


def test_unknown_words_get_a_pronunciation():
    known = {"snow": "S N OW", "globe": "G L OW B", "dish": "D IH SH", "cat": "K AE T"}
    assert pronounce("snowglobe", known.get) == "S N OW G L OW B"
    assert pronounce("cats", known.get).split()[:3] == ["K", "AE", "T"]
    assert pronounce("dish's", known.get) == "D IH SH IH Z"
    assert letters_to_phones("knight") == ["N", "AY", "T"] and letters_to_phones("'") == ["AH"]
    assert in_dictionary("hello") and not in_dictionary("zzyzzyva")
    assert MARGIN > 0
