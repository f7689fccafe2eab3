"""Linear probes, CCA and the bootstrap: exact answers where they exist, chance where there is nothing to find."""

import numpy as np
import pytest

from taste_min import probe
from taste_min.errors import TasteError

RNG = np.random.default_rng(0)


def test_ridge_finds_a_linear_map_on_unscaled_features():
    x = RNG.normal(size=(500, 6)) * [1, 10, 0.1, 1, 5, 1] + 3
    weight = RNG.normal(size=(6, 2))
    y = x @ weight + [4.0, -1.0]
    fitted = probe.fit_ridge(x, y, strength=1e-9)
    new = RNG.normal(size=(50, 6)) * 2 + 3
    np.testing.assert_allclose(fitted(new), new @ weight + [4.0, -1.0], atol=1e-4)
    heavy = probe.fit_ridge(x, y, strength=1e6)
    np.testing.assert_allclose(heavy(new), np.tile(y.mean(axis=0), (50, 1)), atol=1e-2)  # all shrunk away


def test_probe_refuses_shapes_that_do_not_fit():
    with pytest.raises(TasteError, match="same T"):
        probe.fit_ridge(np.zeros((5, 2)), np.zeros((4, 1)))
    with pytest.raises(TasteError, match="rows"):
        probe.fit_cca(np.zeros((5, 2)), np.zeros((4, 2)))


def test_one_hot_leaves_unknown_labels_empty():
    rows = probe.one_hot(np.array(["a", "c", "b"]), np.array(["a", "b"]))
    np.testing.assert_array_equal(rows, [[1, 0], [0, 0], [0, 1]])


def test_correlation_score_forgives_offsets_between_groups_but_not_shape():
    groups = np.repeat([3, 7], 100)
    y = RNG.normal(size=200)
    assert probe.correlation_score(y, 2 * y + 5 * groups, groups).value == pytest.approx(1)
    assert probe.correlation_score(y, -y, groups).value == pytest.approx(-1)
    assert abs(probe.correlation_score(y, RNG.normal(size=200), groups).value) < 0.25


def test_correlation_score_weights_groups_by_rows():
    groups = np.array([0] * 30 + [1] * 10)
    y = RNG.normal(size=40)
    predicted = np.where(groups == 0, y, -y)
    assert probe.correlation_score(y, predicted, groups).value == pytest.approx(0.5)  # (30 - 10) / 40


def test_auc_counts_pairs_within_groups_only_and_halves_ties():
    positive = np.array([True, False, True, False, False])
    score = np.array([0.9, 0.1, -5.0, -5.0, -6.0])
    groups = np.array([0, 0, 1, 1, 1])
    assert probe.auc_score(positive, score, groups).value == pytest.approx((1 + 0.5 + 1) / 3)
    assert probe.auc_score(positive, -score, groups).value == pytest.approx(0.5 / 3)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        hits = np.random.default_rng(seed).binomial(20, 0.3, size=40).astype(float)
        low, high = probe.Score(hits, np.full(40, 20.0)).interval(n=300, seed=seed)
        covered += low <= 0.3 <= high
    assert 0.87 <= covered / 200 <= 0.99  # 95 % with sampling error; half the width would cover about 67 %


def test_merged_groups_keep_the_value_and_widen_the_interval():
    rng = np.random.default_rng(1)
    hits = np.repeat(rng.uniform(size=12), 6)  # six takes each, all alike: 12 independent things, not 72
    score, owner = probe.Score(hits, np.ones(72)), np.repeat(np.arange(12), 6)
    merged = score.merge(owner)
    assert merged.value == pytest.approx(score.value) and len(merged.top) == 12
    width, naive = np.diff(merged.interval())[0], np.diff(score.interval())[0]
    assert 1.8 < width / naive < 3.2  # about sqrt(6)


def test_paired_interval_is_narrower_than_the_unpaired_one():
    base = RNG.normal(size=30) * 5
    a, b = probe.Score(base + 1.0, np.ones(30)), probe.Score(base, np.ones(30))
    difference, low, high = probe.paired_interval(a, b)
    assert difference == pytest.approx(1.0)
    assert high - low < 1e-9 < a.interval()[1] - a.interval()[0]


def test_cca_finds_shared_directions_on_new_rows_and_nothing_in_noise():
    shared = RNG.normal(size=(3000, 2))
    x = np.concatenate([shared, RNG.normal(size=(3000, 4))], axis=1) @ RNG.normal(size=(6, 6))
    y = np.concatenate([shared, RNG.normal(size=(3000, 3))], axis=1) @ RNG.normal(size=(5, 5))
    found = probe.fit_cca(x[:2000], y[:2000]).correlations(x[2000:], y[2000:])
    assert found.shape == (5,)
    assert (found[:2] > 0.99).all() and (np.abs(found[2:]) < 0.1).all()
    noise = RNG.normal(size=y.shape)
    assert np.abs(probe.fit_cca(x[:2000], noise[:2000]).correlations(x[2000:], noise[2000:])).max() < 0.1


def test_cca_ignores_invertible_maps_of_its_inputs():
    x, y = RNG.normal(size=(400, 4)), RNG.normal(size=(400, 3))
    y[:, 0] += x[:, 1]
    plain = probe.fit_cca(x, y).correlations(x, y)
    mixed = x @ RNG.normal(size=(4, 4)) + 7
    np.testing.assert_allclose(probe.fit_cca(mixed, y).correlations(mixed, y), plain, atol=1e-6)


def test_cca_component_limit_bounds_the_pairs():
    x, y = RNG.normal(size=(100, 8)), RNG.normal(size=(100, 6))
    assert len(probe.fit_cca(x, y, n_components=3).correlations(x, y)) == 3
