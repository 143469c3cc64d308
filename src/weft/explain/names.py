"""What ids stand for, in words."""

import numpy as np

from weft.batch import FIRST_ID, PADDING
from weft.transforms.encode import Transforms
from weft.transforms.layout import bucketed, table_of
from weft.transforms.rows import Rows


def value_name(transforms: Transforms, field: str, id: int) -> str:
    """The external value of an id of a field that is no cross: a value, an interval, or which bucket of a hash."""
    if id < FIRST_ID:
        return "missing" if id == PADDING else "unknown"
    dense = bucketed(transforms.schema, field)
    if dense is not None:
        return _interval(transforms.edges[dense.name], id - FIRST_ID)
    table = table_of(transforms.schema, field)
    if table not in transforms.vocabularies:
        return f"bucket {id - FIRST_ID}"
    return str(transforms.vocabularies[table].value_of(id))


def row_values(transforms: Transforms, rows: Rows) -> dict[str, str]:
    """What the first row holds, by field; numbers are scaled, crosses are left out."""
    fields = transforms.fields
    found = {field.name: f"{rows.dense[0, i]:.3g} (scaled)" for i, field in enumerate(fields.dense)}
    for i, field in enumerate(fields.ids):
        if not field.cross:
            found[field.name] = value_name(transforms, field.name, int(rows.ids[0, i]))
    for field in fields.ragged:
        if not field.cross:
            found[field.name] = ", ".join(value_name(transforms, field.name, id) for id in ids_of(rows, field.name, 0))
    return found


def ids_of(rows: Rows, field: str, row: int) -> list[int]:
    """The ids of a set or sequence of one row."""
    sets = rows.ragged[field]
    ids: list[int] = sets.values[int(sets.offsets[row]) : int(sets.offsets[row + 1])].tolist()
    return ids


def _interval(edges: np.ndarray[tuple[int], np.dtype[np.float64]], place: int) -> str:
    """The interval of a bucket.

    >>> [_interval(np.array([1.0, 2.5]), place) for place in (0, 1, 2)]
    ['below 1', '1 to 2.5', '2.5 and more']
    """
    if not len(edges):
        return "any"
    if place == 0:
        return f"below {edges[0]:g}"
    return f"{edges[-1]:g} and more" if place == len(edges) else f"{edges[place - 1]:g} to {edges[place]:g}"
