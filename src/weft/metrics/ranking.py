"""Metrics of ranked lists, one value for each user.

Two forms of input:

* a list as it was shown: `hits[u, r]` says whether the item at rank r (0 is the top) is relevant to user u, padded with
  False, and `relevant[u]` says how many items are relevant to u, shown or not;
* one relevant item among candidates: `scores[u, 0]` is the relevant item's score, the other columns are candidates.
  Equal scores are taken in expectation over a random order, so that a constant model gets what chance gives. -inf in
  the other columns is padding.

The functions of the first form give nan for a user without a relevant item; leave these users out of means (`nanmean`,
`bootstrap_mean`). Values that are not allowed raise ValueError.

Dimension key: U users, K length of the list, C candidates.
"""

import numpy as np

from weft.metrics._checks import Array, Booleans, Floats, Integers, at_least_one, binary, finite, numbers, require


def hit_rate(hits: Array, relevant: Array, k: int) -> Floats:
    """1 for a user with a relevant item among the first k, else 0. HR@k is its mean.

    Args:
        hits: U x K booleans, by rank.
        relevant: U numbers of relevant items.
        k: Length of the list, at most K.

    >>> hit_rate(np.array([[0, 1], [0, 0]]), np.array([1, 1]), 2).tolist()
    [1.0, 0.0]
    """
    top, relevant = _checked(hits, relevant, k)
    return _defined(_any(top), relevant)


def recall(hits: Array, relevant: Array, k: int) -> Floats:
    """Share of a user's relevant items that are among the first k. Arguments as in `hit_rate`.

    >>> recall(np.array([[0, 1, 1]]), np.array([4]), 3).tolist()
    [0.5]
    """
    top, relevant = _checked(hits, relevant, k)
    return _divided(top.sum(axis=1), relevant)


def precision(hits: Array, relevant: Array, k: int) -> Floats:
    """Share of the first k that is relevant; a list shorter than k counts as k. Arguments as in `hit_rate`.

    >>> precision(np.array([[0, 1, 1, 0]]), np.array([4]), 4).tolist()
    [0.5]
    """
    top, relevant = _checked(hits, relevant, k)
    return _defined(top.mean(axis=1), relevant)


def ndcg(hits: Array, relevant: Array, k: int) -> Floats:
    r"""Normalised discounted cumulative gain of the first k with gains 0 and 1.

    .. math:: \frac{\sum_{r < k} h_r / \log_2(r + 2)}{\sum_{r < \min(k, |relevant|)} 1 / \log_2(r + 2)}

    Järvelin & Kekäläinen, TOIS 2002, https://doi.org/10.1145/582415.582418, with the discount log2(rank + 1) from rank
    1 on. The ideal list holds all relevant items, not those that were found. Arguments as in `hit_rate`.

    >>> ndcg(np.array([[0, 0, 1]]), np.array([1]), 3).tolist()
    [0.5]
    """
    top, relevant = _checked(hits, relevant, k)
    ideal = _running_total(discounts(k))[np.minimum(relevant, k)]
    return _divided(top @ discounts(k), ideal)


def average_precision(hits: Array, relevant: Array, k: int) -> Floats:
    r"""Mean of the precision at each hit among the first k, divided by :math:`\min(k, |relevant|)`. MAP@k is its mean.

    Arguments as in `hit_rate`.

    >>> average_precision(np.array([[1, 0, 0, 1]]), np.array([2]), 4).tolist()
    [0.75]
    """
    top, relevant = _checked(hits, relevant, k)
    precision_at_rank = np.cumsum(top, axis=1) / np.arange(1, k + 1)
    return _divided((top * precision_at_rank).sum(axis=1), np.minimum(relevant, k))


def reciprocal_rank(hits: Array, relevant: Array, k: int) -> Floats:
    """1 / rank of the first hit, ranks counted from 1, and 0 without a hit among the first k. MRR@k is its mean.

    Arguments as in `hit_rate`.

    >>> reciprocal_rank(np.array([[0, 1, 1]]), np.array([2]), 3).tolist()
    [0.5]
    """
    top, relevant = _checked(hits, relevant, k)
    return _defined(_any(top) / (top.argmax(axis=1) + 1), relevant)


def ndcg_gains(gains: Array, ideal: Array, k: int) -> Floats:
    """NDCG of the first k with gains of any size; nan for a user whose ideal gains are all 0.

    Args:
        gains: U x K finite numbers >= 0 by rank, padded with 0, taken as they are (for 2**grade - 1 pass that).
        ideal: U x K gains of the best list of all items, in descending order, padded with 0.
        k: Length of the list, at most K.

    >>> ndcg_gains(np.array([[0.0, 3.0, 0.0]]), np.array([[3.0, 0.0, 0.0]]), 3).round(4).tolist()
    [0.6309]
    """
    gains, ideal = _gains("gains", gains), _gains("ideal", ideal)
    if gains.shape != ideal.shape:
        raise ValueError(f"`ideal` must have the shape of `gains`, {gains.shape}, got {ideal.shape}; pad with 0.")
    _check_k(k, gains.shape[1])
    falling = np.diff(ideal, axis=1, prepend=np.inf) <= 0
    require(falling, "ideal", ideal, "be in descending order", "sort each row from high to low.")
    return _divided(gains[:, :k] @ discounts(k), ideal[:, :k] @ discounts(k))


