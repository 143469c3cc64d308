"""Popularity: an item scores by how many relevant train rows it has, whoever asks.

score = a + c log(1 + n_i), n_i the number of train rows of item i whose label is relevant; a and c are the maximum
likelihood line under the task's loss, so that scores are logits, ratings or log rates like any other model's. c is at
least 0.001: the more popular item always stands first, also where the labels say nothing about it.

Paper: none; the baseline that every comparison shows.
"""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, final

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import FIRST_ID, Batch, Fields
from weft.errors import NotFitted, Unsupported
from weft.models._contract import link
from weft.models._inputs import one_output
from weft.models._registry import register

Curve = Callable[[Tensor], tuple[Tensor, Tensor]]

LEAST_SLOPE = 1e-3


@register(
    "popularity",
    kinds=("ranker", "fitted", "source"),
    phases=("candidate generation",),
    paper="none",
    url="",
    year=0,
    strengths="Needs no training, never fails, serves users without a past.",
    weaknesses="The same list for everybody.",
    choose="As the baseline of every comparison and the answer for unknown users.",
)
@final
class Popularity(nn.Module):
    """Items by the number of their relevant train rows."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Options.

        Attributes:
            ridge: Holds the line level where the counts say nothing about it.
        """

        ridge: Annotated[float, Meta(gt=0.0)] = 1e-3

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "popularity")
        if not fields.items:
            raise Unsupported("model 'popularity' needs an item role; add `item` to [roles] of the schema")
        self._config, self._task, self._relevant = config, fields.task, fields.relevant
        self.count: Tensor
        self.line: Tensor
        self.register_buffer("count", torch.zeros(fields.items, dtype=torch.float64))
        self.register_buffer("line", torch.full((2,), torch.nan, dtype=torch.float64))

    def fit(self, batches: Iterable[Batch]) -> None:
        """Count the relevant rows of each item and fit the line, in one pass; row weights weigh."""
        size = len(self.count)
        count, rows, label = (torch.zeros(size, dtype=torch.float64) for _ in range(3))
        for batch in batches:
            item, y, weight = _columns(batch.to("cpu"))
            count += torch.bincount(item, (y >= self._relevant).double(), size)
            rows += torch.bincount(item, weight, size)
            label += torch.bincount(item, weight * y, size)
        self.count.copy_(count)
        self.line.copy_(_fit_line(count.log1p(), rows, label, self._task, self._config.ridge))

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B]."""
        self._check_fitted()
        if batch.item is None:
            raise Unsupported("model 'popularity' reads the item role and this batch has no `item`; encode item rows")
        return (self.line[0] + self.line[1] * self.count[batch.item].log1p()).float()

    def candidates(self, user_U: Tensor, k: int) -> Tensor:
        """The `k` most popular items [U, K], the same for every user; equal counts in the order of their ids."""
        self._check_fitted()
        order = self.count[FIRST_ID:].argsort(descending=True, stable=True)[:k] + FIRST_ID
        return order.expand(len(user_U), -1)

    def _check_fitted(self) -> None:
        if self.line.isnan().any():
            raise NotFitted("model 'popularity' has counted nothing yet; call `fit` with the train batches first")


def _columns(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Item ids, first labels and weights of a train batch."""
    if batch.item is None or batch.label is None:
        raise Unsupported("model 'popularity' counts items with a label; fit it on rows that have `item` and `label`")
    y = batch.label[:, 0].double()
    return batch.item.long(), y, torch.ones_like(y) if batch.weight is None else batch.weight.double()


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


def _fit_line(x: Tensor, rows: Tensor, label: Tensor, task: str, ridge: float, steps: int = 50) -> Tensor:
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
