"""Downloads by pip, which knows the user's index, proxy and certificates, and checks the hashes too (assets.py)."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from .errors import TasteError

if TYPE_CHECKING:
    from .assets import Package

# pip asks the build backend of an sdist for its metadata, which would install build tools to no purpose. This stand-in,
# first on the path of the pip process only, answers with name and version; nothing is built.
_BACKEND = """\
from pathlib import Path
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    folder = Path(directory, "{name}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return folder.name
"""


def download(name: str, packages: list["Package"], partial: Path, archives: Path, progress: bool) -> None:
    """Let pip download the archives into the folder `archives`; `partial` is for whatever it needs on the way.

    Raises TasteError with the reason that pip gives, OSError when the disk is full.
    """
    requirements = partial / "requirements.txt"
    requirements.write_text("".join(f"{p.requirement} --hash=sha256:{p.sha256}\n" for p in packages))
    environment = {**os.environ, "TMPDIR": str(partial), "TEMP": str(partial), "TMP": str(partial)}
    environment.pop("PIP_CONSTRAINT", None)  # a constraint without a hash is an error beside --require-hashes
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-cache-dir", "--no-input"]
    command += ["--progress-bar=off", "--disable-pip-version-check", "--dest", str(archives), "-r", str(requirements)]
    if packages[0].archive.endswith(".whl"):
        command += ["--only-binary=:all:"]
    else:
        backend = partial / "backend" / "scikit_build_core"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        package, version = packages[0].requirement.split("==")
        (backend / "build.py").write_text(_BACKEND.format(name=package, version=version))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(backend.parent), os.environ.get("PYTHONPATH")]))
        command += ["--no-binary=:all:", "--no-build-isolation"]

    total = sum(package.size for package in packages)
    wanted = {package.archive for package in packages}
    log = None  # of pip, kept in memory: the disk may be full
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as pip:
        try:
            with tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not progress, mininterval=0.5) as bar:
                while log is None:
                    with suppress(subprocess.TimeoutExpired):
                        log = pip.communicate(timeout=0.05)[0]
                    arrived = total if pip.returncode == 0 else min(_arrived(partial, wanted), total)
                    bar.update(max(0, arrived - bar.n))
        finally:
            pip.kill()
    if pip.returncode:
        raise TasteError(problem(log.decode(errors="replace"), packages))


def _arrived(folder: Path, wanted: set[str]) -> int:
    """Bytes of the archives so far, wherever pip keeps them for now."""
    sizes = {}
    for path, _, names in os.walk(folder):
        for name in wanted.intersection(names):
            try:
                sizes[name] = max(sizes.get(name, 0), os.path.getsize(os.path.join(path, name)))
            except FileNotFoundError:  # moved by pip since the listing
                continue
    return sum(sizes.values())


def problem(log: str, packages: list["Package"]) -> str:
    """One sentence from pip's output."""
    wanted = " and ".join(package.requirement for package in packages)
    if "No module named pip" in log:
        return f"pip is needed to download {wanted}; install it with 'python -m ensurepip'."
    if "DO NOT MATCH THE HASHES" in log:
        return f"The download of {wanted} is not the pinned release (wrong sha256); try again, or use another index."
    if os.strerror(errno.ENOSPC) in log:
        raise OSError(errno.ENOSPC, f"while downloading {wanted}")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if errors[-1:] == ["Exception:"]:  # of pip itself: a traceback follows
        errors = lines
    reason = (errors or lines or ["nothing"])[-1].rstrip(".")
    advice = "check the network" if "Retrying (" in log else "check the network and pip's configuration"
    archives = " and ".join(package.archive for package in packages)
    return (
        f"Could not download {wanted} (pip says: {reason}); {advice} and run it again, "
        f"or set TASTE_MIN_ASSETS to a folder that holds {archives}."
    )
