import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import NotFitted
from weft.schema import Scaling
from weft.transforms.bucket import bucket_rows, quantile_edges, to_buckets
from weft.transforms.columns import Numbers
from weft.transforms.scale import Moments, Scaler, shifted_log

VALUES = np.array([3.0, -2.0, np.nan, 7.5, 0.0, 3.0])
KINDS: list[Scaling] = ["standardize", "log_standardize", "quantile", "minmax", "none"]


def numbers(values: list[float | None]) -> Numbers:
    return np.array(values, np.float64)


def test_standardize_gives_mean_zero_and_deviation_one() -> None:
    scaled = Scaler.fit("standardize", VALUES).apply(VALUES).astype(np.float64)
    present = scaled[~np.isnan(VALUES)]
    assert present.mean() == pytest.approx(0, abs=1e-6)
    assert present.std() == pytest.approx(1, abs=1e-6)
    assert scaled[2] == 0


def test_log_standardize_is_the_formula() -> None:
    scaled = Scaler.fit("log_standardize", VALUES).apply(VALUES)
    logs = [math.log(1 + x + 2) for x in VALUES if not math.isnan(x)]
    expected = (math.log(1 + 7.5 + 2) - np.mean(logs)) / np.std(logs)
    assert scaled[3] == pytest.approx(expected, rel=1e-6)
    filled = (math.log(1 + 2.3 + 2) - np.mean(logs)) / np.std(logs)
    assert scaled[2] == pytest.approx(filled, rel=1e-6)
    below = Scaler.fit("log_standardize", VALUES).apply(numbers([-2.0, -50.0]))
    assert below[0] == below[1]


def test_quantile_maps_to_shares() -> None:
    scaler = Scaler.fit("quantile", np.arange(101.0))
    assert scaler.apply(numbers([-5, 0, 50, 100, 900])).tolist() == [0, 0, 0.5, 1, 1]
    ties = Scaler.fit("quantile", numbers([0, 0, 0, 1]))
    assert ties.apply(numbers([0, 1])).tolist() == pytest.approx([1 / 3, 1], abs=0.01)


def test_minmax_and_none() -> None:
    assert Scaler.fit("minmax", VALUES).apply(numbers([-2, 7.5, None])).tolist() == pytest.approx([0, 1, 4.3 / 9.5])
    assert Scaler.fit("none", VALUES, missing="zero").apply(numbers([5, None])).tolist() == [5, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_or_empty_column_stays_finite(kind: Scaling) -> None:
    for train in (np.full(3, 0.1), numbers([]), numbers([None, None])):
        scaled = Scaler.fit(kind, train).apply(numbers([0.1, None, 5.0]))
        assert scaled.dtype == np.float32
        assert np.isfinite(scaled).all()


@given(st.sampled_from(KINDS), st.lists(st.floats(allow_nan=True, allow_infinity=False)), st.booleans())
def test_any_number_becomes_finite(kind: Scaling, values: list[float], mean: bool) -> None:
    column = numbers(list(values))
    scaler = Scaler.fit(kind, column, missing="mean" if mean else "zero")
    assert np.isfinite(scaler.apply(column)).all()
    assert np.isfinite(scaler.apply(numbers([1.7e308, -1.7e308, 5e-324]))).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(0, 50))
def test_moments_of_parts_are_those_of_the_whole(values: list[float], cut: int) -> None:
    column = numbers(list(values))
    whole, merged = Moments.of(column), Moments.of(column[:cut]).merge(Moments.of(column[cut:]))
    assert (merged.count, merged.smallest, merged.largest) == (whole.count, whole.smallest, whole.largest)
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert merged.squares == pytest.approx(whole.squares, rel=1e-6, abs=1e-3)


def test_from_moments_equals_fit() -> None:
    moments = Moments.of(VALUES)
    logs = Moments.of(shifted_log(VALUES, -2.0))
    assert Scaler.from_moments("log_standardize", moments, logs=logs) == Scaler.fit("log_standardize", VALUES)
    with pytest.raises(NotFitted, match="needs `logs`"):
        Scaler.from_moments("log_standardize", moments)


def test_buckets_hold_their_lower_edge() -> None:
    edges = numbers([10, 20])
    assert to_buckets(numbers([9.9, 10, 19.9, 20, 1e9, None]), edges).tolist() == [2, 3, 3, 4, 4, 0]
    assert bucket_rows(edges) == 5
    assert to_buckets(numbers([1, None]), numbers([])).tolist() == [2, 0]


def test_quantile_edges_are_equally_full_and_distinct() -> None:
    counts = np.bincount(to_buckets(np.arange(100.0), quantile_edges(np.arange(100.0), 4)))
    assert counts[2:].tolist() == [25, 25, 25, 25]
    assert quantile_edges(numbers([1, 1, 1, 5, None]), 4).tolist() == [1, 2]
    assert quantile_edges(numbers([None]), 4).tolist() == []
    assert np.isfinite(quantile_edges(numbers([1.7e308, -1.7e308]), 3)).all()
