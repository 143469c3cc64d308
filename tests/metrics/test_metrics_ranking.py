"""Ranking metrics against numbers worked by hand, slow formulas and scikit-learn."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score

from weft.metrics import ranking

Array = NDArray[Any]
LISTS = [ranking.hit_rate, ranking.recall, ranking.precision, ranking.ndcg, ranking.average_precision]
LISTS += [ranking.reciprocal_rank]

# Users: hits at ranks 2 and 4 of 3 relevant; a hit at rank 1 of 1; no hit of 2; nothing relevant; all of 9 relevant.
HITS = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
RELEVANT = np.array([3, 1, 2, 0, 9])
LOG3, LOG5 = math.log2(3), math.log2(5)


@pytest.mark.parametrize(
    ("metric", "k", "expected"),
    [
        (ranking.hit_rate, 1, [0, 1, 0, math.nan, 1]),
        (ranking.hit_rate, 4, [1, 1, 0, math.nan, 1]),
        (ranking.recall, 4, [2 / 3, 1, 0, math.nan, 4 / 9]),
        (ranking.precision, 4, [1 / 2, 1 / 4, 0, math.nan, 1]),
        (ranking.precision, 3, [1 / 3, 1 / 3, 0, math.nan, 1]),
        (ranking.ndcg, 4, [(1 / LOG3 + 1 / LOG5) / (1 + 1 / LOG3 + 1 / 2), 1, 0, math.nan, 1]),
        (ranking.ndcg, 2, [(1 / LOG3) / (1 + 1 / LOG3), 1, 0, math.nan, 1]),
        (ranking.average_precision, 4, [(1 / 2 + 2 / 4) / 3, 1, 0, math.nan, 1]),
        (ranking.average_precision, 2, [(1 / 2) / 2, 1, 0, math.nan, 1]),
        (ranking.reciprocal_rank, 4, [1 / 2, 1, 0, math.nan, 1]),
        (ranking.reciprocal_rank, 1, [0, 1, 0, math.nan, 1]),
    ],
)
def test_lists_by_hand(metric: Callable[[Array, Array, int], Array], k: int, expected: list[float]) -> None:
    value = metric(HITS, RELEVANT, k)
    assert value.dtype == np.float64
    assert value.tolist() == pytest.approx(expected, nan_ok=True)


def test_whole_lists_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    label = generator.random((30, 12)) < 0.25
    label[:, 0] |= ~label.any(axis=1)
    scores = np.stack([generator.permutation(12) for _ in range(30)])
    hits = np.take_along_axis(label, (-scores).argsort(axis=1), axis=1)
    relevant = label.sum(axis=1)
    for k in (1, 5, 12):
        expected = [ndcg_score(label[[u]], scores[[u]], k=k) for u in range(30)]
        np.testing.assert_allclose(ranking.ndcg(hits, relevant, k), expected, rtol=1e-12)
    expected = [average_precision_score(label[u], scores[u]) for u in range(30)]
    np.testing.assert_allclose(ranking.average_precision(hits, relevant, 12), expected, rtol=1e-12)


def test_graded_gains_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(4)
    gains = generator.choice(4, (25, 9), p=[0.6, 0.2, 0.15, 0.05])
    gains[:, 0] = np.maximum(gains[:, 0], 1)
    scores = np.stack([generator.permutation(9) for _ in range(25)])
    shown, ideal = np.take_along_axis(gains, (-scores).argsort(axis=1), axis=1), -np.sort(-gains, axis=1)
    for k in (2, 9):
        expected = [ndcg_score(gains[[u]], scores[[u]], k=k) for u in range(25)]
        np.testing.assert_allclose(ranking.ndcg_gains(shown, ideal, k), expected, rtol=1e-12)


def test_gains_of_zero_and_one_are_the_binary_case() -> None:
    ideal = np.arange(4) < RELEVANT[:, None]
    value = ranking.ndcg_gains(HITS, ideal, 3)
    np.testing.assert_allclose(value, ranking.ndcg(HITS, RELEVANT, 3), rtol=1e-15)
    assert math.isnan(value[3])


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=8), st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_lists_stay_in_range_and_rise_when_a_hit_moves_up(hits: list[list[bool]], unseen: int) -> None:
    shown = np.array(hits)
    relevant = shown.sum(axis=1) + unseen
    best = -np.sort(-shown.astype(np.int64), axis=1)
    for metric, k in itertools.product(LISTS, (1, 4, 6)):
        value, highest = metric(shown, relevant, k), metric(best, relevant, k)
        assert (np.isnan(value) == (relevant == 0)).all()
        defined = relevant > 0
        assert ((value[defined] >= 0) & (value[defined] <= highest[defined] + 1e-12)).all()
        assert (highest[defined] <= 1 + 1e-12).all()


def test_lists_are_checked() -> None:
    with pytest.raises(ValueError, match=r"`k` must lie in 1..4 \(the length of the lists\), got 5"):
        ranking.ndcg(HITS, RELEVANT, 5)
    with pytest.raises(ValueError, match=r"`k` must lie in 1..4 \(the length of the lists\), got 0"):
        ranking.ndcg_gains(HITS, -np.sort(-HITS), 0)
    with pytest.raises(ValueError, match=r"one number for each of 5 users, got 4"):
        ranking.recall(HITS, RELEVANT[:4], 2)
    with pytest.raises(ValueError, match=r"`relevant` must be at least the user's hits, got 1 at row 0"):
        ranking.recall(HITS, np.minimum(RELEVANT, 1), 2)
    with pytest.raises(ValueError, match=r"`hits` must hold only 0 and 1, got 3 at row 0, column 1"):
        ranking.recall(HITS * 3, RELEVANT, 2)
    with pytest.raises(ValueError, match=r"`ideal` must be in descending order, got 1.0 at row 0, column 1"):
        ranking.ndcg_gains(HITS, HITS, 2)
    with pytest.raises(ValueError, match=r"`ideal` must have the shape of `gains`, \(5, 4\), got \(5, 3\)"):
        ranking.ndcg_gains(HITS, HITS[:, :3], 2)


def mean_over_orders(scores: list[float], k: int, metric: Callable[[Array, Array, int], Array]) -> float:
    """The metric's mean over every order of the candidates, each sorted stably by score."""
    values = []
    for order in itertools.permutations(range(len(scores))):
        shown = sorted(order, key=lambda candidate: -scores[candidate])
        values.append(metric(np.array([[candidate == 0 for candidate in shown]]), np.array([1]), k)[0])
    return float(np.mean(values))


