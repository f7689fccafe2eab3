"""Expected-loss curves: what a run logged comes out, thinned by averaging, and merges into the shipped file."""

import json

import pytest
import training_curves

from taste_min.curves import POINTS, read_curve, read_curves, write_curves
from taste_min.errors import TasteError


def log(folder, n=400, cut=False):
    """A run that logs the loss 10 + step, of which 10 is not cross-entropy."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(10, 10 * n + 1, 10):
        lines.append({"step": step, "loss": 10.0 + step, "cross_entropy": float(step), "lr": 1.0, "seconds": 1.0})
        if step % 1000 == 0:
            lines.append({"step": step, "dev": {"cross_entropy": 2.123456, "top1": 0.5}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + ('{"step": 99' if cut else ""))
    return folder


def test_training_losses_are_means_of_cross_entropy(tmp_path):
    curve = read_curve(log(tmp_path))
    assert curve["train"][0] == [30, 20.0] and curve["train"][-1] == [4000, 4000.0]  # 3 per point, the last alone
    assert POINTS / 2 < len(curve["train"]) <= POINTS
    assert curve["dev"] == [[step, {"cross_entropy": 2.1235, "top1": 0.5}] for step in (1000, 2000, 3000, 4000)]


def test_short_runs_are_kept_as_they_are_and_other_stages_give_their_loss(tmp_path):
    assert read_curve(log(tmp_path, n=3))["train"] == [[10, 10.0], [20, 20.0], [30, 30.0]]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0, "lr": 1}\n')
    assert read_curve(tmp_path) == {"train": [[1, 3.0]], "dev": []}


def test_steps_before_the_first_unit_loss_are_left_out(tmp_path):
    path = log(tmp_path, n=3) / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 0.5, "lr": 1.0}\n' + path.read_text())
    assert read_curve(tmp_path)["train"] == [[10, 10.0], [20, 20.0], [30, 30.0]]


def test_runs_that_went_on_from_each_other_are_one_curve(tmp_path):
    first, second = log(tmp_path / "a", n=2), log(tmp_path / "b", n=1)
    assert read_curve(first, second)["train"] == [[10, 10.0], [20, 20.0], [30, 10.0]]
    assert read_curve(second, first)["train"] != read_curve(first, second)["train"]


def test_a_line_that_is_being_written_does_not_count(tmp_path):
    assert read_curve(log(tmp_path / "a", cut=True)) == read_curve(log(tmp_path / "b"))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(TasteError, match="metrics.jsonl"):
        read_curve(tmp_path)
    with pytest.raises(TasteError, match="training_curves.py"):
        read_curves(tmp_path / "none.json")


def test_the_tool_merges_into_the_file(tmp_path, capsys):
    write_curves({"flow": {"train": [], "dev": []}}, tmp_path / "curves.json")
    runs = [str(log(tmp_path / "text_only")), f"vq={log(tmp_path / 'longer', n=3)}"]
    training_curves.main([*runs, "-o", str(tmp_path / "curves.json")])
    curves = read_curves(tmp_path / "curves.json")
    assert sorted(curves) == ["flow", "text_only", "vq"]
    assert curves["text_only"] == read_curve(tmp_path / "text_only")
    assert "vq: 30 steps" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        training_curves.main([str(log(tmp_path / "other")), "-o", str(tmp_path / "curves.json")])
