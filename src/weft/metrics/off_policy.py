"""Off-policy: what one policy would have earned, read from rows that another policy logged with its probabilities.

Each row holds the reward of what was shown. It counts by its importance weight, the probability with which the policy
in question shows the same thing over that of the policy that logged it:

    weight = target / propensity,   IPS = mean(weight * reward),   SNIPS = sum(weight * reward) / sum(weight).

IPS is unbiased where the logging policy may show whatever the other one shows (Horvitz and Thompson, JASA 1952). SNIPS
is a weighted mean of rewards, so it stays within them, does not depend on a factor common to all weights, and mostly
varies less (Swaminathan and Joachims, NeurIPS 2015). Clipped weights (`clipped`) vary less still and miss on purpose
(Bottou et al., JMLR 2013); whoever clips says where. `effective_rows` says how many rows an estimate stands on: with
few of them, or few rewards that are not nought, a percentile interval is too narrow, and one without any is empty.
"""

from functools import partial

import numpy as np

from weft.metrics._checks import Array, Floats, binary, finite, numbers, ratio, require, same_length
from weft.metrics.bootstrap import Interval, bootstrap_ratio, bootstrap_weighted


def importance_weight(target: Array, propensity: Array) -> Floats:
    """What each row counts.

    Args:
        target: N probabilities with which the policy in question shows what the row shows.
        propensity: N probabilities with which it was shown, none of them nought.

    >>> importance_weight(np.array([1.0, 0.0, 0.5]), np.array([0.25, 0.25, 0.5])).tolist()
    [4.0, 0.0, 1.0]
    """
    wanted, logged = finite("target", target).astype(np.float64), finite("propensity", propensity).astype(np.float64)
    same_length(target=wanted, propensity=logged)
    require((wanted >= 0) & (wanted <= 1), "target", wanted, "lie in 0..1", "pass probabilities, not scores.")
    allowed, mend = "lie above 0 and up to 1", "drop rows that the logging policy cannot have shown."
    require((logged > 0) & (logged <= 1), "propensity", logged, allowed, mend)
    return wanted / logged


def clipped(weight: Array, most: float) -> Floats:
    """Weights of at most `most`: less variance, and an estimate that is too low for rewards of nought or more.

    >>> clipped(np.array([0.5, 20.0]), 10.0).tolist()
    [0.5, 10.0]
    """
    if not most > 0:
        raise ValueError(f"`most` must be above 0, got {most}; pass the largest weight that a row may have.")
    return np.minimum(_weights(weight), most)


def ips(
    reward: Array, weight: Array, group: Array | None = None, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """Inverse propensity scoring, the mean of weight x reward, with its interval.

    Args:
        reward: N numbers.
        weight: N importance weights.
        group: N numbers of what is independent, such as the request; None takes the rows for independent.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> ips(np.array([1.0, 0.0, 1.0, 0.0]), np.array([2.0, 2.0, 0.0, 0.0]), seed=0).value
    0.5
    """
    reward, weight = _checked(reward, weight)
    above, below = _summed(group, reward * weight, np.ones(len(reward)))
    return bootstrap_ratio(above, below, seed=seed, resamples=resamples, level=level)


def snips(
    reward: Array, weight: Array, group: Array | None = None, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """Self-normalised inverse propensity scoring, the mean reward by weight, with its interval.

    Args:
        reward: N numbers.
        weight: N importance weights.
        group: N numbers of what is independent, such as the request; None takes the rows for independent.
        seed: The same seed gives the same interval.
        resamples: How many.
        level: Share of the resamples between low and high.

    >>> round(snips(np.array([1.0, 0.0, 1.0, 0.0]), np.array([2.0, 4.0, 0.0, 0.0]), seed=0).value, 4)
    0.3333
    """
    reward, weight = _checked(reward, weight)
    above, below = _summed(group, reward * weight, weight)
    return bootstrap_ratio(above, below, seed=seed, resamples=resamples, level=level)


def effective_rows(weight: Array) -> float:
    """Rows of equal weight that would vary as much: the square of the sum over the sum of squares (Kish 1965).

    >>> effective_rows(np.array([3.0, 3.0, 0.0]))
    2.0
    """
    weight = _weights(weight)
    return ratio(weight.sum() ** 2, (weight**2).sum())


def examination(
    label: Array, position: Array, *, seed: int, resamples: int = 200, level: float = 0.95
) -> list[Interval]:
    """P(seen | position) over P(seen | 1) from rows in random order: the ratio of the shares of label 1.

    Where the order is random every position holds what is equally relevant, so what remains between them is how much
    they are looked at (Joachims, Swaminathan and Schnabel, WSDM 2017). In rows that a policy has ordered the same ratio
    mixes both.

    Args:
        label: N zeros and ones.
        position: N whole numbers from 1.
        seed: The same seed gives the same intervals.
        resamples: How many.
        level: Share of the resamples between low and high.

    Returns:
        One interval for each position from 1 to the largest; `count` is the rows of the position.

    >>> [found.value for found in examination(np.array([1, 1, 1, 0]), np.array([1, 1, 2, 2]), seed=0)]
    [1.0, 0.5]
    """
    clicked, place = binary("label", label).astype(np.float64), numbers("position", position)
    same_length(label=clicked, position=place)
    require((place >= 1) & (place == np.floor(place)), "position", place, "be whole numbers from 1", "count from 1.")
    place = place.astype(np.int64)

    def relative(weight: Floats, at: int) -> float:
        rows, clicks = np.bincount(place, weight, at + 1), np.bincount(place, weight * clicked, at + 1)
        return ratio(clicks[at] * rows[1], rows[at] * clicks[1])

    found = []
    for at in range(1, int(place.max(initial=0)) + 1):
        metric = partial(relative, at=at)
        interval = bootstrap_weighted(metric, len(place), seed=seed, resamples=resamples, level=level)
        found.append(interval._replace(count=int((place == at).sum())))
    return found


def _weights(weight: Array) -> Floats:
    weight = finite("weight", weight).astype(np.float64)
    require(weight >= 0, "weight", weight, "be 0 or more", "a weight is a ratio of two probabilities.")
    return weight


def _checked(reward: Array, weight: Array) -> tuple[Floats, Floats]:
    reward, weight = finite("reward", reward).astype(np.float64), _weights(weight)
    same_length(reward=reward, weight=weight)
    return reward, weight


def _summed(group: Array | None, above: Floats, below: Floats) -> tuple[Floats, Floats]:
    """Both columns added up within each group."""
    if group is None:
        return above, below
    group = numbers("group", group)
    same_length(group=group, reward=above)
    _, at = np.unique(group, return_inverse=True)
    return np.bincount(at, above).astype(np.float64), np.bincount(at, below).astype(np.float64)
