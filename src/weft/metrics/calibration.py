"""Do predicted probabilities come true?

All arguments are N labels (0 and 1) and N probabilities. Values that are not allowed raise ValueError.

Dimension key: N rows, B bins that hold at least one row.
"""

from typing import Literal, NamedTuple

import numpy as np

from weft.metrics._checks import (
    Array,
    Booleans,
    Floats,
    Integers,
    at_least_one,
    binary,
    probabilities,
    ratio,
    same_length,
)

Kind = Literal["width", "mass"]


class ReliabilityCurve(NamedTuple):
    """What was promised and what came true, in ascending order of probability.

    Attributes:
        mean_probability: B means of the probabilities in a bin.
        mean_label: B shares of ones in a bin.
        rows: B numbers of rows.
    """

    mean_probability: Floats
    mean_label: Floats
    rows: Integers


def calibration_ratio(label: Array, probability: Array) -> float:
    """Predicted ones divided by ones that happened; 1 is right, above 1 promises too much, nan when none happened.

    >>> calibration_ratio(np.array([1, 0, 0, 0]), np.array([0.5, 0.5, 0.25, 0.25]))
    1.5
    """
    positive, probability = _checked(label, probability)
    return ratio(probability.sum(), positive.sum())


def reliability_curve(label: Array, probability: Array, bins: int = 10, kind: Kind = "width") -> ReliabilityCurve:
    """Mean probability and share of ones in bins of the probability; empty bins are left out.

    Equal probabilities always share a bin, so that the order of the rows does not matter.

    Args:
        label: N zeros and ones.
        probability: N numbers from 0 to 1.
        bins: How many bins.
        kind: `width` makes bins of equal width, `mass` bins of equal numbers of rows (fewer where many are equal).

    >>> reliability_curve(np.array([0, 1, 1]), np.array([0.25, 0.25, 1.0]), bins=2).mean_label.tolist()
    [0.5, 1.0]
    """
    positive, probability = _checked(label, probability)
    at_least_one("bins", bins)
    if kind not in ("width", "mass"):
        raise ValueError(f"`kind` must be 'width' or 'mass', got {kind!r}; pass one of them.")
    place = np.searchsorted(_inner_edges(probability, bins, kind), probability)
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    sums = (np.bincount(place, values, minlength=bins)[filled] for values in (probability, positive))
    mean_probability, mean_label = (total / count[filled] for total in sums)
    return ReliabilityCurve(mean_probability, mean_label, count[filled])


def expected_calibration_error(label: Array, probability: Array, bins: int = 10, kind: Kind = "width") -> float:
    """Mean distance of the reliability curve from the diagonal, weighted by rows; nan without rows.

    Naeini et al., AAAI 2015, https://doi.org/10.1609/aaai.v29i1.9602. Arguments as in `reliability_curve`.
    It depends on the bins and is above 0 even for a perfect model with few rows.

    >>> expected_calibration_error(np.array([0, 1, 1]), np.array([0.25, 0.25, 1.0]), bins=2) == 0.5 / 3
    True
    """
    curve = reliability_curve(label, probability, bins, kind)
    gap = np.abs(curve.mean_probability - curve.mean_label)
    return ratio(gap @ curve.rows, curve.rows.sum())


def _inner_edges(probability: Floats, bins: int, kind: Kind) -> Floats:
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    return np.quantile(probability, shares) if kind == "mass" and len(probability) else shares


def _checked(label: Array, probability: Array) -> tuple[Booleans, Floats]:
    positive, probability = binary("label", label), probabilities("probability", probability)
    same_length(label=positive, probability=probability)
    return positive, probability.astype(np.float64)
