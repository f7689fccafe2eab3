"""How results and run times move while the code changes: results/drift.json, and book/drift.md made from it.

    python tools/drift.py            # after `make book`: adds this commit's run, makes the page again
    python tools/drift.py --page     # only the page

An entry holds every number that the chapters recorded. Numbers of the kind `exact` may never move; the others move with
the weights, and a little with the machine.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime

from claims_pages import ROOT, csv_table

from taste_min.files import write_whole
from taste_min.repro import commit

RECORD, PAGE = ROOT / "results" / "drift.json", ROOT / "book" / "drift.md"
SHOWN, MOVED = 6, 12  # entries in the table of run times; numbers in the table of what moved


def entry() -> dict:
    """The run in results/smoke. Raises FileNotFoundError when there is none."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "results/smoke").glob("*.json"))]
    results = [one for one in results if "wall_seconds" in one]
    if not results:
        raise FileNotFoundError("there are no results in results/smoke; run `make book` first.")
    metrics = {
        f"{one['notebook'][:2]}.{name}": {"value": round(metric["value"], 6), "kind": metric["kind"]}
        for one in results
        for name, metric in one["metrics"].items()
    }
    return {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": results[0]["device"],
        "wall_seconds": {one["notebook"]: one["wall_seconds"] for one in results},
        "cpu_seconds": {one["notebook"]: one["cpu_seconds"] for one in results},
        "metrics": metrics,
    }


def moved(old: dict, new: dict) -> list[tuple[float, str, dict, dict]]:
    """Numbers that both entries have and that differ, the greatest relative change first."""
    pairs = ((name, old["metrics"][name], metric) for name, metric in new["metrics"].items() if name in old["metrics"])
    changes = [
        (abs(b["value"] - a["value"]) / max(abs(a["value"]), abs(b["value"])), name, a, b)
        for name, a, b in pairs
        if a["value"] != b["value"]
    ]
    return sorted(changes, key=lambda change: -change[0])


def page(entries: list[dict]) -> str:
    parts = [
        "# Drift",
        "What a run of all chapters gave, commit after commit, on two cores of whatever machine there was. `python "
        "tools/drift.py` adds a row after `make book`; the whole record, with every number, is `results/drift.json`.",
    ]
    last = entries[-SHOWN:]
    chapters = sorted({name for one in last for name in one["wall_seconds"]})
    rows = [
        [name, *(f"{one['cpu_seconds'][name]:.0f}" if name in one["cpu_seconds"] else "" for one in last)]
        for name in chapters
    ]
    rows.append(["all", *(f"{sum(one['cpu_seconds'].values()):.0f}" for one in last)])
    header = ["chapter", *(f"{one['date']} `{one['commit'][:7]}`" for one in last)]
    parts.append(csv_table("Processor time in seconds", header, rows))
    if len(entries) > 1:
        old, new = entries[-2:]
        changes = moved(old, new)
        exact = [name for _, name, a, _ in changes if a["kind"] == "exact"]
        shared = len(old["metrics"].keys() & new["metrics"].keys())
        parts.append(
            f"Between the last two, {len(changes)} of {shared} numbers differ, {len(exact)} of them of the kind "
            f"exact{': ' + ', '.join(exact) if exact else ''}. The greatest relative changes:"
        )
        rows = [
            [name, a["kind"], f"{a['value']:.4g}", f"{b['value']:.4g}", f"{100 * change:.1f} %"]
            for change, name, a, b in changes[:MOVED]
        ]
        parts.append(csv_table("What moved most", ["number", "kind", "before", "after", "change"], rows))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="make the page again and add nothing")
    args = parser.parse_args()
    entries = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else []
    if not args.page:
        if subprocess.run([sys.executable, ROOT / "tools" / "execute.py", "--check"]).returncode:
            sys.exit("results/smoke belongs to an earlier state of the code; run `make book` first.")
        entries = [one for one in entries if one["commit"] != commit()] + [entry()]
        write_whole(RECORD, "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")  # an entry is a line
    write_whole(PAGE, page(entries))


if __name__ == "__main__":
    main()
