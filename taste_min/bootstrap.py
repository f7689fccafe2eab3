"""How sure a number is: bootstrap intervals over utterances, and tests for paired comparisons.

The paper prints its tables without intervals; every number that this package reports for a system has one. A metric is
a function of sums over utterances (a word error rate is errors over words, a correlation a ratio of sums of products),
so one table of sums per utterance is all that resampling needs.

Axes: G groups (what is drawn: an utterance, or all renderings of one sentence), C columns of sums, n bootstrap draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .errors import TasteError

N_DRAWS = 2000
Statistic = Callable[[np.ndarray], np.ndarray]  # column sums (..., C) -> value (...)


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


def ratio(sums: np.ndarray) -> np.ndarray:
    """Columns (a, b) -> a / b."""
    return sums[..., 0] / sums[..., 1]


def excess(sums: np.ndarray) -> np.ndarray:
    """Columns (a, reference, b) -> (a - reference) / b: a paired difference of two ratios with the same denominator."""
    return (sums[..., 0] - sums[..., 1]) / sums[..., 2]


def correlation(sums: np.ndarray) -> np.ndarray:
    """Columns (xy, xx, yy), products of centred values -> Pearson's correlation."""
    return sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2])


def merge_groups(table: np.ndarray, owners: list[str]) -> np.ndarray:
    """Add up the rows (U, C) of each owner, because they are not independent: (G, C), owners in sorted order."""
    _, index = np.unique(np.asarray(owners), return_inverse=True)
    merged = np.zeros((index.max() + 1, table.shape[1]))
    np.add.at(merged, index, table)
    return merged


def resample(table: np.ndarray, statistic: Statistic, n: int = N_DRAWS, seed: int = 0) -> np.ndarray:
    """Values of `statistic` when groups are drawn with replacement from `table (G, C)`: at most (n,).

    The same seed draws the same groups from every table of G rows. Draws without a value (0 / 0) are left out.
    Raises TasteError for fewer than two groups.
    """
    n_groups = len(table)
    if n_groups < 2:
        raise TasteError(f"an interval needs at least two different utterances, got {n_groups}.")
    draws = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n)  # (n, G)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(draws @ table)
    return values[np.isfinite(values)]


def percentile_interval(
    table: np.ndarray, statistic: Statistic, level: float = 0.95, n: int = N_DRAWS, seed: int = 0
) -> Interval:
    """The central `level` of the bootstrap values."""
    low, high = np.quantile(resample(table, statistic, n, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(table.sum(axis=0))), float(low), float(high))


def bca_interval(
    table: np.ndarray, statistic: Statistic, level: float = 0.95, n: int = N_DRAWS, seed: int = 0
) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987).

    It moves the percentiles by the bias of the bootstrap values and by the skewness that leaving out one group at a
    time shows. With a handful of groups it is too narrow like every bootstrap. Without any spread its width is 0.
    """
    values, total = resample(table, statistic, n, seed), table.sum(axis=0)
    value = float(statistic(total))
    if not len(values) or np.ptp(values) == 0:
        return Interval(value, value, value)
    normal = NormalDist()
    below = (np.sum(values < value) + np.sum(values == value) / 2) / len(values)
    bias = normal.inv_cdf(float(np.clip(below, 1 / (len(values) + 1), len(values) / (len(values) + 1))))
    with np.errstate(divide="ignore", invalid="ignore"):
        without = statistic(total - table)  # (G,)
    slope = np.nanmean(without) - without[np.isfinite(without)]
    spread = np.sum(slope**2)
    acceleration = np.sum(slope**3) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(share)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(values, ends)
    return Interval(value, float(low), float(high))


def paired_difference(
    a: np.ndarray, b: np.ndarray, statistic: Statistic, level: float = 0.95, n: int = N_DRAWS, seed: int = 0
) -> Interval:
    """statistic(a) - statistic(b) with its BCa interval; row g of both tables (G, C) is the same group."""
    if a.shape != b.shape:
        raise TasteError(f"a paired difference needs the same utterances on both sides, got {len(a)} and {len(b)}.")
    return bca_interval(np.hstack([a, b]), minus(statistic, a.shape[1]), level, n, seed)


def grouped_interval(
    groups: Sequence[np.ndarray], statistic: Callable = np.median, level: float = 0.95, n: int = N_DRAWS, seed: int = 0
) -> Interval:
    """`statistic` of all values in `groups` (one array of any length each) with its percentile interval.

    For statistics that are no function of sums, such as the median. Whole groups are drawn. Draws without a value are
    left out. Raises TasteError for fewer than two groups, and when no group has a value.
    """
    if len(groups) < 2 or not sum(map(len, groups)):
        raise TasteError(f"an interval needs values in at least two different utterances, got {len(groups)} of them.")
    draws = np.random.default_rng(seed).integers(len(groups), size=(n, len(groups)))
    drawn = (np.concatenate([groups[i] for i in row]) for row in draws)
    values = np.array([statistic(x) for x in drawn if len(x)])
    low, high = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(np.concatenate(groups))), float(low), float(high))


def minus(statistic: Statistic, columns: int) -> Statistic:
    """The difference of a statistic between the first and the last `columns` of a table: for paired comparisons."""
    return lambda sums: statistic(sums[..., :columns]) - statistic(sums[..., columns:])


def exchange_test(a: np.ndarray, b: np.ndarray, statistic: Statistic, n: int = 20_000, seed: int = 0) -> float:
    """Two-sided p of statistic(a) = statistic(b), rows of the tables (G, C) in pairs: how often exchanging the sides of
    some pairs gives a difference as far from 0.

    Exact up to 16 pairs (six pairs can reach 2 / 64 = .031, five no less than .0625), otherwise from `n` random
    patterns. Raises TasteError without pairs and for tables of different shapes.
    """
    if not len(a) or a.shape != b.shape:
        raise TasteError(f"a paired test needs at least one pair of rows, got {a.shape} and {b.shape}.")
    count = len(a)
    if count <= 16:
        kept = ~(np.arange(2**count)[:, None] >> np.arange(count)) & 1  # (2^G, G)
    else:
        kept = np.random.default_rng(seed).integers(2, size=(n, count))
        kept[0] = 1  # what was seen counts as one of the patterns
    with np.errstate(divide="ignore", invalid="ignore"):
        first = statistic(kept @ a + (1 - kept) @ b)
        differences = np.abs(first - statistic((1 - kept) @ a + kept @ b))
    seen = abs(statistic(a.sum(axis=0)) - statistic(b.sum(axis=0)))
    return float(np.mean(~(differences < seen - 1e-9 * abs(seen))))  # ties and undefined values count


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for having been looked at together (Holm 1979), in the order given."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted
