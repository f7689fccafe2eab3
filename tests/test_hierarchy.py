"""Intervals over seeds, speakers and utterances, and the sign-flip test, against answers known from theory."""

import numpy as np
import pytest
from experiments.hierarchy import hierarchical_interval, sign_flip_test
from test_bootstrap import means

from taste_min.bootstrap import minus, percentile_interval, ratio
from taste_min.errors import TasteError


def test_sign_flips():
    assert sign_flip_test(np.ones(6)) == pytest.approx(2 / 64)
    assert sign_flip_test(np.ones(5)) == pytest.approx(2 / 32)
    assert sign_flip_test(np.array([1.0, -1.0])) == 1
    rng = np.random.default_rng(6)
    assert sign_flip_test(rng.normal(1, 1, 40)) < 0.001
    below = [sign_flip_test(rng.normal(size=20), n=400, seed=i) < 0.1 for i in range(200)]
    assert 0.04 < np.mean(below) < 0.17  # 10 % of true null hypotheses
    with pytest.raises(TasteError, match="at least one pair"):
        sign_flip_test(np.array([]))


def crossed(rng, spread, n_seeds=6, n_speakers=4, n_utterances=10):
    """Every seed on every utterance of every speaker; `spread` of seeds, speakers and utterances."""
    seed, speaker, utterance = np.meshgrid(range(n_seeds), range(n_speakers), range(n_utterances), indexing="ij")
    parts = [rng.normal(0, spread[0], n_seeds)[seed], rng.normal(0, spread[1], n_speakers)[speaker]]
    parts.append(rng.normal(0, spread[2], (n_speakers, n_utterances))[speaker, utterance])
    names = np.char.add(np.char.add(speaker.ravel().astype(str), "-"), utterance.ravel().astype(str))
    return means(sum(parts).ravel()), seed.ravel(), speaker.ravel(), names


@pytest.mark.parametrize(("spread", "n"), [((1, 0, 0), 6), ((0, 1, 0), 4), ((0, 0, 1), 40)])
def test_every_level_gives_its_width(spread, n):
    """Width against theory: the standard error of a mean of n, as the bootstrap sees it (variance over n)."""
    table, *labels = crossed(np.random.default_rng(8), spread)
    values = table[:, 0].reshape(6, 4, 10)
    level = [values[:, 0, 0], values[0, :, 0], values[0].ravel()][spread.index(1)]
    found = hierarchical_interval(table, *labels, ratio)
    error = level.std() / np.sqrt(n) if n < 40 else np.sqrt(np.mean(values[0].var(axis=1)) / 40)
    if n == 40:  # speakers are drawn too, and their means differ by chance
        error = np.hypot(error, values[0].mean(axis=1).std() / np.sqrt(4))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.2)
    assert found.value == pytest.approx(values.mean())


def test_the_hierarchy_covers_where_pooling_does_not():
    rng, hits, pooled = np.random.default_rng(9), 0, 0
    for trial in range(60):
        table, *labels = crossed(rng, (1, 0.3, 1), n_seeds=8, n_speakers=8, n_utterances=5)
        found = hierarchical_interval(table, *labels, ratio, n=300, rng_seed=trial)
        alone = percentile_interval(table, ratio, n=300, seed=trial)
        hits, pooled = hits + (found.low <= 0 <= found.high), pooled + (alone.low <= 0 <= alone.high)
    assert hits >= 51 and pooled < 40


def test_one_seed_and_one_speaker_are_the_plain_bootstrap():
    x = np.random.default_rng(10).normal(size=50)
    found = hierarchical_interval(means(x), ["s"] * 50, ["a"] * 50, range(50), ratio)
    plain = percentile_interval(means(x), ratio)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.04)
    paired = hierarchical_interval(np.hstack([means(x + 1), means(x)]), [0] * 50, [0] * 50, range(50), minus(ratio, 2))
    assert (paired.value, paired.low, paired.high) == pytest.approx((1, 1, 1))
    with pytest.raises(TasteError, match="for every row"):
        hierarchical_interval(means(x), ["s"], ["a"] * 50, range(50), ratio)
    with pytest.raises(TasteError, match="at least two"):
        hierarchical_interval(means(x), [0] * 50, [0] * 50, [0] * 50, ratio)
