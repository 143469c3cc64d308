"""Coverage, evenness and novelty by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.metrics import coverage, exposure, gini, novelty

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
