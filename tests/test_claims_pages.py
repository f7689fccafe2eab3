"""The generated pages: equal to what the recorded results give, and silent about what was not measured."""

import json
import re

import claims_pages as tool
import parity_page
import pytest
import speed_page
import yaml
from claims import find
from conftest import ROOT

from taste_min.parity import CHECKS

CLAIMS = yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text())
EDITING = next(claim for claim in CLAIMS if claim["id"] == "edits-stay-local")


def planted(value: float, mutant: float) -> dict:
    """Results in which every criterion of the editing claim, and every mutant, has the same value."""
    results = {}
    for criterion in EDITING["criteria"]:
        for metric in (criterion["metric"], *criterion.get("mutants", [])):
            file, key = metric.split("/")
            number = value if metric == criterion["metric"] else mutant
            number = 0.01 if metric == criterion["metric"] and key.endswith("unswapped") else number
            results.setdefault(file, {})[key] = {"value": number, "low": number - 0.02, "high": number + 0.02}
    return results


GENERATED = ["results/claims.json", "book/claims.md", "book/paper_vs_ours.md"]


@pytest.mark.parametrize("path", [*GENERATED, "taste_min/checkpoints/mini/experiments.json"])
def test_the_files_are_what_the_recorded_results_give(path):
    assert (ROOT / path).read_text(encoding="utf-8") == tool.pages()[ROOT / path], (
        "run `python tools/claims_pages.py` and commit what it writes"
    )


def test_the_page_of_speed_is_what_was_recorded():
    assert speed_page.PAGE.read_text(encoding="utf-8") == speed_page.page(), "run `python tools/speed_page.py`"


def test_the_parity_ledger_is_what_was_recorded():
    assert parity_page.PAGE.read_text(encoding="utf-8") == parity_page.page(), "run `python tools/parity_page.py`"
    covered = {row["file"] for row in json.loads(parity_page.RECORD.read_text(encoding="utf-8"))["rows"]}
    assert covered == set(parity_page.WHAT) == set(CHECKS)


def test_what_nobody_measured_has_no_number():
    judged = tool.judge(CLAIMS, {})
    assert len(judged) == len(CLAIMS)
    for entry, claim in zip(judged, CLAIMS, strict=True):
        assert entry["verdict"] == "not testable"
        assert tool.status(entry) == (tool.NOT_MEASURED if claim.get("testable", True) else "not testable")
        assert entry["why"]
        for row in entry["criteria"]:
            assert row["result"] is None and tool.shown(row["result"]) == tool.NOT_MEASURED
    tables = re.findall(r"^`[a-z_]+/.*$", tool.claims_page(judged), flags=re.MULTILINE)
    assert len(tables) == sum(len(claim.get("criteria", [])) for claim in CLAIMS)
    assert all(line.count(tool.NOT_MEASURED) == 2 for line in tables)


@pytest.mark.parametrize(
    ("value", "mutant", "status", "passing"),
    [(0.8, 0.3, "reproduced", 0), (0.3, 0.3, "same direction", 0), (-0.1, 0.3, "not reproduced", 0)]
    + [(0.8, 0.6, "reproduced", 7)],
)
def test_verdicts_follow_the_results(value, mutant, status, passing):
    (entry,) = tool.judge([EDITING], planted(value, mutant))
    assert tool.status(entry) == status and len(entry["passing_mutants"]) == passing
    page = tool.claims_page([entry])
    assert page.count("this criterion does not reject it") == passing and f"{value:.2f} ({value - 0.02:.2f}" in page


def test_one_missing_criterion_is_enough_to_have_no_verdict():
    results = planted(0.8, 0.3)
    del results["editing"]["f0_transfer_swapped"]
    (entry,) = tool.judge([EDITING], results)
    assert tool.status(entry) == tool.NOT_MEASURED and entry["missing"] == ["editing/f0_transfer_swapped"]


def test_recorded_files_hold_the_keys_that_the_claims_name():
    results = tool.load_results()
    metrics = [c["metric"] for claim in CLAIMS for c in claim.get("criteria", [])]
    metrics += [m for claim in CLAIMS for c in claim.get("criteria", []) for m in c.get("mutants", [])]
    own = ("attention", "editing", "editing_permuted", "editing_off_by_one", "editing_text_only", "robustness")
    files = {name for name in own if (tool.RESULTS / f"{name}.json").is_file() and name in results}
    assert [m for m in metrics if m.split("/")[0] in files and find(m, results) is None] == []
    assert {m.split("/")[0] for m in metrics if find(m, results)} >= {"reconstruction", "evaluator_validation"}


@pytest.mark.parametrize(("words", "there"), [(99, False), (100, True)])
def test_an_experiment_that_is_too_small_gives_no_verdict(tmp_path, words, there):
    entry = {"duration_transfer_swapped": {"value": 0.8, "low": 0.7, "high": 0.9, "words": words}}
    for name in ("editing", "editing_permuted"):
        (tmp_path / f"{name}.json").write_text(json.dumps(entry))
    assert {name in tool.load_results(tmp_path) for name in ("editing", "editing_permuted")} == {there}


def test_a_difference_is_turned_round_with_its_interval():
    results = tool.load_results()
    ours = results["reconstruction"]["text_only_minus_mini_wer"]
    bars = results["bars"]["seen-mini-minus-text-only"]["wer"]
    assert (ours["value"], ours["low"], ours["high"]) == (-bars["value"], -bars["high"], -bars["low"])


def test_numbers_are_shown_with_few_digits():
    assert tool.shown({"value": 0.0312, "low": -0.0001, "high": 0.05}) == "0.031 (0.000 to 0.050)"
    assert tool.shown({"value": 154.6, "low": None, "high": None}) == "155"
    assert tool.shown({"value": 0.861, "low": 0.8, "high": 0.9}) == "0.86 (0.80 to 0.90)"
