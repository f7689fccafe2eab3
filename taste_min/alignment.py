"""Attention against forced alignment: does a word listen to its own stretch of speech?

Used by chapter 2 for the paper's claim that the aggregator's cross-attention is aligned with the text (section 3.1.2
and its attention figures), and that the last encoder layer, as keys, makes it so. Maps are probabilities over the
whole 30 s window; `...` stands for any leading axes such as layers and heads.

Axes: N text tokens, W words, T encoder frames (50 per second), H heads.
"""

from collections.abc import Sequence

import numpy as np

from .align import Word
from .frame_labels import FRAME_SECONDS, frame_times


def word_rows(attention: np.ndarray, word_ids: np.ndarray) -> np.ndarray:
    """Keep the row of the last token of every word: attention (..., N, T), word_ids (N,) -> (..., W, T).

    That token is the first position at which a causal decoder has read the whole word.
    """
    last = np.flatnonzero(np.append(word_ids[1:] != word_ids[:-1], True))
    return attention[..., last, :]


def word_spans(words: Sequence[Word]) -> np.ndarray:
    """Start and end of every word in seconds: (W, 2)."""
    return np.array([(word.start, word.end) for word in words])


def frame_shares(spans: np.ndarray, n_frames: int) -> np.ndarray:
    """Share of every encoder frame that lies inside every span (W, 2) in seconds: (W, T), between 0 and 1."""
    starts = np.arange(n_frames) * FRAME_SECONDS
    overlap = np.minimum(spans[:, 1:], starts + FRAME_SECONDS) - np.maximum(spans[:, :1], starts)
    return np.clip(overlap / FRAME_SECONDS, 0, 1)


def mass_inside(attention: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Share of attention (..., W, T) that falls inside the span of the row's word: (..., W), between 0 and 1.

    The whole window counts, so attention that rests on padding lowers it.
    """
    return (attention * frame_shares(spans, attention.shape[-1])).sum(axis=-1)


def centre_of_mass(attention: np.ndarray, n_frames: int) -> np.ndarray:
    """Mean time of attention (..., W, T) in seconds, over the first `n_frames` (those of the recording): (..., W).

    Padding is left out, because a grain of attention there would move the centre by seconds.
    """
    weights = attention[..., :n_frames]
    return (weights * frame_times(n_frames)).sum(axis=-1) / weights.sum(axis=-1)


def centre_error(attention: np.ndarray, spans: np.ndarray, n_frames: int) -> np.ndarray:
    """Distance between the centre of mass and the middle of the word in seconds: (..., W)."""
    return np.abs(centre_of_mass(attention, n_frames) - spans.mean(axis=1))


def forward_steps(centres: np.ndarray) -> np.ndarray:
    """Whether the centre (..., W) moves forward from each word to the next: (..., W - 1) bool."""
    return np.diff(centres, axis=-1) > 0


def next_word(attention: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair each row with the following word instead of its own: (..., W - 1, T) and (W - 1, 2)."""
    return attention[..., :-1, :], spans[1:]


def uniform_attention(n_rows: int, n_frames: int, window: int) -> np.ndarray:
    """Attention that is equal over the recording's `n_frames` and zero in the rest of the `window`: (W, T)."""
    row = np.where(np.arange(window) < n_frames, 1 / n_frames, 0.0)
    return np.tile(row, (n_rows, 1))
