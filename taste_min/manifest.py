"""Read the manifest of a corpus folder: a table with tabs, one line per utterance (paper section 4.1).

`read_manifest` gives what every corpus has; the synthetic one (corpus.py) makes rows of its own with `read_rows`.

Axes: none; this module handles text.
"""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

from .errors import TasteError

Row = TypeVar("Row")


def read_rows(path: Path, make: Callable[[dict[str, str]], Row]) -> list[Row]:
    """Every line of the table as `make` reads it; a row has its length in `seconds`.

    Raises ValueError with a short reason for whatever is wrong with the table: no text, lines that are cut, columns
    that are missing or hold something else, a length that is none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        if any(None in line.values() for line in lines):
            raise ValueError("a line is too short")
        rows = [make(line) for line in lines]
    except (KeyError, TypeError, ValueError, RecursionError, csv.Error) as error:  # JSON may be nested without end
        raise ValueError(shorten(str(error), 99)) from error
    if not all(0 <= row.seconds < math.inf for row in rows):
        raise ValueError("seconds")
    return rows


@dataclass(frozen=True)
class Utterance:
    """One line of a corpus manifest: a mono recording at 22.05 kHz and its transcript."""

    id: str
    audio: Path
    text: str
    speaker: str
    split: str
    seconds: float
    style: str
    words: list[tuple[str, float, float]]  # word, start, end in seconds; empty when the corpus has no alignment


def read_manifest(folder: str | Path) -> list[Utterance]:
    """Read `manifest.tsv` (columns id, audio, text, speaker, split, seconds, maybe style and words) of a corpus folder.

    Paths of recordings count from the folder. Raises TasteError when the manifest is missing or has no such columns.
    """
    from .text import read_word  # not above: it imports torch, which other tables do without

    path = Path(folder) / "manifest.tsv"
    if not path.is_file():
        raise TasteError(f"there is no manifest.tsv in {folder}; make a corpus first or name its folder.")

    def utterance(row: dict[str, str]) -> Utterance:
        return Utterance(
            row["id"],
            path.parent / row["audio"],
            row["text"],
            row["speaker"],
            row["split"],
            float(row["seconds"]),
            row.get("style", ""),
            [astuple(read_word(*word)) for word in json.loads(row.get("words") or "[]")],
        )

    try:
        return read_rows(path, utterance)
    except ValueError as error:
        raise TasteError(f"{path} needs the columns id, audio, text, speaker, split and seconds ({error}).") from error
