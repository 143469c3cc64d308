"""Scaling of dense columns by statistics of the train rows."""

from math import sqrt
from typing import TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from weft.errors import NotFitted
from weft.schema import Scaling
from weft.transforms.columns import Numbers, bounded

QUANTILES = 1000

_T = TypeVar("_T")


class Moments(Struct, frozen=True):
    """Statistics of the values that are not missing; merged in a fixed order they are the same in every run.

    Attributes:
        count: How many.
        mean: Their mean.
        squares: Sum of squared deviations from the mean.
        smallest: The smallest value.
        largest: The largest value.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    smallest: float = float("inf")
    largest: float = float("-inf")

    @staticmethod
    def of(values: Numbers) -> "Moments":
        """Statistics of a column; NaN is left out."""
        present = bounded(values[~np.isnan(values)])
        if not len(present):
            return Moments()
        mean = float(present.mean())
        squares = float(np.square(present - mean).sum())
        return Moments(len(present), mean, squares, float(present.min()), float(present.max()))

    def merge(self, other: "Moments") -> "Moments":
        """Statistics of both columns together.

        Source: Chan, Golub, LeVeque, The American Statistician 37(3), 1983, equation (2.1).
        """
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        squares = self.squares + other.squares + step * step * (self.count * other.count / count)
        return Moments(count, mean, squares, min(self.smallest, other.smallest), max(self.largest, other.largest))


class Scaler(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fitted scaling.

    Attributes:
        kind: As in the schema.
        fill: What a missing value becomes, before scaling.
        shift: With `log_standardize`: min(0, smallest train value).
        center: Subtracted (after the log).
        scale: Divided by.
        quantiles: With `quantile`: increasing values of the column.
        levels: With `quantile`: the share of train rows up to each of them, 0 to 1.
    """

    kind: Scaling
    fill: float = 0.0
    shift: float = 0.0
    center: float = 0.0
    scale: float = 1.0
    quantiles: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    @staticmethod
    def fit(kind: Scaling, values: Numbers, *, missing: str = "mean") -> "Scaler":
        """Fit on a column of train values in memory; NaN is left out."""
        moments = Moments.of(values)
        logs = Moments.of(shifted_log(values, log_shift(moments))) if kind == "log_standardize" else None
        quantiles = None
        if kind == "quantile":
            present = bounded(values[~np.isnan(values)])
            quantiles = np.quantile(present, np.linspace(0, 1, QUANTILES + 1)) if len(present) else present
        return Scaler.from_moments(kind, moments, missing=missing, logs=logs, quantiles=quantiles)

    @staticmethod
    def from_moments(
        kind: Scaling,
        moments: Moments,
        *,
        missing: str = "mean",
        logs: Moments | None = None,
        quantiles: Numbers | None = None,
    ) -> "Scaler":
        """Fit from statistics gathered chunk by chunk.

        Args:
            kind: As in the schema.
            moments: Of the raw values.
            missing: `mean` or `zero`.
            logs: Needed for `log_standardize`: of `shifted_log(values, log_shift(moments))`.
            quantiles: Needed for `quantile`: evenly spaced quantiles of the column, smallest and largest included.
        """
        fill = moments.mean if missing == "mean" else 0.0
        match kind:
            case "standardize":
                return Scaler(kind=kind, fill=fill, center=moments.mean, scale=_deviation(moments))
            case "log_standardize":
                logs = _needed(logs, "logs", kind)
                shift = log_shift(moments)
                return Scaler(kind=kind, fill=fill, shift=shift, center=logs.mean, scale=_deviation(logs))
            case "minmax" if moments.count:
                width = moments.largest - moments.smallest
                return Scaler(kind=kind, fill=fill, center=moments.smallest, scale=width or 1.0)
            case "quantile":
                values, levels = _distinct_levels(_needed(quantiles, "quantiles", kind))
                return Scaler(kind=kind, fill=fill, quantiles=values, levels=levels)
            case _:
                return Scaler(kind=kind, fill=fill)

    def apply(self, values: Numbers) -> NDArray[np.float32]:
        """Scale a column; a missing value becomes `fill` first. The result is finite."""
        filled = np.where(np.isnan(values), self.fill, bounded(values))
        if self.kind == "quantile":
            return self._levels_at(filled).astype(np.float32)
        if self.kind == "log_standardize":
            filled = shifted_log(filled, self.shift)
        limit = float(np.finfo(np.float32).max)
        with np.errstate(over="ignore"):
            scaled = (filled - self.center) / self.scale
        return np.clip(scaled, -limit, limit).astype(np.float32)

    def _levels_at(self, values: Numbers) -> Numbers:
        if not self.quantiles:
            return np.zeros(len(values))
        return np.interp(values, self.quantiles, self.levels)


def log_shift(moments: Moments) -> float:
    """min(0, smallest value)."""
    return min(0.0, moments.smallest)


def shifted_log(values: Numbers, shift: float) -> Numbers:
    """log(1 + x - shift); smaller values than `shift` count as `shift`.

    >>> shifted_log(np.array([-1.0, -5.0]), -1.0)
    array([0., 0.])
    """
    return np.log1p(np.maximum(values - shift, 0.0))


def _deviation(moments: Moments) -> float:
    if moments.largest <= moments.smallest:
        return 1.0
    return sqrt(moments.squares / moments.count) or 1.0


def _distinct_levels(quantiles: Numbers) -> tuple[tuple[float, ...], tuple[float, ...]]:
    levels = np.linspace(0, 1, len(quantiles))
    values, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    middle = (levels[first] + levels[first + count - 1]) / 2 if len(values) else levels
    return tuple(values.tolist()), tuple(middle.tolist())


def _needed(value: _T | None, name: str, kind: str) -> _T:
    if value is None:
        raise NotFitted(f"transform {kind!r} needs `{name}`; gather them over the train rows and pass them")
    return value
