"""What the book consists of: notebooks in reading order, the cells every notebook has, and content hashes.

python tools/book_files.py notebooks/*.ipynb     strip outputs, add cell ids, put the common cells in their place
"""

import hashlib
import json
import sys
import uuid
from importlib import metadata
from pathlib import Path

import nbformat
import yaml

from taste_min import repro

ROOT = Path(__file__).resolve().parents[1]
LEDGER = "99_ledger"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

PARAMETERS = """\
profile = "auto"  # "smoke" (CPU), "gpu" or "full"; "auto" takes gpu where there is one
seed = 0"""

RECORD = "run.record()"

BOOTSTRAP = """\
# On Google Colab this installs what is missing; anywhere else it does nothing.
import importlib.util
import subprocess
import sys

RELEASE = "v{version}"
if "google.colab" in sys.modules and importlib.util.find_spec("taste_min") is None:
    package = f"taste_min[notebooks] @ git+{url}@{{RELEASE}}"
    fast = ["--quiet", "--prefer-binary", "--no-compile"]
    subprocess.run([sys.executable, "-m", "pip", "install", *fast, package], check=True)"""


def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text())


def bootstrap() -> str:
    """Source of the cell that prepares Google Colab; the address comes from `_config.yml`, the tag from the version."""
    return BOOTSTRAP.format(version=repro.__version__, url=config()["repository"]["url"])


def toc_files() -> list[str]:
    """Every page of `_toc.yml` in reading order, as written there (no suffix)."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"]]

    def walk(entry):
        for child in entry if isinstance(entry, list) else [entry]:
            files.extend([child["file"]] if "file" in child else [])
            for key in ("chapters", "sections", "parts"):
                walk(child.get(key, []))

    for key in ("parts", "chapters"):
        walk(toc.get(key, []))
    return files


def notebooks() -> list[Path]:
    """The notebooks of the table of contents in reading order, the ledger last."""
    paths = [ROOT / f"{name}.ipynb" for name in toc_files() if name.startswith("notebooks/")]
    return sorted(paths, key=lambda path: path.stem == LEDGER)  # stable: only the ledger moves


def source_path(page: str) -> Path | None:
    """File behind a `_toc.yml` entry, None when there is none."""
    return next((path for suffix in (".md", ".ipynb") if (path := ROOT / f"{page}{suffix}").exists()), None)


def digest(*parts: Path | str | bytes) -> str:
    """sha256 over texts and files; a folder counts with all its files except caches."""
    total = hashlib.sha256()
    for part in parts:
        if not isinstance(part, Path):
            total.update(part.encode() if isinstance(part, str) else part)
            continue
        files = sorted(part.rglob("*")) if part.is_dir() else [part]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and ".ipynb_checkpoints" not in file.parts:
                total.update(f"{file.relative_to(ROOT)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def notebook_key(path: Path, profile: str, seed: int) -> str:
    """Changes whenever a run of this notebook could give something else: code, settings, package or pins changed.

    Its text and the values of other notebooks in `profiles.json` do not count; for the ledger the results do.
    """
    cells = nbformat.read(path, as_version=4).cells
    code = json.dumps([[cell.source, cell.metadata] for cell in cells if cell.cell_type == "code"])
    package = [file for file in sorted((ROOT / "taste_min").rglob("*")) if file.name != "profiles.json"]
    pins = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "environment.yml", "tools/execute.py")]
    values = json.dumps([repro.settings(path.stem, profile), profile, seed, metadata.version("torch")])
    results = sorted((repro.results_dir() / profile).glob("*.json")) if path.stem == LEDGER else []
    for name in ("claims.json", "full/colab.json"):
        results += repro.results_dir().glob(name) if path.stem == LEDGER else []
    recorded = [file.read_bytes() for file in results]
    return digest(path.stem, code, *[file for file in package if file.is_file()], *pins, values, *recorded)


def normalise(path: Path) -> bool:
    """Rewrite a notebook as it is kept in the repository; True when something changed."""
    before = path.read_text()
    notebook = nbformat.reads(before, as_version=4)
    notebook.nbformat_minor = 5
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    seen = set()
    for cell in notebook.cells:
        if cell.get("id") is None or cell.id in seen:
            cell.id = uuid.uuid4().hex[:8]
        seen.add(cell.id)
        cell.source = cell.source.rstrip()
        for noise in ("execution", "collapsed", "papermill", "ExecuteTime", "jupyter", "vscode", "colab"):
            cell.metadata.pop(noise, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = PARAMETERS
    if notebook.cells[2].source.startswith(BOOTSTRAP.split("\n")[0]):
        notebook.cells[2].source = bootstrap()
    after = nbformat.writes(notebook) + "\n"
    path.write_text(after)
    return after != before


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(f"{argument}: {'rewritten' if normalise(Path(argument)) else 'unchanged'}")
