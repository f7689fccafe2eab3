"""Intervals and tests for several training seeds that were judged on the same recordings of several speakers.

Axes: U rows, one per seed and utterance; C columns of sums.
"""

from collections.abc import Sequence

import numpy as np

from taste_min.bootstrap import N_DRAWS, Interval, Statistic, exchange_test
from taste_min.errors import TasteError


def _weights(labels: Sequence, parents: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """How often each row is drawn when the distinct `labels` under each parent are drawn as often as it has labels.

    parents: (n, U) how often the parent of each row was drawn, equal for all rows of one parent. Returns (n, U).
    """
    names, index = np.unique(np.asarray(labels), return_inverse=True)
    counts = rng.multinomial(parents[:, 0] * len(names), np.full(len(names), 1 / len(names)), size=n)  # (n, labels)
    return counts[:, index]


def hierarchical_interval(
    table: np.ndarray,
    seeds: Sequence,
    speakers: Sequence,
    utterances: Sequence,
    statistic: Statistic,
    level: float = 0.95,
    n: int = N_DRAWS,
    rng_seed: int = 0,
) -> Interval:
    """`statistic` of a table (U, C) whose rows have a training seed, a speaker and an utterance, with its interval.

    Speakers are drawn, then utterances of each drawn speaker, and independently of them the seeds: all seeds were
    tested on the same recordings, so a hard recording is hard for every seed (Owen 2007). Percentile interval; with a
    handful of seeds or speakers it is too narrow, as every bootstrap is. A level with a single label adds nothing to
    the width: one seed says nothing about seeds. Raises TasteError when columns differ in length or nothing varies.
    """
    columns = [np.asarray(labels) for labels in (seeds, speakers, utterances)]
    if {len(labels) for labels in columns} != {len(table)} or not len(table):
        raise TasteError("a hierarchical interval needs a seed, a speaker and an utterance for every row.")
    if all(len(np.unique(labels)) < 2 for labels in columns):
        raise TasteError("an interval needs at least two different seeds, speakers or utterances.")
    rng, once = np.random.default_rng(rng_seed), np.ones((n, len(table)), dtype=np.int64)
    drawn = _weights(columns[0], once, n, rng)  # of seeds
    by_speaker = _weights(columns[1], once, n, rng)
    for speaker in np.unique(columns[1]):
        rows = np.flatnonzero(columns[1] == speaker)
        drawn[:, rows] *= _weights(columns[2][rows], by_speaker[:, rows], n, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(drawn @ table)
    low, high = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(table.sum(axis=0))), float(low), float(high))


def sign_flip_test(differences: np.ndarray, n: int = 20_000, seed: int = 0) -> float:
    """`exchange_test` of paired `differences (G,)` against a mean of 0: the sides of a pair exchange their signs."""
    half = np.asarray(differences, dtype=float)[:, None] / 2
    return exchange_test(half, -half, lambda sums: sums[..., 0], n, seed)
