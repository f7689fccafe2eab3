"""Run the notebooks once; that run is the test, the record and the page.

For each notebook of `_toc.yml` (or each one named): papermill executes it with profile and seed into
`_build/executed/`, its last cell writes `results/<profile>/<name>.json`, and the outputs are put into jupyter-cache, so
that building the pages executes nothing. A notebook whose content hash has not changed is not run again.

    python tools/execute.py [--profile smoke] [--seed 0] [--force] [--check] [--jobs N] [NAME ...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import nbformat
import papermill
from book_files import LEDGER, ROOT, notebook_key, notebooks
from jupyter_cache import get_cache
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from taste_min import repro

EXECUTED = ROOT / "_build" / "executed"
CACHE = ROOT / "_build" / ".jupyter_cache"


class _Lines:
    """Progress for logs: one line per update where a terminal would redraw the same line."""

    def __init__(self):
        self.last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line and line != self.last:
            print(line, flush=True)
            self.last = line

    def flush(self) -> None: ...


def is_fresh(path: Path, profile: str, seed: int) -> bool:
    """True when the last run of this notebook had exactly these inputs and everything it wrote is still here."""
    key = EXECUTED / f"{path.stem}.key"
    written = [EXECUTED / path.name]
    if path.stem != LEDGER:
        written.append(repro.results_dir() / profile / f"{path.stem}.json")
    return (
        key.exists()
        and all(file.exists() for file in written)
        and CACHE.exists()
        and key.read_text() == notebook_key(path, profile, seed)
    )


def graft(source_path: Path, executed_path: Path) -> None:
    """Put the outputs of the executed notebook on the source's cells (matched by id) and store them in jupyter-cache.

    The cache recognises a notebook by its kernel, code and cell metadata, so papermill's own file, with its injected
    cell, would not be found.
    """
    source = nbformat.read(source_path, as_version=4)
    executed = nbformat.read(executed_path, as_version=4)
    by_id = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):  # counted anew: the injected cell would leave a gap
        cell.outputs, cell.execution_count = by_id[cell.id].outputs, count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    if "widgets" in executed.metadata:
        source.metadata["widgets"] = executed.metadata["widgets"]
    staged = EXECUTED / "grafted" / source_path.name
    staged.parent.mkdir(exist_ok=True)
    nbformat.write(source, staged)
    get_cache(CACHE).cache_notebook_file(staged, uri=str(source_path.resolve()), overwrite=True)


def run(path: Path, profile: str, seed: int) -> None:
    """Execute one notebook, alone: in an empty folder, and (the ledger apart) with an empty folder for results.

    Raises PapermillExecutionError with the traceback of the cell that failed.
    """
    name = path.stem
    (EXECUTED / f"{name}.key").unlink(missing_ok=True)
    key = notebook_key(path, profile, seed)
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as written:
        results = repro.results_dir() if name == LEDGER else Path(written)
        # the kernel inherits the environment; nobody is there to move controls
        with mock.patch.dict(os.environ, TASTE_MIN_RESULTS=str(results), TASTE_MIN_LIVE="0"):
            _papermill(path, profile, seed, cwd=empty)
        if name != LEDGER:
            result = results / profile / f"{name}.json"
            if not result.exists():
                raise SystemExit(f"{name} wrote no results; its last cell must be run.record()")
            (repro.results_dir() / profile).mkdir(parents=True, exist_ok=True)
            shutil.move(result, repro.results_dir() / profile / result.name)
    graft(path, EXECUTED / path.name)
    (EXECUTED / f"{name}.key").write_text(key)


def _papermill(path: Path, profile: str, seed: int, cwd: str) -> None:
    name = path.stem
    bar = {"bar_format": f"  {name}: cell {{n_fmt}}/{{total_fmt}}, {{elapsed}}", "mininterval": 1.0}
    if not sys.stderr.isatty():
        bar["file"] = _Lines()
    papermill.execute_notebook(
        path,
        EXECUTED / path.name,
        parameters={"profile": profile, "seed": seed},
        kernel_name="python3",
        cwd=cwd,
        progress_bar=bar,
        execution_timeout=3600,
        config=Config({"KernelManager": {"transport": "ipc"}}),  # no TCP port, and no warning about one
    )


def run_side_by_side(paths: list[Path], jobs: int, options: list[str]) -> list[str]:
    """Execute notebooks in processes of their own, `jobs` at a time with one thread each; names of those that failed.

    Small networks gain little from a second thread, and imports nothing.
    """
    get_cache(CACHE)  # made once

    def succeeds(path: Path) -> bool:
        command = [sys.executable, __file__, path.stem, *options]
        return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        return [path.stem for path, good in zip(paths, pool.map(succeeds, paths), strict=True) if not good]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="file stems; default: all of _toc.yml, then the ledger")
    parser.add_argument("--profile", default=os.environ.get("PROFILE", "smoke"), choices=repro.PROFILES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="run even what has not changed")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time, with one thread each when several")
    parser.add_argument("--check", action="store_true", help="run nothing; exit 1 when something would have to run")
    args = parser.parse_args()

    paths = notebooks()
    unknown = set(args.names) - {path.stem for path in paths}
    if unknown:
        parser.error(f"not in _toc.yml: {', '.join(sorted(unknown))}")
    if args.names:
        paths = [path for path in paths if path.stem in args.names]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        parser.error(f"in _toc.yml but not in notebooks/: {', '.join(missing)}")
    if args.check:
        stale = [path.stem for path in paths if not is_fresh(path, args.profile, args.seed)]
        print("\n".join(f"{name}: to be run" for name in stale) or "nothing to run")
        return bool(stale)

    EXECUTED.mkdir(parents=True, exist_ok=True)
    if not args.names:  # results of notebooks that are gone would stay in the ledger
        for result in (repro.results_dir() / args.profile).glob("*.json"):
            if result.stem not in {path.stem for path in paths}:
                result.unlink()
    os.environ |= {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    failed = []
    if args.jobs > 1:
        options = ["--profile", args.profile, "--seed", str(args.seed), *(["--force"] if args.force else [])]
        failed = run_side_by_side([path for path in paths if path.stem != LEDGER], args.jobs, options)
        paths = [path for path in paths if path.stem == LEDGER]
    for path in paths:
        if path.stem == LEDGER and failed:
            break
        if not args.force and is_fresh(path, args.profile, args.seed):
            print(f"{path.stem}: unchanged", flush=True)
            continue
        print(f"{path.stem}: running, profile {args.profile}", flush=True)
        begin = time.perf_counter()
        try:
            run(path, args.profile, args.seed)
        except PapermillExecutionError as error:
            print(error, file=sys.stderr, flush=True)
            failed.append(path.stem)
        print(
            f"{path.stem}: {'FAILED after' if path.stem in failed else 'done in'} {time.perf_counter() - begin:.0f} s"
        )
    if failed:
        print(f"failed: {', '.join(failed)}; the traceback of the failing cell is above", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
