"""Each chapter alone on what looks like a fresh Google Colab; writes results/full/colab.json.

    python tools/colab.py [--python python3.12] [--base FOLDER] [--seed N] [--only NAME ...]

One base environment is made from `colab_packages.txt`, the main packages of Colab's own list of June 2026, with an
empty module `google.colab` that every kernel has imported when it starts. torch and torchaudio have the versions of
`constraints.txt`, since pip may have a CPU build of that one only. Then, chapter after chapter in a drawn order: a copy
of the base, a folder with nothing but the notebook, a new kernel. Its first cell really installs the tag of the
release; git is told that the repository's address is a temporary clone in which this commit has that tag. pip keeps no
cache, as on a new Colab. The cache of the assets is empty before the first chapter and shared by those that follow it,
so that one kernel fetches what is fetched; what was there before is in the record, and so is the load of the machine:
how many processes wanted a core when the kernel started.

The ledger is left out: it reads the results of all other notebooks, which nobody has on Colab. Exit code 1 when a
notebook fails, its first cell takes MAX_SECONDS or replaces one of KEPT, no result is left or a number in it is outside
its band. With --only, the other entries of the record stay.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import nbformat
import papermill
import yaml
from bands import problems
from book_files import LEDGER, ROOT, bootstrap, config, notebooks
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from taste_min import repro
from taste_min.files import write_whole

RECORD = ROOT / "results" / "full" / "colab.json"
MAX_SECONDS = 60
KEPT = ("torch", "torchaudio", "numpy")  # replaced below a running kernel, these break it


def base_packages() -> list[str]:
    """What is installed in the base environment, each with its exact version."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    listed = (ROOT / "tools" / "colab_packages.txt").read_text(encoding="utf-8")
    return re.findall(r"^(?:torch|torchaudio)==\S+$", pins, re.MULTILINE) + re.findall(r"^\w.*$", listed, re.MULTILINE)


def draw(names: list[str], seed: int) -> list[str]:
    """The names in an order that depends on the seed and not on the order they come in."""
    return random.Random(seed).sample(sorted(names), len(names))


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    """Two lists of packages (name -> version) -> what the first cell added and what it replaced."""
    added = [f"{name} {version}" for name, version in sorted(after.items()) if name not in before]
    moved = [name for name in sorted(before) if after.get(name) != before[name]]
    return {"added": added, "replaced": [f"{name} {before[name]} -> {after.get(name, 'gone')}" for name in moved]}


