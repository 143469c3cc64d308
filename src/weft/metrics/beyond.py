"""Beyond accuracy: how much of the catalogue is shown, how evenly, how far from the most popular, and how varied.

`recommended` holds U x K item ids from 0 to I - 1; a negative id is padding. Other ids raise ValueError.

Dimension key: U users, K length of the list, I items, E width of a vector, V values of an item.
"""

import numpy as np

from weft.metrics._checks import Array, Floats, Integers, at_least_one, finite, numbers, ratio, require

COMPARED_AT_ONCE = 1 << 24


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


def diversity(recommended: Array, vectors: Array) -> Floats:
    r"""Mean of :math:`1 - \cos(v_i, v_j)` over the pairs of items shown to each user; nan for fewer than two items.

    Intra-list distance, after Ziegler et al., WWW 2005, https://doi.org/10.1145/1060745.1060754. A vector of zeros is
    like no other.

    Args:
        recommended: U x K item ids.
        vectors: I x E, such as the item vectors of a model.

    >>> diversity(np.array([[0, 1], [0, 2], [0, -1]]), np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])).tolist()
    [1.0, 0.0, nan]
    """
    vectors = finite("vectors", vectors, 2).astype(np.float64)
    recommended = _items(recommended, len(vectors))
    length_I1 = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit_IE = np.divide(vectors, length_I1, out=np.zeros_like(vectors), where=length_I1 > 0)
    unit_UKE = np.where(recommended[..., None] >= 0, unit_IE[recommended], 0.0)
    with_itself = np.square(unit_UKE).sum(axis=(1, 2))
    return _of_pairs(np.square(unit_UKE.sum(axis=1)).sum(axis=1) - with_itself, recommended)


def set_diversity(recommended: Array, offsets: Array, values: Array) -> Floats:
    r"""Mean of :math:`1 - |A \cap B| / |A \cup B|` over the pairs of items shown to each user, A and B their values.

    The Jaccard distance, for features such as genres; nan for fewer than two items. An item without values is like no
    other.

    Args:
        recommended: U x K item ids.
        offsets: I + 1; item i owns `values[offsets[i]:offsets[i + 1]]`.
        values: Whole numbers of 0 or more, each once an item.

    >>> set_diversity(np.array([[0, 1], [1, 2]]), np.array([0, 1, 3, 4]), np.array([7, 7, 8, 9])).tolist()
    [0.5, 1.0]
    """
    offsets, values = numbers("offsets", offsets).astype(np.int64), numbers("values", values).astype(np.int64)
    recommended = _items(recommended, len(offsets) - 1)
    length = np.diff(offsets)
    step = max(1, COMPARED_AT_ONCE // max(1, (recommended.shape[1] * length.max(initial=0)) ** 2))
    likeness = [
        _likeness(recommended[start : start + step], offsets, values) for start in range(0, len(recommended), step)
    ]
    return _of_pairs(np.concatenate(likeness) if likeness else np.zeros(0), recommended)


def _likeness(recommended: Integers, offsets: Integers, values: Integers) -> Floats:
    """The sum of the Jaccard indices of all ordered pairs of different places of each list."""
    length_UK = np.where(recommended >= 0, np.diff(offsets)[recommended], 0)
    column_V = np.arange(length_UK.max(initial=0))
    there_UKV = column_V < length_UK[..., None]
    place_UKV = np.where(there_UKV, offsets[recommended][..., None] + column_V, len(values))
    value_UKV = np.append(values, -1)[place_UKV]
    same = (value_UKV[:, :, None, :, None] == value_UKV[:, None, :, None, :]) & there_UKV[:, :, None, :, None]
    both = same.sum(axis=(3, 4))
    either = length_UK[:, :, None] + length_UK[:, None, :] - both
    index = np.divide(both, either, out=np.zeros(both.shape), where=either > 0)
    return np.asarray(index.sum(axis=(1, 2)) - np.trace(index, axis1=1, axis2=2))


def _of_pairs(likeness: Floats, recommended: Integers) -> Floats:
    """1 - mean likeness of the ordered pairs; nan where there is no pair."""
    shown = (recommended >= 0).sum(axis=1)
    pairs = shown * (shown - 1)
    distance = np.full(len(shown), np.nan)
    np.divide(likeness, pairs, out=distance, where=pairs > 0)
    return 1 - distance


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
