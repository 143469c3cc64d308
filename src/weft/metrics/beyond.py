"""Beyond accuracy: how much of the catalogue is shown, how evenly, and how far from the most popular.

`recommended` holds U x K item ids from 0 to I - 1; a negative id is padding. Other ids raise ValueError.

Dimension key: U users, K length of the list, I items.
"""

import numpy as np

from weft.metrics._checks import Array, Floats, Integers, at_least_one, finite, numbers, ratio, require


def coverage(recommended: Array, n_items: int) -> float:
    """Share of the catalogue that is shown to at least one user. A resample of users covers less: do not bootstrap it.

    >>> coverage(np.array([[0, 1], [1, -1]]), n_items=4)
    0.5
    """
    return float((exposure(recommended, n_items) > 0).mean())


def gini(recommended: Array, n_items: int) -> float:
    """Gini index of how often each item is shown: 0 is evenly, 1 - 1/I is one item only, nan when none is shown.

    >>> gini(np.array([[0, 1, 2, 3]]), n_items=4), gini(np.array([[0], [0]]), n_items=4)
    (0.0, 0.75)
    """
    shown = np.sort(exposure(recommended, n_items))
    place = 2 * np.arange(1, n_items + 1) - n_items - 1
    return ratio(place @ shown, n_items * shown.sum())


def novelty(recommended: Array, popularity: Array) -> Floats:
    r"""Mean self-information :math:`-\log_2 p(i)` of the items shown to each user, in bits; nan for an empty list.

    Vargas & Castells, RecSys 2011, https://doi.org/10.1145/2043932.2043955. p(i) is the item's share of all
    interactions; an item with less than one interaction counts as one with one, so that the value stays finite.

    Args:
        recommended: U x K item ids.
        popularity: I numbers of interactions in the train rows.

    >>> novelty(np.array([[0, 1], [2, -1]]), np.array([4, 2, 2])).tolist()
    [1.5, 2.0]
    """
    popularity = finite("popularity", popularity)
    require(popularity >= 0, "popularity", popularity, "be 0 or more", "pass counts of interactions.")
    recommended = _items(recommended, len(popularity))
    total = max(popularity.sum(), 1.0)
    bits = np.log2(total) - np.log2(np.maximum(popularity, 1.0))
    shown = recommended >= 0
    count = shown.sum(axis=1)
    sums = np.where(shown, bits[np.where(shown, recommended, 0)], 0.0).sum(axis=1)
    mean_bits = np.full(len(count), np.nan)
    np.divide(sums, count, out=mean_bits, where=count > 0)
    return mean_bits


def exposure(recommended: Array, n_items: int) -> Integers:
    """How often each of I items is shown.

    >>> exposure(np.array([[0, 1], [1, -1]]), n_items=3).tolist()
    [1, 2, 0]
    """
    at_least_one("n_items", n_items)
    recommended = _items(recommended, n_items)
    return np.bincount(recommended[recommended >= 0], minlength=n_items)


def _items(recommended: Array, n_items: int) -> Integers:
    recommended = numbers("recommended", recommended, 2)
    if recommended.dtype.kind not in "iu":
        raise ValueError(f"`recommended` must hold whole item ids, got dtype {recommended.dtype}; pass encoded ids.")
    allowed = f"lie below {n_items} (the number of items)"
    require(recommended < n_items, "recommended", recommended, allowed, "pass encoded ids of this catalogue.")
    return recommended.astype(np.int64)
