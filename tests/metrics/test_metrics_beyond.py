"""Coverage, evenness, novelty and diversity by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.metrics import beyond, coverage, diversity, exposure, gini, novelty, set_diversity

SHOWN = np.array([[0, 1, 2], [1, 2, -1], [1, -1, -1]])


def test_coverage_counts_items_not_paddings() -> None:
    assert coverage(SHOWN, n_items=8) == 3 / 8
    assert coverage(np.full((2, 3), -1), n_items=8) == 0


def test_exposure_counts_each_item() -> None:
    assert exposure(SHOWN, n_items=5).tolist() == [1, 3, 2, 0, 0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_gini_is_half_the_relative_mean_difference(items: list[int]) -> None:
    shown = np.array([items])
    counts = exposure(shown, n_items=6)
    slow = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert gini(shown, n_items=6) == pytest.approx(slow, abs=1e-12)


def test_gini_of_nothing_is_nan() -> None:
    assert math.isnan(gini(np.full((2, 3), -1), n_items=4))


def test_novelty_is_the_mean_surprise_of_each_user() -> None:
    value = novelty(np.array([[0, 1], [3, -1], [2, 2], [-1, -1]]), np.array([8, 4, 4, 0]))
    assert value.tolist() == pytest.approx([1.5, 4.0, 2.0, math.nan], nan_ok=True)


def test_without_any_interaction_nothing_surprises() -> None:
    assert novelty(np.array([[0, 1]]), np.zeros(2)).tolist() == [0.0]


lists = st.lists(st.lists(st.integers(-1, 5), min_size=4, max_size=4), min_size=1, max_size=6).map(np.array)


@given(lists, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_diversity_is_the_mean_cosine_distance_of_the_pairs(shown: np.ndarray, seed: int) -> None:  # type: ignore[type-arg]
    vectors = np.random.default_rng(seed).integers(-3, 4, (6, 3)).astype(np.float32)
    for user, value in enumerate(diversity(shown, vectors)):
        distances = []
        for i, j in combinations([item for item in shown[user] if item >= 0], 2):
            length = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
            distances.append(1 - (vectors[i] @ vectors[j] / length if length else 0))
        assert value == pytest.approx(np.mean(distances) if distances else math.nan, abs=1e-6, nan_ok=True)


@given(lists, st.lists(st.sets(st.integers(0, 4)), min_size=6, max_size=6), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_set_diversity_is_the_mean_jaccard_distance_of_the_pairs(
    shown: np.ndarray,  # type: ignore[type-arg]
    sets: list[set[int]],
    at_once: int,
) -> None:
    offsets = np.cumsum([0, *map(len, sets)])
    values = np.array([value for one in sets for value in sorted(one)], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beyond, "COMPARED_AT_ONCE", at_once)
        found = set_diversity(shown, offsets, values)
    for user, value in enumerate(found):
        pairs = combinations([sets[item] for item in shown[user] if item >= 0], 2)
        distances = [1 - len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs]
        assert value == pytest.approx(np.mean(distances) if distances else math.nan, abs=1e-9, nan_ok=True)


def test_ids_are_checked() -> None:
    with pytest.raises(
        ValueError, match=r"`recommended` must lie below 2 \(the number of items\), got 2 at row 0, col"
    ):
        coverage(SHOWN, n_items=2)
    with pytest.raises(ValueError, match=r"`recommended` must hold whole item ids, got dtype float64"):
        coverage(SHOWN.astype(np.float64), n_items=5)
    with pytest.raises(ValueError, match="`n_items` must be at least 1, got 0"):
        gini(SHOWN, n_items=0)
    with pytest.raises(ValueError, match=r"`popularity` must be 0 or more, got -1.0 at row 2"):
        novelty(SHOWN, np.array([1.0, 0.0, -1.0]))
