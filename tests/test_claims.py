"""Every verdict from results made up for it, and claims.yaml as something that can be judged."""

import pytest
import yaml
from claims import VERDICTS, check_criterion, find, judge_claim, verdict
from conftest import ROOT

from taste_min.errors import TasteError

CLAIMS = yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text())
MORE = {"metric": "a/b", "comparison": ">", "threshold": 0.5, "interval": "whole", "neutral": 0}
LESS = {"metric": "a/b", "comparison": "<=", "threshold": 0.03, "interval": "point"}
INSIDE = {"metric": "a/b", "comparison": "within", "low": -0.15, "high": 0.15, "interval": "whole"}


def result(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("criterion", "found", "expected"),
    [
        (MORE, result(0.8, 0.6, 0.9), "reproduced"),
        (MORE, result(0.8, 0.4, 0.9), "same direction"),  # the interval reaches below
        (MORE, result(0.3, 0.1, 0.4), "same direction"),  # above nothing, below the threshold
        (MORE, result(-0.1, -0.3, 0.1), "not reproduced"),
        (MORE, result(0.5, 0.5, 0.5), "same direction"),  # not above
        (MORE, result(0.8), "not testable"),  # one seed has no interval
        (MORE, None, "not testable"),
        (MORE, result(float("nan"), 0, 1), "not testable"),
        (MORE | {"interval": "point"}, result(0.8, 0.4, 0.9), "reproduced"),
        ({**MORE, "comparison": "<", "threshold": -0.5}, result(-0.1, -0.3, 0.2), "same direction"),
        ({**MORE, "comparison": ">=", "interval": "point"}, result(0.5), "reproduced"),
        (LESS, result(0.03), "reproduced"),
        (LESS, result(0.04), "not reproduced"),  # no neutral value: no direction
        (INSIDE, result(0.06, -0.05, 0.14), "reproduced"),
        (INSIDE, result(0.06, -0.05, 0.2), "same direction"),
        (INSIDE, result(0.3, 0.1, 0.4), "not reproduced"),
    ],
)
def test_verdicts(criterion, found, expected):
    assert verdict(criterion, found) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comparison": "about"}, "comparison 'about'"),
        ({"threshold": None}, "numbers for threshold"),
        ({"interval": "most"}, "whole or point"),
        ({"metric": "b"}, "FILE/KEY"),
        ({"comparison": "within", "low": 0, "high": 1}, "no direction"),
    ],
)
def test_a_criterion_that_cannot_be_applied_is_refused(change, message):
    with pytest.raises(TasteError, match=message):
        verdict(MORE | change, result(1.0, 1.0, 1.0))


def test_the_worst_criterion_decides():
    claim = {"id": "x", "criteria": [MORE, LESS | {"metric": "a/c", "mutants": ["a/broken"]}]}
    results = {"a": {"b": result(0.8, 0.6, 0.9), "c": 0.01, "broken": 0.5}}
    found = judge_claim(claim, results)
    assert (found["verdict"], found["passing_mutants"]) == ("reproduced", [])
    results["a"] |= {"c": 0.5, "broken": 0.01}
    found = judge_claim(claim, results)
    assert (found["verdict"], found["passing_mutants"]) == ("not reproduced", ["a/broken"])
    assert [part["verdict"] for part in found["criteria"]] == ["reproduced", "not reproduced"]
    del results["a"]["c"]
    assert judge_claim(claim, results)["verdict"] == "not testable"
    assert judge_claim({"id": "y", "testable": False}, results)["verdict"] == "not testable"
    assert find("a/c", {}) is None and find("a/c", {"a": {"c": 1}}) == {"value": 1}


def test_the_written_claims_can_be_judged():
    assert len({claim["id"] for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert {"id", "claim", "section", "paper"} <= claim.keys(), claim["id"]
        if not claim.get("testable", True):
            assert claim["why"] and "criteria" not in claim
            continue
        assert claim["test"] and claim["controls"] and claim["criteria"], claim["id"]
        for criterion in claim["criteria"]:
            check_criterion(criterion)
            known = {"metric", "comparison", "threshold", "low", "high", "interval", "neutral", "mutants"}
            assert set(criterion) <= known, criterion
            assert all("/" in mutant for mutant in criterion.get("mutants", []))
            if "neutral" in criterion:  # the threshold lies on the claimed side of no effect, or at it
                sign = 1 if criterion["comparison"].startswith(">") else -1
                assert sign * (criterion["threshold"] - criterion["neutral"]) >= 0, criterion
        assert judge_claim(claim, {})["verdict"] == "not testable"


def test_the_ten_claims_and_their_neighbours_are_there():
    ids = [claim["id"] for claim in CLAIMS]
    assert ids[:10] == [
        "ablation-order",
        "shallow-values",
        "last-keys",
        "attention-aligned",
        "edits-stay-local",
        "codes-carry-prosody",
        "codes-and-rate",
        "units-worse-than-words",
        "token-or-embedding",
        "text-kept",
    ]
    assert len(ids) >= 20 and len(VERDICTS) == 4


def test_a_perfect_world_reproduces_everything_testable_and_mutants_are_seen():
    for claim in CLAIMS:
        results = {}
        for criterion in claim.get("criteria", []):
            if criterion["comparison"] == "within":
                value = (criterion["low"] + criterion["high"]) / 2
            else:
                value = criterion["threshold"] + (0.01 if criterion["comparison"].startswith(">") else -0.01)
            for metric in (criterion["metric"], *criterion.get("mutants", [])):
                file, key = metric.split("/")
                results.setdefault(file, {})[key] = result(value, value, value)
        found = judge_claim(claim, results)
        mutants = [m for criterion in claim.get("criteria", []) for m in criterion.get("mutants", [])]
        assert found["verdict"] == ("reproduced" if claim.get("testable", True) else "not testable")
        assert found["passing_mutants"] == mutants
