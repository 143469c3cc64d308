"""Pointwise metrics against scikit-learn, slow formulas and numbers worked by hand."""

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weft import metrics
from weft.metrics.pointwise import entropy

Array = NDArray[Any]
ROWS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=40)


def lopsided(rows: int = 500, rate: float = 0.1, decimals: int = 1, seed: int = 3) -> tuple[Array, Array]:
    """Few positives, logits far from 0 on average, many ties."""
    generator = np.random.default_rng(seed)
    label = (generator.random(rows) < rate).astype(np.int64)
    return label, (generator.normal(-1.5, 1.0, rows) + 0.8 * label).round(decimals)


def split(rows: list[tuple[bool, int]]) -> tuple[Array, Array]:
    label, score = zip(*rows, strict=True)
    return np.array(label), np.array(score)


def slow_auc(label: Array, score: Array) -> float:
    wins = [(p > n) + (p == n) / 2 for p in score[label == 1] for n in score[label == 0]]
    return sum(wins) / len(wins) if wins else math.nan


@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_is_that_of_scikit_learn(decimals: int, dtype: type) -> None:
    label, score = lopsided(decimals=decimals)
    score = score.astype(dtype)
    assert metrics.auc(label, score) == pytest.approx(reference.roc_auc_score(label, score), abs=1e-14)


def test_weighted_auc_is_that_of_scikit_learn() -> None:
    label, score = lopsided()
    weight = np.random.default_rng(0).random(len(label)) * 7
    expected = reference.roc_auc_score(label, score, sample_weight=weight)
    assert metrics.auc(label, score, weight) == pytest.approx(expected, abs=1e-13)


def test_whole_weights_are_repeated_rows() -> None:
    label, score = lopsided(60)
    weight = np.random.default_rng(0).integers(0, 4, len(label))
    repeated = metrics.auc(label.repeat(weight), score.repeat(weight))
    assert metrics.auc(label, score, weight) == pytest.approx(repeated, abs=1e-15)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_auc_is_the_share_of_pairs_won(rows: list[tuple[bool, int]]) -> None:
    label, score = split(rows)
    assert metrics.auc(label, score) == pytest.approx(slow_auc(label, score), abs=1e-15, nan_ok=True)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_auc_of_flipped_labels_or_scores_is_the_complement(rows: list[tuple[bool, int]]) -> None:
    label, score = split(rows)
    complement = pytest.approx(1 - metrics.auc(label, score), abs=1e-15, nan_ok=True)
    assert metrics.auc(~label, score) == complement
    assert metrics.auc(label, -score) == complement


def test_auc_takes_any_labels_of_zeros_and_ones() -> None:
    label, score = lopsided(50)
    values = {metrics.auc(label.astype(dtype), score) for dtype in (bool, np.int8, np.float32, np.float64)}
    assert len(values) == 1


def test_a_constant_score_has_auc_one_half() -> None:
    assert metrics.auc(np.array([0, 1, 0]), np.zeros(3)) == 0.5


@pytest.mark.parametrize("label", [[0, 0], [1, 1], []])
def test_with_one_class_there_is_no_auc_and_no_warning(label: list[int]) -> None:
    score = np.arange(len(label))
    assert math.isnan(metrics.auc(np.array(label), score))
    assert math.isnan(metrics.auc(np.array(label), score, np.ones(len(label))))
    assert math.isnan(metrics.gauc(np.array(label), score, score))
    with metrics.StreamingAuc() as streaming:
        streaming.update(np.array(label), score)
        assert math.isnan(streaming.value())


def test_infinite_or_missing_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`score` must be finite, got nan at row 1; "):
        metrics.auc(np.array([0, 1]), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match=r"got inf at row 0"):
        metrics.gauc(np.array([0, 1]), np.array([np.inf, 0.0]), np.array([0, 0]))


