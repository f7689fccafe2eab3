"""What is spoken for the language models: enough pairs of each kind, cheap voices, manners that differ in one thing."""

import json

import numpy as np
import pytest
import soundfile
import taslm_renderings as tool
from experiments.spoken_sets import own_questions, own_stories
from experiments.taslm_eval import other_emphasis, other_pitch, other_speaker, pairs_of

from taste_min.corpus import COLUMNS, HELD_OUT_VOICE, TRAIN_VOICES, job_of, plan


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The held-out utterances of a corpus of some hours, without their sound."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "audio").mkdir()
    soundfile.write(folder / "audio" / "one.flac", np.zeros(2205), 22_050)
    lines = ["\t".join(COLUMNS)]
    for job in [job for job in plan(9) if job.split == "test"][:312]:
        n = len(job.text.split())
        row = {"id": job.id, "audio": "audio/one.flac", "text": job.text, "speaker": job.speaker, "rate": "1"}
        row |= {"style": job.style, "split": "test", "seconds": "1", "words": "[]"}
        row["prosody"] = json.dumps({"rate": [1.0] * n, "pitch": [1.0] * n, "gain": [0.0] * n})
        lines.append("\t".join(row[column] for column in COLUMNS))
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_there_are_two_hundred_pairs_of_each_kind_from_few_costly_voices(corpus, tmp_path):
    jobs = list({job.id: job for job in tool.jobs(corpus, tmp_path, 58, 12, 34, 104)}.values())

    class Store:
        rows = [{"text": job.text, "speaker": job.speaker, "style": job.style, "seconds": 1.0} for job in jobs]

    for switched in (other_speaker, other_pitch, other_emphasis):
        assert len(pairs_of(Store, switched)) >= 200
    new = [job for job in jobs if not isinstance(job, tool.Spoken)]
    costly = [job for job in new if job.speaker not in (tool.CHEAP, HELD_OUT_VOICE)]
    assert len(costly) <= 120 and {job.style for job in jobs} == {"plain", "low", "high", "emphatic", "even"}
    even = {job.text: job.speaker for job in jobs if job.style == "even"}
    told = {text for story in own_stories() for text in (*story.context, story.right, story.wrong)}
    assert {text for text, voice in even.items() if voice == HELD_OUT_VOICE} == told
    assert {text for text, voice in even.items() if voice == tool.CHEAP} == {q.text for q in own_questions()}
    assert len({job.text for job in tool.jobs(corpus, tmp_path, 2, 0, 0, 0) if job.speaker == HELD_OUT_VOICE}) == 16


def test_what_the_corpus_holds_is_not_spoken_again(corpus, tmp_path):
    job = tool.jobs(corpus, tmp_path / "out", 0, 0, 0, 0)[0]
    row = tool.speak(job, tmp_path / "out")
    assert row["id"] == job.id and (tmp_path / "out" / row["audio"]).resolve() == corpus / "audio" / "one.flac"


@pytest.mark.parametrize("voice", TRAIN_VOICES[:2])
def test_manners_of_a_sentence_differ_from_the_even_one_in_one_thing(voice):
    text = "One two three four five."
    made = {style: tool.manner(job_of(text, voice, style, "test")) for style in ("plain", "low", "high", "emphatic")}
    assert len({seed for _, seed in made.values()}) == 1
    plain, low, high, emphatic = (prosody for prosody, _ in made.values())
    assert low.rate == high.rate == plain.rate and low.gain == plain.gain
    assert set(low.pitch) == {0.85} and set(high.pitch) == {1.18} and set(plain.pitch) == {1.0}
    assert emphatic.pitch == plain.pitch and emphatic.gain == [3.0, -3.0] * 2 + [3.0]
    factors = np.array(emphatic.rate) / plain.rate
    assert factors[::2] == pytest.approx(0.75, abs=0.01) and factors[1::2] == pytest.approx(1.35, abs=0.01)
    assert np.mean(1 / factors[:4]) == pytest.approx(1, abs=0.05)  # the tempo of the whole stays
    even, _ = tool.manner(job_of(text, voice, "even", "test"))
    assert set(even.rate + even.pitch) == {1.0} and set(even.gain) == {0.0}
