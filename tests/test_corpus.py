"""The mini corpus: its sentences, its plan, its prosody, its manifest, and the samples that ship."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus_trees import Here

import taste_min
from taste_min import corpus_build, corpus_files
from taste_min.align import Word, in_dictionary
from taste_min.corpus import COLUMNS, HELD_OUT_VOICE, Job, load_manifest, plan, sentences
from taste_min.corpus_build import build
from taste_min.errors import TasteError
from taste_min.prosody import PAIR, STYLES, prosody_of
from taste_min.voices import VOICES

SAMPLES = Path(taste_min.__file__).parent / "samples"


def words_of(text):
    return re.findall(r"[a-z']+", text.lower())


def test_sentences_are_many_short_and_pronounceable():
    texts = [text for part in sentences().values() for text in part]
    assert len(texts) == len(set(texts)) >= 3000
    assert all(5 <= len(text.split()) <= 20 for text in texts)
    assert all(re.fullmatch(r"[A-Z][A-Za-z', ]*[.?]", text) for text in texts)
    vocabulary = {word for text in texts for word in words_of(text)}
    assert len(vocabulary) > 2000
    assert all(in_dictionary(word) for word in vocabulary)


def test_no_two_sentences_share_five_words_in_a_row():
    seen = Counter()
    for text in (text for part in sentences().values() for text in part):
        words = words_of(text)
        seen.update({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    assert max(seen.values()) == 1


def test_splits_share_no_sentence_and_training_never_hears_the_held_out_voice():
    jobs = plan(7)
    assert len({job.id for job in jobs}) == len(jobs)
    texts = {
        split: {job.text for job in jobs if job.split == split} for split in ("train", "dev", "test", "test_voice")
    }
    assert not texts["train"] & (texts["dev"] | texts["test"] | texts["test_voice"])
    assert not texts["dev"] & texts["test"]
    assert {job.speaker for job in jobs if job.split == "test_voice"} == {HELD_OUT_VOICE}
    assert HELD_OUT_VOICE not in {job.speaker for job in jobs if job.split != "test_voice"}


@pytest.mark.parametrize("beginning", [200, 1000])
def test_any_beginning_of_the_plan_is_balanced(beginning):
    jobs = plan(7)[:beginning]
    voices = Counter(job.speaker for job in jobs if job.split == "train")
    styles = Counter(job.style for job in jobs if job.split == "train")
    assert max(voices.values()) - min(voices.values()) <= 3
    assert max(styles.values()) - min(styles.values()) <= 10
    assert {job.split for job in jobs} == {"train", "dev", "test", "test_voice"}


def test_a_longer_plan_keeps_the_utterances_of_a_shorter_one():
    assert {job.id for job in plan(0.1)} <= {job.id for job in plan(3)} <= {job.id for job in plan(7)}
    assert len(plan(0.1)) == 90


def test_held_out_sentences_come_in_pairs_of_one_voice():
    jobs = [job for job in plan(7) if job.split == "test"]
    for text in {job.text for job in jobs}:
        same = [job for job in jobs if job.text == text]
        assert [job.style for job in same] == list(PAIR) and len({job.speaker for job in same}) == 1


def test_styles_do_what_they_say():
    def spread(style):
        drawn = [prosody_of(style, 9, random.Random(seed)) for seed in range(40)]
        return np.mean([np.std(np.log(p.rate)) for p in drawn]), np.mean([np.std(np.log(p.pitch)) for p in drawn])

    assert max(*spread("plain"), *spread("slow")) < 1e-9
    assert spread("random")[0] > 0.1 and spread("random")[1] > 0.05
    assert all(spread(style)[0] > 0.05 for style in ("drift", "phrase", "emphasis"))
    slow, fast = (prosody_of(style, 5, random.Random(0)) for style in ("slow", "fast"))
    assert max(slow.rate) < min(fast.rate)
    for style in {*STYLES, *PAIR}:
        for n_words in (1, 2, 5, 20):
            prosody = prosody_of(style, n_words, random.Random(1))
            assert {len(prosody.rate), len(prosody.pitch), len(prosody.gain)} == {n_words}


@pytest.fixture
def fake_build(tmp_path, monkeypatch):
    """`build` with a stand-in for the synthesiser, run in this process."""
    jobs = [Job(f"id{i}", "One two three.", "joe", "plain", "train") for i in range(6)]
    made = []

    def make(job, out):
        if job.id == "id2":
            raise TasteError("cannot be aligned")
        made.append(job.id)
        (out / "audio").mkdir(exist_ok=True)
        soundfile.write(out / "audio" / f"{job.id}.flac", np.zeros(2205), 22_050)
        row = dict.fromkeys(COLUMNS, "1")
        prosody = json.dumps({"rate": [1.0], "pitch": [1.0], "gain": [0.0]})
        named = {"id": job.id, "audio": f"audio/{job.id}.flac", "text": job.text, "words": '[["One", 0.1, 0.2]]'}
        return row | named | {"speaker": "joe", "split": "train", "prosody": prosody}

    monkeypatch.setattr(corpus_build, "plan", lambda hours: jobs)
    monkeypatch.setattr(corpus_build, "make", make)
    monkeypatch.setattr(corpus_files, "ProcessPoolExecutor", Here)
    return lambda: build(1, tmp_path, progress=False), made, tmp_path


def test_an_interrupted_build_continues(fake_build):
    run, made, out = fake_build
    assert run()["utterances"] == 5 and len(made) == 5
    whole = (out / "manifest.tsv").read_text()
    assert run()["utterances"] == 5 and len(made) == 5  # nothing left to do, the refused one is not tried again

    lines = whole.splitlines(keepends=True)
    (out / "manifest.tsv").write_text("".join(lines[:-1]) + lines[-1][:7])  # killed while writing a line
    (out / "audio" / "id1.flac").unlink()
    run()
    assert made[5:] == ["id1", "id5"]
    assert sorted((out / "manifest.tsv").read_text().splitlines()) == sorted(whole.splitlines())


def test_the_manifest_is_typed_and_damage_is_named(fake_build):
    run, _, out = fake_build
    run()
    first = next(row for row in load_manifest(out) if row.id == "id0")
    assert first.audio == out / "audio" / "id0.flac" and first.audio.is_file()
    assert first.words == [Word("One", 0.1, 0.2)] and first.seconds == 1.0 and first.prosody.rate == [1.0]
    (out / "manifest.tsv").write_text("id\taudio\nx\ty\n")
    with pytest.raises(TasteError, match="damaged"):
        load_manifest(out)
    with pytest.raises(TasteError, match="no manifest"):
        load_manifest(out / "elsewhere")


def test_samples_are_small_complete_and_held_out():
    rows = load_manifest(SAMPLES)
    assert {row.speaker for row in rows} == set(VOICES)
    assert 150 < sum(row.seconds for row in rows) < 300
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) <= 4_000_000
    train = set(sentences()["train"])
    for row in rows:
        info = soundfile.info(row.audio)
        assert (info.samplerate, info.channels) == (22_050, 1) and info.duration == pytest.approx(row.seconds, abs=1e-3)
        assert [word.text for word in row.words] == row.text.split() and row.text not in train
        assert row.words[-1].end <= row.seconds + 0.01 and row.split in ("test", "test_voice")


def test_slow_samples_last_longer_than_fast_ones():
    by_style = {(row.text, row.speaker, row.style): row.seconds for row in load_manifest(SAMPLES)}
    ratios = [
        by_style[text, speaker, "slow"] / by_style[text, speaker, "fast"]
        for text, speaker, style in by_style
        if style == "slow" and (text, speaker, "fast") in by_style
    ]
    assert len(ratios) >= 6 and min(ratios) > 1.2  # asked for: 1.3 / 0.75 = 1.73
