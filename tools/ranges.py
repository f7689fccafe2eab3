"""Do the dependency ranges of pyproject.toml hold? `python tools/ranges.py [oldest] [newest]` tries both ends.

For each end a fresh virtual environment in a temporary folder: `oldest` installs exactly the lower bound of every
package we name, `newest` what the index has today. Both then run the unit tests and print what was installed. Exit
code 1 when an end fails; a lower bound without a wheel for this Python counts as a failure of the bound.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("notebooks", "book", "metrics", "released", "test")
TESTS = ("-m", "pytest", "-q", "-n", "2", "-m", "not notebooks", "-p", "no:cacheprovider", str(ROOT / "tests"))


def lower_bounds(project: dict) -> list[str]:
    """`name>=1.2,<2` of the project and of EXTRAS -> `name==1.2`, once per package; the highest bound counts."""
    named = [*project["dependencies"]]
    for extra in EXTRAS:
        named += project["optional-dependencies"][extra]
    bounds = {}
    for requirement in named:
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(,.*)?", requirement)
        if found:
            key = tuple(int(part) for part in found[2].split("."))
            bounds[found[1]] = max(bounds.get(found[1], ((), "")), (key, found[2]))
    return [f"{name}=={version}" for name, (_, version) in sorted(bounds.items())]


def attempt(end: str, pins: list[str]) -> bool:
    """Install and test one end; says what happened."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "bin", "python")
        constraints = Path(folder, "constraints.txt")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
        install = [
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "-c",
            constraints,
            "-e",
            f"{ROOT}[test]",
        ]
        if subprocess.run([python, *install]).returncode:
            print(f"{end}: cannot be installed")
            return False
        subprocess.run([python, "-m", "pip", "freeze", "--exclude-editable"])
        passed = subprocess.run([python, *TESTS], cwd=ROOT).returncode == 0
        print(f"{end}: the unit tests {'pass' if passed else 'fail'}")
        return passed


def main() -> int:
    ends = sys.argv[1:] or ["oldest", "newest"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {"oldest": lower_bounds(project), "newest": []}
    passed = [attempt(end, pins[end]) for end in ends]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
