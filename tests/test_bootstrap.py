"""Intervals and tests against answers known from theory."""

import numpy as np
import pytest

from taste_min.bootstrap import (
    bca_interval,
    correlation,
    excess,
    exchange_test,
    grouped_interval,
    holm,
    merge_groups,
    paired_difference,
    percentile_interval,
    ratio,
    resample,
)
from taste_min.errors import TasteError


def means(values):
    """A table whose ratio is the mean of the values."""
    return np.stack([values, np.ones(len(values))], axis=1)


def test_the_interval_of_a_mean_is_close_to_the_t_interval():
    x = np.random.default_rng(0).normal(3, 2, 60)
    half = 2.001 * x.std(ddof=1) / np.sqrt(60)  # Student's t with 59 degrees of freedom
    for interval in (bca_interval(means(x), ratio), percentile_interval(means(x), ratio)):
        assert interval.value == pytest.approx(x.mean())
        assert interval.low == pytest.approx(x.mean() - half, abs=0.15 * half)
        assert interval.high == pytest.approx(x.mean() + half, abs=0.15 * half)


@pytest.mark.parametrize("method", [bca_interval, percentile_interval])
def test_a_95_percent_interval_covers_the_truth_95_times_in_100(method):
    rng, hits = np.random.default_rng(1), 0
    for trial in range(300):
        words = rng.integers(5, 15, size=40)
        errors = rng.binomial(words, rng.beta(2, 18, size=40))  # rate .1, different from one utterance to the next
        interval = method(np.stack([errors, words], axis=1), ratio, n=500, seed=trial)
        hits += interval.low <= 0.1 <= interval.high
    assert 0.89 <= hits / 300 <= 0.98


def test_bca_follows_the_long_tail():
    x = np.random.default_rng(2).lognormal(0, 1, 50)
    bca, plain = bca_interval(means(x), ratio), percentile_interval(means(x), ratio)
    assert bca.low > plain.low and bca.high > plain.high


def test_a_paired_difference_is_surer_than_two_intervals():
    rng = np.random.default_rng(3)
    base = rng.normal(0, 5, 50)
    a, b = means(base + 1 + rng.normal(0, 0.1, 50)), means(base)
    together = paired_difference(a, b, ratio)
    assert together.low > 0.9 and together.high < 1.1
    alone = bca_interval(a, ratio)
    assert alone.high - alone.low > 10 * (together.high - together.low)
    same = paired_difference(a, a, ratio)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(TasteError, match="same utterances"):
        paired_difference(a, b[:-1], ratio)


def test_statistics_are_functions_of_sums():
    x, y = np.random.default_rng(4).normal(size=(2, 30))
    x, y = x - x.mean(), (y + x) - (y + x).mean()
    table = np.stack([x * y, x * x, y * y], axis=1)
    assert correlation(table.sum(axis=0)) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert excess(np.array([5.0, 3.0, 100.0])) == pytest.approx(0.02)
    interval = bca_interval(table, correlation)
    assert -1 <= interval.low < interval.value < interval.high <= 1


def test_no_spread_gives_no_width_and_one_utterance_is_refused():
    interval = bca_interval(means(np.full(10, 0.3)), ratio)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.3, 0.3, 0.3))
    perfect = bca_interval(np.array([[0, 7], [0, 5], [0, 9]]), ratio)
    assert (perfect.value, perfect.low, perfect.high) == (0, 0, 0)
    with pytest.raises(TasteError, match="two different utterances"):
        bca_interval(means(np.array([1.0])), ratio)


def test_draws_without_a_value_are_left_out():
    table = np.array([[0.0, 0.0], [1.0, 2.0], [1.0, 4.0]])  # the first group says nothing
    values = resample(table, ratio)
    assert np.isfinite(values).all() and 1900 < len(values) < 2000  # (1/3)^3 of the draws are 0 / 0


def test_renderings_of_one_sentence_are_one_group():
    table = np.arange(8.0).reshape(4, 2)
    assert merge_groups(table, ["b", "a", "b", "a"]).tolist() == [[8, 10], [4, 6]]
    rng = np.random.default_rng(5)
    sentences = np.repeat(rng.normal(size=20), 4)  # four equal renderings each
    owners = [str(i // 4) for i in range(80)]
    together = bca_interval(merge_groups(means(sentences), owners), ratio)
    apart = bca_interval(means(sentences), ratio)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)  # twice, by theory


def test_exchanging_sides_tests_ratios_too():
    rng = np.random.default_rng(8)
    words = rng.integers(5, 15, 40).astype(float)
    few, many = rng.binomial(10, 0.1, 40), rng.binomial(10, 0.3, 40)
    tables = [np.stack([errors, words], axis=1) for errors in (few, many)]
    assert exchange_test(*tables, ratio) == exchange_test(*tables[::-1], ratio) < 0.001
    assert exchange_test(tables[0], tables[0], ratio) == 1
    below = []
    for i in range(200):
        pair = [np.stack([rng.binomial(10, 0.2, 12), words[:12]], axis=1) for _ in range(2)]
        below.append(exchange_test(*pair, ratio, seed=i) < 0.1)
    assert 0.03 < np.mean(below) < 0.17  # 10 % of true null hypotheses


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_median_of_groups():
    rng, hits = np.random.default_rng(7), 0
    for trial in range(100):
        groups = [rng.normal(2, 1, rng.integers(0, 4)) for _ in range(60)]
        found = grouped_interval(groups, n=300, seed=trial)
        hits += found.low <= 2 <= found.high
    assert hits >= 89
    assert found.value == np.median(np.concatenate(groups))
    half = 1.96 * 1.2533 / np.sqrt(sum(map(len, groups)))  # standard error of the median of normal values
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.4)
    copies = grouped_interval([np.repeat(group, 10) for group in groups], n=300, seed=99)  # ten values that are one
    assert copies.high - copies.low == pytest.approx(found.high - found.low, rel=0.2)  # are no surer
    for bad in ([np.ones(3)], [np.ones(0), np.ones(0)]):
        with pytest.raises(TasteError, match="two different utterances"):
            grouped_interval(bad)
