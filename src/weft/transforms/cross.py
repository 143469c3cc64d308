"""Crosses: the AND of several features as one id, or as a set of ids where a part is a set.

Each value of a part has a hash; the key of a combination is the hash of its parts' hashes, so it does not depend on the
parts' ids. Dimension key: v keys of the vocabulary, n rows, nnz values of a ragged field.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from weft.batch import FIRST_ID, PADDING, UNKNOWN
from weft.transforms.columns import Ints
from weft.transforms.hashing import Hashes, combine
from weft.transforms.rows import offsets_of, ranges, rows_of


@final
class CrossVocabulary:
    """The combinations that have an own id.

    Attributes:
        keys: [v] uint64, by descending count, then key; key i has the id i + 2.
        counts: [v] int64.
    """

    def __init__(self, keys: Hashes, counts: NDArray[np.int64]) -> None:
        assert len(keys) == len(counts)
        self.keys = keys
        self.counts = counts

    @staticmethod
    def from_counts(keys: Hashes, counts: NDArray[np.int64], min_count: int = 1) -> "CrossVocabulary":
        """Keep the keys (distinct, in any order) seen at least `min_count` times; the key 0 is left out."""
        kept = (counts >= min_count) & (keys != 0)
        keys, counts = keys[kept], counts[kept]
        order = np.lexsort((keys, -counts))
        return CrossVocabulary(keys[order], counts[order])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rows(self) -> int:
        """Number of ids: the keys and the two reserved ones."""
        return len(self) + FIRST_ID

    def encode(self, keys: Hashes) -> NDArray[np.int32]:
        """Ids of keys [n]: 0 stays 0, unseen 1."""
        known, ids = self._sorted
        if not len(known):
            return np.where(keys == 0, PADDING, UNKNOWN).astype(np.int32)
        at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        found = np.where(known[at] == keys, ids[at], np.int32(UNKNOWN))
        return np.where(keys == 0, np.int32(PADDING), found)

    @cached_property
    def _sorted(self) -> tuple[Hashes, NDArray[np.int32]]:
        order = np.argsort(self.keys, kind="stable")
        return self.keys[order], (order + FIRST_ID).astype(np.int32)


class Part(NamedTuple):
    """A part of a cross: hashes of its values, one a row, or a set a row.

    Attributes:
        hashes: [n] or [nnz]; 0 where missing.
        offsets: [n + 1] of a set; None for one value a row.
        weights: [nnz] of a set; None for ones.
    """

    hashes: Hashes
    offsets: Ints | None = None
    weights: NDArray[np.float32] | None = None


def cross(parts: Sequence[Part]) -> Part:
    """The combinations of the parts of each row; those with a missing value are left out of a set.

    A set keeps the first of equal combinations. A combination's weight is the product of its parts' weights.
    """
    crossed = parts[0]
    for part in parts[1:]:
        crossed = _cross_two(crossed, part)
    return crossed if crossed.offsets is None else _distinct(crossed)


def _cross_two(left: Part, right: Part) -> Part:
    if left.offsets is None and right.offsets is None:
        return Part(combine(left.hashes, right.hashes))
    starts_left, lengths_left = _extents(left)
    starts_right, lengths_right = _extents(right)
    lengths = lengths_left * lengths_right
    row = np.repeat(np.arange(len(lengths)), lengths)
    within = ranges(np.zeros_like(lengths), lengths)
    at_left = starts_left[row] + within // lengths_right[row]
    at_right = starts_right[row] + within % lengths_right[row]
    hashes = combine(left.hashes[at_left], right.hashes[at_right])
    weights = _product(left.weights, at_left, right.weights, at_right)
    return _kept(Part(hashes, offsets_of(lengths), weights), hashes != 0)


def _extents(part: Part) -> tuple[Ints, Ints]:
    if part.offsets is None:
        return np.arange(len(part.hashes)), np.ones(len(part.hashes), np.int64)
    return part.offsets[:-1], np.diff(part.offsets)


def _product(
    left: NDArray[np.float32] | None, at_left: Ints, right: NDArray[np.float32] | None, at_right: Ints
) -> NDArray[np.float32] | None:
    if left is None or right is None:
        return left[at_left] if left is not None else right[at_right] if right is not None else None
    return left[at_left] * right[at_right]


def _distinct(part: Part) -> Part:
    assert part.offsets is not None
    row = rows_of(part.offsets)
    order = np.lexsort((part.hashes, row))
    hashes, rows = part.hashes[order], row[order]
    first = np.append(True, (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1]))[: len(order)]
    kept = np.zeros(len(order), bool)
    kept[order[first]] = True
    return _kept(part, kept)


def _kept(part: Part, kept: NDArray[np.bool_]) -> Part:
    assert part.offsets is not None
    weights = None if part.weights is None else part.weights[kept]
    return Part(part.hashes[kept], offsets_of(kept)[part.offsets], weights)
