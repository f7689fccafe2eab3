"""Put what was measured on the joint language model beside its adapters, where chapter 11 reads it.

    python tools/taslm_scores.py

results/full/taslm.json, continuation.json and loudness.json without their rows, and what became of the claims that they
bear on.
"""

import json
from pathlib import Path

import yaml
from claims_pages import ROOT, judge, load_results

from taste_min.evaluate_command import write_json
from taste_min.taslm_files import SHIPPED

RESULTS = ROOT / "results" / "full"
RECORDS = {"taslm": "scores", "continuation": "continuation", "loudness": "loudness"}  # record -> its copy
ROWS = ("utterances", "spoken")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def copies() -> dict[str, dict]:
    """Content of every file beside the adapters, by name; a record that is not there has no copy."""
    found = {}
    for record, copy in RECORDS.items():
        if (path := RESULTS / f"{record}.json").is_file():
            found[copy] = {key: value for key, value in read(path).items() if key not in ROWS}
    claims = yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text(encoding="utf-8"))
    judged = judge(claims, load_results())
    about = [c for c in judged if any(row["metric"].split("/")[0] in RECORDS for row in c["criteria"])]
    return found | {"claims": {claim["id"]: claim for claim in about}}


if __name__ == "__main__":
    for name, content in copies().items():
        write_json(SHIPPED / f"{name}.json", content)
        print(f"wrote {name}.json")
