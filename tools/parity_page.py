"""The parity ledger: book/parity.md, from what `taste-min parity` found when it was last recorded.

    python tools/parity_page.py FOLDER    compares the golden tensors in FOLDER again, then writes record and page
    python tools/parity_page.py           writes the page from results/full/parity.json

No number is typed by hand.
"""

import io
import json
import sys
from argparse import Namespace
from contextlib import redirect_stdout

from claims_pages import ROOT, csv_table

from taste_min import parity, repro
from taste_min.files import write_whole

RECORD, PAGE = ROOT / "results" / "full" / "parity.json", ROOT / "book" / "parity.md"
WHAT = {
    "frontend": "log-mel spectrograms and filter banks",
    "audio_tower": "encoder, aggregator with separate keys and values, word pooling, quantizer, end to end",
    "rvq": "codes, quantized vectors, losses, the input gradient, and the codebooks after one training step",
    "speech_decoder": "unit decoder: logits, labels, loss, and greedy decoding with its length limits",
    "flow": "conditional flow matching: encoder, network, solver",
    "hift": "vocoder: pitch, harmonic source, waveform",
    "slm_continue_latent_linear_last": "joint model with the embedding head: layout, losses, logits, one generation",
    "slm_linear_last": "the same with the token head",
    "slm_multi_linear_last": "the same with the soft token head",
}
HEAD = """\
# Number for number

"The same architecture" is easy to say. Here it is checked: for each module there are *golden tensors*, that is
weights, inputs and outputs of the original code at a tiny random size, in 32-bit floats on a CPU.
The weights are loaded into our module under their original names, the inputs go in, and every output has to agree.

```bash
taste-min parity FOLDER          # a table: file, output, largest difference, tolerance
taste-min parity FOLDER --json   # the same for a program
```

`FOLDER` holds the golden files (`*.safetensors`). They were made from the original system and are not part of this
repository; the tests that need them look at the environment variable `TASTE_MIN_PARITY` and say so when they are
skipped.
The command ends with an error when any output is out of tolerance, so it can guard a pipeline."""
TAIL = """\
Indices have to be equal. Other outputs have to agree to five decimal places in absolute terms, filter banks and the
complete flow to four.
Lines are those that are neither blank nor comments, of all our files that take part, and of the library files that
the original carries a copy of for the same job; where these could not be counted the cell is empty.

The folder may also list names, shapes and types of all tensors of the released checkpoints (`released_*_keys.tsv`).
Then our modules are built at the paper's sizes, without memory for weights, and every listed tensor has to be one of
theirs, and the reverse: `taste_min.released_account.account(list)` gives the same answer to a program."""
END = """\
Parity says that the *computation* is the original one. It says nothing about trained weights, and nothing about the
places that are listed in the [register of deviations](deviations.md)."""


def record(folder: str) -> None:
    """Compare, and keep the report. Raises SystemExit when an output differs."""
    report = io.StringIO()
    with redirect_stdout(report):
        code = parity.command(Namespace(folder=folder, json=True))
    if code:
        sys.exit(f"an output differs, see `taste-min parity {folder}`; the record stays as it was")
    found = json.loads(report.getvalue()) | {"run": {"commit": repro.commit(), "versions": repro.versions()}}
    write_whole(RECORD, json.dumps(found, indent=1) + "\n")


def page() -> str:
    found = json.loads(RECORD.read_text(encoding="utf-8"))
    ledger = []
    for name, what in WHAT.items():
        rows = [row for row in found["rows"] if row["file"] == name]
        worst = max(rows, key=lambda row: row["max_diff"])
        difference = f"{worst['max_diff']:.1e} ({worst['output']})" if worst["max_diff"] else "0"
        lines = found["lines"][name]
        ledger.append([f"`{name}`: {what}", len(rows), difference, lines["ours"], lines["theirs"] or ""])
    header = ["golden file", "outputs", "largest difference", "our lines", "original lines"]
    accounts = [[f"`{one['file']}`", one["matched"], one["unread"], f"{one['numbers']:,}"] for one in found["released"]]
    parts = [
        HEAD,
        csv_table(f"Recorded at commit {found['run']['commit']}, every output within its tolerance", header, ledger),
        TAIL,
        csv_table("Tensors of the released files", ["list", "matched", "never read", "numbers"], accounts),
        END,
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        record(sys.argv[1])
    PAGE.write_text(page(), encoding="utf-8")
