"""Encoded rows as bytes: what is kept of the rows that a model read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from weft.transforms.rows import ALL_SIDES, COLUMNS, RaggedArrays, Rows


def pack(rows: Rows) -> bytes:
    """Full rows as bytes of the safetensors format: `unpack` gives them back bit for bit."""
    assert rows.sides == ALL_SIDES
    arrays: dict[str, NDArray[np.generic]] = dict(rows.columns())
    for name, ragged in rows.ragged.items():
        parts = ragged._asdict().items()
        arrays |= {f"ragged.{part}.{name}": array for part, array in parts if array is not None}
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def unpack(data: bytes) -> Rows:
    """The rows that `pack` wrote."""
    arrays = load(data)
    names = sorted(name.removeprefix("ragged.values.") for name in arrays if name.startswith("ragged.values."))
    ragged = {
        name: RaggedArrays(*(arrays.get(f"ragged.{part}.{name}") for part in RaggedArrays._fields))  # type: ignore[arg-type]
        for name in names
    }
    columns: dict[str, Any] = {name: array for name, array in arrays.items() if name in COLUMNS}
    return Rows(ragged=ragged, **columns)
