"""Notebooks: what all of them have in common, and whether what they measured lies in its band and no mutant does."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import bands
import book_files
import nbformat
import pytest
import yaml
from conftest import ROOT

from taste_min import repro

NOTEBOOKS = book_files.notebooks()
CHAPTERS = [path for path in NOTEBOOKS if path.stem != book_files.LEDGER]
EXPECTED = yaml.safe_load((ROOT / "tests" / "expected.yaml").read_text()) or {}


def name(path):
    return path.stem


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=name)


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


# -- conventions: these read the files as they are kept in the repository


def test_every_notebook_of_the_folder_is_in_the_table_of_contents():
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)


@each_notebook
def test_is_kept_without_outputs_and_normalised(path, tmp_path):
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    copy = tmp_path / path.name
    copy.write_text(path.read_text())
    assert not book_files.normalise(copy), f"run: python tools/book_files.py notebooks/{path.name}"


@each_notebook
def test_cell_ids_are_unique(path):
    ids = [cell.id for cell in read(path).cells]
    assert len(set(ids)) == len(ids)


@each_notebook
def test_first_three_cells(path):
    title, parameters, bootstrap, *rest = read(path).cells
    assert title.cell_type == "markdown" and title.source.startswith("# ")
    assert parameters.metadata.get("tags") == ["parameters"] and parameters.source == book_files.PARAMETERS
    assert bootstrap.metadata.get("tags") == ["remove-cell"] and bootstrap.source == book_files.bootstrap()
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in rest)


def test_the_cell_for_colab_does_nothing_elsewhere(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("nothing may be installed outside Colab")

    monkeypatch.setattr("subprocess.run", fail)
    exec(book_files.bootstrap(), {})


def test_the_cell_for_colab_installs_what_is_missing_and_no_torch(monkeypatch):
    ran = []
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command))
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    exec(book_files.bootstrap(), {})
    (command,) = ran
    assert command[-1] == f"taste_min[notebooks] @ git+{book_files.config()['repository']['url']}@v{repro.__version__}"
    assert not any("torch" in word for word in command)


def test_the_cell_for_colab_leaves_an_installed_package_alone(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a second run of the cell must not install again")

    monkeypatch.setattr("subprocess.run", fail)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    exec(book_files.bootstrap(), {})


@each_chapter
def test_needs_only_what_the_cell_for_colab_installs(path):
    """Every import of a notebook comes with Python, or is declared by the package or its extra `notebooks`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    names = {re.split(r"[\[>=<]", line)[0].replace("-", "_") for line in declared} | {"taste_min", "IPython"}
    names |= {"sklearn"} if "scikit_learn" in names else set()
    tree = ast.parse("\n".join(line for line in code_of(read(path)).splitlines() if not line.startswith("%")))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - names == set()


