"""Continuations and speech from text, measured: rows with a known answer, the tool on tiny models, the records."""

import json
from pathlib import Path
from types import SimpleNamespace

import continue_speech
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from experiments.continuations import correlation, moments, of_speech, shuffled_correlation, summarise
from nearly import nearly
from taslm_scores import SHIPPED, copies, read

from taste_min.text import Word

VOICES = ("a", "a", "b", "librivox", "librivox")


def prompt(i: int) -> dict:
    return {"variant": "prompt", "owner": f"p{i}", "voice": VOICES[i], "log_rate": 0.1 * i**2, "log_f0": 5.0 - 0.1 * i}


def row(i: int, variant: str, seed: int = 0, follows: bool = True) -> dict:
    """A continuation of prompt i: in its voice and at its rate, or else in another voice and at a rate of its own."""
    own = VOICES[i] if follows else "nobody"
    found = {
        "variant": variant,
        "seed": seed,
        "owner": f"p{i}",
        "voice": VOICES[i],
        "human": i > 2,
        "text": "So it is.",
    }
    found |= {
        "word_errors": 1,
        "reference_words": 4,
        "dnsmos_p808": 3.5,
        "seconds": 2.0,
        "words": 3,
        "wall_seconds": 0.2,
    }
    found |= {"text_nats": 6.0, "shuffled_text_nats": 9.0, "text_tokens": 3, "log_f0": 5.0 - 0.1 * i + 0.01 * seed}
    found["similarities"] = [0.9 if voice == own else 0.5 for voice in VOICES]
    return found | {"log_rate": prompt(i)["log_rate"] if follows else (-1) ** i * 0.1}


def rows() -> list[dict]:
    made = [row(i, name, seed) for i in range(5) for name in ("token", "embedding") for seed in (0, 1)]
    return [prompt(i) for i in range(5)] + made + [row(i, "cascade", follows=False) for i in range(5)]


def spoken(i: int) -> dict:
    base = {"word_errors": 0, "reference_words": 5}
    own = np.full(5, 0.3 + 0.02 * i)
    seconds = {"said": own, "repeated": own * 1.01, "other_seed": own * [1.2, 0.8, 1.2, 0.8, 1], "text_only": own}
    seconds |= {"slow": own[:2] * 1.5, "fast": own[:2]}
    parts = {name: base | {"word_seconds": values.tolist()} for name, values in seconds.items()}
    return parts | {"owner": f"t{i}", "recorded_seconds": [2.0, 1.0]}


def test_what_follows_the_prompt_is_told_from_what_does_not():
    results = summarise(rows(), [spoken(i) for i in range(4)])
    token, cascade = results["variants"]["token"], results["variants"]["cascade"]
    assert token["rate_correlation"]["value"] == pytest.approx(1) and abs(cascade["rate_correlation"]["value"]) < 0.6
    assert token["speaker_similarity_minus_shuffled"]["value"] == pytest.approx(0.4)
    assert cascade["speaker_similarity_minus_shuffled"]["value"] == pytest.approx(0)
    assert token["text_nll"]["value"] == pytest.approx(2) and token["text_nll_minus_shuffled"][
        "value"
    ] == pytest.approx(-1)
    assert results["wer_against_own_text"]["value"] == pytest.approx(0.25) and token["whole_sentences"]["value"] == 1
    assert results["words_per_second"]["value"] == pytest.approx(15)
    assert token["n"] == 10 and cascade["n"] == 5


def test_every_claim_about_continuations_is_measured():
    results = summarise(rows(), [spoken(i) for i in range(4)])
    claims = yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text())
    names = {c["metric"] for claim in claims for c in claim.get("criteria", [])}
    keys = {name.removeprefix("continuation/") for name in names if name.startswith("continuation/")}
    assert keys and keys <= results.keys()
    assert all(results[key]["low"] <= results[key]["value"] <= results[key]["high"] for key in keys)


