"""From the records of single runs to the numbers of the claims page: paired differences, intervals, tests.

A difference is taken on the sums over all utterances of a seed and averaged over seeds by adding them up. Its interval
draws seeds, and independently speakers and their sentences (hierarchy.py). Beside it stand the differences of the
single seeds with the sign-flip p, adjusted by Holm for the primary comparisons. Six seeds can reach p = .031 at best,
so no adjusted p of eight comparisons can fall below .05: the criteria go by the intervals.

Axes: U rows, one per seed and utterance; C columns of sums.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from taste_min.bootstrap import holm, minus, ratio
from taste_min.errors import TasteError

from .ablation_run import Setting
from .ablation_scores import COLUMNS
from .hierarchy import hierarchical_interval, sign_flip_test

WITH_PAST, WITHOUT_PAST, SHUFFLED = "with_past", "without_past", "shuffled"
# measure -> the two columns whose sums are divided
PARTS = {
    "top1": ("top1", "n"),
    "top5": ("top5", "n"),
    "loss": ("nats", "n"),
    "first_top1": ("first_top1", "first_n"),
    "first_top5": ("first_top5", "first_n"),
    "first_loss": ("first_nats", "first_n"),
    "step_loss": ("step_nats", "step_n"),
}
Side = tuple[str, str]  # condition, table

STEPS: dict[str, Side] = {name: (name, WITH_PAST) for name in ("encoder", "aggregator", "quantizer", "text_only")}
# name of a difference without its measure -> its sides; losses are taken the other way round, so that > 0 is claimed
PAIRS: dict[str, tuple[Side, Side]] = {
    "encoder_minus_aggregator": (STEPS["encoder"], STEPS["aggregator"]),
    "aggregator_minus_quantizer": (STEPS["aggregator"], STEPS["quantizer"]),
    "quantizer_minus_text_only": (STEPS["quantizer"], STEPS["text_only"]),
    "shuffled_minus_text_only": (("quantizer", SHUFFLED), STEPS["text_only"]),
    "shallow_minus_last": (("attended", WITH_PAST), ("attended_last", WITH_PAST)),
    "attended_minus_text_only": (("attended", WITH_PAST), STEPS["text_only"]),
    "encoder_shallow_minus_last": (STEPS["encoder"], ("encoder_last", WITH_PAST)),
    "r2_minus_r1": (("r2", WITH_PAST), ("r1", WITH_PAST)),
    "r4_minus_r2": (("quantizer", WITH_PAST), ("r2", WITH_PAST)),
    "r8_minus_r4": (("r8", WITH_PAST), ("quantizer", WITH_PAST)),
    "k512_minus_k128": (("quantizer", WITH_PAST), ("k128", WITH_PAST)),
}
RATES: dict[str, Side] = {name: (name, WITH_PAST) for name in ("r1", "r2", "quantizer", "r8")}
PRIMARY = (
    "encoder_minus_aggregator_top5",
    "aggregator_minus_quantizer_top5",
    "quantizer_minus_text_only_top5",
    "aggregator_minus_encoder_loss",
    "quantizer_minus_aggregator_loss",
    "text_only_minus_quantizer_loss",
    "shallow_minus_last_top5",
    "encoder_shallow_minus_last_top5",
)
MIRRORED = {"last_minus_shallow_top5": "shallow_minus_last_top5"}


def measure(name: str, table: Sequence[Sequence[float]]) -> float:
    """One of PARTS over the rows of a table."""
    above, below = (sum(row[COLUMNS.index(column)] for row in table) for column in PARTS[name])
    return above / below


def shared_facts(setting: Setting) -> dict:
    """What every record of one experiment has in common."""
    rows = setting.test.rows
    return {
        "protocol": asdict(setting.protocol),
        "train": {"utterances": len(setting.train.rows), "units": sum(row["n_units"] for row in setting.train.rows)},
        "columns": COLUMNS,
        "utterances": [row["id"] for row in rows],
        "speakers": [row["speaker"] for row in rows],
        "texts": [row["text"] for row in rows],
    }


def read_runs(folder: Path) -> dict[str, dict[int, dict]]:
    """Records by condition and seed. Raises TasteError when there are none, or they are not of one experiment."""
    runs: dict[str, dict[int, dict]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        runs.setdefault(record["condition"], {})[record["seed"]] = record
    records = [record for seeds in runs.values() for record in seeds.values()]
    if not records:
        raise TasteError(f"there are no records in {folder}; run `python tools/ablate.py run` first.")
    for name in ("protocol", "utterances", "train"):
        if any(record[name] != records[0][name] for record in records):
            raise TasteError(f"the records in {folder} differ in {name}; remove those of another experiment.")
    return runs


def _rows(record: dict, table: str, name: str) -> np.ndarray:
    """Both columns of a measure: (utterances, 2)."""
    return np.array(record["test"][table], dtype=float)[:, [COLUMNS.index(column) for column in PARTS[name]]]


def compare(runs: dict, sides: Sequence[Side], name: str, statistic: Callable, seed_value: Callable) -> dict | None:
    """A statistic of several sides, paired by seed and utterance.

    statistic: of the column sums (..., 2 sides); seed_value: the same from one measure per side. None when a condition
    was not run. Raises TasteError when the sides have different seeds.
    """
    if any(condition not in runs for condition, _ in sides):
        return None
    seeds = [sorted(runs[condition]) for condition, _ in sides]
    if any(other != seeds[0] for other in seeds):
        names = ", ".join(condition for condition, _ in sides)
        raise TasteError(f"{names} have different seeds; finish the runs before comparing them.")
    parts, differences = [], []
    for seed in seeds[0]:
        records = [runs[condition][seed] for condition, _ in sides]
        tables = [_rows(record, table, name) for record, (_, table) in zip(records, sides, strict=True)]
        parts.append(np.hstack(tables))
        differences.append(seed_value(*(rows[:, 0].sum() / rows[:, 1].sum() for rows in tables)))
    record = records[0]
    n = len(record["utterances"])
    interval = hierarchical_interval(
        np.vstack(parts),
        np.repeat(seeds[0], n),
        record["speakers"] * len(seeds[0]),
        record["texts"] * len(seeds[0]),
        statistic,
    )
    return {
        **{key: round(value, 5) for key, value in asdict(interval).items()},
        "seeds": [round(float(difference), 5) for difference in differences],
        "sign_flip_p": round(sign_flip_test(np.array(differences)), 5),
    }


def run_limits(seeds: dict[int, dict], name: str, table: str = WITH_PAST) -> tuple[float, float]:
    """Where a run of the same condition should fall: the mean of the seeds plus and minus four standard deviations.

    For six seeds and a normal spread that covers one more run in 98.6 of 100 cases (Student's t, 5 degrees of freedom,
    at 4 / sqrt(7 / 6)). The same seed on the same kind of machine comes far closer.
    """
    values = np.array([measure(name, record["test"][table]) for record in seeds.values()])
    spread = 4 * values.std(ddof=1) if len(values) > 1 else np.nan
    return float(values.mean() - spread), float(values.mean() + spread)


def _flipped(entry: dict) -> dict:
    """The difference the other way round."""
    return entry | {
        "value": -entry["value"],
        "low": -entry["high"],
        "high": -entry["low"],
        "seeds": [-x for x in entry["seeds"]],
    }


def differences(runs: dict, pairs: dict[str, tuple[Side, Side]]) -> dict[str, dict]:
    """All PARTS of all pairs, `A_minus_B_measure`; losses as `B_minus_A_loss`, so that A being better is above 0."""
    found = {}
    for pair, sides in pairs.items():
        for name in PARTS:
            entry = compare(runs, sides, name, minus(ratio, 2), lambda a, b: a - b)
            if entry is None:
                continue
            if name.endswith("loss"):
                better, worse = pair.split("_minus_")
                found[f"{worse}_minus_{better}_{name}"] = _flipped(entry)
            else:
                found[f"{pair}_{name}"] = entry
    return found


def levels(runs: dict) -> dict[str, dict]:
    """Per condition and measure: mean over seeds, lowest and highest, and the limits of one more run."""
    found = {}
    for condition, seeds in runs.items():
        for table in next(iter(seeds.values()))["test"]:
            for name in PARTS:
                values = [measure(name, record["test"][table]) for record in seeds.values()]
                key = f"{condition}_{name}" if table == WITH_PAST else f"{condition}_{table}_{name}"
                limits = run_limits(seeds, name, table)
                found[key] = {
                    "value": round(float(np.mean(values)), 5),
                    "lowest": round(min(values), 5),
                    "highest": round(max(values), 5),
                    "run_limits": [None if np.isnan(x) else round(x, 5) for x in limits],
                }
    return found


def codebooks(runs: dict) -> dict[str, dict]:
    """Per quantized condition: perplexity and dead codes of each codebook, means over seeds."""
    found = {}
    for condition, seeds in runs.items():
        accounts = [record["codebooks"] for record in seeds.values() if "codebooks" in record]
        if accounts:
            means = {k: np.mean([a[k] for a in accounts], axis=0).round(2).tolist() for k in ("perplexity", "dead")}
            found[condition] = means | {"words": accounts[0]["words"]}
    return found


def _gains(sums: np.ndarray) -> np.ndarray:
    """Column sums of R = 1, 2, 4, 8 -> how much more loss the first doubling saves than the last."""
    r1, r2, r4, r8 = (ratio(sums[..., 2 * i : 2 * i + 2]) for i in range(4))
    return (r1 - r2) - (r4 - r8)


def tabulate(runs: dict) -> dict:
    """Everything of results/full/ablation.json; what needs a condition that was not run is left out."""
    found = differences(runs, PAIRS)
    hidden = {
        pair: tuple((condition, WITHOUT_PAST) for condition, _ in sides) for pair, sides in list(PAIRS.items())[:3]
    }
    found |= {f"{key}_without_past": entry for key, entry in differences(runs, hidden).items()}
    heard = {f"{name}_minus_shuffled": (side, (side[0], SHUFFLED)) for name, side in RATES.items()}
    found |= {key: entry for key, entry in differences(runs, heard).items() if key.endswith(("_top5", "_loss"))}
    gains = compare(runs, list(RATES.values()), "loss", _gains, lambda r1, r2, r4, r8: (r1 - r2) - (r4 - r8))
    if gains:
        found["first_gain_minus_last_gain_loss"] = gains
    for key, twin in MIRRORED.items():
        if twin in found:
            found[key] = _flipped(found[twin])
    primary = [key for key in PRIMARY if key in found]
    for key, p in zip(primary, holm([found[key]["sign_flip_p"] for key in primary]), strict=True):
        found[key] |= {"holm_p": round(p, 5)}
    return found | {"levels": levels(runs), "codebooks": codebooks(runs), "facts": facts(runs)}


def facts(runs: dict) -> dict:
    """What the numbers come from."""
    records = [record for seeds in runs.values() for record in seeds.values()]
    return {
        "seeds": {condition: sorted(seeds) for condition, seeds in runs.items()},
        "protocol": records[0]["protocol"],
        "train": records[0]["train"],
        "test_utterances": len(records[0]["utterances"]),
        "commits": sorted({record["commit"] for record in records}),
        "devices": sorted({record["device"] for record in records}),
        "seconds": round(sum(record["seconds"][1] for record in records), 1),
    }
