"""From made-up records to verdicts, with cases that must fail."""

import json

import numpy as np
import pytest
import yaml
from claims import NOT_REPRODUCED, REPRODUCED, judge_claim
from conftest import ROOT
from experiments.ablation_scores import COLUMNS
from experiments.ablation_table import PRIMARY, compare, measure, read_runs, run_limits, tabulate

from taste_min.bootstrap import minus, ratio
from taste_min.errors import TasteError

# condition -> top-5 accuracy and loss that its records are made from
ORDERED = {
    "encoder": (0.95, 1.5),
    "encoder_last": (0.9, 1.6),
    "aggregator": (0.85, 2.0),
    "attended": (0.7, 2.5),
    "attended_last": (0.68, 2.55),
    "quantizer": (0.8, 2.2),
    "r1": (0.7, 2.6),
    "r2": (0.75, 2.35),
    "r8": (0.8, 2.15),
    "k128": (0.78, 2.25),
    "text_only": (0.65, 2.8),
}
CLAIMS = {claim["id"]: claim for claim in yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text())}


def made_up(levels=ORDERED, shuffled=(0.6, 3.0), seeds=6, noise=0.004):
    """Records with the accuracies that `levels` says, give or take a little per seed and utterance."""
    runs = {}
    for number, (condition, (top5, loss)) in enumerate(levels.items()):
        for seed in range(seeds):
            rng = np.random.default_rng((number, seed))

            def table(top5, loss, rng=rng):
                rows = []
                for n in (100, 120, 80, 90):
                    hits, nats = n * (top5 + noise * rng.normal()), n * (loss + noise * rng.normal())
                    rows.append([n, nats, hits / 2, hits, n / 10, nats / 8, hits / 30, hits / 20, n, n * 0.4])
                return rows

            tables = {"with_past": table(top5, loss), "without_past": table(top5 - 0.05, loss + 0.3)}
            if condition != "text_only":
                tables["shuffled"] = table(*shuffled)
            runs.setdefault(condition, {})[seed] = {
                "condition": condition,
                "seed": seed,
                "test": tables,
                "protocol": {},
                "train": {},
                "commit": "c",
                "device": "d",
                "seconds": [1.0, 2.0],
                "utterances": ["u0", "u1", "u2", "u3"],
                "speakers": ["a", "a", "b", "b"],
                "texts": ["one", "two", "one", "two"],
            }
    return runs


@pytest.fixture(scope="module")
def results():
    return {"ablation": tabulate(made_up())}


@pytest.mark.parametrize("claim", ["ablation-order", "codes-and-rate"])
def test_an_ordered_ablation_reproduces_the_claim(claim, results):
    judged = judge_claim(CLAIMS[claim], results)
    assert judged["verdict"] == REPRODUCED and judged["passing_mutants"] == []


def test_the_claim_fails_when_codes_are_worth_no_more_than_text():
    levels = ORDERED | {"text_only": ORDERED["quantizer"]}
    assert judge_claim(CLAIMS["ablation-order"], {"ablation": tabulate(made_up(levels))})["verdict"] != REPRODUCED
    worse = {"ablation": tabulate(made_up(ORDERED | {"text_only": (0.9, 1.9)}))}
    assert judge_claim(CLAIMS["ablation-order"], worse)["verdict"] == NOT_REPRODUCED


def test_a_shuffled_control_that_is_as_good_as_the_codes_is_a_passing_mutant():
    results = {"ablation": tabulate(made_up(shuffled=ORDERED["quantizer"]))}
    judged = judge_claim(CLAIMS["ablation-order"], results)
    assert judged["passing_mutants"] == ["ablation/text_only_minus_shuffled_loss"]


def test_every_metric_that_the_claims_ask_of_the_ablation_is_there(results):
    asked = [
        metric.removeprefix("ablation/")
        for claim in CLAIMS.values()
        for criterion in claim.get("criteria", [])
        for metric in (criterion["metric"], *criterion.get("mutants", []))
        if metric.startswith("ablation/")
    ]
    assert asked and set(asked) <= results["ablation"].keys()
    for key in asked:
        entry = results["ablation"][key]
        assert entry["low"] <= entry["value"] <= entry["high"] and len(entry["seeds"]) == 6
    json.dumps(results, allow_nan=False)


def test_a_difference_has_the_sign_of_the_better_side(results):
    table = results["ablation"]
    assert table["encoder_minus_aggregator_top5"]["value"] == pytest.approx(0.1, abs=0.01)
    assert table["aggregator_minus_encoder_loss"]["value"] == pytest.approx(0.5, abs=0.01)
    assert table["last_minus_shallow_top5"]["value"] == -table["shallow_minus_last_top5"]["value"]
    assert table["first_gain_minus_last_gain_loss"]["value"] == pytest.approx(0.25 - 0.05, abs=0.02)
    assert table["quantizer_minus_text_only_top5_without_past"]["value"] == pytest.approx(0.15, abs=0.01)


def test_six_seeds_reach_p_of_one_in_32_and_holm_multiplies_it(results):
    for key in PRIMARY:
        entry = results["ablation"][key]
        assert entry["sign_flip_p"] == pytest.approx(2 / 64, abs=1e-4)
        assert entry["holm_p"] == pytest.approx(8 * 2 / 64, abs=1e-3)


def test_unpaired_seeds_are_refused():
    runs = made_up()
    del runs["encoder"][5]
    with pytest.raises(TasteError, match="different seeds"):
        tabulate(runs)


def test_a_condition_that_was_not_run_leaves_its_keys_out():
    runs = made_up({name: level for name, level in ORDERED.items() if name not in ("r8", "k128")})
    table = tabulate(runs)
    assert "r4_minus_r8_loss" not in table and "first_gain_minus_last_gain_loss" not in table
    assert "quantizer_minus_text_only_top5" in table


def test_pairing_takes_out_what_seeds_have_in_common():
    runs = made_up({"encoder": (0.9, 1.5), "aggregator": (0.88, 1.6)}, noise=0.0)
    for seed in range(6):  # seeds differ by far more than the conditions
        for condition in runs:
            for row in runs[condition][seed]["test"]["with_past"]:
                row[COLUMNS.index("top5")] -= row[0] * 0.05 * seed
    sides = (("encoder", "with_past"), ("aggregator", "with_past"))
    entry = compare(runs, sides, "top5", minus(ratio, 2), lambda a, b: a - b)
    assert entry["low"] == pytest.approx(0.02, abs=1e-4) and entry["high"] == pytest.approx(0.02, abs=1e-4)


def test_limits_of_one_more_run_hold_the_recorded_ones_and_not_another_condition():
    runs = made_up()
    low, high = run_limits(runs["aggregator"], "top5")
    values = [measure("top5", record["test"]["with_past"]) for record in runs["aggregator"].values()]
    assert low < min(values) and max(values) < high
    assert not low <= measure("top5", runs["text_only"][0]["test"]["with_past"]) <= high


def test_records_of_two_experiments_are_not_mixed(tmp_path):
    runs = made_up({"encoder": (0.9, 1.5)}, seeds=2)
    for seed, record in runs["encoder"].items():
        (tmp_path / f"encoder-{seed}.json").write_text(json.dumps(record))
    assert read_runs(tmp_path)["encoder"].keys() == {0, 1}
    (tmp_path / "encoder-2.json").write_text(json.dumps(runs["encoder"][0] | {"seed": 2, "train": {"units": 3}}))
    with pytest.raises(TasteError, match="differ in train"):
        read_runs(tmp_path)
    with pytest.raises(TasteError, match="no records"):
        read_runs(tmp_path / "nothing")