def test_speech_from_text():
    found = of_speech([spoken(i) for i in range(4)])
    assert found["tts_wer"]["value"] == 0
    assert found["tts_repeat_spread"]["value"] == pytest.approx(np.log(1.01), rel=1e-3)
    assert found["tts_seed_spread_minus_repeat"]["low"] > 0.1
    assert found["tts_steered_rate_transfer"]["value"] == pytest.approx(np.log(1.5) / np.log(2))
    lost = [spoken(i) | {"slow": spoken(i)["slow"] | {"word_seconds": None}} for i in range(1)] + [spoken(1), spoken(2)]
    assert of_speech(lost)["tts_n"] == 3 and of_speech(lost)["tts_steered_rate_transfer"]["value"] > 0.5


def test_correlations():
    rng = np.random.default_rng(0)
    prompts = [prompt(i % 5) | {"owner": f"p{i}", "log_rate": rng.normal()} for i in range(7)]
    made = [row(i % 5, "token") | {"owner": f"p{i}", "log_rate": rng.normal()} for i in range(7)]
    table = moments(made, prompts, "log_rate")
    x, y = table[:, 1], table[:, 2]
    assert correlation(table.sum(0)) == pytest.approx(np.corrcoef(x, y)[0, 1])
    turned = [np.corrcoef(x, np.roll(y, k))[0, 1] for k in range(1, 7)]
    assert shuffled_correlation(table.sum(0)) == pytest.approx(np.mean(turned))
    assert len(moments(made, [prompts[0], prompts[1] | {"log_rate": None}], "log_rate")) == 1


def test_a_recording_is_cut_between_words():
    words = [Word(f"w{i}", i / 2, i / 2 + 0.4) for i in range(6)]
    wav = torch.arange(3 * 16000).float()
    one = continue_speech.begin("x", "v", True, wav, words)
    assert (one.text, one.rest_text) == ("w0 w1 w2 w3", "w4 w5")
    assert len(one.wav) == round(1.9 * 16000) and torch.equal(torch.cat([one.wav, one.rest]), wav)
    assert one.rest_seconds == pytest.approx(0.9)


def test_sentences_take_turns_between_voices(monkeypatch):
    words = [Word(f"w{i}", i / 2, i / 2 + 0.4) for i in range(6)]
    rows = [
        SimpleNamespace(id=f"{n}{voice}-{style}", text=str(n), speaker=voice, style=style, split="test", words=words)
        for voice in ("joe", "alpha")
        for n in range(3)
        for style in (("plain", "slow", "fast") if n != 1 else ("slow",))
    ]
    for row in rows:
        row.audio = row.id
    monkeypatch.setattr(continue_speech, "TRAIN_VOICES", ("joe", "alpha"))
    monkeypatch.setattr(continue_speech, "load_manifest", lambda corpus: rows)
    monkeypatch.setattr(continue_speech, "read_audio", lambda path, convert: torch.zeros(4 * 16000))
    found = [(slow.id, fast.id) for slow, fast in continue_speech.sentences(Path(), 3)]
    assert found == [("0joe-slow", "0joe-fast"), ("0alpha-slow", "0alpha-fast"), ("2joe-slow", "2joe-fast")]


def test_the_copies_beside_the_adapters_agree_with_the_records():
    found = copies()
    assert set(found) == {"scores", "continuation", "loudness", "claims"}, "results/full lacks a record"
    assert {name: read(SHIPPED / f"{name}.json") for name in found} == json.loads(json.dumps(found))


def test_the_recorded_continuations_derive_from_their_rows_and_belong_to_the_shipped_adapters():
    record = read(continue_speech.OUT)
    again = json.loads(json.dumps(summarise(record["utterances"], record["spoken"])))
    assert again == nearly({key: record[key] for key in again})
    assert record["run"]["taslm_manifest_sha256"] == continue_speech.adapters()
