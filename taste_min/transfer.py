"""How far an edit reaches: transfer coefficients of duration and pitch (paper section 4.4, text-aligned editing).

A host utterance takes the tokens of some words from a donor, another rendering of the same text. The coefficient

    (log edited - log host) / (log donor - log host)

of a word is 1 when the edited word sounds like the donor's and 0 when it sounds like the host's. It should be near 1
on swapped words and near 0 on the others. Durations run from onset to onset, pitch is the median F0 of a word. Where
host and donor hardly differ the ratio says nothing, so a set of words is summed up by its median.

Axes: W words.
"""

import re

import numpy as np

from .errors import TasteError

LEAST_DIFFERENCE = 0.05  # |log donor - log host|, 5 %: a smaller one is within the scatter of aligner and pitch tracker


def read_swapped(text: str, n_words: int) -> tuple[int, ...]:
    """Word numbers (from 0) of a manifest's column `swapped`: "0-2,14" -> (0, 1, 2, 14), in order.

    Raises TasteError for anything else, for numbers that the text does not have, and for an empty list.
    """
    numbers, absent = set(), TasteError(f"swapped is '{text:.80}', but the text has the words 0 to {n_words - 1}.")
    for part in text.replace(" ", "").split(","):
        if not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?", part):
            raise TasteError(f"swapped is '{text:.80}'; give word numbers from 0 such as 0-2,14.")
        first, _, last = part.partition("-")
        if int(last or first) >= n_words:  # asked before a long range is written out
            raise absent
        numbers.update(range(int(first), int(last or first) + 1))
    if not numbers:
        raise absent
    return tuple(sorted(numbers))


def coefficients(host: np.ndarray, donor: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """Transfer coefficients of word values, all (W,) and already logarithms.

    NaN where a value is missing (NaN) or host and donor differ by less than LEAST_DIFFERENCE.
    """
    difference = donor - host
    told = np.abs(np.nan_to_num(difference)) >= LEAST_DIFFERENCE
    return np.where(told, (edited - host) / np.where(told, difference, 1.0), np.nan)


def log_seconds(seconds: np.ndarray) -> np.ndarray:
    """Logarithm of word durations (W,), NaN where a word has none."""
    return np.log(np.where(seconds > 0, seconds, np.nan))


def split(values: np.ndarray, swapped: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values (W,) of the swapped words and of the others, without NaN."""
    inside = np.isin(np.arange(len(values)), swapped)
    return tuple(values[mask & np.isfinite(values)] for mask in (inside, ~inside))