def installed(python: Path) -> dict[str, str]:
    command = [python, "-m", "pip", "list", "--format=json"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {re.sub("[-_.]+", "-", package["name"]).lower(): package["version"] for package in listed}


def make_base(base: Path, interpreter: str) -> None:
    """A virtual environment with Colab's packages and a stub of its module."""
    subprocess.run([interpreter, "-m", "venv", base], check=True)
    python, packages = base / "bin" / "python", base_packages()
    (pip,) = (package for package in packages if package.startswith("pip=="))
    subprocess.run([python, "-m", "pip", "install", "-q", pip], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    (site,) = base.glob("lib/python3*/site-packages")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").write_text("", encoding="utf-8")
    (site / "colab_kernel.pth").write_text("import google.colab\n", encoding="utf-8")


def make_clone(folder: Path) -> dict[str, str]:
    """A bare clone with the release's tag on the present commit -> the settings that let git find it at the address."""
    clone, tag = folder / "origin.git", f"v{repro.__version__}"
    subprocess.run(["git", "clone", "-q", "--bare", ROOT, clone], check=True)
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["git", "-C", clone, "tag", "-f", tag, head.strip()], check=True, capture_output=True)
    subprocess.run(["git", "-C", clone, "config", "uploadpack.allowFilter", "true"], check=True)  # as GitHub has it
    found = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{clone.as_uri()}.insteadOf"}
    return found | {"GIT_CONFIG_VALUE_0": config()["repository"]["url"]}


def run_alone(path: Path, base: Path, folder: Path, git: dict[str, str]) -> dict:
    """Run one notebook in a copy of the base -> what goes into the record. folder: of this run, with `cache` in it.

    Raises PapermillExecutionError when a cell fails, FileNotFoundError when no result is left.
    """
    kernels, cache = folder / "kernels" / "kernels" / "python3", folder / "cache"
    kept_out = ("PYTHON", "VIRTUAL_ENV", "TASTE_MIN", "JUPYTER", "IPYTHON", "MPL", "HF_", "TRANSFORMERS_")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        copy, work = Path(scratch, "env"), Path(scratch, "content")
        subprocess.run(["cp", "-al", base, copy], check=True)  # hard links: pip removes files before it writes
        work.mkdir()
        (work / path.name).write_bytes(path.read_bytes())
        python = copy / "bin" / "python"
        command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernels.mkdir(parents=True, exist_ok=True)
        kernel = {"argv": command, "display_name": "Colab", "language": "python"}
        (kernels / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(kept_out)}
        environment |= {"PATH": f"{copy}/bin:{os.environ['PATH']}", "IPYTHONDIR": f"{scratch}/ipython", **git}
        environment |= {"JUPYTER_PATH": f"{folder}/kernels", "XDG_CACHE_HOME": str(cache), "PIP_NO_CACHE_DIR": "1"}
        before, there = installed(python), sorted(found.name for found in cache.glob("taste_min/assets/[a-z]*"))
        began, load = time.monotonic(), os.getloadavg()[0]
        with mock.patch.dict(os.environ, environment, clear=True):  # the kernel inherits it
            papermill.execute_notebook(
                work / path.name,
                folder / path.name,
                parameters={"profile": "smoke", "seed": 0},
                kernel_name="python3",
                cwd=work,
                progress_bar=False,
                execution_timeout=3600,
                config=Config({"KernelManager": {"transport": "ipc"}}),
            )
        seconds = time.monotonic() - began
        result = json.loads((work / "results" / "smoke" / path.name).with_suffix(".json").read_text(encoding="utf-8"))
        after = installed(python)
    cells = nbformat.read(folder / path.name, as_version=4).cells
    for output in [output for cell in cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]:
        print(output.text, file=sys.stderr)
    (cell,) = (cell for cell in cells if cell.source == bootstrap())
    took = cell.metadata.papermill.duration
    assert result["commit"] == f"taste_min {repro.__version__}", "it ran the checkout instead of what was installed"
    wrong = [f"the first cell took {took:.0f} s"] if took >= MAX_SECONDS else []
    wrong += [f"the first cell replaced {name}" for name in KEPT if after.get(name) != before[name]]
    expected = yaml.safe_load((ROOT / "tests" / "expected.yaml").read_text(encoding="utf-8"))
    wrong += problems({path.stem: expected[path.stem]}, {path.stem: result})
    facts = {"outcome": "; ".join(wrong) or "clean", "bootstrap_seconds": round(took, 1), "seconds": round(seconds, 1)}
    facts |= {"load": round(load, 1), "peak_memory_mb": round(result["peak_memory_mb"])}
    facts |= {"metrics": len(result["metrics"]), "assets_before": there}
    return facts | changes(before, after) | {"versions": result["versions"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python3.12", help="interpreter of the base (default: Colab's)")
    parser.add_argument("--base", type=Path, help="folder of the base environment, kept and used again")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1000), help="draws the order")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these notebooks instead of all chapters")
    args = parser.parse_args()
    paths = {path.stem: path for path in notebooks() if path.stem != LEDGER}
    if unknown := set(args.only or []) - set(paths):
        parser.error(f"not a chapter: {', '.join(sorted(unknown))}")
    order = draw(args.only or list(paths), args.seed)
    print(f"seed {args.seed}: {', '.join(order)}", flush=True)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if args.only and RECORD.is_file() else {}
    failed, commit = [], repro.commit()
    with tempfile.TemporaryDirectory() as scratch:
        folder, base = Path(scratch), args.base or Path(scratch, "base")
        if not base.exists():
            make_base(base, args.python)
        git = make_clone(folder)
        for place, name in enumerate(order, start=1):
            try:
                found = run_alone(paths[name], base, folder, git)
            except (PapermillExecutionError, FileNotFoundError) as error:
                print(error, file=sys.stderr)
                found = {"outcome": "failed"}
            failed += [name] if found["outcome"] != "clean" else []
            record[name] = {"commit": commit, "seed": args.seed, "place": place, **found}
            write_whole(RECORD, json.dumps(dict(sorted(record.items())), indent=1) + "\n")
            print(f"{name}: {found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
