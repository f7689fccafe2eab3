"""tools/score_taslm.py on tiny runs: every key that the claims name is measured, and none by accident."""

import json

import pytest
import score_taslm
import torch
import yaml
from conftest import ROOT
from fake_taste import letters

from taste_min.cli import main
from taste_min.config import tiny
from taste_min.shards import write_shard
from taste_min.stages import STAGES
from taste_min.train import build_objective

LATER = ("story_pairs", "qa_accuracy", "words_per_second")  # not measured by this tool


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


def test_every_key_of_the_claims_is_measured(codes, tmp_path, monkeypatch, capsys):
    for stage in score_taslm.RUNS:
        words = ["train", stage, "--preset", "tiny", "--data", str(codes), "--out", str(tmp_path / stage)]
        assert main([*words, "--steps", "2"]) == 0

    def load(stage, runs):
        objective = build_objective(STAGES[stage], "tiny", 0, [runs / stage]).eval()
        objective.model.tokenizer = letters()
        return objective

    monkeypatch.setattr(score_taslm, "load", load)
    monkeypatch.setattr(score_taslm, "mini", tiny)
    monkeypatch.setattr(score_taslm, "book_prose", lambda: ["you like tea", "some more tea"] * 8)
    quantizer = build_objective(STAGES["taslm_token"], "tiny", 0).model.quantizer
    monkeypatch.setattr(score_taslm, "load_quantizer", lambda folder, config: quantizer)
    out = tmp_path / "taslm.json"
    score_taslm.main([str(codes), str(tmp_path), "--voices", str(codes), "--out", str(out)])
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
    assert "token_rate_pairs" in capsys.readouterr().out


def test_the_prose_of_the_book_is_plain_sentences():
    sentences = score_taslm.book_prose()
    assert len(sentences) > 200 and all(s[-1] in ".?!" and len(s.split()) >= 10 for s in sentences)
    assert not any(mark in s for s in sentences for mark in "`{|$#<*_")
