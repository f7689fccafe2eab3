"""Do the dependency ranges of pyproject.toml hold? `python tools/ranges.py [oldest] [newest] [--python python3.13]`.

For each end a fresh virtual environment in a temporary folder: `oldest` installs exactly the lower bound of every
package we name, `newest` what the index has today, except that torch stays at the version of constraints.txt, of which
pip may have a CPU build. Both then run the unit tests; --no-tests only imports every module. What was
installed and how it ended goes into results/full/ranges.json. Exit code 1 when an end fails.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from taste_min import repro
from taste_min.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("notebooks", "book", "metrics", "released", "test")
TESTS = (
    "-m",
    "pytest",
    "-n",
    "2",
    "--dist",
    "worksteal",
    "-m",
    "not notebooks and not browser",
    "-p",
    "no:cacheprovider",
)
IMPORTS = """
import importlib, pkgutil, taste_min
for module in pkgutil.iter_modules(taste_min.__path__):
    importlib.import_module(f"taste_min.{module.name}")
"""
RECORD = ROOT / "results" / "full" / "ranges.json"


def lower_bounds(project: dict) -> dict[str, str]:
    """`name>=1.2,<2` of the project and of EXTRAS -> name: 1.2, once per package; the highest bound counts."""
    named = [*project["dependencies"]]
    for extra in EXTRAS:
        named += project["optional-dependencies"][extra]
    bounds = {}
    for requirement in named:
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(,.*)?", requirement)
        if found:
            key = tuple(int(part) for part in found[2].split("."))
            bounds[found[1]] = max(bounds.get(found[1], ((), "")), (key, found[2]))
    return {name: version for name, (_, version) in sorted(bounds.items())}


def attempt(pins: dict[str, str], named: dict[str, str], interpreter: str, tests: bool) -> dict:
    """Install one end and try it: what was installed of the packages we name, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        python, constraints = Path(folder, "bin", "python"), Path(folder, "constraints.txt")
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
        install = ["-m", "pip", "install", "-q", "-c", constraints, "-e", f"{ROOT}[test]"]
        if subprocess.run([python, *install]).returncode:
            return {"passed": False, "said": "cannot be installed"}
        frozen = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
        versions = dict(line.lower().replace("_", "-").split("==") for line in frozen.splitlines() if "==" in line)
        what = [*TESTS, str(ROOT / "tests")] if tests else ["-c", IMPORTS]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # per test process, as `make test` has it
        done = subprocess.run([python, *what], cwd=ROOT, env=one_thread, capture_output=True, text=True)
        print(done.stdout, done.stderr)
        said = ([line for line in done.stdout.splitlines() if " passed" in line] or ["every module imports"])[-1]
        said = re.sub(r" in [\d.]+s.*|=+ ", "", said) if done.returncode == 0 else "failed"
        wanted = {name: versions[name] for name in named if name in versions}
        return {"passed": done.returncode == 0, "said": said, "versions": wanted}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ends", nargs="*", choices=[[], "oldest", "newest"], help="default: both")
    parser.add_argument("--python", default=sys.executable, help="another interpreter (default: this one)")
    parser.add_argument("--no-tests", action="store_true", help="only import every module")
    args = parser.parse_args()
    oldest = lower_bounds(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    torch = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]
    pins = {"oldest": oldest, "newest": {"torch": torch}}
    version = ("-c", "import platform; print(platform.python_version())")
    python = subprocess.run([args.python, *version], capture_output=True, text=True, check=True).stdout.strip()
    record, passed = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}, []
    for end in args.ends or pins:
        found = attempt(pins[end], oldest, args.python, not args.no_tests)
        print(f"{end} on Python {python}: {found['said']}")
        record[f"{end}, Python {python.rpartition('.')[0]}"] = {**found, "python": python, "commit": repro.commit()}
        write_whole(RECORD, json.dumps(record, indent=1) + "\n")
        passed.append(found["passed"])
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
