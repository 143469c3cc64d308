"""The weights that a wide part gives the crosses of the schema, largest first, with the values they stand for."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import nn

from weft.batch import FIRST_ID, Field, Fields
from weft.explain.explanation import CrossWeight
from weft.explain.names import ids_of, value_name
from weft.layers import Embedding
from weft.schema import Cross
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows

ROWS_AT_ONCE = 1_000_000


def largest_crosses(model: nn.Module, transforms: Transforms, train: Rows, *, top: int = 30) -> tuple[CrossWeight, ...]:
    """The combinations with the largest weights by size, each with its values; none where the model has no wide part.

    Args:
        model: One with a module `wide` over all fields.
        transforms: For the values.
        train: Rows in which the combinations are looked up.
        top: At most so many.
    """
    fields = transforms.fields
    crosses = [field for field in (*fields.ids, *fields.ragged) if field.cross]
    weights = {field.name: weight for field in crosses for weight in _weights(model, field)}
    ranked = [
        (abs(float(weight)), float(weight), name, id)
        for name, of_cross in weights.items()
        for id, weight in enumerate(of_cross.tolist())
        if id >= FIRST_ID and weight != 0
    ]
    chosen = sorted(ranked, key=lambda one: -one[0])[:top]
    values = {
        name: _combinations(transforms, train, name, {id for _, _, other, id in chosen if other == name})
        for name in weights
    }
    return tuple(
        CrossWeight(cross=name, values=values[name][id], weight=weight, rows=_rows(transforms, name, id))
        for _, weight, name, id in chosen
        if id in values[name]
    )


def _weights(model: nn.Module, field: Field) -> Iterator[NDArray[np.float32]]:
    """The weights of a cross [rows] for the first output."""
    for path, layer in model.named_modules():
        if "wide" in path.split(".") and isinstance(layer, Embedding) and field.table in layer.slices:
            yield layer.table(field.table)[:, 0].cpu().numpy()


def _rows(transforms: Transforms, name: str, id: int) -> int | None:
    vocabulary = transforms.crosses.get(name)
    return None if vocabulary is None else int(vocabulary.counts[id - FIRST_ID])


def _combinations(transforms: Transforms, train: Rows, name: str, wanted: set[int]) -> dict[int, dict[str, str]]:
    """The values that ids of a cross stand for, found in the rows that have them."""
    found: dict[int, dict[str, str]] = {}
    for id, row in _first_rows(transforms.fields, train, name, wanted):
        feature = transforms.schema.feature(name)
        assert isinstance(feature, Cross)
        parts = [_part(transforms.fields, train, part, row) for part in feature.of]
        ids = next(ids for ids in product(*parts) if transforms.cross_id(name, ids) == id)
        found[id] = {part: value_name(transforms, part, of) for part, of in zip(feature.of, ids, strict=True)}
    return found


def _first_rows(fields: Fields, train: Rows, name: str, wanted: set[int]) -> Iterator[tuple[int, int]]:
    """Each wanted id of a cross and the first row that has it."""
    missing = set(wanted)
    for start in range(0, len(train), ROWS_AT_ONCE):
        if not missing:
            return
        ids, row = _column(fields, train, name, start)
        for id in missing & set(np.unique(ids).tolist()):
            yield id, int(row[np.argmax(ids == id)])
            missing.discard(id)


def _column(fields: Fields, train: Rows, name: str, start: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ids of a field in some rows and the row of each."""
    stop = min(start + ROWS_AT_ONCE, len(train))
    if name not in train.ragged:
        return train.ids[start:stop, fields.column(name)], np.arange(start, stop)
    sets = train.ragged[name].take(slice(start, stop))
    return sets.values, np.repeat(np.arange(start, stop), np.diff(sets.offsets))


def _part(fields: Fields, rows: Rows, name: str, row: int) -> list[int]:
    return ids_of(rows, name, row) if name in rows.ragged else [int(rows.ids[row, fields.column(name)])]
