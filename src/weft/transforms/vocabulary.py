"""Vocabularies: values to ids. 0 is missing (padding), 1 unknown, values from 2 by descending train count.

Dimension key: v values of the vocabulary, m values to encode, n rows.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise, repeat
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from weft.batch import FIRST_ID, PADDING, UNKNOWN
from weft.transforms.columns import INT64, Keys
from weft.transforms.hashing import Hashes, hash64, splitmix64

_DECIMAL = re.compile(r"0|-?[1-9][0-9]*")


@final
class Vocabulary:
    """The values of a column that have an own id.

    Attributes:
        values: [v] int64, or object array of str, by descending count, then value; value i has the id i + 2.
        counts: [v] int64, train rows of each value.
    """

    def __init__(self, values: NDArray[Any], counts: NDArray[np.int64]) -> None:
        assert len(values) == len(counts)
        self.values: NDArray[Any] = values if values.dtype == object else values.astype(np.int64, copy=False)
        self.counts = counts.astype(np.int64, copy=False)

    @staticmethod
    def from_counts(values: NDArray[Any], counts: NDArray[np.int64], min_count: int = 1) -> "Vocabulary":
        """Keep the values (distinct, in any order; int64 or object of str) seen at least `min_count` times.

        With `min_count` 0, values that no train row has are kept too.

        >>> Vocabulary.from_counts(np.array([5, 3, 9]), np.array([1, 2, 1])).values.tolist()
        [3, 5, 9]
        """
        kept = counts >= min_count
        values, counts = values[kept], counts[kept]
        by_value = np.argsort(values, kind="stable")
        order = by_value[np.argsort(-counts[by_value], kind="stable")]
        return Vocabulary(values[order], counts[order])

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rows(self) -> int:
        """Number of ids: the values and the two reserved ones."""
        return len(self) + FIRST_ID

    def encode(self, keys: Keys) -> NDArray[np.int32]:
        """Ids of a column [n]: missing 0, unseen 1. An integer matches its decimal text and the reverse."""
        ids: NDArray[np.int32] = np.append(self.encode_values(keys.values), np.int32(PADDING))[keys.codes]
        return ids

    def encode_values(self, values: NDArray[Any]) -> NDArray[np.int32]:
        """Ids of values [m] (int64 or object of str)."""
        if self.values.dtype == object:
            texts = values.tolist() if values.dtype == object else map(str, values.tolist())
            return np.fromiter(map(self._by_text.get, texts, repeat(UNKNOWN)), np.int32, len(values))
        if values.dtype == object:
            return self._encode_text_as_integers(values)
        return self._encode_integers(values.astype(np.int64, copy=False))

    def id_of(self, value: int | str) -> int:
        """The id of one value; 1 if it is unseen."""
        return int(self.encode_values(np.array([value], object if isinstance(value, str) else np.int64))[0])

    def value_of(self, id: int) -> int | str | None:
        """The value of an id; None for padding and unknown."""
        if id < FIRST_ID:
            return None
        value: int | str = self.values[id - FIRST_ID : id - FIRST_ID + 1].tolist()[0]
        return value

    def hashes(self) -> Hashes:
        """Hash of the value of each id [rows]: 0 for padding, a constant for unknown."""
        return self._hashes

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays without objects: `counts` and `values`, or `counts`, `text` (UTF-8 bytes) and `offsets`."""
        if self.values.dtype != object:
            return {"counts": self.counts, "values": self.values}
        return {"counts": self.counts, **text_to_arrays(self.values)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> "Vocabulary":
        """The inverse of `to_arrays`."""
        values = arrays["values"] if "values" in arrays else text_from_arrays(arrays)
        return Vocabulary(values, arrays["counts"])

    @cached_property
    def _by_text(self) -> dict[str, int]:
        return {value: id for id, value in enumerate(self.values.tolist(), FIRST_ID)}

    @cached_property
    def _by_integer(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        order = np.argsort(self.values, kind="stable")
        return self.values[order], (order + FIRST_ID).astype(np.int32)

    @cached_property
    def _hashes(self) -> Hashes:
        reserved = np.array([0, UNKNOWN], np.uint64)
        reserved[UNKNOWN] = splitmix64(reserved)[UNKNOWN]
        return np.concatenate([reserved, hash64(self.values)])

    def _encode_integers(self, values: NDArray[np.int64]) -> NDArray[np.int32]:
        known, ids = self._by_integer
        if not len(known):
            return np.full(len(values), UNKNOWN, np.int32)
        at = np.minimum(np.searchsorted(known, values), len(known) - 1)
        return np.where(known[at] == values, ids[at], np.int32(UNKNOWN))

    def _encode_text_as_integers(self, values: NDArray[Any]) -> NDArray[np.int32]:
        parsed = [_integer(value) for value in values.tolist()]
        ids = self._encode_integers(np.array([0 if number is None else number for number in parsed], np.int64))
        ids[np.array([number is None for number in parsed], bool)] = UNKNOWN
        return ids


def text_to_arrays(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Text as `text` (its UTF-8 bytes, one after the other) and `offsets` [m + 1]."""
    encoded = [value.encode("utf-8", "surrogatepass") for value in values.tolist()]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    return {"text": np.frombuffer(b"".join(encoded), np.uint8), "offsets": offsets}


def text_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The inverse of `text_to_arrays`: an object array of str."""
    data, offsets = arrays["text"].tobytes(), arrays["offsets"].tolist()
    values = np.empty(len(offsets) - 1, object)
    values[:] = [data[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(offsets)]
    return values


def _integer(text: str) -> int | None:
    if len(text) > 20 or not _DECIMAL.fullmatch(text):
        return None
    return int(text) if int(text) in INT64 else None
