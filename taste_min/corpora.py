"""Real speech corpora in their own layouts: LibriSpeech, LibriTTS and Emilia, which the paper trains on (section 4.1).

    LibriSpeech/<subset>/<speaker>/<chapter>/<id>.flac, <speaker>-<chapter>.trans.txt     16 kHz, read books
    LibriTTS/<subset>/<speaker>/<chapter>/<id>.wav, <id>.normalized.txt                   24 kHz, the same books
    Emilia/EN/EN-B000000.tar with <id>.mp3, <id>.json next to each other                  24 kHz, found speech
    the same records in arrow or parquet files, columns __key__, mp3, json                (extra `arrow`)

Nothing is decoded here: a reader yields what its corpus says about each utterance, in an order of which any
beginning is a small corpus of its own. Tar shards are read as a stream, front to back.

**What is done about text.** LibriTTS and Emilia are written with case and punctuation and keep both; LibriTTS's
*normalized* text is taken, whose numbers are spelled out. LibriSpeech is in capitals without punctuation, which
Whisper hardly ever writes and its tokenizer cuts into many pieces: it is put into lower case, except the pronoun I.
Missing punctuation and capitals are not guessed.

Axes: none; this module handles files and names.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from .errors import TasteError

# Shares of the splits in any beginning of LibriSpeech and LibriTTS, whose dev and test subsets are far smaller than
# the training subsets: with 10 h, 1 h each are held out; later the held-out subsets are used up.
SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}
HELD_OUT_PERCENT = 2  # of Emilia's speakers, for dev and again for test: it has no such subsets
PRONOUN = re.compile(r"\bi(?=$|\s|'(?:m|ll|d|ve)\b)")


@dataclass(frozen=True)
class Source:
    """One utterance of a corpus before it is prepared.

    audio: its file, or the bytes of one. seconds: as the corpus says, None = see the file. fault: why it cannot be
    used, as far as the reader knows; the other fields may then be empty.
    """

    id: str
    audio: Path | bytes = b""
    text: str = ""
    speaker: str = ""
    split: str = ""
    seconds: float | None = None
    fault: str = ""


def read_corpus(name: str, folder: str | Path, subsets: Sequence[str] = ()) -> Iterator[Source]:
    """The utterances of the corpus `name` (librispeech, libritts, emilia) in `folder`, or of some of its subsets.

    Raises TasteError before the first utterance when the folder, its layout or a subset is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TasteError(f"{folder} is not a folder; give the folder that {name} was unpacked in.")
    if name == "emilia":
        if subsets:
            raise TasteError("Emilia has no subsets; name the folder of some of its shards instead.")
        return _emilia(folder)
    reader = {"librispeech": _librispeech, "libritts": _libritts}[name]
    return _balanced(reader, _subset_folders(folder, subsets, name))


def lower_case(text: str) -> str:
    """LibriSpeech's capitals in lower case, except the pronoun: 'I'M SURE HE WILL' -> "I'm sure he will"."""
    return PRONOUN.sub("I", text.lower())


def _subset_folders(folder: Path, subsets: Sequence[str], name: str) -> list[Path]:
    """Folders of the subsets, in `folder` or in its LibriSpeech/, LibriTTS/ or LibriTTS_R/."""
    below = {"librispeech": "LibriSpeech/*-*", "libritts": "LibriTTS*/*-*"}[name]
    paths = [path for pattern in (below, "*-*") for path in sorted(folder.glob(pattern)) if path.is_dir()]
    found = {path.name: path for path in paths if path.name.split("-")[0] in SHARES}
    if not found:
        raise TasteError(f"{folder} holds no subset of {name} such as dev-clean or train-clean-100; check the folder.")
    unknown = [subset for subset in subsets if subset not in found]
    if unknown:
        raise TasteError(f"there is no subset {unknown[0]!r} in {folder}; it holds {', '.join(sorted(found))}.")
    return [found[key] for key in sorted(subsets or found)]


def _balanced(reader, subsets: list[Path]) -> Iterator[Source]:
    """All utterances, so that every beginning has the shares of SHARES and, by chance, all speakers."""
    by_split = {split: [] for split in SHARES}
    for subset in subsets:
        split = subset.name.split("-")[0]
        by_split[split] += [(entry, split) for chapter in sorted(subset.glob("*/*/")) for entry in reader(chapter)]
    placed = []
    for split, entries in by_split.items():
        entries.sort(key=lambda entry: hashlib.sha256(entry[0][0].encode()).digest())
        placed += [((i + 0.5) / SHARES[split], entry) for i, entry in enumerate(entries)]
    if not placed:
        raise TasteError(f"{subsets[0]} holds no utterances in folders speaker/chapter; is it another corpus?")
    placed.sort(key=lambda place: place[0])
    for _, ((id_, audio, text), split) in placed:
        fault = "" if text and audio.is_file() else f"{'the recording' if text else 'the transcript'} is missing"
        yield Source(_file_name(id_), audio, text, audio.parent.parent.name, split, fault=fault)