@pytest.mark.parametrize("path", CHAPTERS[:1], ids=name)
def test_starts_in_a_kernel_that_looks_like_colab(path, tmp_path):
    """The first cells, alone, in a fresh process with Colab's module, without what only the book needs."""
    source = [cell.source for cell in read(path).cells if cell.cell_type == "code"][:3]
    blocked = ("myst_nb", "jupyter_book", "papermill", "pytest", "sphinx", "bs4", "onnx")
    script = f"""
import sys, types
sys.modules["google"], sys.modules["google.colab"] = types.ModuleType("google"), types.ModuleType("google.colab")
sys.modules |= dict.fromkeys({blocked!r})  # importing one of them raises ImportError
"""
    (tmp_path / "cells.py").write_text(script + "\n".join(source))
    environment = os.environ | {
        "TASTE_MIN_RESULTS": str(tmp_path),
        "TASTE_MIN_PROFILE": "smoke",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "cells.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "smoke" in done.stdout


@each_chapter
def test_says_its_cost_in_the_title_cell(path):
    title = read(path).cells[0].source
    for key in ("wall_seconds", "peak_memory_mb"):
        assert f"{{glue:text}}`99_ledger.ipynb::{path.stem[:2]}.{key}:" in title


@each_chapter
def test_ends_with_what_to_remember_the_claims_and_exercises(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert "\n## What to remember\n" in text
    claims = {claim["id"] for claim in yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text())}
    named = re.findall(r"The chapter bears on the claims? ([^;.]*)[;.]", text)
    ids = re.findall(r"[`#]([a-z-]+)[`)]", " ".join(named))
    assert ids and set(ids) <= claims
    labels = re.findall(r"^```+\{exercise\}.*\n:label: (\S+)", text, flags=re.MULTILINE)
    solved = re.findall(r"^```+\{solution(?:-start)?\} (\S+)\n:class: dropdown", text, flags=re.MULTILINE)
    assert 2 <= len(labels) <= 4 and solved == labels


@each_chapter
def test_starts_and_records_under_its_own_name(path):
    notebook = read(path)
    assert re.findall(r"repro\.start\(([^)]*)\)", code_of(notebook)) == [f'"{path.stem}", profile, seed']
    assert notebook.cells[-1].source == book_files.RECORD and code_of(notebook).count("run.record()") == 1


@each_notebook
def test_headings_form_a_tree(path):
    text = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


@each_notebook
def test_code_has_one_dial_and_imports_in_order(path):
    code = code_of(read(path))
    assert not re.search(r"if .*profile\s*(==|!=|in)", code), "put the value into taste_min/profiles.json"
    assert "!pip" not in code and "%pip" not in code and "torchaudio.load" not in code
    imports = re.findall(r"^(?:from|import) (taste_min|transformers|torchaudio|peft)\b", code, flags=re.MULTILINE)
    assert imports[:1] in ([], ["taste_min"]), "import taste_min before transformers, torchaudio and peft"


def test_side_by_side_each_has_one_thread_and_failures_are_named(monkeypatch):
    import execute

    ran = []

    def run(command, env):
        ran.append((command[2], env["OMP_NUM_THREADS"]))
        return SimpleNamespace(returncode=int(command[2] == "b"))

    monkeypatch.setattr(execute.subprocess, "run", run)
    monkeypatch.setattr(execute, "get_cache", lambda folder: None)
    assert execute.run_side_by_side([Path("a.ipynb"), Path("b.ipynb"), Path("c.ipynb")], 2, []) == ["b"]
    assert sorted(ran) == [("a", "1"), ("b", "1"), ("c", "1")]


# -- bands: the evaluation itself

RECORDED = {"01.error": 10.0, "01.error_random": 90.0}


@pytest.mark.parametrize(
    "band, good, bad",
    [
        ({"kind": "exact", "value": 1500}, 1500, 1501),
        ({"kind": "close", "value": 2.0, "rtol": 0.05}, 2.09, 2.12),
        ({"kind": "range", "min": 0.3}, 0.3, 0.29),
        ({"kind": "range", "max": 0.3}, 0.3, 0.31),
        ({"kind": "trend", "less_than": "01.error_random", "by": 5}, 84.9, 85.0),
        ({"kind": "trend", "greater_than": "01.error"}, 10.1, 10.0),
    ],
)
def test_band_edges(band, good, bad):
    assert bands.inside(band, good, RECORDED)
    assert not bands.inside(band, bad, RECORDED)


@pytest.mark.parametrize("kind", ["close", "range"])
def test_nan_is_in_no_band(kind):
    assert not bands.inside({"kind": kind, "value": 1, "rtol": 1, "min": 0}, float("nan"), {})


def results(**metrics):
    return {"01_a": {"metrics": {name: {"value": value} for name, value in metrics.items()}}}


@pytest.mark.parametrize(
    "band, message",
    [
        ({"kind": "range", "max": 20, "mutant": "01.error_random"}, None),
        ({"kind": "range", "max": 100, "mutant": "01.error_random"}, "mutant"),  # too wide
        ({"kind": "range", "max": 20, "mutant": [500, "01.error_random"], "why": "chance"}, None),
        ({"kind": "range", "max": 20, "mutant": [500, 15], "why": "chance"}, "mutant 15"),
        ({"kind": "range", "max": 5, "mutant": "01.error_random"}, "outside"),
        ({"kind": "range", "max": 20}, "needs a mutant"),
        ({"kind": "range", "max": 20, "mutant": 500}, "needs why"),
        ({"kind": "range", "max": 20, "mutant": "01.absent"}, "not recorded: 01.absent"),
        ({"kind": "range", "mxa": 20, "mutant": "01.error_random"}, "mxa"),
        ({"kind": "close", "value": 10, "mutant": "01.error_random"}, "rtol"),
        ({"kind": "trend", "mutant": "01.error_random"}, "less_than"),
        ({"kind": "about", "value": 10}, "kind"),
    ],
)
def test_bands_are_checked_and_so_are_their_mutants(band, message):
    found = bands.problems({"01_a": {"error": band}}, results(error=10.0, error_random=90.0))
    # without a working reference to it, the control has no entry of its own
    found = [text for text in found if not text.startswith("01.error_random")]
    assert found == [] if message is None else len(found) == 1 and message in found[0]


def test_every_metric_needs_an_entry_and_every_entry_a_metric():
    report = {"kind": "report", "why": "depends on the machine"}
    assert bands.problems({}, results(seconds=1.0)) == ["01.seconds: recorded, but not in expected.yaml"]
    assert bands.problems({"01_a": {"seconds": report}}, results(seconds=1.0)) == []
    assert bands.problems({"01_a": {"seconds": {"kind": "report"}}}, results(seconds=1.0)) == [
        "01.seconds: report needs why, and has no mutant"
    ]
    assert bands.problems({"01_a": {"other": report}}, results()) == ["01.other: not recorded: 01.other"]


# -- what the notebooks measured


@pytest.mark.notebooks
def test_recorded_metrics_lie_in_their_bands_and_mutants_do_not(smoke_results):
    assert "\n".join(bands.problems(EXPECTED, smoke_results)) == ""


@pytest.mark.notebooks
def test_every_chapter_left_a_record(smoke_results):
    assert sorted(smoke_results) == sorted(path.stem for path in CHAPTERS)
    for name, result in smoke_results.items():
        assert result["notebook"] == name and result["profile"] == "smoke"
        assert result["metrics"], f"{name} measured nothing"


@pytest.mark.notebooks
def test_notebooks_stay_within_their_budget(smoke_results):
    # on a busy machine the wall clock counts other programs too; on an idle one it is the smaller of the two
    seconds = {name: min(one["wall_seconds"], one["cpu_seconds"]) for name, one in smoke_results.items()}
    # processors without bfloat16 units are also the slower ones at everything else
    assert sum(seconds.values()) < (480 if repro.bfloat16_is_fast("cpu") else 720), seconds
    assert max(result["peak_memory_mb"] for result in smoke_results.values()) < 8000


@pytest.mark.notebooks
@each_notebook
def test_outputs_are_clean(path, smoke_results):
    notebook = read(ROOT / "_build" / "executed" / path.name)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", f"{path.stem} writes to stderr: {output.text[:300]}"
            for data in output.get("data", {}).values():
                assert str(ROOT) not in str(data), f"{path.stem} shows a path of this machine"
            assert str(ROOT) not in output.get("text", ""), f"{path.stem} shows a path of this machine"
