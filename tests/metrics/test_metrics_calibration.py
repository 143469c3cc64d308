"""Calibration against scikit-learn and numbers worked by hand."""

import math
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from weft.metrics import calibration_ratio, expected_calibration_error, reliability_curve

LABEL = np.array([0, 0, 1, 1, 0, 1])
PROBABILITY = np.array([0.1, 0.3, 0.3, 0.6, 0.7, 0.95])


@pytest.mark.parametrize(("kind", "strategy"), [("width", "uniform"), ("mass", "quantile")])
@pytest.mark.parametrize("decimals", [1, 8])
def test_the_curve_is_that_of_scikit_learn(kind: Literal["width", "mass"], strategy: str, decimals: int) -> None:
    generator = np.random.default_rng(0)
    probability = generator.beta(1, 6, 700).round(decimals)
    label = generator.random(700) < probability
    mean_label, mean_probability = calibration_curve(label, probability, n_bins=7, strategy=strategy)
    curve = reliability_curve(label, probability, bins=7, kind=kind)
    np.testing.assert_allclose(curve.mean_label, mean_label, rtol=1e-12)
    np.testing.assert_allclose(curve.mean_probability, mean_probability, rtol=1e-12)
    assert curve.rows.sum() == 700


def test_bins_of_equal_width_by_hand() -> None:
    # (0, .5]: p .1 .3 .3, y 0 0 1. (.5, 1]: p .6 .7 .95, y 1 0 1.
    curve = reliability_curve(LABEL, PROBABILITY, bins=2)
    assert curve.mean_probability.tolist() == pytest.approx([0.7 / 3, 2.25 / 3])
    assert curve.mean_label.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert curve.rows.tolist() == [3, 3]
    assert expected_calibration_error(LABEL, PROBABILITY, bins=2) == pytest.approx((0.3 + 0.25) / 6)


def test_bins_of_equal_mass_hold_equal_numbers_of_distinct_probabilities() -> None:
    probability = np.random.default_rng(0).random(1000) ** 4
    curve = reliability_curve(probability > 0.5, probability, bins=8, kind="mass")
    assert curve.rows.tolist() == [125] * 8


@pytest.mark.parametrize("kind", ["width", "mass"])
def test_a_constant_base_rate_is_calibrated(kind: Literal["width", "mass"]) -> None:
    label, probability = np.array([0, 1, 0, 0]), np.full(4, 0.25)
    assert reliability_curve(label, probability, kind=kind).rows.tolist() == [4]
    assert expected_calibration_error(label, probability, kind=kind) == 0
    assert calibration_ratio(label, probability) == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=30), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_rows_does_not_matter(rows: list[tuple[bool, int]], random: Random) -> None:
    first = np.array(rows, np.float64)
    random.shuffle(rows)
    second = np.array(rows, np.float64)
    for kind in ("width", "mass"):
        errors = [expected_calibration_error(t[:, 0], t[:, 1] / 10, bins=4, kind=kind) for t in (first, second)]
        assert errors[0] == pytest.approx(errors[1], abs=1e-12)
        assert 0 <= errors[0] <= 1


def test_the_ratio_is_promised_by_happened() -> None:
    assert calibration_ratio(LABEL, PROBABILITY) == pytest.approx(2.95 / 3)
    assert math.isnan(calibration_ratio(np.zeros(2), np.full(2, 0.5)))


def test_without_rows_there_is_no_error() -> None:
    none = np.zeros(0)
    assert math.isnan(expected_calibration_error(none, none))
    assert math.isnan(expected_calibration_error(none, none, kind="mass"))


def test_what_is_not_a_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`probability` must lie in 0..1, got -2.5 at row 1; pass probabilities, not"):
        calibration_ratio(np.array([0, 1]), np.array([0.5, -2.5]))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        reliability_curve(LABEL, PROBABILITY, bins=0)
    with pytest.raises(ValueError, match="`kind` must be 'width' or 'mass', got 'size'"):
        reliability_curve(LABEL, PROBABILITY, kind="size")  # type: ignore[arg-type]
