"""Measure the shipped weights as chapter 7 reports them: five systems on three groups of recordings they never met.

    python tools/bars.py CORPUS [--limit 40] [--jobs 2]

Held-out sentences of seen voices and of the held-out voice come from a corpus of `taste-min corpus build`, the human
clips from the assets. Every result of `taste-min evaluate` goes to results/full/bars, the summary beside the weights.
A run that was interrupted continues.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taste_min.repro import commit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "full" / "bars"
SUMMARY = ROOT / "taste_min" / "checkpoints" / "mini" / "bars.json"
SYSTEMS = ("original", "vocoder", "topline", "mini", "text-only")
PAIRS = (("mini", "text-only"), ("vocoder", "original"), ("topline", "original"), ("mini", "original"))


def evaluate(arguments: list[str], out: Path) -> None:
    """One run of the command line, unless its result is there."""
    if not out.is_file():
        subprocess.run([sys.executable, "-m", "taste_min.cli", "evaluate", *arguments, "--json", str(out)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--limit", type=int, default=40, help="recordings of a group (default: 40)")
    parser.add_argument("--jobs", type=int, default=2, help="evaluations at a time (default: 2)")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    manifest, limit = str(args.corpus / "manifest.tsv"), ["--limit", str(args.limit)]
    groups = {
        "seen": [manifest, "--split", "test", *limit],
        "unseen": [manifest, "--split", "test_voice", *limit],
        "human": ["human", *limit],
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        for job in [
            pool.submit(evaluate, [*where, "--system", system], RESULTS / f"{group}-{system}.json")
            for system in SYSTEMS
            for group, where in groups.items()
        ]:
            job.result()
    summary = {"commit": commit()}
    for group in groups:
        rows = summary[group] = {}
        for system in SYSTEMS:
            result = json.loads((RESULTS / f"{group}-{system}.json").read_text(encoding="utf-8"))
            run = result.pop("run")
            del result["utterances"]
            rows[system] = result
            summary |= {key: run[key] for key in ("judge", "seed", "device")}
            rows["n"] = run["n_utterances"]
        for first, second in PAIRS:
            out = RESULTS / f"{group}-{first}-minus-{second}.json"
            out.unlink(missing_ok=True)
            both = [str(RESULTS / f"{group}-{name}.json") for name in (first, second)]
            evaluate(["--compare", *both], out)
            difference = json.loads(out.read_text(encoding="utf-8"))
            del difference["run"]
            rows[f"{first} - {second}"] = difference
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