@pytest.mark.parametrize("bad", [2.0, 0.5, np.nan, -1.0])
def test_labels_that_are_not_zero_or_one_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"`label` must hold only 0 and 1, got {bad} at row 2"):
        metrics.auc(np.array([0, 1, bad]), np.zeros(3))


def test_arguments_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`positive` has 2, `score` has 3|`label` has 2, `score` has 3"):
        metrics.auc(np.array([0, 1]), np.zeros(3))
    with pytest.raises(ValueError, match=r"`label` must have 1 dimension\(s\), got shape \(2, 1\)"):
        metrics.auc(np.array([[0], [1]]), np.zeros(2))
    with pytest.raises(ValueError, match=r"`score` must hold numbers, got dtype <U1"):
        metrics.auc(np.array([0, 1]), np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"`weight` must be 0 or more, got -1.0 at row 1"):
        metrics.auc(np.array([0, 1]), np.zeros(2), np.array([1.0, -1.0]))


def test_group_auc_is_auc_of_each_group() -> None:
    label, score = lopsided(400, rate=0.3)
    group = np.random.default_rng(1).zipf(1.6, len(label)) % 37
    groups = metrics.group_auc(label, score, group)
    assert groups.group.tolist() == np.unique(group).tolist()
    assert groups.rows.tolist() == np.unique_counts(group).counts.tolist()
    assert np.isnan(groups.auc).any()
    for value, auc in zip(groups.group, groups.auc, strict=True):
        assert auc == pytest.approx(slow_auc(label[group == value], score[group == value]), abs=1e-15, nan_ok=True)


def test_gauc_weights_groups_by_rows_and_leaves_out_those_of_one_class() -> None:
    label = np.array([1, 0, 1, 0, 0, 1, 0, 1])
    score = np.array([3, 1, 1, 1, 2, 0, 1, 1])
    group = np.array(["a", "a", "b", "b", "b", "b", "c", "d"])
    # a: 1 (2 rows). b: pairs (1,1) (1,2) (0,1) (0,2) give .5 of 4 = .125 (4 rows). c and d have one class.
    assert metrics.gauc(label[:6], score[:6], group[:6]) == pytest.approx((2 * 1 + 4 * 0.125) / 6)
    assert metrics.gauc(label, score, group) == pytest.approx((2 * 1 + 4 * 0.125) / 6)
    assert metrics.gauc(label, score, group, weight="equal") == pytest.approx((1 + 0.125) / 2)


def test_gauc_of_one_group_is_auc() -> None:
    label, score = lopsided()
    assert metrics.gauc(label, score, np.zeros(len(label))) == pytest.approx(metrics.auc(label, score), abs=1e-15)


def test_an_unknown_weight_of_gauc_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`weight` must be 'rows' or 'equal', got 'users'"):
        metrics.gauc(np.array([0, 1]), np.zeros(2), np.zeros(2), weight="users")  # type: ignore[arg-type]


def test_logloss_is_that_of_scikit_learn() -> None:
    label, logit = lopsided(decimals=8)
    probability = 1 / (1 + np.exp(-logit))
    assert metrics.logloss(label, logit) == pytest.approx(reference.log_loss(label, probability), rel=1e-12)


def test_logloss_of_large_logits_is_exact() -> None:
    logit = np.array([1e4, -1e4, 40.0], np.float32)
    loss = metrics.row_logloss(np.array([0, 1, 1]), logit)
    assert loss[:2].tolist() == [1e4, 1e4]
    assert loss[2] == pytest.approx(math.exp(-40), rel=1e-12)


def test_normalized_entropy_divides_by_that_of_the_base_rate() -> None:
    label, logit = lopsided()
    rate = label.mean()
    base = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert metrics.normalized_entropy(label, logit) == pytest.approx(metrics.logloss(label, logit) / base)
    knows_the_rate = np.full(len(label), math.log(rate / (1 - rate)))
    assert metrics.normalized_entropy(label, knows_the_rate) == pytest.approx(1)
    assert math.isnan(metrics.normalized_entropy(np.zeros(3), np.zeros(3)))


