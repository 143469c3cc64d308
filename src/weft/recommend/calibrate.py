"""Scores to probabilities, after training: isotonic regression, or Platt's line. NumPy only.

Both are monotone, so that no list changes; on a plateau of the isotonic curve the raw score still orders.
Dimension key: N rows, P points of a curve.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from weft.errors import ConfigError

Numbers = NDArray[np.floating[Any]]
Method = Literal["isotonic", "platt"]


class Isotonic(Struct, frozen=True, kw_only=True, tag="isotonic", tag_field="kind"):
    """A rising curve through points, straight between them and level beyond them.

    Attributes:
        score: [P] ascending.
        probability: [P] ascending.
        rows: It was fitted on.
    """

    score: tuple[float, ...]
    probability: tuple[float, ...]
    rows: int

    def apply(self, score: Numbers) -> NDArray[np.float64]:
        """Probabilities of raw scores, of any shape."""
        return np.interp(score, self.score, self.probability)


class Platt(Struct, frozen=True, kw_only=True, tag="platt", tag_field="kind"):
    """probability = sigmoid(slope score + shift).

    Attributes:
        slope: Above 0.
        shift: Of the line.
        rows: It was fitted on.
    """

    slope: float
    shift: float
    rows: int

    def apply(self, score: Numbers) -> NDArray[np.float64]:
        """Probabilities of raw scores, of any shape."""
        return _sigmoid(self.slope * np.asarray(score, np.float64) + self.shift)


Calibrator = Isotonic | Platt


def fit(method: str, score: Numbers, label: Numbers) -> Calibrator:
    """Fit a calibrator.

    Args:
        method: isotonic or platt.
        score: [N] raw scores.
        label: [N] zeros and ones.

    Raises:
        ConfigError: There is no such method, the rows are of one class only, or the scores put the ones last.
    """
    if method not in METHODS:
        raise ConfigError(f"`calibrate` must be {' or '.join(METHODS)}, got {method!r}")
    ones = int((label > 0).sum())
    if not 0 < ones < len(label):
        raise ConfigError(
            f"calibrating needs rows of both classes, and {ones} of {len(label)} validation rows are ones; "
            "prepare the store with a larger validation split"
        )
    return METHODS[method](np.asarray(score, np.float64), np.asarray(label > 0, np.float64))


def isotonic(score: Numbers, label: Numbers) -> Isotonic:
    """Isotonic regression by pooling adjacent violators: the rising curve nearest to the labels in squares.

    Zadrozny and Elkan, KDD 2002, https://doi.org/10.1145/775047.775151. Equal scores are one point. Each pooled block
    gives its first and its last score.
    """
    scores, place = np.unique(score, return_inverse=True)
    count = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, label) / count
    blocks: list[tuple[float, float, int]] = []
    for m, c in zip(mean.tolist(), count.tolist(), strict=True):
        points = 1
        while blocks and blocks[-1][0] >= m:
            before, weight, size = blocks.pop()
            m, c, points = (before * weight + m * c) / (weight + c), weight + c, points + size
        blocks.append((m, c, points))
    ends = np.cumsum([size for _, _, size in blocks])
    starts = ends - [size for _, _, size in blocks]
    at = np.stack([scores[starts], scores[ends - 1]], axis=1).ravel()
    value = np.repeat([m for m, _, _ in blocks], 2)
    kept = np.append(True, np.diff(at) > 0)
    return Isotonic(score=tuple(at[kept].tolist()), probability=tuple(value[kept].tolist()), rows=len(score))


def platt(score: Numbers, label: Numbers, steps: int = 100) -> Platt:
    """The logistic line of greatest likelihood under Platt's softened labels, by Newton's method with halved steps.

    Platt 1999, Probabilistic Outputs for Support Vector Machines; the targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2).
    """
    ones = label.sum()
    target = np.where(label > 0, (ones + 1) / (ones + 2), 1 / (len(label) - ones + 2))
    scale = max(float(np.abs(score).max()), 1e-12)
    design = np.stack([score / scale, np.ones_like(score)], axis=1)
    line = np.array([0.0, np.log((ones + 1) / (len(label) - ones + 1))])
    for _ in range(steps):
        p = _sigmoid(design @ line)
        gradient = design.T @ (p - target)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        line = line - _damped(design, target, line, step)
        if np.abs(step).max() < 1e-9:
            break
    if line[0] <= 0:
        raise ConfigError(
            "the validation rows with higher scores are ones less often, so no rising line fits; look at the model"
        )
    return Platt(slope=float(line[0] / scale), shift=float(line[1]), rows=len(score))


def _damped(design: Numbers, target: Numbers, line: Numbers, step: Numbers) -> Numbers:
    """The step, halved until the likelihood does not fall."""
    now = _loss(design @ line, target)
    for _ in range(30):
        if _loss(design @ (line - step), target) <= now + 1e-12:
            return step
        step = step / 2
    return step


def _loss(logit: Numbers, target: Numbers) -> float:
    return float((np.logaddexp(0, logit) - target * logit).sum())


def _sigmoid(logit: Numbers) -> NDArray[np.float64]:
    probability: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, np.float64)))
    return probability


METHODS: dict[str, Callable[[Numbers, Numbers], Calibrator]] = {"isotonic": isotonic, "platt": platt}


def dumps(calibrator: Calibrator) -> bytes:
    """A calibrator as JSON."""
    return msgspec.json.encode(calibrator)


def loads(data: bytes) -> Calibrator:
    """The inverse of `dumps`."""
    calibrator: Calibrator = msgspec.json.decode(data, type=Calibrator)
    return calibrator
