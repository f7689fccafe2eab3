"""Manifests for evaluation: which recordings, with which texts.

A manifest is a table with tabs and a header that has at least `audio` (relative to the manifest) and `text`. Optional:

    id, split, speaker    names; other columns are kept, so the manifest of the mini corpus is one
    reference             what the system's speech is compared with, when `audio` is a damaged version of it
    donor, swapped        an edit (paper section 4.4): another rendering of the text, and the words (such as 0-2,14)
                          that shall sound as in it

A text all in capitals, as LibriSpeech has it, is read in lower case. The word `human` stands for the five clips of a
human reader.

Axes: S samples.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
import torchaudio

from .audio import SAMPLE_RATE, VOCODER_RATE, WINDOW_SECONDS, read_audio
from .corpora import lower_case
from .errors import TasteError
from .metrics import normalize
from .transfer import read_swapped

HUMAN = "human"


@dataclass(frozen=True)
class Recording:
    """One row of a manifest. id: its name in results. audio: the file. columns: everything that the row says.

    reference: the file that speech is compared with, None for `audio` itself. donor: the file that lends the words
    with the numbers `swapped` (from 0) to an edit, or None.
    """

    id: str
    audio: Path
    text: str
    columns: dict[str, str]
    reference: Path | None = None
    donor: Path | None = None
    swapped: tuple[int, ...] = ()

    def load(self) -> torch.Tensor:
        """(S,) at 16 kHz."""
        return read_audio(self.audio, SAMPLE_RATE, convert=True)

    def load_reference(self) -> torch.Tensor:
        """(S,) at 16 kHz: the reference, or the recording itself."""
        return read_audio(self.reference or self.audio, SAMPLE_RATE, convert=True)

    def load_donor(self) -> torch.Tensor:
        """(S,) at 16 kHz. Only for a recording that has one."""
        return read_audio(self.donor, SAMPLE_RATE, convert=True)

    def load_for_vocoder(self) -> torch.Tensor:
        """(S,) at 22.05 kHz. A lower rate is raised here, because the mel spectrogram ends at 8 kHz."""
        if soundfile.info(str(self.audio)).samplerate >= VOCODER_RATE:
            return read_audio(self.audio, VOCODER_RATE, convert=True)
        return torchaudio.functional.resample(self.load(), SAMPLE_RATE, VOCODER_RATE)


def read_recordings(
    manifest: str, split: str | None = None, speaker: str | None = None, limit: int | None = None
) -> list[Recording]:
    """Rows of a manifest, with only one split or speaker when named, at most `limit`.

    Raises TasteError, naming the row, for a missing, unreadable, silent or overlong recording and a missing text.
    """
    if manifest == HUMAN:
        from .assets import fetch

        files = sorted(fetch("librivox").glob("*.wav"))
        rows = [
            {"audio": str(file), "text": file.with_suffix(".txt").read_text(encoding="utf-8").strip()} for file in files
        ]
        rows = [row | {"id": Path(row["audio"]).stem, "speaker": "librivox"} for row in rows]
    else:
        rows = _read_table(Path(manifest))
    recordings = []
    for number, row in enumerate(rows, 1):
        if (split and row.get("split") != split) or (speaker and row.get("speaker") != speaker):
            continue
        if limit is not None and len(recordings) == limit:
            break
        try:
            recordings.append(_check(row, Path(manifest).parent))
        except TasteError as error:
            raise TasteError(f"row {number} of {Path(manifest).name}: {error}") from error
    if not recordings:
        raise TasteError(f"{Path(manifest).name} has no rows that match; check --split, --speaker and --limit.")
    if len({recording.id for recording in recordings}) < len(recordings):
        raise TasteError(f"{Path(manifest).name} names a recording twice; give every row its own id or audio.")
    return recordings


def _read_table(path: Path) -> list[dict]:
    if not path.is_file():
        raise TasteError(f"there is no manifest at {path}; give a table with the columns audio and text, or `human`.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not {"audio", "text"} <= set(table.fieldnames or ()):
                raise TasteError(f"{path.name} needs a header with the columns audio and text, separated by tabs.")
            return list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TasteError(f"{path.name} is not a text table ({error}); save it as UTF-8 with tabs.") from error


def _check(row: dict, folder: Path) -> Recording:
    if not row["audio"] or not normalize(row["text"] or ""):
        raise TasteError("audio or text is empty; give a file and its transcript.")
    columns = {key: value for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
    path = Path(row["audio"])
    name = row.get("id") or (path.stem if path.is_absolute() else str(path.with_suffix("")))
    if bool(columns.get("donor")) != bool(columns.get("swapped")):
        raise TasteError("donor and swapped belong together; name the other rendering and its words, or neither.")
    others = {key: folder / columns[key] for key in ("reference", "donor") if columns.get(key)}
    if others.get("donor"):
        others["swapped"] = read_swapped(columns["swapped"], len(row["text"].split()))
    text = lower_case(row["text"]) if row["text"].isupper() else row["text"]
    recording = Recording(name, folder / path, text, columns, **others)
    for file in filter(None, (recording.audio, recording.reference, recording.donor)):
        seconds = len(read_audio(file, SAMPLE_RATE, convert=True)) / SAMPLE_RATE
        if not 0.1 <= seconds <= WINDOW_SECONDS:
            raise TasteError(f"{file.name} lasts {seconds:.2f} s; give recordings of 0.1 to {WINDOW_SECONDS} s.")
    return recording
