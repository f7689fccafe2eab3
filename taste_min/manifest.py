"""Read the manifest of a corpus folder: a table with tabs, one line per utterance (paper section 4.1).

The synthetic corpus (corpus.py) and the cache of features (features.py) share it; each makes its own rows of the lines.

Axes: none; this module handles text.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

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
