"""Golden tensors of the original modules, and that the checker notices what is wrong."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from taste_min import parity
from taste_min.errors import TasteError
from taste_min.golden import Golden, load_golden


@pytest.mark.parametrize("name", sorted(parity.CHECKS))
def test_golden_file(parity_dir, name):
    rows = parity.CHECKS[name][0](load_golden(parity_dir / f"{name}.safetensors"))
    assert rows
    assert [row for row in rows if not row.ok] == []


def test_every_golden_output_is_compared(parity_dir):
    for name, (check, _) in parity.CHECKS.items():
        golden = load_golden(parity_dir / f"{name}.safetensors")
        assert {row.output for row in check(golden)} == set(golden.outputs)


def test_a_wrong_tap_layer_is_noticed(parity_dir):
    golden = load_golden(parity_dir / "audio_tower.safetensors")
    golden.config["tap"] += 1
    assert any(not row.ok for row in parity.audio_tower(golden))


def test_a_changed_codebook_is_noticed(parity_dir):
    golden = load_golden(parity_dir / "rvq.safetensors")
    key = "rvq.layers.1._codebook.embed"
    golden.weights[key] = golden.weights[key].flip(1)
    assert any(not row.ok for row in parity.rvq(golden))


def test_rows_fail_on_nan_wrong_shape_and_wrong_index():
    outputs = {"x": torch.zeros(3), "i": torch.arange(3)}
    golden = Golden("test", {}, {}, {}, outputs)
    assert golden.row("x", torch.full((3,), 9e-6)).ok
    assert not golden.row("x", torch.full((3,), 2e-5)).ok
    assert not golden.row("x", torch.full((3,), float("nan"))).ok
    assert not golden.row("x", torch.zeros(4)).ok
    assert golden.row("i", torch.arange(3)).ok
    assert not golden.row("i", torch.tensor([0, 1, 1])).ok


def test_unknown_files_are_named_and_damaged_ones_refused(tmp_path, capsys):
    save_file({"i.x": torch.zeros(1)}, tmp_path / "later.safetensors", metadata={"config": "{}"})
    assert parity.run(tmp_path) == ([], ["later"])
    parity.command(Namespace(folder=str(tmp_path), json=False))
    assert "later: not implemented yet" in capsys.readouterr().err
    (tmp_path / "rvq.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(TasteError, match="not a golden file"):
        parity.run(tmp_path)
    save_file({"i.x": torch.zeros(1)}, tmp_path / "rvq.safetensors", metadata={"config": "{}"})
    with pytest.raises(TasteError, match="does not hold what its name says"):
        parity.run(tmp_path)
    with pytest.raises(TasteError, match="no .safetensors"):
        parity.run(tmp_path / "empty")
