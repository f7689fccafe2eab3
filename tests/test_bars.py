"""The recorded evaluation of chapter 7: it belongs to the shipped weights and derives again from its rows."""

import hashlib
import json
from pathlib import Path

import pytest
from bars import HEARD_BY_PEERS, PEERS, SYSTEMS

from taste_min.evaluate import aggregate, compare
from taste_min.tokenizer import CHECKPOINTS

SHIPPED = CHECKPOINTS / "mini"
RESULTS = Path(__file__).parents[1] / "results" / "full" / "bars"
GROUPS = ("seen", "unseen", "human")


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def summary() -> dict:
    return json.loads((SHIPPED / "bars.json").read_text(encoding="utf-8"))


def test_the_manifest_names_the_shipped_files():
    stages = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))["stages"]
    hashes = {name: value for stage in stages.values() for name, value in stage["sha256"].items()}
    assert hashes == {path.name: sha256(path) for path in SHIPPED.glob("*.safetensors")}
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.safetensors")) <= 40e6


def test_the_shipped_weights_were_measured(summary):
    weights = sha256(SHIPPED / "manifest.json")
    assert summary["weights_manifest_sha256"] == weights
    for group in GROUPS:
        for system in SYSTEMS[1:]:
            assert load(f"{group}-{system}")["run"]["weights_manifest_sha256"] == weights


@pytest.mark.parametrize("group", GROUPS)
def test_the_summary_derives_from_the_rows(summary, group):
    results = {system: load(f"{group}-{system}") for system in SYSTEMS + (PEERS if group in HEARD_BY_PEERS else ())}
    for system, result in results.items():
        rows = result["utterances"]
        assert summary[group][system] == aggregate(rows)
        assert summary[group]["n"] == len(rows) and summary[group]["n_texts"] == len({row["text"] for row in rows})
    assert summary[group]["mini - text-only"] == compare(results["mini"], results["text-only"])
    assert summary[group]["mini"] != summary[group]["text-only"]