@pytest.mark.parametrize(
    "scores", [[1, 1, 1, 1, 1], [1, 2, 1, 0, 1], [2, 1, 1, 0, 0], [0, 1, 1, 2, 3], [0, 0, 3, 3, 0]]
)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_ties_are_taken_in_expectation(scores: list[float], k: int) -> None:
    pairs = [
        (ranking.sampled_hit_rate, ranking.hit_rate),
        (ranking.sampled_ndcg, ranking.ndcg),
        (ranking.sampled_reciprocal_rank, ranking.reciprocal_rank),
    ]
    for sampled, listed in pairs:
        assert sampled(np.array([scores]), k)[0] == pytest.approx(mean_over_orders(scores, k, listed)), sampled


def test_without_ties_the_metrics_follow_from_the_rank() -> None:
    scores = np.random.default_rng(0).random((40, 20))
    rank = ranking.rank_of_positive(scores)
    assert rank.tolist() == [float((-row).argsort().tolist().index(0)) for row in scores]
    assert ranking.sampled_hit_rate(scores, 7).tolist() == (rank < 7).tolist()
    np.testing.assert_allclose(ranking.sampled_ndcg(scores, 7), (rank < 7) / np.log2(rank + 2), atol=1e-15)


def test_a_constant_model_gets_what_chance_gives() -> None:
    scores = np.zeros((3, 100))
    assert ranking.rank_of_positive(scores).tolist() == [49.5] * 3
    assert ranking.sampled_hit_rate(scores, 10).tolist() == [0.1] * 3
    assert ranking.sampled_ndcg(scores, 10) == pytest.approx(ranking.discounts(10).sum() / 100)


def test_a_list_longer_than_the_candidates_always_hits() -> None:
    assert ranking.sampled_hit_rate(np.array([[0.0, 1.0, 2.0]]), 10).tolist() == [1.0]


def test_minus_infinity_is_padding() -> None:
    padded = np.array([[0.5, 0.9, 0.5, -np.inf, -np.inf]])
    for metric in (ranking.sampled_hit_rate, ranking.sampled_ndcg):
        assert metric(padded, 2).tolist() == metric(padded[:, :3], 2).tolist()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.0, np.nan]], r"`scores` must be below infinity and not nan, got nan at row 0, column 1"),
        ([[0.0, np.inf]], r"got inf at row 0, column 1"),
        ([[-np.inf, 0.0]], r"`scores\[:, 0\]` must be finite, got -inf at row 0"),
        ([[]], r"relevant item in column 0, got shape \(1, 0\)"),
        ([0.0], r"`scores` must have 2 dimension\(s\), got shape \(1,\)"),
    ],
)
def test_candidates_are_checked(scores: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking.sampled_ndcg(np.array(scores), 10)


def test_a_list_of_candidates_has_a_length() -> None:
    for metric in (ranking.sampled_hit_rate, ranking.sampled_ndcg, ranking.sampled_reciprocal_rank):
        with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
            metric(np.zeros((1, 3)), 0)
