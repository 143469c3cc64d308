"""Scores from counts: the most likely line, so that they are logits, ratings or log rates like any other model's."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from weft.models._contract import link

Curve = Callable[[Tensor], tuple[Tensor, Tensor]]

LEAST_SLOPE = 1e-3


def _logistic(s: Tensor) -> tuple[Tensor, Tensor]:
    mean = s.sigmoid()
    return mean, mean * (1 - mean)


def _exponential(s: Tensor) -> tuple[Tensor, Tensor]:
    return s.exp(), s.exp()


def _identity(s: Tensor) -> tuple[Tensor, Tensor]:
    return s, torch.ones_like(s)


_CURVES: dict[str, tuple[Curve, float]] = {
    "binary": (_logistic, 1.0),
    "count": (_exponential, 1.0),
    "regression": (_identity, math.inf),
}


def fit_line(x: Tensor, rows: Tensor, label: Tensor, task: str, ridge: float, steps: int = 50) -> Tensor:
    """Newton's method for mean(y) = curve(a + c x); x, rows and label are sums per item, which say all of the rows.

    The ridge acts on c only. Steps on a curve are cut to length 1, so that the first ones do not overshoot.
    """
    curve, reach = _CURVES[task]
    design = torch.stack([torch.ones_like(x), x], dim=1)
    penalty = torch.tensor([0.0, ridge], dtype=x.dtype)
    line = torch.tensor([link(task, (label.sum() / rows.sum()).item()), 0.0], dtype=x.dtype)
    for _ in range(steps):
        mean, slope = curve(design @ line)
        gradient = design.T @ (rows * mean - label) + penalty * line
        hessian = design.T @ (design * (rows * slope)[:, None]) + penalty.diag() + 1e-9 * torch.eye(2, dtype=x.dtype)
        step = torch.linalg.solve(hessian, gradient).clamp(-reach, reach)
        line = line - step
        if step.abs().max() < 1e-10:
            break
    return _rising(line, (rows @ x) / rows.sum())


def _rising(line: Tensor, mean_x: Tensor) -> Tensor:
    """The line with a slope of at least `LEAST_SLOPE`, turned about its value at the mean of x."""
    slope = line[1].clamp(min=LEAST_SLOPE)
    return torch.stack([line[0] + (line[1] - slope) * mean_x, slope])
