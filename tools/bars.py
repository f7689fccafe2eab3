"""Measure the shipped weights as chapter 7 reports them: six systems on three groups of recordings they never met.

Two other codecs at their lowest rates stand beside them on two of the groups; Codec2 needs the extra `peers`.

    python tools/bars.py CORPUS [--limit 40] [--jobs 2]

Held-out sentences of seen voices and of the held-out voice come from a corpus of `taste-min corpus build`, the human
clips from the assets. Every result of `taste-min evaluate` goes to results/full/bars, the summary beside the weights.
A run that was interrupted continues.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taste_min.repro import commit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "full" / "bars"
SUMMARY = ROOT / "taste_min" / "checkpoints" / "mini" / "bars.json"
SYSTEMS = ("original", "vocoder", "topline", "topline-text", "mini", "text-only")
PEERS, HEARD_BY_PEERS = ("opus", "codec2"), ("seen", "human")
PAIRS = (("mini", "text-only"), ("vocoder", "original"), ("topline", "original"), ("mini", "original"))


def is_current(out: Path, system: str, limit: int) -> bool:
    """Whether a result is there and belongs to the shipped weights; the original needs none."""
    if not out.is_file():
        return False
    run = json.loads(out.read_text(encoding="utf-8"))["run"]
    without_weights = system in ("original", *PEERS)
    return run["limit"] == limit and (without_weights or run["weights_manifest_sha256"] == weights())


def weights() -> str:
    """Names the shipped weights: their manifest holds the hash of every file."""
    return hashlib.sha256((SUMMARY.parent / "manifest.json").read_bytes()).hexdigest()


def evaluate(arguments: list[str], system: str, limit: int, out: Path) -> None:
    """One run of the command line, unless its result is there."""
    skip = ["--skip", "visqol", "distillmos"]  # chapter 7 does not show them
    arguments = [*arguments, "--system", system, "--limit", str(limit), *skip, "--json", str(out)]
    if not is_current(out, system, limit):
        subprocess.run([sys.executable, "-m", "taste_min.cli", "evaluate", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--limit", type=int, default=40, help="recordings of a group (default: 40)")
    parser.add_argument("--jobs", type=int, default=2, help="evaluations at a time (default: 2)")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    manifest = str(args.corpus / "manifest.tsv")
    groups = {
        "seen": [manifest, "--split", "test"],
        "unseen": [manifest, "--split", "test_voice"],
        "human": ["human"],
    }
    heard = {group: SYSTEMS + (PEERS if group in HEARD_BY_PEERS else ()) for group in groups}
    with ThreadPoolExecutor(args.jobs) as pool:
        for job in [
            pool.submit(evaluate, where, system, args.limit, RESULTS / f"{group}-{system}.json")
            for group, where in groups.items()
            for system in heard[group]
        ]:
            job.result()
    summary = {"commit": commit(), "weights_manifest_sha256": weights()}
    for group in groups:
        rows = summary[group] = {}
        for system in heard[group]:
            result = json.loads((RESULTS / f"{group}-{system}.json").read_text(encoding="utf-8"))
            run = result.pop("run")
            del result["utterances"]
            rows[system] = result
            summary |= {key: run[key] for key in ("judge", "seed", "device")}
            rows |= {"n": run["n_utterances"], "n_texts": run["n_texts"]}
        for first, second in PAIRS:
            out = RESULTS / f"{group}-{first}-minus-{second}.json"
            both = [str(RESULTS / f"{group}-{name}.json") for name in (first, second)]
            command = [sys.executable, "-m", "taste_min.cli", "evaluate", "--compare", *both, "--json", str(out)]
            subprocess.run(command, check=True)
            difference = json.loads(out.read_text(encoding="utf-8"))
            del difference["run"]
            rows[f"{first} - {second}"] = difference
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
