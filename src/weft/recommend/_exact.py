"""Exact search: every item of a block is scored, so many at a time, and the best are kept.

Dimension key: I items, Q queries, E width, K length of a list.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.scoring import best

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Scores = NDArray[np.float32]

SCORES_AT_ONCE = 1 << 23


class Found(NamedTuple):
    """Lists of items, best first.

    Attributes:
        ids: [Q, K] int64; -1 where nothing is left.
        scores: [Q, K] inner products; -inf where nothing is left.
    """

    ids: Ids
    scores: Scores


class Block(NamedTuple):
    """Items with their vectors.

    Attributes:
        ids: [I], ascending.
        vector_IE: One row an item.
    """

    ids: Ids
    vector_IE: Tensor

    def take(self, keep: Mask) -> "Block":
        """Some of the items."""
        return Block(self.ids[keep], self.vector_IE[torch.from_numpy(keep)])

    def joined(self, other: "Block") -> "Block":
        """The items of two blocks without a common id."""
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids)
        return Block(ids[order], torch.cat([self.vector_IE, other.vector_IE])[torch.from_numpy(order)])

    def save(self, ids: Path, vectors: Path) -> None:
        """Write the two arrays."""
        np.save(ids, self.ids)
        np.save(vectors, self.vector_IE.numpy())

    @staticmethod
    def load(ids: Path, vectors: Path) -> "Block":
        """Read the two arrays; the vectors are mapped, and writing to them would not reach the file."""
        found = np.load(ids, allow_pickle=False)
        vector_IE = np.load(vectors, allow_pickle=False, mmap_mode="c" if len(found) else None)
        if found.dtype != np.int64 or vector_IE.dtype != np.float32 or len(found) != len(vector_IE):
            raise ValueError(f"{ids.name} and {vectors.name} do not go together")
        return Block(found, torch.from_numpy(vector_IE))


def places_of(ids: Ids, wanted: NDArray[np.integer[Any]]) -> Ids:
    """Where the wanted ids stand in ascending `ids`; those that are not there are passed over.

    >>> places_of(np.array([2, 5, 7]), np.array([7, 3, 2])).tolist()
    [2, 0]
    """
    if not len(ids):
        return np.zeros(0, np.int64)
    place = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    found: Ids = place[ids[place] == wanted]
    return found


def nearest(block: Block, query_QE: Tensor, k: int, *, kept: Mask | None, hidden: Sequence[Ids]) -> Found:
    """The items of a block with the largest inner products; equal scores by id.

    Args:
        block: The items.
        query_QE: The queries.
        k: Length of the lists.
        kept: [I] which items may be given; None for all.
        hidden: For each query, the ids that it must not get.
    """
    few = kept is not None and 2 * kept.sum() < len(kept)
    if few:
        assert kept is not None
        places, kept = np.flatnonzero(kept), None
    count = len(places) if few else len(block.ids)
    found = nothing(len(query_QE), k)
    step = max(k, SCORES_AT_ONCE // max(1, len(query_QE)))
    for start in range(0, count, step):
        part: Any = places[start : start + step] if few else slice(start, start + step)
        ids = block.ids[part]
        scores = (query_QE @ block.vector_IE[part].T).numpy()
        if kept is not None:
            scores[:, ~kept[part]] = -np.inf
        for query, seen in enumerate(hidden):
            scores[query, places_of(ids, seen)] = -np.inf
        columns, values = best(scores, k)
        found = merged(found, Found(ids[columns], values), k)
    return found


def nothing(queries: int, k: int) -> Found:
    """Lists without an item."""
    return Found(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32))


def merged(left: Found, right: Found, k: int) -> Found:
    """The k best of two lists, equal scores by id; the left one has at least k columns.

    >>> merged(Found(np.array([[4, 2]]), np.array([[3.0, 1.0]])), Found(np.array([[1]]), np.array([[1.0]])), 2).ids
    array([[4, 1]])
    """
    ids, scores = np.concatenate([left.ids, right.ids], 1), np.concatenate([left.scores, right.scores], 1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    return Found(np.where(scores > -np.inf, ids, -1), scores)