@given(st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_entropy_is_symmetric_and_at_most_that_of_a_fair_coin(rate: float) -> None:
    assert entropy(rate) == pytest.approx(entropy(1 - rate), abs=1e-12)
    assert 0 <= entropy(rate) <= math.log(2) + 1e-15


def test_errors_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(5)
    label, prediction = generator.integers(1, 6, 90), generator.normal(3, 2, 90).astype(np.float32)
    assert metrics.rmse(label, prediction) == pytest.approx(reference.root_mean_squared_error(label, prediction))
    assert metrics.mae(label, prediction) == pytest.approx(reference.mean_absolute_error(label, prediction))


@pytest.mark.parametrize("threshold", [0.0, -1.5])
def test_decisions_are_those_of_scikit_learn(threshold: float) -> None:
    label, logit = lopsided(rate=0.3)
    predicted = logit > threshold
    for name in ("accuracy", "precision", "recall", "f1"):
        expected = getattr(reference, f"{name}_score")(label, predicted)
        assert getattr(metrics, name)(label, logit, threshold) == pytest.approx(expected), name


def test_decisions_without_a_case_are_nan() -> None:
    nothing, low = np.zeros(3), np.full(3, -1.0)
    assert metrics.accuracy(nothing, low) == 1
    assert all(math.isnan(metric(nothing, low)) for metric in (metrics.precision, metrics.recall, metrics.f1))
    assert metrics.f1(np.ones(3), low) == 0


def test_poisson_deviance_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(6)
    count, log_rate = generator.poisson(0.7, 200), generator.normal(-0.5, 1.0, 200)
    expected = reference.mean_poisson_deviance(count, np.exp(log_rate))
    assert metrics.poisson_deviance(count, log_rate) == pytest.approx(expected)
    assert metrics.poisson_deviance(np.array([1]), np.array([1000.0])) == math.inf
    with pytest.raises(ValueError, match=r"`count` must be 0 or more, got -2.0 at row 0"):
        metrics.poisson_deviance(np.array([-2]), np.array([0.0]))


def test_multiclass_metrics_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(7)
    label, logits = generator.choice(4, 120, p=[0.6, 0.2, 0.15, 0.05]), generator.normal(0, 3, (120, 4))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert metrics.multiclass_logloss(label, logits) == pytest.approx(reference.log_loss(label, probability))
    expected = reference.accuracy_score(label, logits.argmax(1))
    assert metrics.multiclass_accuracy(label, logits) == pytest.approx(expected)


def test_two_classes_are_the_binary_case() -> None:
    label, logit = lopsided()
    logits = np.stack([np.zeros_like(logit), logit], axis=1)
    assert metrics.multiclass_logloss(label, logits) == pytest.approx(metrics.logloss(label, logit))


@pytest.mark.parametrize("bad", [3, -1, 0.5])
def test_a_class_without_a_logit_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"whole numbers in 0..2 \(the classes\), got {float(bad)} at row 1"):
        metrics.multiclass_logloss(np.array([0.0, bad]), np.zeros((2, 3)))


def test_means_of_no_rows_are_nan() -> None:
    none = np.zeros(0)
    for name in ("logloss", "normalized_entropy", "rmse", "mae", "accuracy", "f1", "poisson_deviance"):
        assert math.isnan(getattr(metrics, name)(none, none)), name
    assert math.isnan(metrics.multiclass_logloss(none, np.zeros((0, 3))))
    assert math.isnan(metrics.multiclass_accuracy(none, np.zeros((0, 3))))


def test_arguments_are_left_as_they_were() -> None:
    label, logit = lopsided(50)
    before = label.copy(), logit.copy()
    for name in ("auc", "logloss", "normalized_entropy", "f1"):
        getattr(metrics, name)(label, logit)
    metrics.gauc(label, logit, label)
    assert (label == before[0]).all()
    assert (logit == before[1]).all()
