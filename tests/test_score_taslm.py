"""tools/score_taslm.py on tiny runs: every key that the claims name is measured, and none by accident."""

import json

import pytest
import score_taslm
import torch
import yaml
from conftest import ROOT
from experiments import set_report
from experiments.spoken_sets import own_choices, own_questions, own_stories
from test_set_scores import letters_and_lines

from taste_min.cli import main
from taste_min.config import tiny
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.shards import write_shard
from taste_min.stages import STAGES
from taste_min.train import build_objective

LATER = ("words_per_second",)  # not measured by this tool
STORIES, QUESTIONS = own_stories(3), own_questions()[:4]


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """Six sentences, spoken plainly, slowly and by another voice."""
    folder, rows, tensors = tmp_path_factory.mktemp("codes"), [], []
    for i in range(12):
        for take, (voice, style) in enumerate((("x", "plain"), ("x", "slow"), ("y", "plain"))):
            g = torch.Generator().manual_seed(10 * i + take)
            n = 3 + i % 3
            rows.append(
                {"id": f"{i}-{take}", "text": " ".join("abcde"[:n]) + f" {i}", "speaker": voice, "style": style}
            )
            rows[-1] |= {"split": ("train", "dev", "test", "test")[i % 4], "seconds": 1.0 + (style == "slow")}
            found = {"token_ids": torch.arange(n + 1) + i, "word_ids": torch.arange(n + 1)}
            found["codes"] = torch.randint(24, (n + 1, 4), generator=g)
            found["units"] = torch.randint(64, (12,), generator=g)
            tensors.append({key: value.short() for key, value in found.items()})
            rows[-1] |= {"n_tokens": n + 1, "n_runs": len(found["units"].unique_consecutive())}
    quantizer = build_objective(STAGES["taslm_token"], "tiny", 0).model.quantizer
    for start in range(0, len(rows), 32):
        part = slice(start, start + 32)
        write_shard(folder / f"features-{start:05d}.safetensors", rows[part], tensors[part], quantizer.fingerprint)
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """Three sentences in the manners of tools/taslm_renderings.py, three pairs of stories, and some questions."""
    manners = [("x", "plain"), ("y", "plain"), ("x", "low"), ("x", "high"), ("x", "emphatic")]
    said = [(f"some words number {n}", *manner) for n in "abc" for manner in manners]
    told = {text: None for story in STORIES for text in (*story.context, story.right, story.wrong)}
    said += [(text, "z", "even") for text in (*told, *(question.text for question in QUESTIONS))]
    folder, rows, tensors = tmp_path_factory.mktemp("voices"), [], []
    for i, (text, voice, style) in enumerate(said):
        g, n = torch.Generator().manual_seed(i), len(text.split())
        rows.append({"id": f"{i}", "text": text, "speaker": voice, "style": style, "split": "test", "seconds": 1.0})
        found = {"token_ids": torch.arange(n), "word_ids": torch.arange(n), "units": torch.arange(2 * n)}
        tensors.append({key: value.short() for key, value in found.items()})
        tensors[-1]["codes"] = torch.randint(24, (n, 4), generator=g).short()
        rows[-1] |= {"n_tokens": n, "n_runs": 2 * n}
    quantizer = build_objective(STAGES["taslm_token"], "tiny", 0).model.quantizer
    for start in range(0, len(rows), 32):
        part = slice(start, start + 32)
        write_shard(folder / f"features-{start:05d}.safetensors", rows[part], tensors[part], quantizer.fingerprint)
    return folder


def test_every_key_of_the_claims_is_measured(codes, voices, tmp_path, monkeypatch, capsys):
    for stage in score_taslm.RUNS:
        words = ["train", stage, "--preset", "tiny", "--data", str(codes), "--out", str(tmp_path / stage)]
        assert main([*words, "--steps", "2"]) == 0

    def load(stage, runs):
        objective = build_objective(STAGES[stage], "tiny", 0, [runs / stage]).eval()
        objective.model.tokenizer = letters_and_lines()
        return objective

    monkeypatch.setattr(score_taslm, "load", load)
    monkeypatch.setattr(score_taslm, "mini", tiny)
    monkeypatch.setattr(score_taslm, "book_prose", lambda: ["you like tea", "some more tea"] * 8)
    quantizer = build_objective(STAGES["taslm_token"], "tiny", 0).model.quantizer
    monkeypatch.setattr(score_taslm, "load_quantizer", lambda folder, config: quantizer)
    monkeypatch.setattr(set_report, "own_choices", lambda: own_choices()[:4])
    monkeypatch.setattr(set_report, "ENOUGH", 6)
    out = tmp_path / "taslm.json"
    score_taslm.main([str(codes), str(tmp_path), "--voices", str(voices), "--out", str(out), "--unit-stories", "4"])
    results = json.loads(out.read_text())
    claims = yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text())
    keys = {
        name.removeprefix("taslm/")
        for claim in claims
        for criterion in claim.get("criteria", [])
        for name in (criterion["metric"], *criterion.get("mutants", []))
        if name.startswith("taslm/") and not any(part in name for part in LATER)
    }
    assert keys <= results.keys(), keys - results.keys()
    assert all(results[key]["low"] <= results[key]["value"] <= results[key]["high"] for key in keys)
    assert results["text_alone_rate_pairs"]["value"] == 0.5 == results["text_alone_speaker_pairs"]["value"]
    assert results["run"]["stages"]["taslm_token"]["steps"] == 2
    counts = {"speaker": 6, "pitch": 18, "emphasis": 6}
    assert {kind: results[f"token_{kind}_pairs"]["n"] for kind in counts} == counts
    assert results["token_acoustic_pairs"]["n"] == sum(counts.values()) + results["token_rate_pairs"]["n"]
    assert results["token_story_pairs"]["n"] == 6 and results["token_minus_units_story_pairs"]["n"] == 4
    assert {"text_model_story_pairs", "text_alone_story_pairs", "multiple_choice_no_kl_minus_text_model"} <= set(
        results
    )
    assert results["text_alone_story_pairs"]["by_codes"] == 0.5
    assert set(results["replies"]) == {"token", "embedding", "no_question", "text_model"}
    assert list(results["replies"]["embedding"]) == [question.text for question in QUESTIONS]
    assert "token_rate_pairs" in capsys.readouterr().out


def test_units_may_come_from_another_extraction_and_must_be_there(codes, voices):
    test = FeatureStore(codes, "test")
    store, rows = score_taslm.with_units(codes, test, [3, 0])
    assert rows == [3, 0] and store.rows[3]["id"] == test.rows[3]["id"]
    with pytest.raises(TasteError, match="has no units of 2-0"):
        score_taslm.with_units(voices, test, [0])


def test_the_prose_of_the_book_is_plain_sentences():
    sentences = score_taslm.book_prose()
    assert len(sentences) > 200 and all(s[-1] in ".?!" and len(s.split()) >= 10 for s in sentences)
    assert not any(mark in s for s in sentences for mark in "`{|$#<*_")
