"""repro: profiles, settings, seeds, metrics, and the record that a run leaves behind."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from taste_min import repro
from taste_min.errors import TasteError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTE_MIN_RESULTS", str(tmp_path))
    return repro.start("01_test", "smoke", seed=3)


def test_importing_repro_does_not_import_torch():
    code = "import sys, taste_min.repro; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "asked, environment, has_gpu, expected",
    [
        ("auto", None, False, "smoke"),
        ("auto", None, True, "gpu"),
        ("auto", "full", False, "full"),
        ("smoke", "full", True, "smoke"),  # what the notebook says wins; the environment only replaces "auto"
    ],
)
def test_profile(monkeypatch, asked, environment, has_gpu, expected):
    monkeypatch.delenv("TASTE_MIN_PROFILE", raising=False)
    if environment:
        monkeypatch.setenv("TASTE_MIN_PROFILE", environment)
    assert repro.resolve_profile(asked, has_gpu)[0] == expected


def test_unknown_profile():
    with pytest.raises(TasteError, match="profile must be"):
        repro.resolve_profile("turbo", False)


def test_number_format():
    assert [repro.resolve_dtype(one)[0] for one in (None, (7, 5), (8, 0), (9, 0))] == [
        "float32",
        "float32",
        "bfloat16",
        "bfloat16",
    ]


@pytest.mark.parametrize("amx, avx, fast", [(False, False, False), (True, False, True), (False, True, True)])
def test_bfloat16_needs_units_for_it(monkeypatch, amx, avx, fast):
    assert isinstance(repro.bfloat16_is_fast("cpu"), bool)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert repro.bfloat16_is_fast("cpu") is repro.bfloat16_is_fast(torch.device("cpu")) is fast


def test_start_says_why_in_one_line(run, capsys):
    repro.start("01_test", "smoke")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "profile smoke (asked for)" in printed and "device cpu" in printed


def test_settings_inherit_from_smoke_to_full(tmp_path):
    table = {
        "defaults": {"smoke": {"n": 1, "steps": 5}, "gpu": {"n": 2}, "full": {}},
        "01_a": {"smoke": {"steps": 7}, "full": {"steps": 9}},
    }
    path = tmp_path / "profiles.json"
    path.write_text(json.dumps(table))
    assert repro.settings("01_a", "smoke", path) == {"n": 1, "steps": 7}
    assert repro.settings("01_a", "gpu", path) == {"n": 2, "steps": 7}
    assert repro.settings("01_a", "full", path) == {"n": 2, "steps": 9}
    assert repro.settings("02_b", "gpu", path) == {"n": 2, "steps": 5}
    with pytest.raises(TasteError, match=r"no 'epochs'.*n, steps"):
        repro.settings("01_a", "smoke", path)["epochs"]


def test_unknown_profile_name_in_the_table(tmp_path):
    path = tmp_path / "profiles.json"
    path.write_text(json.dumps({"defaults": {}, "01_a": {"smok": {}}}))
    with pytest.raises(TasteError, match="smok"):
        repro.settings("01_a", "smoke", path)


def test_seed_repeats_all_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    repro.seed_everything(5)
    first = draw()
    repro.seed_everything(5)
    assert draw() == first
    repro.seed_everything(6)
    assert draw() != first


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "3", None, np.array([1.0, 2.0]).tolist()])
def test_metric_rejects_what_is_not_a_finite_number(run, value):
    with pytest.raises(TasteError, match="finite"):
        run.metric("x", value, "")


def test_metric_rejects_bad_names_kinds_duplicates_and_paper_values_without_source(run):
    run.metric("x", 1, "")
    for arguments, message in [
        (("x", 2, ""), "before"),
        (("Wrong Name", 1, ""), "lower_case"),
        (("y", 1, "", "guess"), "kind"),
        (("y", 1, "", "measured", 3.0), "source"),
    ]:
        with pytest.raises(TasteError, match=message):
            run.metric(*arguments)
    assert list(run.metrics) == ["x"]


def test_record_has_everything_needed_to_read_it_later(run, tmp_path):
    assert run.metric("loss", torch.tensor(1.5), "nat", paper=2.0, source="Table 3") == 1.5
    run.metric("n_clips", np.int64(7), "", kind="exact")
    table = run.record()
    result = json.loads((tmp_path / "smoke" / "01_test.json").read_text())
    assert result["metrics"]["loss"] == {
        "value": 1.5,
        "unit": "nat",
        "kind": "measured",
        "paper": 2.0,
        "source": "Table 3",
    }
    assert result["metrics"]["n_clips"]["value"] == 7
    assert {"notebook", "profile", "commit", "device", "cpu_count", "seed", "dtype"} <= set(result)
    assert set(result["versions"]) == {"python", "torch", "transformers", "numpy", "taste_min"}
    assert result["seed"] == 3 and result["wall_seconds"] >= 0 and result["cpu_seconds"] >= 0
    assert 50 < result["peak_memory_mb"] < 1e6  # MB, not KiB and not bytes
    assert [file.name for file in (tmp_path / "smoke").iterdir()] == ["01_test.json"]  # no temporary file left
    assert "loss" in repr(table) and "2 (Table 3)" in table._repr_html_()


def test_table_escapes_html():
    table = repro.Table("a < b", [("<script>", "1", "", "exact", "")])
    assert "<script>" not in table._repr_html_()


def test_commit_marks_a_changed_checkout(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    monkeypatch.setattr(repro, "ROOT", tmp_path)
    assert repro.commit() == f"taste_min {repro.__version__}"  # not a checkout
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = repro.commit()
    assert len(clean) == 12 and int(clean, 16)
    (tmp_path / "a").write_text("2")
    assert repro.commit() == clean + "+dirty"
