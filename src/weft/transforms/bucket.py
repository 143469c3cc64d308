"""Buckets: a number to the id of the interval it lies in."""

import numpy as np
from numpy.typing import NDArray

from weft.batch import FIRST_ID, PADDING
from weft.transforms.columns import Numbers, bounded


def quantile_edges(values: Numbers, buckets: int) -> Numbers:
    """Inner edges of `buckets` equally full intervals, fewer where values repeat; NaN is left out.

    >>> quantile_edges(np.array([1.0, 2.0, 3.0, 4.0]), 2)
    array([2.5])
    """
    present = bounded(values[~np.isnan(values)])
    if not len(present):
        return np.empty(0)
    return np.unique(np.quantile(present, np.arange(1, buckets) / buckets))


def bucket_rows(edges: Numbers) -> int:
    """Number of ids: the intervals and the two reserved ones."""
    return len(edges) + 1 + FIRST_ID


def to_buckets(values: Numbers, edges: Numbers) -> NDArray[np.int32]:
    """Ids of values: 0 for NaN, else 2 + the number of edges that are at most the value.

    >>> to_buckets(np.array([1.0, 2.5, np.nan]), np.array([2.5]))
    array([2, 3, 0], dtype=int32)
    """
    ids = np.searchsorted(edges, values, side="right").astype(np.int32) + np.int32(FIRST_ID)
    return np.where(np.isnan(values), np.int32(PADDING), ids)
