"""Calibration: a score of 0.2 means 20 percent, on planted models that promise too much; no list changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from weft.errors import ConfigError
from weft.metrics import expected_calibration_error
from weft.recommend.calibrate import Isotonic, Platt, dumps, fit, isotonic, loads, platt


def overconfident(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose truth is sigmoid(0.3 score - 1): logits that are more than three times too large."""
    random = np.random.default_rng(seed)
    score = 3 * random.normal(size=rows)
    return score, (random.random(rows) < 1 / (1 + np.exp(1 - 0.3 * score))).astype(np.float64)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_probabilities_come_true_afterwards(method: str) -> None:
    calibrator = fit(method, *overconfident(20_000, 0))
    score, label = overconfident(20_000, 1)
    before = expected_calibration_error(label, 1 / (1 + np.exp(-score)))
    after = expected_calibration_error(label, calibrator.apply(score))
    assert before > 0.15
    assert after < 0.02
    near = np.abs(calibrator.apply(score) - 0.2) < 0.02
    assert label[near].mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_a_calibrator_rises(method: str) -> None:
    calibrator = fit(method, *overconfident(2_000, 2))
    probability = calibrator.apply(np.linspace(-50, 50, 1_001))
    assert (np.diff(probability) >= 0).all()
    assert probability.min() >= 0
    assert probability.max() <= 1
    assert loads(dumps(calibrator)) == calibrator


def test_platt_finds_the_line() -> None:
    found = platt(*overconfident(200_000, 3))
    assert (found.slope, found.shift) == (pytest.approx(0.3, abs=0.01), pytest.approx(-1, abs=0.02))


def test_platt_is_scikit_learns_on_the_soft_targets() -> None:
    score, label = overconfident(3_000, 4)
    ones = label.sum()
    target = np.where(label > 0, (ones + 1) / (ones + 2), 1 / (len(label) - ones + 2))
    doubled = np.concatenate([score, score])[:, None]
    y = np.repeat([1, 0], len(score))
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(doubled, y, np.concatenate([target, 1 - target]))
    ours = platt(score, label)
    assert (ours.slope, ours.shift) == (
        pytest.approx(theirs.coef_[0, 0], rel=1e-4),
        pytest.approx(theirs.intercept_[0], rel=1e-4),
    )


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_isotonic_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    score, label = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, label)
    grid = np.linspace(-7, 7, 57)
    np.testing.assert_allclose(isotonic(score, label).apply(grid), theirs.predict(grid), atol=1e-9)


def test_what_cannot_be_fitted_is_said() -> None:
    score, label = overconfident(100, 5)
    with pytest.raises(ConfigError, match="must be isotonic or platt, got 'beta'"):
        fit("beta", score, label)
    with pytest.raises(ConfigError, match="0 of 100 validation rows are ones"):
        fit("platt", score, np.zeros(100))
    with pytest.raises(ConfigError, match="higher scores are ones less often"):
        fit("platt", -score, (score > 0).astype(np.float64))
    assert isinstance(fit("isotonic", -score, label), Isotonic)
    assert isinstance(fit("platt", score, label), Platt)
