"""Put what was measured on the joint language model beside its adapters, where chapter 11 reads it.

    python tools/taslm_scores.py

results/full/taslm.json and continuation.json, without their rows. A record that is not there is left out.
"""

import json
from pathlib import Path

from taste_min.evaluate_command import write_json
from taste_min.taslm_files import SHIPPED

RESULTS = Path(__file__).resolve().parent.parent / "results" / "full"
COPIES = {"taslm": "scores", "continuation": "continuation"}  # record -> its copy
ROWS = ("utterances", "spoken")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def summary(record: dict) -> dict:
    """A record without its rows."""
    return {key: value for key, value in record.items() if key not in ROWS}


if __name__ == "__main__":
    for name, copy in COPIES.items():
        if (RESULTS / f"{name}.json").is_file():
            write_json(SHIPPED / f"{copy}.json", summary(read(RESULTS / f"{name}.json")))
            print(f"wrote {copy}.json")
