"""Bootstrap intervals: equal to the slow way, right in width and coverage, the same for the same seed."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weft import metrics
from weft.metrics.bootstrap import (
    bootstrap,
    replicates,
    weighted_auc,
    weighted_mean,
    weighted_normalized_entropy,
)

Array = NDArray[Any]


def rows(count: int = 400, seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    label = generator.random(count) < 0.2
    return label, generator.normal(label - 1.0, 1.0).round(1)


def test_the_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    samples = generator.random((250, 200)) < 0.3
    intervals = [metrics.bootstrap_mean(sample, seed=0, resamples=200, level=0.9) for sample in samples]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert 0.85 <= covered <= 0.95


def test_the_interval_of_a_mean_has_the_normal_width() -> None:
    values = np.random.default_rng(0).normal(5, 2, 4000)
    value, low, high, count = metrics.bootstrap_mean(values, seed=1)
    assert (value, count) == (values.mean(), 4000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(4000), rel=0.1)


def test_the_interval_of_auc_has_the_width_of_hanley_and_mcneil() -> None:
    generator = np.random.default_rng(0)
    label = generator.random(3000) < 0.5
    score = generator.exponential(1 + label)
    value, low, high, _ = metrics.bootstrap_auc(label, score, seed=0, resamples=400)
    q1, q2, positives = value / (2 - value), 2 * value**2 / (1 + value), label.sum()
    variance = value * (1 - value) + (positives - 1) * (q1 - value**2) + (2999 - positives) * (q2 - value**2)
    deviation = math.sqrt(variance / (positives * (3000 - positives)))
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


@pytest.mark.parametrize("decimals", [1, 12])
def test_fast_intervals_are_those_of_resampled_rows(decimals: int) -> None:
    label, logit = rows()
    logit = (logit + np.linspace(0, 0.01, len(logit))).round(decimals)
    probability = 1 / (1 + np.exp(-logit))
    order = np.argsort(logit, kind="stable")
    pairs = [
        (
            metrics.bootstrap_auc(label, logit, seed=5, resamples=40),
            bootstrap(metrics.auc, label[order], logit[order], seed=5, resamples=40),
        ),
        (
            metrics.bootstrap_normalized_entropy(label, logit, seed=5, resamples=40),
            bootstrap(metrics.normalized_entropy, label, logit, seed=5, resamples=40),
        ),
        (
            metrics.bootstrap_ratio(probability, label, seed=5, resamples=40),
            bootstrap(metrics.calibration_ratio, label, probability, seed=5, resamples=40),
        ),
        (
            metrics.bootstrap_ratio(2 * label * (logit > 0), label + 1.0 * (logit > 0), seed=5, resamples=40),
            bootstrap(metrics.f1, label, logit, seed=5, resamples=40),
        ),
        (
            metrics.bootstrap_mean(metrics.row_logloss(label, logit), seed=5, resamples=40),
            bootstrap(metrics.logloss, label, logit, seed=5, resamples=40),
        ),
    ]
    for fast, slow in pairs:
        assert fast == pytest.approx(slow, rel=1e-12)


def test_the_value_is_that_of_the_metric() -> None:
    label, logit = rows()
    user = np.arange(len(label)) % 17
    assert metrics.bootstrap_auc(label, logit, seed=0, resamples=2).value == metrics.auc(label, logit)
    loss = metrics.bootstrap_mean(metrics.row_logloss(label, logit), seed=0, resamples=2)
    assert loss.value == metrics.logloss(label, logit)
    groups = metrics.group_auc(label, logit, user)
    interval = metrics.bootstrap_mean(groups.auc, groups.rows, seed=0)
    assert interval.value == pytest.approx(metrics.gauc(label, logit, user), rel=1e-14)
    assert interval.low < interval.value < interval.high


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    label, score = rows()
    first, again, other = (metrics.bootstrap_auc(label, score, seed=seed, resamples=30) for seed in (1, 1, 2))
    assert first == again
    assert first.value == other.value
    assert first.low != other.low


def test_a_higher_level_is_wider() -> None:
    values = np.random.default_rng(0).random(100)
    narrow, wide = (metrics.bootstrap_mean(values, seed=0, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_users_without_a_value_are_left_out() -> None:
    values = np.array([0.2, np.nan, 0.9, 0.4, np.nan])
    assert metrics.bootstrap_mean(values, seed=3) == metrics.bootstrap_mean(values[[0, 2, 3]], seed=3)
    assert metrics.bootstrap_mean(values, seed=3).count == 3


def test_resamples_with_one_class_are_left_out() -> None:
    label, score = np.array([1, 0, 0, 0]), np.array([1.0, 0.0, 0.5, 2.0])
    interval = metrics.bootstrap_auc(label, score, seed=0)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_what_has_no_value_has_no_interval_and_no_warning() -> None:
    nothing = [
        metrics.bootstrap_mean(np.full(3, np.nan), seed=0),
        metrics.bootstrap_auc(np.zeros(0), np.zeros(0), seed=0),
        bootstrap(metrics.auc, np.zeros(0), np.zeros(0), seed=0),
        metrics.bootstrap_normalized_entropy(np.zeros(0), np.zeros(0), seed=0),
    ]
    for interval in nothing:
        assert np.isnan(interval[:3]).all()
        assert interval.count == 0
    one_class = metrics.bootstrap_auc(np.ones(4), np.arange(4), seed=0)
    assert np.isnan(one_class[:3]).all()
    assert one_class.count == 4


def test_a_paired_difference_sees_what_two_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 1, 500)
    better, worse = shared + 0.05 + generator.normal(0, 0.1, 500), shared
    difference = metrics.paired_difference(better, worse, seed=0)
    assert difference.low > 0
    assert difference.value == pytest.approx((better - worse).mean())
    assert metrics.bootstrap_mean(better, seed=0).low < metrics.bootstrap_mean(worse, seed=0).high
    swapped = metrics.paired_difference(worse, better, seed=0)
    assert (swapped.low, swapped.high) == pytest.approx((-difference.high, -difference.low))


def test_a_pair_with_a_missing_value_is_left_out() -> None:
    first, second = np.array([1.0, np.nan, 3.0]), np.array([0.5, 1.0, np.nan])
    assert metrics.paired_difference(first, second, seed=0) == (0.5, 0.5, 0.5, 1)


def test_arguments_are_checked() -> None:
    values = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match="`resamples` must be at least 1, got 0"):
        metrics.bootstrap_mean(values, seed=0, resamples=0)
    with pytest.raises(ValueError, match=r"`level` must lie between 0 and 1, got 95; pass 0.95"):
        bootstrap(metrics.rmse, values, values, seed=0, level=95)
    with pytest.raises(ValueError, match="`array 0` has 2, `array 1` has 1"):
        bootstrap(metrics.rmse, values, values[:1], seed=0)
    with pytest.raises(ValueError, match="`values` must not be infinite, got inf at row 1"):
        metrics.bootstrap_mean(np.array([0.0, np.inf]), seed=0)
    with pytest.raises(ValueError, match=r"`weight` must be 0 or more, got -1.0 at row 1"):
        metrics.bootstrap_mean(values, np.array([1.0, -1.0]), seed=0)


def test_replicates_are_the_metrics_of_the_same_resampled_rows() -> None:
    label, logit = rows()
    other = np.random.default_rng(9).permutation(logit)
    measured = [weighted_auc(label, logit), weighted_auc(label, other), weighted_normalized_entropy(label, logit)]
    found = replicates(measured, seed=5, resamples=7)
    generator = np.random.default_rng(5)
    for row in found:
        drawn = generator.integers(400, size=400)
        slow = [metrics.auc(label[drawn], s[drawn]) for s in (logit, other)]
        slow.append(metrics.normalized_entropy(label[drawn], logit[drawn]))
        assert row.tolist() == pytest.approx(slow, rel=1e-12)


def test_the_value_of_a_weighted_metric_is_that_of_all_rows() -> None:
    label, logit = rows()
    assert weighted_auc(label, logit).value == metrics.auc(label, logit)
    assert weighted_mean(metrics.row_logloss(label, logit)).value == pytest.approx(metrics.logloss(label, logit))
    assert weighted_mean(np.array([1.0, math.nan, 5.0]), np.array([3.0, 9.0, 1.0])).value == 2.0


def test_replicates_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be of the same rows, got \[2, 3\]"):
        replicates([weighted_mean(np.ones(2)), weighted_mean(np.ones(3))], seed=0)
