"""Tiny trees in the layouts of real corpora, filled with the (synthetic) samples, for the tests of `prepare`."""

import csv
import functools
import io
import json
import tarfile
from concurrent.futures import Future
from pathlib import Path

import soundfile
import torch
from torchaudio.functional import resample

import taste_min

SAMPLES = Path(taste_min.__file__).parent / "samples"


@functools.cache
def samples() -> list[tuple[torch.Tensor, str]]:
    """Short recordings (S,) at 22.05 kHz and their texts, no text twice."""
    with (SAMPLES / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = {row["text"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    rows = sorted(rows.values(), key=lambda row: float(row["seconds"]))[:8]
    return [(torch.from_numpy(soundfile.read(SAMPLES / row["audio"], dtype="float32")[0]), row["text"]) for row in rows]


def capitals(text: str) -> str:
    return "".join(c for c in text.upper() if c.isalpha() or c in " '")


@functools.cache
def audio_bytes(wav: torch.Tensor, rate: int, kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, resample(wav, 22_050, rate).numpy(), rate, format=kind)
    return file.getvalue()


def librispeech(root: Path) -> dict[str, tuple[torch.Tensor, str]]:
    """A LibriSpeech below root; {id: (recording, text)}."""
    made, subsets = {}, ("train-clean-100", "train-clean-100", "dev-clean", "test-clean")
    for i, (wav, text) in enumerate(samples()):
        speaker, chapter = 84 + i % 4, 121123
        folder = root / "LibriSpeech" / subsets[i % 4] / str(speaker) / str(chapter)
        folder.mkdir(parents=True, exist_ok=True)
        id_ = f"{speaker}-{chapter}-{i:04d}"
        (folder / f"{id_}.flac").write_bytes(audio_bytes(wav, 16_000, "FLAC"))
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
            file.write(f"{id_} {capitals(text)}\n")
        made[id_] = (wav, text)
    return made


def libritts(root: Path) -> None:
    for i, (wav, text) in enumerate(samples()[:4]):
        folder = root / "LibriTTS" / ("train-clean-100", "dev-clean")[i % 2] / "84" / "121123"
        folder.mkdir(parents=True, exist_ok=True)
        id_ = f"84_121123_00000{i}_000000"
        (folder / f"{id_}.wav").write_bytes(audio_bytes(wav, 24_000, "WAV"))
        (folder / f"{id_}.original.txt").write_text("No. 5", encoding="utf-8")
        (folder / f"{id_}.normalized.txt").write_text(text, encoding="utf-8")


def emilia_records(n: int = 8) -> list[tuple[str, bytes, dict]]:
    """(key, mp3, json) of every record."""
    records = []
    for i, (wav, text) in enumerate(samples()[:n]):
        speaker = f"EN_B00000_S{i // 2:05d}"
        key = f"{speaker}_W{i:06d}"
        said = {
            "id": key,
            "wav": f"EN_B00000/{speaker}/mp3/{key}.mp3",
            "text": f" {text}",
            "duration": len(wav) / 22050,
        }
        said |= {"speaker": speaker, "language": "en", "dnsmos": 3.3}
        records.append((key, audio_bytes(wav, 24_000, "MP3"), said))
    return records


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def emilia_files(records) -> dict[str, bytes]:
    """The members of a shard, in its order."""
    files = {}
    for key, mp3, said in records:
        files |= {f"{key}.json": json.dumps(said).encode(), f"{key}.mp3": mp3}
    return files


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a corpus folder but the lock."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


class Here:
    """Stands in for the pool of worker processes: does the work at once, in this process."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args) -> Future:
        future = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future