def rank_of_positive(scores: Array) -> Floats:
    """Expected rank of column 0 among all candidates, from 0: candidates above it, plus half of those equal to it.

    The metrics are not functions of this mean where there are ties; take `sampled_hit_rate` and the others, which
    average over the ranks that a tied item may have.

    Args:
        scores: U x C numbers, the relevant item in column 0; -inf in other columns is padding.

    >>> rank_of_positive(np.array([[0.5, 0.9, 0.5, 0.5]])).tolist()
    [2.0]
    """
    above, tied = _above_and_tied(scores)
    return above + tied / 2


def sampled_hit_rate(scores: Array, k: int) -> Floats:
    """Probability that column 0 is among the first k when ties are broken at random; HR@k of each user.

    With `a` candidates above and `t` equal, the rank is each of a .. a + t equally often. Without ties it is 1 where
    `rank_of_positive` is below k, else 0.

    Args:
        scores: U x C numbers, as in `rank_of_positive`.
        k: Length of the list.

    >>> sampled_hit_rate(np.zeros((1, 100)), 10).tolist()
    [0.1]
    """
    at_least_one("k", k)
    return _expected(scores, np.ones(k))


def sampled_ndcg(scores: Array, k: int) -> Floats:
    """Expected 1 / log2(rank + 2) of column 0, ranks from 0, and 0 from rank k on; NDCG@k of each user.

    Arguments as in `sampled_hit_rate`.

    >>> sampled_ndcg(np.array([[0.5, 0.9, 0.7, 0.1]]), 3).round(4).tolist()
    [0.5]
    """
    at_least_one("k", k)
    return _expected(scores, discounts(k))


def sampled_reciprocal_rank(scores: Array, k: int) -> Floats:
    """Expected 1 / (rank + 1) of column 0, ranks from 0, and 0 from rank k on; MRR@k of each user.

    Arguments as in `sampled_hit_rate`.

    >>> sampled_reciprocal_rank(np.array([[0.5, 0.5]]), 10).tolist()
    [0.75]
    """
    at_least_one("k", k)
    return _expected(scores, 1 / np.arange(1, k + 1))


def discounts(k: int) -> Floats:
    """1 / log2(rank + 2) for the ranks 0 to k - 1.

    >>> discounts(3).round(4).tolist()
    [1.0, 0.6309, 0.5]
    """
    return 1 / np.log2(np.arange(2, k + 2))


def _checked(hits: Array, relevant: Array, k: int) -> tuple[Booleans, Integers]:
    hits, relevant = binary("hits", hits, 2), numbers("relevant", relevant)
    if len(relevant) != len(hits):
        raise ValueError(f"`relevant` must have one number for each of {len(hits)} users, got {len(relevant)}; align.")
    _check_k(k, hits.shape[1])
    enough = relevant >= hits.sum(axis=1)
    require(enough, "relevant", relevant, "be at least the user's hits", "count all relevant items, shown or not.")
    return hits[:, :k], relevant.astype(np.int64)


def _check_k(k: int, columns: int) -> None:
    if not 1 <= k <= columns:
        raise ValueError(
            f"`k` must lie in 1..{columns} (the length of the lists), got {k}; pad the lists or lower `k`."
        )


def _gains(name: str, values: Array) -> Floats:
    values = finite(name, values, 2)
    require(values >= 0, name, values, "be 0 or more", "shift or clip the gains.")
    return values.astype(np.float64)


def _above_and_tied(scores: Array) -> tuple[Integers, Integers]:
    scores = numbers("scores", scores, 2)
    if scores.shape[1] < 1:
        raise ValueError(f"`scores` must have the relevant item in column 0, got shape {scores.shape}; add the column.")
    finite("scores[:, 0]", scores[:, 0])
    require(scores < np.inf, "scores", scores, "be below infinity and not nan", "find where the model makes it.")
    positive, others = scores[:, :1], scores[:, 1:]
    return (others > positive).sum(axis=1), (others == positive).sum(axis=1)


def _expected(scores: Array, value_at_rank: Floats) -> Floats:
    """Mean of `value_at_rank`, continued with 0, over the ranks that column 0 may have."""
    above, tied = _above_and_tied(scores)
    total, k = _running_total(value_at_rank), len(value_at_rank)
    values: Floats = (total[np.minimum(above + tied + 1, k)] - total[np.minimum(above, k)]) / (tied + 1)
    return values


def _running_total(values: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _any(top: Booleans) -> Booleans:
    found: Booleans = np.asarray(top.any(axis=1))
    return found


def _defined(values: Array, relevant: Integers) -> Floats:
    return np.where(relevant > 0, values, np.nan)


def _divided(numerator: Array, denominator: Array) -> Floats:
    quotient = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