def _librispeech(chapter: Path) -> Iterator[tuple[str, Path, str]]:
    """(id, recording, text) of everything in a chapter that has a recording, a transcript, or both."""
    lines = [line for path in chapter.glob("*.trans.txt") for line in _text(path).splitlines()]
    texts = {id_: text for id_, _, text in (line.partition(" ") for line in lines) if id_}
    for id_ in sorted(texts.keys() | {path.stem for path in chapter.glob("*.flac")}):
        yield id_, chapter / f"{id_}.flac", lower_case(texts.get(id_, ""))


def _libritts(chapter: Path) -> Iterator[tuple[str, Path, str]]:
    """(id, recording, text) of everything in a chapter that has a recording, a transcript, or both."""
    texts = {path.name.removesuffix(".normalized.txt"): path for path in chapter.glob("*.normalized.txt")}
    for id_ in sorted(texts.keys() | {path.stem for path in chapter.glob("*.wav")}):
        yield id_, chapter / f"{id_}.wav", _text(texts[id_]).strip() if id_ in texts else ""


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _emilia(folder: Path) -> Iterator[Source]:
    """English tar shards below `folder`; without any, its arrow and parquet files."""
    shards = sorted(path for path in folder.rglob("*.tar") if path.name.startswith("EN"))
    if shards:
        return (source for shard in shards for source in _tar_shard(shard))
    tables = sorted(path for path in folder.rglob("*") if path.suffix in (".arrow", ".parquet"))
    tables = [path for path in tables if not path.name.startswith("cache")]  # left behind by Hugging Face datasets
    if not tables:
        raise TasteError(f"{folder} holds neither shards like EN/EN-B000000.tar nor arrow or parquet files of Emilia.")
    return _tables(tables, _datasets())


def emilia_split(speaker: str) -> str:
    """train, dev or test: no speaker is in two of them, and the answer never changes."""
    place = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) % 100
    return "dev" if place < HELD_OUT_PERCENT else "test" if place < 2 * HELD_OUT_PERCENT else "train"


def emilia_source(key: str, mp3: bytes | None, description: bytes | dict | None) -> Source:
    """One record of Emilia. key: its name. description: the JSON file, or what it says."""
    key = _file_name(key)
    if not mp3 or not description:
        return Source(key, fault=f"it has no {'.json' if mp3 else '.mp3'}")
    try:
        said = json.loads(description) if isinstance(description, bytes) else description
        text, speaker, language = (str(said[name]) for name in ("text", "speaker", "language"))
        seconds = float(said["duration"])
    except (ValueError, KeyError, TypeError) as error:
        return Source(key, fault=f"its json lacks text, speaker, language or duration ({error!r})")
    fault = "" if language.lower() == "en" else f"its language is {language}, and the aligner knows English"
    return Source(key, mp3, text, speaker, emilia_split(speaker), seconds, fault)


def _tar_shard(path: Path) -> Iterator[Source]:
    """The records of one shard. A damaged one gives what stands before the damage, and then its own name as a fault."""
    key, files = None, {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as shard:
            for member in shard:
                name = Path(member.name)
                if not member.isfile() or name.suffix not in (".mp3", ".json"):
                    continue
                if name.stem != key and files:
                    yield emilia_source(key, files.get(".mp3"), files.get(".json"))
                    files = {}
                key, files[name.suffix] = name.stem, shard.extractfile(member).read()
            # tarfile takes any header that it cannot read for the end, which in truth is a block of zeros
            file.seek(shard.offset)
            end = file.read(tarfile.BLOCKSIZE)
            if len(end) < tarfile.BLOCKSIZE or any(end):
                raise tarfile.ReadError("it stops in the middle")
    except (tarfile.TarError, OSError) as error:
        # the record that was being read may be cut off: it is left for the day when the shard is whole
        yield Source(path.name, fault=f"the shard is damaged ({error}); download it again to get the rest")
    else:
        if files:
            yield emilia_source(key, files.get(".mp3"), files.get(".json"))


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise TasteError(
            "arrow and parquet files need one more package; run `pip install 'taste_min[arrow]'`."
        ) from error
    return datasets


def _tables(paths: list[Path], datasets) -> Iterator[Source]:
    """The records of arrow or parquet files, as a stream. Audio: undecoded files, or samples as in the original's."""
    for path in paths:
        try:
            kind = path.suffix.removeprefix(".")
            table = datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
            if isinstance((table.features or {}).get("mp3"), datasets.Audio):
                table = table.cast_column("mp3", datasets.Audio(decode=False))
            for row in table:
                yield emilia_source(Path(row["__key__"]).name, _audio_bytes(row["mp3"]), row["json"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Source(path.name, fault=f"the file is damaged or lacks the columns __key__, mp3, json ({error})")


def _audio_bytes(audio: dict) -> bytes | None:
    """An audio file from {bytes} or from {array (samples,), sampling_rate}."""
    if audio.get("array") is None:
        return audio.get("bytes")
    file = io.BytesIO()
    soundfile.write(file, audio["array"], audio["sampling_rate"], format="WAV", subtype="FLOAT")
    return file.getvalue()
