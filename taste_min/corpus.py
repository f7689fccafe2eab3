"""The mini corpus: which synthetic sentences are said by whom and how, and the manifest that says so.

`taste-min corpus build --hours 7 --out corpus` makes it (corpus_build.py): `audio/<voice>/<id>.flac`, 22.05 kHz mono,
and `manifest.tsv`, one line per utterance. It is synthetic speech and stands in for the paper's 40,000 h of Emilia and
600 h of LibriTTS (section 4.1). Every word has its own tempo, pitch and loudness (prosody.py).

Splits are by sentence: no sentence of `dev` or `test` is in `train`. The voice `tebukuro` is only in `test_voice`. Any
beginning of the plan is balanced over voices, styles and splits.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from .align import Word
from .errors import TasteError
from .manifest import read_rows
from .prosody import PAIR, STYLES, Prosody
from .text import read_word
from .voices import VOICES

SENTENCES = Path(__file__).with_name("corpus_sentences.txt")
HELD_OUT_VOICE = "tebukuro"
TRAIN_VOICES = tuple(voice for voice in VOICES if voice != HELD_OUT_VOICE)
N_DEV, N_TEST = 150, 150  # sentences
SECONDS = 4.0  # of an average utterance; only sizes the plan
COLUMNS = ("id", "audio", "text", "speaker", "rate", "style", "split", "seconds", "words", "prosody")


@dataclass(frozen=True)
class Utterance:
    """One line of the manifest, synthetic. words: forced-aligned, in seconds. rate: mean tempo, 1 = the voice's own.

    prosody: what each word was asked to be (rate, pitch factor, gain in dB); the sound follows it approximately.
    """

    id: str
    audio: Path
    text: str
    speaker: str
    rate: float
    style: str
    split: str
    seconds: float
    words: list[Word]
    prosody: Prosody


@dataclass(frozen=True)
class Job:
    """One utterance to make."""

    id: str
    text: str
    speaker: str
    style: str
    split: str


def load_manifest(path: str | Path) -> list[Utterance]:
    """Read `manifest.tsv` (a file, or the folder that holds it); `audio` becomes a path. Raises TasteError."""
    path = Path(path)
    path = path / "manifest.tsv" if path.is_dir() else path
    if not path.is_file():
        raise TasteError(f"there is no manifest at {path}; run `taste-min corpus build --out FOLDER` first.")

    def utterance(row: dict[str, str]) -> Utterance:
        return Utterance(
            id=row["id"],
            audio=path.parent / row["audio"],
            text=row["text"],
            speaker=row["speaker"],
            rate=float(row["rate"]),
            style=row["style"],
            split=row["split"],
            seconds=float(row["seconds"]),
            words=[read_word(*word) for word in json.loads(row["words"])],
            prosody=Prosody(**json.loads(row["prosody"])),
        )

    try:
        return read_rows(path, utterance)
    except ValueError as error:
        raise TasteError(f"{path} is damaged ({error}); run the same `taste-min corpus build` again.") from error


def sentences() -> dict[str, list[str]]:
    """The committed sentences by split: train, dev, test."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[1] for line in lines if not line.startswith("#")]
    return {"dev": texts[:N_DEV], "test": texts[N_DEV : N_DEV + N_TEST], "train": texts[N_DEV + N_TEST :]}


def job_of(text: str, speaker: str, style: str, split: str, take: int = 0) -> Job:
    """The utterance of a sentence, with an id that says what it is."""
    key = hashlib.sha256(text.encode()).hexdigest()[:10]
    return Job(f"{key}-{speaker}-{style}{take or ''}", text, speaker, style, split)


def plan(hours: float) -> list[Job]:
    """Every utterance of a corpus of about `hours` hours, in the order of making. A longer plan adds jobs."""
    texts = sentences()
    held_out = []
    for i, text in enumerate(texts["test"]):  # held-out sentences: whole sets of one voice, one set after the other
        held_out += [job_of(text, TRAIN_VOICES[i % 5], style, "test") for style in PAIR]
        held_out += [
            job_of(text, HELD_OUT_VOICE, style, "test_voice") for style in (PAIR if i % 3 == 0 else ("random",))
        ]
        held_out += [
            job_of(texts["dev"][i], TRAIN_VOICES[(i + k) % 5], STYLES[(i // 5 + k) % 5], "dev") for k in (0, 2)
        ]
    n_jobs = max(5, round(hours * 3600 / SECONDS))
    held_out = held_out[: n_jobs // 5]  # only a small corpus needs this
    n_train = n_jobs - len(held_out)
    train = []
    for n in range(n_train):
        take, i = divmod(n, len(texts["train"]))
        style = STYLES[(i // 5 + 2 * take) % 5]
        train.append(job_of(texts["train"][i], TRAIN_VOICES[(i + take) % 5], style, "train", take))
    places = [((i + 0.5) / len(jobs), job) for jobs in (train, held_out) for i, job in enumerate(jobs)]
    return [job for _, job in sorted(places, key=lambda place: place[0])]
