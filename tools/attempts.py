"""What earlier weights reached, for the comparison in chapter 7: bars.json of the commits that shipped them.

    python tools/attempts.py

Writes attempts.json beside the weights, oldest first. Needs the history of this repository.
"""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARS = "taste_min/checkpoints/mini/bars.json"
GROUPS = ("seen", "unseen", "human")
ATTEMPTS = {  # commit -> what was tried
    "a138ae8": "letters, attention that is told where to look",
    "c3b6d1c": "speech sounds, a pointer, other units",
    "1a96c85": "the flow hears the sounds too, matched vocoder, more speech",
}


def values(bars: dict) -> dict:
    """The numbers without their intervals."""
    groups = {}
    for group in GROUPS:
        systems = {name: row for name, row in bars[group].items() if isinstance(row, dict)}
        groups[group] = {name: {m: {"value": e["value"]} for m, e in row.items()} for name, row in systems.items()}
        groups[group]["n"] = bars[group]["n"]
    return groups


def main() -> None:
    attempts = []
    for commit, name in ATTEMPTS.items():
        command = ["git", "show", f"{commit}:{BARS}"]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        attempts.append({"name": name, "commit": commit, **values(json.loads(text))})
    (ROOT / BARS).with_name("attempts.json").write_text(json.dumps(attempts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
