"""Timing: every step is seen, the parts add up to the whole, and the model is as before."""

import json
import time

import pytest
import torch
from fake_taste import speech, tiny_taste

from taste_min import cli
from taste_min.bench import REST, STEPS, measure, sample_speech, stopwatch
from taste_min.errors import TasteError
from taste_min.speaker import GE2E
from taste_min.tokenizer import Taste


@pytest.fixture
def taste():
    return tiny_taste()


def test_steps_are_timed_and_add_up(taste):
    result = measure(taste, speech(), runs=1)
    assert [step.name for step in result.steps] == [*STEPS, REST]
    assert all(step.seconds > 0 for step in result.steps)
    assert sum(step.share for step in result.steps) == pytest.approx(1)
    assert sum(step.seconds for step in result.steps) == pytest.approx(result.total)
    assert result.total == result.encode + result.decode
    assert result.speech_seconds == 1.0 and result.real_time_factor == pytest.approx(result.total)


def test_a_slow_step_is_found(taste, monkeypatch):
    def slow(self, *wavs):
        time.sleep(0.3)
        return torch.ones(256)

    monkeypatch.setattr(GE2E, "speaker_embedding", slow)
    with stopwatch(taste) as seconds:
        taste.encode(speech())
    assert seconds["speaker"] >= 0.3
    assert 0 < seconds["quantizer"] < 0.3 and seconds["vocoder"] == 0


def test_the_stopwatch_leaves_the_model_as_it_was(taste):
    before = {part: dict(vars(getattr(taste, part))) for part, _ in STEPS.values()}
    with pytest.raises(ZeroDivisionError), stopwatch(taste):
        raise ZeroDivisionError
    assert before == {part: dict(vars(getattr(taste, part))) for part, _ in STEPS.values()}


def test_missing_parts_are_named(taste):
    taste.flow = None
    with pytest.raises(TasteError, match="has no flow"):
        measure(taste, speech())


def test_sample_speech_has_the_length_asked_for():
    wav = sample_speech(2.5)
    assert wav.shape == (40_000,)
    assert wav.abs().max() > 0.05
    with pytest.raises(TasteError, match="choose fewer --seconds"):
        sample_speech(10_000)


def test_the_command_prints_a_table_and_json(monkeypatch, capsys):
    monkeypatch.setattr(Taste, "from_pretrained", lambda name: tiny_taste())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--seconds", "1", "--runs", "1"]) == 0
    table = capsys.readouterr().out
    assert all(step in table for step in STEPS) and "x real time" in table
    assert cli.main(["bench", "--seconds", "1", "--runs", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["speech_seconds"] == 1.0 and len(report["steps"]) == len(STEPS) + 1
    assert cli.main(["bench", "--seconds", "0"]) == 2
    assert "1..30" in capsys.readouterr().err
