"""Fixtures shared by all tests."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

import taste_min  # noqa: F401  before transformers: see taste_min/_torchaudio.py

ROOT = Path(__file__).resolve().parents[1]
DEMO = Path(os.environ.get("TASTE_MIN_DEMO", ROOT.parent / "shared" / "data" / "taste-demo"))

# librosa compiles with numba at its first import, for 16 s at this level, and for some more to find pitch.
# All processes share what is kept: those of xdist inherit these variables, and numba replaces whole files.
os.environ.setdefault("NUMBA_OPT", "1")
os.environ.setdefault("NUMBA_CACHE_DIR", f"{tempfile.gettempdir()}/numba-opt-{os.environ['NUMBA_OPT']}")
# nbformat would build a grammar for 2 s, for a format of JSON schemas that none here uses
sys.modules["rfc3987_syntax"] = None


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Golden tensors of the original system; they are not part of the project."""
    folder = Path(os.environ.get("TASTE_MIN_PARITY", ROOT.parent / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip("no folder with golden tensors; set TASTE_MIN_PARITY to run the parity tests")
    return folder


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    """Published demo audio of the original system; it is not part of the project."""
    if not DEMO.is_dir():
        pytest.skip("no folder with the published demo audio; set TASTE_MIN_DEMO to check the metrics on it")
    return DEMO


@pytest.fixture(scope="module")
def quick_pitch():
    """In the place of pYIN, whose compilation takes longer than the tests of a module: correlation, every 20 ms."""
    from taste_min import frame_labels, metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "pitch", lambda wav: frame_labels.pitch(wav.numpy()).repeat(2))
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make): a folder that the first test process to ask fills with make(folder), and all read."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder_of(name: str, make) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def mini_taste():
    """The shipped model, loaded once per process. Needs the assets; tests leave it as it is."""
    from taste_min.tokenizer import Taste

    return Taste.from_pretrained("mini")


def pytest_configure(config):
    """With several test processes librosa is compiled once, beside the first tests, and not in each of them."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        subprocess.Popen([sys.executable, "-c", "import librosa.util.utils, librosa.feature"])


def pytest_collection_modifyitems(items):
    """What needs executed notebooks or built pages comes last, and first what takes long, so that no process waits."""
    items.sort(key=lambda item: (item.get_closest_marker("notebooks") is not None, item.path.name != "test_train.py"))


def _run_tool(config, *command: str) -> None:
    """Run one of the tools with its progress visible; it does nothing when its inputs have not changed."""
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(flush=True)
        done = subprocess.run([sys.executable, ROOT / "tools" / command[0], *command[1:]], cwd=ROOT)
    if done.returncode:
        pytest.fail(f"tools/{' '.join(command)} failed; its messages are above", pytrace=False)


@pytest.fixture(scope="session")
def smoke_results(pytestconfig) -> dict[str, dict]:
    """What the notebooks recorded with profile smoke; runs those that have changed since their last run."""
    _run_tool(pytestconfig, "execute.py", "--profile", "smoke")
    files = sorted((ROOT / "results" / "smoke").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


@pytest.fixture(scope="session")
def html_dir(pytestconfig, smoke_results) -> Path:
    """The built pages; builds them when something has changed."""
    _run_tool(pytestconfig, "build_html.py")
    return ROOT / "_build" / "html"
