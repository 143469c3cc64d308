"""How a list is chosen out of scored items: caps, variety, a user's mix, exploration. NumPy on one user's items.

Items stand best first; each function gives places of that list in a new order.
Dimension key: N items, G values of a feature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.transforms.rows import RaggedArrays

Places = NDArray[np.int64]
Numbers = NDArray[np.floating[Any]]


class Explored(NamedTuple):
    """A list with drawn items in it.

    Attributes:
        order: [N] places.
        propensity: [N] the probability with which each place of the list got its item, given what stands above;
            nan behind the list.
        drawn: [N] whether the item was drawn.
    """

    order: Places
    propensity: NDArray[np.float64]
    drawn: NDArray[np.bool_]


def relevance(value: Numbers) -> NDArray[np.float64]:
    """Values [N] mapped to [0, 1] from the least to the greatest, so that they can be weighed against likeness.

    >>> relevance(np.array([3.0, 2.0, 1.0])).tolist()
    [1.0, 0.5, 0.0]
    """
    low, high = (float(value.min()), float(value.max())) if len(value) else (0.0, 0.0)
    return np.asarray((value - low) / (high - low) if high > low else np.zeros(len(value)), np.float64)


def cap(sets: RaggedArrays, most: int) -> Places:
    """The places that stay when no value may stand more than `most` times: the first ones of each value.

    Args:
        sets: The values of each item; one without a value always stays.
        most: Of a value.
    """
    lengths = np.diff(sets.offsets)
    if lengths.max(initial=0) > 1:
        return _cap_sets(sets, most)
    owners = np.flatnonzero(lengths)
    order = np.argsort(sets.values, kind="stable")
    first = np.searchsorted(sets.values[order], sets.values[order])
    stays = lengths == 0
    stays[owners[order[np.arange(len(order)) - first < most]]] = True
    return np.flatnonzero(stays)


def _cap_sets(sets: RaggedArrays, most: int) -> Places:
    values, bounds = sets.values.tolist(), sets.offsets.tolist()
    met: dict[int, int] = {}
    kept = []
    for place in range(len(bounds) - 1):
        mine = values[bounds[place] : bounds[place + 1]]
        if all(met.get(value, 0) < most for value in mine):
            met |= {value: met.get(value, 0) + 1 for value in mine}
            kept.append(place)
    return np.array(kept, np.int64)


def mmr(value: Numbers, likeness: Callable[[int], Numbers], k: int, *, balance: float) -> Places:
    """Maximal marginal relevance: the first k places are chosen one by one, the others follow as they stood.

    next = argmax_i balance rel(i) - (1 - balance) max_{j chosen} likeness(i, j)

    Carbonell and Goldstein, SIGIR 1998, https://doi.org/10.1145/290941.291025. rel is `relevance(value)`.

    Args:
        value: [N].
        likeness: Of all items [N] to the one at a place.
        k: How many.
        balance: Between relevance (1) and variety (0).
    """
    gain = balance * relevance(value)
    left = np.ones(len(value), bool)
    nearest = np.full(len(value), -np.inf)
    chosen: list[int] = []
    for _ in range(min(k, len(value))):
        worth = gain - (1 - balance) * nearest if chosen else gain
        chosen.append(int(np.where(left, worth, -np.inf).argmax()))
        left[chosen[-1]] = False
        np.maximum(nearest, likeness(chosen[-1]), out=nearest)
    return np.append(np.array(chosen, np.int64), np.flatnonzero(left))


def mix(value: Numbers, share_NG: Numbers, wanted_G: Numbers, k: int, *, balance: float, smoothing: float) -> Places:
    """A calibrated list: the first k places are chosen one by one, the others follow as they stood.

    next = argmax_i balance sum_{j in I + i} rel(j) - (1 - balance) KL(p, (1 - a) q(I + i) + a p)

    Steck, RecSys 2018, https://doi.org/10.1145/3240323.3240372, equations (4) and (5), whose lambda is 1 - balance;
    p is what the user wants, q the mean of the items' shares, a the smoothing, rel is `relevance(value)`.

    Args:
        value: [N].
        share_NG: How much of each item belongs to each value.
        wanted_G: How much of the user's taste does, each above 0.
        k: How many.
        balance: Between relevance (1) and the mix (0).
        smoothing: a.
    """
    gain = balance * relevance(value)
    left = np.ones(len(value), bool)
    total_G = np.zeros(len(wanted_G))
    chosen: list[int] = []
    for _ in range(min(k, len(value))):
        q_NG = (total_G + share_NG) / (len(chosen) + 1)
        agreement_N = np.log((1 - smoothing) * q_NG + smoothing * wanted_G) @ wanted_G
        chosen.append(int(np.where(left, gain + (1 - balance) * agreement_N, -np.inf).argmax()))
        left[chosen[-1]] = False
        total_G = total_G + share_NG[chosen[-1]]
    return np.append(np.array(chosen, np.int64), np.flatnonzero(left))


def explore(n: int, k: int, *, share: float, pool: int, random: np.random.Generator) -> Explored:
    """Fill k places from the top: each, with probability `share`, with an item drawn evenly, else with the next best.

    Of the m items that are left for a place, the next best stands there with probability 1 - share + share / m, each
    other one with share / m.

    Args:
        n: Items.
        k: Places.
        share: Probability of a draw.
        pool: Draws are among the best k + pool items.
        random: Where chance comes from.
    """
    left = list(range(min(n, k + pool)))
    places = min(k, n)
    drawn = random.random(places) < share
    propensity, is_drawn = np.full(n, np.nan), np.zeros(n, bool)
    order = []
    for place in range(places):
        at = int(random.integers(len(left))) if drawn[place] else 0
        propensity[place] = (at == 0) * (1 - share) + share / len(left)
        is_drawn[place] = drawn[place]
        order.append(left.pop(at))
    behind = np.setdiff1d(np.arange(n), order)
    return Explored(np.append(np.array(order, np.int64), behind), propensity, is_drawn)


def pin(n: int, places: Places, at: int) -> Places:
    """The items at some places moved to the places from `at` (counted from 1) on, in the order given."""
    rest = np.setdiff1d(np.arange(n), places)
    cut = min(at - 1, len(rest))
    return np.concatenate([rest[:cut], places, rest[cut:]])
