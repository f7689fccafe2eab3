"""Does the evaluator find what others measured on the same audio? The authors' published demo, cell by cell.

    python tools/validate_evaluator.py --demo FOLDER

Reference values stand in tests/demo_table.json: reconstruction by six systems and the recordings themselves (the demo
beside table 1, paper section 4.2) and text-aligned editing (section 4.4). Every file is measured by what
`taste-min evaluate` uses; the comparison goes to results/full/evaluator_validation.json with the rows that it derives
from, and is printed as the tables of book/evaluator.md. Five utterances are consistent with a paper, they prove
nothing. Needs `pip install 'taste_min[peers]'`.

Axes: none; a cell is one metric of one system.
"""

import argparse
import json
import time
from importlib import metadata
from pathlib import Path

from taste_min.audio import SAMPLE_RATE, read_audio
from taste_min.evaluate import aggregate
from taste_min.evaluate_command import write_json
from taste_min.repro import commit, versions
from taste_min.sides import Side, compare_edit, compare_sides, listen, predicted
from taste_min.speaker import GE2E, load_speaker_encoder
from taste_min.transfer import read_swapped

ROOT = Path(__file__).resolve().parents[1]
TABLE = json.loads((ROOT / "tests" / "demo_table.json").read_text())
OUT = ROOT / "results" / "full" / "evaluator_validation.json"
# column of the table -> (the evaluator's metric, how far off it may be)
COLUMNS = {
    "dnsmos_p808": ("dnsmos_p808", 0.05),
    "visqol": ("visqol", 0.05),
    "duration_50ms": ("duration_consistency_50ms", 0.03),
    "duration_25ms": ("duration_consistency_25ms", 0.03),
    "word_f0": ("word_f0_correlation", 0.03),
    "speaker": ("speaker_similarity", 0.03),
}
EDIT_TOLERANCE = 0.05
HEADS = ("DNSMOS P.808", "ViSQOL", "durations within 50 ms", "within 25 ms", "word F0", "speaker")
NAMES = {
    "orig": "recording",
    "enc4": "Encodec 4",
    "sptkn4": "SpeechTokenizer 4",
    "mimi8": "Mimi 8",
    "s3": "S3 units",
    "text": "text-only",
    "taste": "TASTE",
}
SKIP = ["distillmos"]  # there is no column to compare it with
PACKAGES = ("librosa", "pocketsphinx", "speechmos", "visqol-python")
DEFINITIONS = {
    "duration": "from a word's onset to the next word's onset, the last word to its own end; aligned without padding",
    "consistency": "share of all words whose durations differ by at most 50 or 25 ms",
    "word_f0": "Pearson correlation of word medians of log F0, centred per utterance, over all words",
    "within": "both values rounded to the two digits of the reference",
    "swapped": "the words that the authors' demo page prints in bold",
}


def cell(system: str, column: str, reference: float, tolerance: float, ours: float) -> dict:
    """One comparison. Both values have the reference's two digits when they are compared."""
    distance = round(abs(round(ours, 2) - reference), 2)
    facts = {"system": system, "metric": column, "ours": round(ours, 4), "reference": reference}
    return facts | {"distance": distance, "tolerance": tolerance, "within": distance <= tolerance}


def compare(rows: list[dict], edits: list[dict]) -> list[dict]:
    """Every cell of the table against ours, from the rows of utterances (with `system`) and edits."""
    cells = []
    for system, columns in ({"orig": TABLE["original"]} | TABLE["systems"]).items():
        own = aggregate([row for row in rows if row["system"] == system])
        for column, value in columns.items():
            metric, tolerance = COLUMNS[column]
            cells.append(cell(system, column, value, tolerance, own[metric]["value"]))
    own = aggregate(edits)
    for metric, value in TABLE["edits"]["reference"].items():
        cells.append(cell("edits", metric, value, EDIT_TOLERANCE, own[metric]["value"]))
    return cells


def page_tables(cells: list[dict]) -> str:
    """The tables of book/evaluator.md: ours / reference."""
    found = {(one["system"], one["metric"]): one for one in cells}

    def text(system: str, metric: str) -> str:
        one = found.get((system, metric))
        return f"{one['ours']:.2f} / {one['reference']:.2f}{'' if one['within'] else ' (outside)'}" if one else ""

    lines = ["```{csv-table} Reconstruction: ours / reference", f":header: {', '.join(['system', *HEADS])}", ""]
    for system, name in NAMES.items():
        lines.append(", ".join([name, *(text(system, column) for column in COLUMNS)]).rstrip())
    edits = ", ".join(text("edits", metric) for metric in TABLE["edits"]["reference"])
    lines += ["```", "", "```{csv-table} Median transfer coefficient of word durations: ours / reference"]
    return "\n".join([*lines, ":header: swapped words, other words", "", edits, "```"])


def measure_utterance(demo: Path, name: str, speaker_encoder: GE2E) -> list[dict]:
    """Rows of one utterance, the recording's first."""
    text = TABLE["texts"][name]

    def side(system: str) -> Side:
        path = next((demo / "recon" / "samples").glob(f"{name}_{system}.*"))
        return listen(read_audio(path, SAMPLE_RATE, convert=True), text, speaker_encoder, SKIP)

    original = side("orig")
    rows = [{"id": name, "system": "orig", "text": text} | predicted(original.wav, SKIP)]
    for system in TABLE["systems"]:
        rows.append({"id": name, "system": system, "text": text} | compare_sides(original, side(system)))
    return rows


def measure_edits(demo: Path, speaker_encoder: GE2E) -> list[dict]:
    """Rows of the six edits of one sentence between a fast and a slow reading; their files are HOST_ed-DONOR-WORDS."""
    about = TABLE["edits"]

    def side(suffix: str) -> Side:
        path = demo / "edit" / "duration" / f"{about['base']}_{suffix}.wav"
        return listen(read_audio(path, SAMPLE_RATE, convert=True), about["text"], speaker_encoder, SKIP)

    readings, rows = {name: side(name) for name in ("fast", "slow")}, []
    for host, donor in (("fast", "slow"), ("slow", "fast")):
        for number, words in about["swapped"].items():
            name, swapped = f"{host}_ed-{donor}-{number}", read_swapped(words, len(about["text"].split()))
            row = {"id": name, "text": about["text"], "swapped": words}
            rows.append(row | compare_edit(readings[host], readings[donor], side(name), swapped))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=ROOT.parent / "shared" / "data" / "taste-demo")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    started, speaker_encoder, rows = time.monotonic(), load_speaker_encoder(), []
    edits = measure_edits(args.demo, speaker_encoder)
    for name in TABLE["texts"]:
        rows += measure_utterance(args.demo, name, speaker_encoder)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    cells = compare(rows, edits)
    result = {"source": TABLE["source"], "definitions": DEFINITIONS, "cells": cells}
    result |= {"n_cells": len(cells), "n_within": sum(cell["within"] for cell in cells)}
    for system, key in (("text", "text_only"), ("taste", "taste"), ("s3", "units"), ("enc4", "encodec")):
        own = aggregate([row for row in rows if row["system"] == system])
        result[f"{key}_minus_original_dnsmos"] = own["dnsmos_p808_above_original"]
    result |= {"utterances": rows, "edits": edits}
    used = versions() | {package: metadata.version(package) for package in PACKAGES}
    result["run"] = {"commit": commit(), "seconds": round(time.monotonic() - started, 1), "versions": used}
    write_json(args.out, result)
    print(page_tables(cells))
    print(f"{result['n_within']} of {result['n_cells']} cells within tolerance: {args.out.name}")


if __name__ == "__main__":
    main()
