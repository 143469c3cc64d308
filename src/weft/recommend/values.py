"""The values of an item feature over the catalogue, which rules read: an artist, genres, or the item itself.

Dimension key: I items, V values.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.batch import FIRST_ID
from weft.errors import ConfigError, near
from weft.schema import Schema
from weft.transforms.encode import Transforms
from weft.transforms.hashing import bucket_ids, hash64
from weft.transforms.layout import bucketed, table_of
from weft.transforms.rows import RaggedArrays, Rows, offsets_of

Mask = NDArray[np.bool_]


def feature_names(schema: Schema, transforms: Transforms) -> tuple[str, ...]:
    """The features that rules can read: categorical and multi-hot ones of the item's side, and the item role."""
    fields = transforms.fields.of("item")
    names = [field.name for field in (*fields.ids, *fields.ragged)]
    return tuple(dict.fromkeys([*names, str(schema.roles.item)]))


def values_of(items: Rows, transforms: Transforms, feature: str) -> RaggedArrays:
    """The values of a feature of each item [I]; an unknown or missing value is none.

    Args:
        items: The catalogue's rows of the item's side.
        transforms: For the columns.
        feature: One of `feature_names`.
    """
    fields = transforms.fields.of("item")
    names = [field.name for field in fields.ids]
    if feature == transforms.schema.roles.item:
        every = np.arange(len(items), dtype=np.int32)
        return _known(RaggedArrays(every, np.arange(len(items) + 1)))
    if feature in names:
        ids = np.ascontiguousarray(items.ids[:, names.index(feature)])
        return _known(RaggedArrays(ids, np.arange(len(items) + 1)))
    return _known(items.ragged[feature])


def _known(sets: RaggedArrays) -> RaggedArrays:
    kept = np.asarray(sets.values) >= FIRST_ID
    return RaggedArrays(sets.values[kept], offsets_of(kept)[sets.offsets])


def id_of(transforms: Transforms, feature: str, value: str | int, item_id: int) -> int:
    """The id of a feature's value; ConfigError with near values where training has not seen it.

    Args:
        transforms: Whose vocabularies.
        feature: One of `feature_names`.
        value: As in the tables.
        item_id: The id of the item that the value names, where the feature is the item role.
    """
    schema = transforms.schema
    if feature == schema.roles.item:
        found, known = item_id, transforms.item_ids
    else:
        vocabulary = transforms.vocabularies.get(table_of(schema, feature))
        if vocabulary is None:
            return _hashed(transforms, feature, value)
        found, known = vocabulary.id_of(value), vocabulary
    if found < FIRST_ID:
        assert known is not None
        some = [str(name) for name in known.values[:10_000].tolist()]
        raise ConfigError(f"{feature!r} has no value {value!r}; {_short(near(str(value), some))}")
    return found


def _hashed(transforms: Transforms, feature: str, value: str | int) -> int:
    field = next(f for f in (*transforms.fields.ids, *transforms.fields.ragged) if f.name == feature)
    if bucketed(transforms.schema, feature) is not None or field.cross:
        raise ConfigError(f"the values of {feature!r} have no names; choose a categorical or multi-hot feature")
    return int(bucket_ids(hash64(np.array([value], object)), field.rows - FIRST_ID)[0])


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]} ..."


def having(sets: RaggedArrays, values: NDArray[np.integer[Any]], count: int) -> Mask:
    """Which items [I] have at least one of some values; values lie below `count`."""
    wanted = np.zeros(count, bool)
    wanted[values] = True
    hits = offsets_of(wanted[sets.values])
    return hits[sets.offsets[1:]] > hits[sets.offsets[:-1]]


class Owners:
    """The items of each value, for looking the other way round."""

    def __init__(self, sets: RaggedArrays) -> None:
        item = np.repeat(np.arange(len(sets.offsets) - 1), np.diff(sets.offsets))
        order = np.argsort(sets.values, kind="stable")
        self._items = item[order]
        self._offsets = offsets_of(np.bincount(sets.values, minlength=1))
        self._sets = sets

    def sharing(self, items: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The items, each once, that share a value with one of some items."""
        values = np.unique(self._sets.take(items.astype(np.int64)).values)
        parts = [self._items[self._offsets[value] : self._offsets[value + 1]] for value in values.tolist()]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
