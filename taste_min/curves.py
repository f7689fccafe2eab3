"""Expected-loss curves: what a training run logged, in a small form, and the runs behind the shipped weights.

"What loss should I reach?" is answered by a picture: your own curve over that of a run that worked. A curve is plain
JSON, `{"train": [[step, loss], ...], "dev": [[step, {"cross_entropy": ..., "top1": ..., ...}], ...]}`, one per stage.
Stages that predict units give their training loss as cross-entropy in nats, without the losses that are added to it;
the others as their whole loss.
"""

import json
from pathlib import Path

from .errors import TasteError
from .files import write_whole

SHIPPED = Path(__file__).parent / "checkpoints" / "mini" / "curves.json"
POINTS = 150  # of a training curve, at most


def read_curve(*folders: str | Path) -> dict[str, list]:
    """The curve of a run folder of `taste-min train`, also while the run goes on; of several, each from the weights of
    the one before, the steps are counted on.

    Training losses are averaged over stretches of steps of equal length, so that at most POINTS remain; a point stands
    at the last step of its stretch. Raises TasteError when the folder holds no metrics.
    """
    lines, before = [], 0
    for folder in folders:
        run = _lines(folder)
        lines += [line | {"step": before + line["step"]} for line in run]
        before += run[-1]["step"]
    name = "cross_entropy" if any("cross_entropy" in x for x in lines) else "loss"  # its first steps may lack it
    train = [(x["step"], x[name]) for x in lines if name in x]
    dev = [[x["step"], {key: round(value, 4) for key, value in x["dev"].items()}] for x in lines if "dev" in x]
    size = max(1, -(-len(train) // POINTS))
    stretches = [train[i : i + size] for i in range(0, len(train), size)]
    means = [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 4)] for part in stretches]
    return {"train": means, "dev": dev}


def _lines(folder: str | Path) -> list[dict]:
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise TasteError(f"there is no metrics.jsonl in {folder}; name the folder of a run of `taste-min train`.")
    # a line without its end is still being written
    return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines(keepends=True) if x.endswith("\n")]


def read_curves(path: str | Path = SHIPPED) -> dict[str, dict[str, list]]:
    """Curves by stage from a file of `write_curves`; default those of the shipped weights. Raises TasteError."""
    if not Path(path).is_file():
        raise TasteError(f"there are no curves at {path}; make them with `python tools/training_curves.py`.")
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_curves(curves: dict[str, dict[str, list]], path: str | Path = SHIPPED) -> None:
    """Write curves by stage, whole or not at all; stages that the file already has and `curves` has not are kept."""
    path = Path(path)
    kept = read_curves(path) if path.is_file() else {}
    write_whole(path, json.dumps(kept | curves) + "\n")
