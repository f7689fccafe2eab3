"""The recorded experiments that chapters 1, 2, 3, 5 and 7 draw, as one small file beside the weights.

results/ is not installed with the package, so `python tools/claims_pages.py` writes this copy together with the pages.
It holds entries {value, low, high} by experiment and the verdicts of their claims. Of a single condition of the
ablation low and high are the lowest and the highest seed; of everything else they are the ends of the 95 % interval.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import book_files
import numpy as np
from experiments.ablation_table import read_runs

RESULTS = book_files.ROOT / "results" / "full"
PATH = book_files.ROOT / "taste_min" / "checkpoints" / "mini" / "experiments.json"
DRAWN = ("ablation", "layer_sweep", "attention", "probes", "robustness")
MEASURES = ("top5", "loss", "step_loss", "first_top5")
TABLES = ("", "_without_past", "_shuffled")  # of the ablation: as it is, past units hidden, vectors of other words
OF_CONDITIONS = ("wer", "duration_consistency_50ms", "word_f0_correlation")  # of robustness


def entry(found: Mapping) -> dict:
    """Value and ends, whatever the ends are called."""
    ends = ("lowest", "highest") if "lowest" in found else ("low", "high")
    return {"value": found["value"]} | {name: found.get(end) for name, end in zip(("low", "high"), ends, strict=True)}


def entries(found: Mapping) -> dict:
    """All numbers of a result file, with or without interval."""
    numbers = {key: {"value": value} if isinstance(value, float) else value for key, value in found.items()}
    return {key: entry(value) for key, value in numbers.items() if isinstance(value, dict) and "value" in value}


def levels(ablation: Mapping) -> dict:
    """By condition and measure, for the tables that exist."""
    names = [
        f"{condition}{table}_{measure}"
        for condition in ablation["facts"]["seeds"]
        for table in TABLES
        for measure in MEASURES
    ]
    return {name: entry(ablation["levels"][name]) for name in names if name in ablation["levels"]}


def dev_curves(folder: Path) -> dict[str, list]:
    """Mean over seeds of the loss on dev, [step, nats], by condition; `text` is the start that all of them share."""
    runs = read_runs(folder)
    curves = {"text": [record["dev_loss"]["text"] for record in runs["text_only"].values()]}
    curves |= {name: [record["dev_loss"]["then"] for record in seeds.values()] for name, seeds in runs.items()}
    return {name: np.mean(curve, axis=0).round(4).tolist() for name, curve in curves.items()}


def verdicts(judged: Sequence[Mapping], status: Callable, shown: Callable) -> dict:
    """Of every claim that one of the experiments decides: the verdict and the rows of a table."""
    found = {}
    for claim in judged:
        if not any(row["metric"].split("/")[0] in DRAWN for row in claim["criteria"]):
            continue
        rows = []
        for row in claim["criteria"]:
            name = row["metric"].split("/")[1].replace("_", " ")
            rows.append([name, row["criterion"], shown(row["result"]), row["verdict"]])
        found[claim["id"]] = {"claim": claim["claim"].rstrip("."), "verdict": status(claim), "rows": rows}
    return found


def compact(results: Mapping[str, Mapping], judged: Sequence[Mapping], status: Callable, shown: Callable) -> dict:
    """The whole copy. status, shown: how claims_pages writes a verdict and a number."""
    copy = {name: entries(results[name]) for name in DRAWN if name in results}
    every_layer = json.loads((RESULTS / "layer_sweep" / "summary.json").read_text(encoding="utf-8"))
    copy["ablation"] |= levels(results["ablation"])
    copy["ablation_facts"] = {key: results["ablation"][key] for key in ("codebooks", "facts")}
    copy["ablation_dev"] = dev_curves(RESULTS / "ablation")
    copy["layers_of_keys"] = {k: v for k, v in entries(every_layer).items() if k.startswith("keys_")}
    copy["attention_heads"] = {key: results["attention"][key] for key in ("chosen_heads", "heads")}
    copy["noise"] = {
        name: {metric: entry(found[metric]) for metric in OF_CONDITIONS if metric in found}
        for name, found in results.get("robustness", {}).get("conditions", {}).items()
    }
    return copy | {"claims": verdicts(judged, status, shown)}
