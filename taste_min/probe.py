"""What can be read from a representation with one linear map: probes, canonical correlations, intervals.

Used by chapter 1 to ask which encoder layer holds the voice and which the words (the paper compares Whisper layers
with speech units by CCA and takes the values from a shallow layer, section 3.1.2). Everything is closed form, so a
probe has no learning rate and no stopping point that could favour one layer.

Axes: T frames or words (rows), D width, C targets or classes, G groups (utterances, the unit of the bootstrap).
"""

from dataclasses import dataclass

import numpy as np

from .errors import TasteError


@dataclass(frozen=True)
class LinearProbe:
    """y = (x - mean) / scale @ weight + bias. mean, scale: (D,); weight: (D, C); bias: (C,)."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x: (T, D) -> (T, C)."""
        return ((x - self.mean) / self.scale) @ self.weight + self.bias


def fit_ridge(x: np.ndarray, y: np.ndarray, strength: float = 1e-2) -> LinearProbe:
    """Ridge regression of y (T, C) on x (T, D): argmin |xw - y|^2 / T + strength |w|^2 on standardised x.

    For classes, y is one-hot and the largest output wins (a least-squares classifier).
    """
    if len(x) != len(y) or x.ndim != 2 or y.ndim != 2:
        raise TasteError(f"a probe needs x (T, D) and y (T, C) with the same T, got {x.shape} and {y.shape}.")
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / scale  # (T, D)
    bias = y.mean(axis=0)
    gram = z.T @ z / len(z) + strength * np.eye(z.shape[1])  # (D, D)
    weight = np.linalg.solve(gram, z.T @ (y - bias).astype(z.dtype) / len(z))  # (D, C)
    return LinearProbe(mean, scale, weight, bias)


def one_hot(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """labels (T,), classes (C,) -> (T, C) of 0 and 1; a label that is no class gives a row of zeros."""
    return (labels[:, None] == classes[None, :]).astype(np.float64)


@dataclass(frozen=True)
class Score:
    """A measure that is a ratio of sums over groups, so that groups can be resampled: sum(top) / sum(bottom).

    top, bottom: (G,). For an accuracy these are hits and frames of every utterance.
    """

    top: np.ndarray
    bottom: np.ndarray

    @property
    def value(self) -> float:
        return float(self.top.sum() / self.bottom.sum())

    def merge(self, owner: np.ndarray) -> "Score":
        """Join groups with the same `owner (G,)`, because they are not independent (one sentence, several takes)."""
        return Score(_group_sums(self.top, owner), _group_sums(self.bottom, owner))

    def resample(self, n: int = 1000, seed: int = 0) -> np.ndarray:
        """`n` values with the groups drawn with replacement: (n,). The same seed draws the same groups everywhere."""
        draws = np.random.default_rng(seed).integers(len(self.top), size=(n, len(self.top)))  # (n, G)
        return self.top[draws].sum(axis=1) / self.bottom[draws].sum(axis=1)

    def interval(self, level: float = 0.95, n: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap interval over groups."""
        return percentile_interval(self.resample(n, seed), level)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper end of the central `level` of `values (n,)`."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(
    a: Score, b: Score, level: float = 0.95, n: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """a - b with its interval, both scores taken on the same resampled groups: (difference, low, high)."""
    difference = a.resample(n, seed) - b.resample(n, seed)
    return a.value - b.value, *percentile_interval(difference, level)


def _group_sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum of values (T,) within each group label (T,), in the order of the sorted labels: (G,)."""
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values)


def correlation_score(y: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> Score:
    """Pearson correlation of y and prediction, both (T,), inside each group, averaged with the rows as weights.

    Inside a group, because that asks for the shape of a curve and forgives a constant offset between recordings.
    """
    index = np.unique(groups, return_inverse=True)[1]
    count = np.bincount(index)

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (np.bincount(index, weights=values) / count)[index]

    a, b = centred(y), centred(predicted)
    products, a2, b2 = (_group_sums(v, groups) for v in (a * b, a * a, b * b))
    return Score(count * products / np.sqrt(a2 * b2 + 1e-12), count.astype(float))


def accuracy_score(labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> Score:
    """Share of rows whose predicted class is the label, both (T,)."""
    return Score(_group_sums(labels == predicted, groups), _group_sums(np.ones(len(labels)), groups))


def auc_score(positive: np.ndarray, score: np.ndarray, groups: np.ndarray) -> Score:
    """Probability that a positive row scores above a negative one of the same group, ties half; chance is 0.5."""
    right, pairs = [], []
    for group in np.unique(groups):
        here = groups == group
        yes, no = score[here & positive], score[here & ~positive]
        below = np.searchsorted(np.sort(no), yes, side="left") + np.searchsorted(np.sort(no), yes, side="right")
        right.append(below.sum() / 2)
        pairs.append(len(yes) * len(no))
    return Score(np.array(right, dtype=float), np.array(pairs, dtype=float))


@dataclass(frozen=True)
class CCA:
    """Pairs of directions with the largest correlation. x_mean (D,), x_map (D, C), y_mean (E,), y_map (E, C)."""

    x_mean: np.ndarray
    x_map: np.ndarray
    y_mean: np.ndarray
    y_map: np.ndarray

    def correlations(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Correlation of every pair on rows x (T, D), y (T, E), which may be new data: (C,)."""
        a, b = (x - self.x_mean) @ self.x_map, (y - self.y_mean) @ self.y_map  # (T, C)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0) + 1e-12)


def principal_axes(x: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and map (D, k) to the k largest principal components, each scaled to variance 1."""
    mean = x.mean(axis=0)
    centred = x - mean
    variance, axes = np.linalg.eigh(centred.T @ centred / len(x))  # ascending
    keep = np.argsort(variance)[::-1][: min(n_components, int((variance > 1e-9 * variance.max()).sum()))]
    return mean, axes[:, keep] / np.sqrt(variance[keep])


def fit_cca(x: np.ndarray, y: np.ndarray, n_components: int = 32) -> CCA:
    """Canonical correlation analysis of x (T, D) and y (T, E) after reducing both to their principal components.

    The reduction keeps the number of free directions the same for every layer. Correlations on the rows used for
    fitting are too high; take them on others (Hotelling 1936; used for layers by Raghu et al. 2017).
    """
    if len(x) != len(y):
        raise TasteError(f"CCA needs the same number of rows, got {len(x)} and {len(y)}.")
    (x_mean, x_white), (y_mean, y_white) = principal_axes(x, n_components), principal_axes(y, n_components)
    u, _, vt = np.linalg.svd(((x - x_mean) @ x_white).T @ ((y - y_mean) @ y_white) / len(x), full_matrices=False)
    return CCA(x_mean, x_white @ u, y_mean, y_white @ vt.T)
