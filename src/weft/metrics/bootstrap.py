"""Bootstrap intervals: how much a metric would move with other rows or other users.

Rows are drawn with replacement, the metric is computed on each resample, and the interval holds the middle `level` of
the results (percentile interval, Efron & Tibshirani 1993, chapter 13). Resample what is independent: users for ranking
metrics, rows for pointwise ones. The same seed gives the same interval. Memory is a few arrays as long as the rows.

Which function for which metric:

* means of values, one for each user or row (HR, NDCG, logloss): `bootstrap_mean`; GAUC by its `weight`;
* quotients of sums (calibration ratio, precision, recall, F1): `bootstrap_ratio`;
* AUC and NE: `bootstrap_auc`, `bootstrap_normalized_entropy`;
* metrics that can be written with weights for the rows: `bootstrap_weighted`;
* any other: `bootstrap`, the slowest.

Several models on the same rows or users: `replicates` of their metrics, each written as a `Weighted`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from weft.metrics._checks import Array, Floats, at_least_one, binary, finite, numbers, ratio, require, same_length
from weft.metrics.pointwise import auc_of_ties, entropy, row_logloss, run_starts


class Interval(NamedTuple):
    """A metric with its interval.

    Attributes:
        value: The metric of all rows.
        low: Lower end.
        high: Upper end.
        count: How many rows, groups or users it is computed from.
    """

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # hides tuple.count


class Weighted(NamedTuple):
    """A metric as a function of how often each of its rows, groups or users is drawn.

    Attributes:
        rows: How many there are.
        of: The metric for one weight each.
    """

    rows: int
    of: Callable[[Floats], float]

    @property
    def value(self) -> float:
        """The metric of all, each drawn once."""
        return self.of(np.ones(self.rows))


def bootstrap(
    metric: Callable[..., float], *arrays: Array, seed: int, resamples: int = 200, level: float = 0.95
) -> Interval:
    """Interval of any metric of arrays whose rows belong together.

    Resamples for which the metric is nan are left out of the interval.

    Args:
        metric: Called with resampled `arrays`.
        arrays: Arrays of one length.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> bootstrap(np.mean, np.array([3.0, 3.0]), seed=0)
    Interval(value=3.0, low=3.0, high=3.0, count=2)
    """
    _check_options(resamples, level)
    arrays = tuple(np.asarray(values) for values in arrays)
    same_length(**{f"array {place}": values for place, values in enumerate(arrays)})
    rows = len(arrays[0])
    if not rows:
        return Interval(np.nan, np.nan, np.nan, 0)
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(rows, size=rows) for _ in range(resamples))
    replicates = np.array([float(metric(*(values[chosen] for values in arrays))) for chosen in drawn])
    return _interval(float(metric(*arrays)), replicates, level, rows)


def bootstrap_weighted(
    metric: Callable[[Floats], float], rows: int, *, seed: int, resamples: int = 200, level: float = 0.95
) -> Interval:
    """Interval of a metric that is a function of how often each row is drawn; nothing is copied or sorted again.

    Args:
        metric: Called with one weight for each row, whole numbers as floats that add up to `rows`.
        rows: How many rows there are.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> squared = np.array([4.0, 4.0, 4.0])
    >>> bootstrap_weighted(lambda weight: float((weight @ squared / weight.sum()) ** 0.5), 3, seed=0).high
    2.0
    """
    _check_options(resamples, level)
    if not rows:
        return Interval(np.nan, np.nan, np.nan, 0)
    generator = np.random.default_rng(seed)
    drawn = (np.bincount(generator.integers(rows, size=rows), minlength=rows) for _ in range(resamples))
    replicates = np.array([metric(counts.astype(np.float64)) for counts in drawn])
    return _interval(metric(np.ones(rows)), replicates, level, rows)


def bootstrap_ratio(
    numerator: Array, denominator: Array, *, seed: int, resamples: int = 200, level: float = 0.95
) -> Interval:
    """Interval of the sum of `numerator` over the sum of `denominator`, N finite numbers each.

    Calibration ratio: (probability, label). Precision: (label * predicted, predicted). F1: (2 * label * predicted,
    label + predicted).

    >>> bootstrap_ratio(np.array([1.0, 2.0]), np.array([2.0, 4.0]), seed=0)
    Interval(value=0.5, low=0.5, high=0.5, count=2)
    """
    metric = weighted_ratio(numerator, denominator)
    return bootstrap_weighted(metric.of, metric.rows, seed=seed, resamples=resamples, level=level)


def bootstrap_mean(
    values: Array, weight: Array | None = None, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """Interval of the mean of one value for each user, group or row.

    Args:
        values: N numbers; nan values are left out and not counted.
        weight: N weights of the mean, for example the rows of each group of a GAUC; None weights all alike.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> bootstrap_mean(np.array([0.5, np.nan, 0.5]), seed=0)
    Interval(value=0.5, low=0.5, high=0.5, count=2)
    """
    values = numbers("values", values)
    weight = np.ones(len(values)) if weight is None else finite("weight", weight)
    same_length(values=values, weight=weight)
    require(weight >= 0, "weight", weight, "be 0 or more", "drop these rows or mend the weights.")
    require(~np.isinf(values), "values", values, "not be infinite", "find where the model or the table makes it.")
    defined = ~np.isnan(values)
    values, weight = values[defined].astype(np.float64), weight[defined]
    return bootstrap_ratio(values * weight, weight, seed=seed, resamples=resamples, level=level)


def bootstrap_auc(label: Array, score: Array, *, seed: int, resamples: int = 200, level: float = 0.95) -> Interval:
    """Interval of the AUC over rows, with one sort for all resamples.

    Args:
        label: N zeros and ones.
        score: N finite numbers.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> bootstrap_auc(np.array([0, 1, 0, 1]), np.array([1, 2, 3, 4]), seed=0).value
    0.75
    """
    positive, score = binary("label", label), finite("score", score)
    same_length(label=positive, score=score)
    order = np.argsort(score, kind="stable")  # rows that are read in the order of memory are read faster
    metric = weighted_auc(positive[order], score[order])
    return bootstrap_weighted(metric.of, metric.rows, seed=seed, resamples=resamples, level=level)


def bootstrap_normalized_entropy(
    label: Array, logit: Array, *, seed: int, resamples: int = 200, level: float = 0.95
) -> Interval:
    """Interval of the normalised entropy over rows; both the logloss and the base rate are those of the resample.

    Args:
        label: N zeros and ones.
        logit: N finite numbers.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> bootstrap_normalized_entropy(np.array([0, 1]), np.zeros(2), seed=0).value
    1.0
    """
    metric = weighted_normalized_entropy(label, logit)
    return bootstrap_weighted(metric.of, metric.rows, seed=seed, resamples=resamples, level=level)


def paired_difference(
    values_a: Array, values_b: Array, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """Interval of the mean of a - b over the same users or rows; 0 outside of it means that the models differ.

    Pairing takes out what both models share, so it finds smaller differences than two separate intervals.

    Args:
        values_a: N values of the first model; a pair with a nan is left out.
        values_b: N values of the second model, in the same order.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> paired_difference(np.array([2.0, 5.0]), np.array([1.0, 4.0]), seed=0)
    Interval(value=1.0, low=1.0, high=1.0, count=2)
    """
    first, second = numbers("values_a", values_a), numbers("values_b", values_b)
    same_length(values_a=first, values_b=second)
    difference = first.astype(np.float64) - second.astype(np.float64)
    return bootstrap_mean(difference, seed=seed, resamples=resamples, level=level)


def weighted_ratio(numerator: Array, denominator: Array) -> Weighted:
    """The sum of `numerator` over the sum of `denominator`, N finite numbers each.

    >>> weighted_ratio(np.array([1.0, 3.0]), np.array([2.0, 4.0])).of(np.array([2.0, 0.0]))
    0.5
    """
    above = finite("numerator", numerator).astype(np.float64)
    below = finite("denominator", denominator).astype(np.float64)
    same_length(numerator=above, denominator=below)
    return Weighted(len(above), lambda weight: ratio(_total(weight, above), _total(weight, below)))


def weighted_mean(values: Array, weight: Array | None = None) -> Weighted:
    """The mean of one value for each row, group or user; one whose value is nan is drawn but not counted.

    >>> weighted_mean(np.array([1.0, np.nan, 4.0])).of(np.array([1.0, 5.0, 2.0]))
    3.0
    """
    values = numbers("values", values).astype(np.float64)
    weight = np.ones(len(values)) if weight is None else finite("weight", weight)
    same_length(values=values, weight=weight)
    defined = ~np.isnan(values)
    return weighted_ratio(np.where(defined, values, 0) * weight, defined * weight)


def weighted_auc(label: Array, score: Array) -> Weighted:
    """The AUC over rows, sorted once.

    >>> weighted_auc(np.array([0, 1, 0]), np.array([1, 2, 3])).of(np.array([3.0, 1.0, 1.0]))
    0.75
    """
    positive, score = binary("label", label), finite("score", score)
    same_length(label=positive, score=score)
    order = np.argsort(score, kind="stable")
    positive, starts = positive[order], run_starts(score[order])
    has_ties = len(starts) < len(order)

    def metric(weight: Floats) -> float:
        drawn = weight[order]
        positives = drawn * positive
        negatives = drawn - positives
        if has_ties:
            positives, negatives = np.add.reduceat(positives, starts), np.add.reduceat(negatives, starts)
        return auc_of_ties(positives, negatives)

    return Weighted(len(order), metric)


def weighted_normalized_entropy(label: Array, logit: Array) -> Weighted:
    """The normalised entropy over rows.

    >>> weighted_normalized_entropy(np.array([0, 1]), np.zeros(2)).value
    1.0
    """
    loss, positive = row_logloss(label, logit), binary("label", label)

    def metric(weight: Floats) -> float:
        total = weight.sum()
        return ratio(_total(weight, loss) / total, entropy(_total(weight, positive) / total))

    return Weighted(len(loss), metric)


def replicates(metrics: Sequence[Weighted], *, seed: int, resamples: int = 200) -> Floats:
    """Each of M metrics on the same resamples of the rows, groups or users that they share.

    Args:
        metrics: Over as many rows, in the same order.
        seed: The same seed draws the same rows.
        resamples: How many, R.

    Returns:
        [R, M]; nan where a metric is not defined on a resample.

    >>> replicates([weighted_mean(np.array([2.0, 2.0])), weighted_mean(np.array([3.0, 3.0]))], seed=0, resamples=1)
    array([[2., 3.]])
    """
    at_least_one("resamples", resamples)
    sizes = {metric.rows for metric in metrics}
    if len(sizes) != 1:
        raise ValueError(
            f"all metrics must be of the same rows, got {sorted(sizes)} of them; pair what belongs together."
        )
    rows = sizes.pop()
    generator = np.random.default_rng(seed)
    found = np.empty((resamples, len(metrics)))
    for place in range(resamples):
        weight = np.bincount(generator.integers(rows, size=rows), minlength=rows).astype(np.float64)
        found[place] = [metric.of(weight) for metric in metrics]
    return found


def _total(weight: Floats, values: Array) -> float:
    """Weighted sum, whose rounding does not depend on the number of threads as that of a dot product does."""
    return float((weight * values).sum())


def _interval(value: float, replicates: Floats, level: float, count: int) -> Interval:
    replicates = replicates[~np.isnan(replicates)]
    if not len(replicates):
        return Interval(value, np.nan, np.nan, count)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), count)


def _check_options(resamples: int, level: float) -> None:
    at_least_one("resamples", resamples)
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}; pass 0.95 for a 95 % interval.")
