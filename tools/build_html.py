"""Build the pages from the executed notebooks: `_build/html`. Warnings are errors; nothing is executed or fetched.

Nothing happens when no input has changed since the last good build.

    python tools/build_html.py [--force]
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from book_files import ROOT, digest, notebooks, source_path, toc_files
from execute import CACHE, EXECUTED
from jupyter_cache import get_cache

BUILD = ROOT / "_build"
HTML = BUILD / "html"
STATIC = BUILD / "static"


def key() -> str:
    """Hash of everything the pages are made of."""
    ran = [EXECUTED / f"{path.stem}.key" for path in notebooks()]
    names = (
        "_config.yml",
        "_toc.yml",
        "constraints.txt",
        "book",
        "taste_min",
        "notebooks",
        "tools/build_html.py",
        "tools/docstrings.py",
    )
    return digest(*[ROOT / name for name in names], *[file for file in ran if file.exists()])


def copy_mathjax() -> None:
    """MathJax 3 (Apache-2.0) from the package sphinx-mathjax-offline: one script with all TeX extensions, and fonts."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(spec.submodule_search_locations[0]) / "static" / "mathjax"
    target = STATIC / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / "tex-chtml-full.js", target)
    shutil.copytree(source / "output" / "chtml" / "fonts", target / "output" / "chtml" / "fonts", dirs_exist_ok=True)


def not_cached() -> list[str]:
    """Notebooks without a stored run: the build would execute them itself, unrecorded and with another profile."""
    cache, missing = get_cache(CACHE), []
    for path in notebooks():
        try:
            cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            missing.append(path.stem)
    return missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="build even when nothing has changed")
    args = parser.parse_args()

    stamp, now = BUILD / "html.key", key()
    if not args.force and stamp.exists() and stamp.read_text() == now and (HTML / "index.html").exists():
        print("pages: unchanged")
        return 0
    missing = [page for page in toc_files() if source_path(page) is None]
    if missing:
        print(f"in _toc.yml but not in the repository: {', '.join(missing)}", file=sys.stderr)
        return 1
    unrun = not_cached()
    if unrun:
        print(f"no run of {', '.join(unrun)} to show; run tools/execute.py first", file=sys.stderr)
        return 1
    # Old doctrees would keep quoting old numbers: a page is not read again when only the ledger has changed.
    for stale in (BUILD / ".doctrees", HTML, BUILD / "jupyter_execute"):
        shutil.rmtree(stale, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    copy_mathjax()
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        print("the pages have errors or warnings, listed above", file=sys.stderr)
        return done.returncode
    stamp.write_text(now)
    print(f"pages: {len(toc_files())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
