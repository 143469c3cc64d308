"""Rows: an encoded table as NumPy arrays, in memory or memory-mapped, and the batches cut from it.

Dimension key: n rows, F id columns, D dense columns, T labels, P key columns, nnz values of a ragged field.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.batch import Batch, Ragged

ALL_SIDES = ("user", "item", "context", "pair")
COLUMNS = ("ids", "dense", "keys", "label", "position", "propensity", "weight", "user", "item", "group", "time")
FACTS = "rows.json"

Ints = NDArray[np.int64]
Index = NDArray[np.integer[Any]] | NDArray[np.bool_] | slice


def rows_of(offsets: Ints) -> Ints:
    """The row of each element: offsets [n + 1] to [nnz].

    >>> rows_of(np.array([0, 2, 2, 3]))
    array([0, 0, 2])
    """
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def offsets_of(lengths: Ints | NDArray[np.bool_]) -> Ints:
    """Lengths [n] to offsets [n + 1]; of a mask: how many are kept before each place."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The integers start..start + length - 1 of each pair, one range after the other.

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


class RaggedArrays(NamedTuple):
    """A set or sequence a row: row i owns values[offsets[i]:offsets[i + 1]].

    Attributes:
        values: [nnz] int32, field-local ids.
        offsets: [n + 1] int64, from 0.
        weights: [nnz] float32, or None for ones.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None

    def take(self, index: Index) -> "RaggedArrays":
        """The sets of some rows, in the order of `index`."""
        rows = _positions(index, len(self.offsets) - 1)
        if isinstance(rows, slice):
            offsets = self.offsets[rows.start : rows.stop + 1]
            return self._cut(slice(offsets[0], offsets[-1]), offsets - offsets[0])
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        return self._cut(ranges(starts, lengths), offsets_of(lengths))

    def _cut(self, at: Ints | slice, offsets: Ints) -> "RaggedArrays":
        return RaggedArrays(self.values[at], offsets, None if self.weights is None else self.weights[at])


@dataclass(frozen=True, kw_only=True)
class Rows:
    """An encoded table. Its columns are those of `transforms.fields.of(*sides)`.

    Attributes:
        ids: [n, F] int32, field-local.
        dense: [n, D] float32, scaled.
        ragged: One `RaggedArrays` a set or sequence field.
        label: [n, T] float32.
        position: [n] int32, from 1.
        propensity: [n] float32.
        weight: [n] float32.
        user: [n] int32, ids of the user catalogue.
        item: [n] int32, ids of the item catalogue.
        group: [n] int64.
        time: [n] int64, in the schema's unit.
        keys: [n, P] uint64, hashes of the columns `transforms.key_columns`; 0 where missing or of another side.
        sides: The sides whose columns are here.
    """

    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    ragged: dict[str, RaggedArrays]
    keys: NDArray[np.uint64]
    label: NDArray[np.float32] | None = None
    position: NDArray[np.int32] | None = None
    propensity: NDArray[np.float32] | None = None
    weight: NDArray[np.float32] | None = None
    user: NDArray[np.int32] | None = None
    item: NDArray[np.int32] | None = None
    group: NDArray[np.int64] | None = None
    time: NDArray[np.int64] | None = None
    sides: tuple[str, ...] = ALL_SIDES

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Index) -> "Rows":
        """Some rows, in the order of `index` (integers, a mask or a slice); one gather a column."""
        rows = _positions(index, len(self))
        columns = {name: _taken(column, rows) for name, column in self.columns().items()}
        return self._with(columns, {name: ragged.take(rows) for name, ragged in self.ragged.items()})

    def bare(self) -> "Rows":
        """The rows without features and keys, for models that read the roles alone."""
        return replace(self, ids=self.ids[:, :0], dense=self.dense[:, :0], ragged={}, keys=self.keys[:, :0])

    @property
    def is_bare(self) -> bool:
        """Whether there is no feature."""
        return not (self.ids.shape[1] or self.dense.shape[1] or self.ragged)

    def batch(self, index: Index | None = None) -> Batch:
        """Some rows (all without an index) as contiguous tensors."""
        rows = slice(0, len(self)) if index is None else _positions(index, len(self))
        columns = {name: _taken(column, rows) for name, column in self.columns().items() if name != "keys"}
        wide = {
            name: column.astype(np.int64) for name, column in columns.items() if name in ("position", "user", "item")
        }
        tensors: dict[str, Any] = {name: _tensor(column) for name, column in (columns | wide).items()}
        ragged = {name: _ragged_tensor(values.take(rows)) for name, values in self.ragged.items()}
        return Batch(ragged=ragged, **tensors)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that are there, but for the ragged ones, by attribute name."""
        found = {name: getattr(self, name) for name in COLUMNS}
        return {name: column for name, column in found.items() if column is not None}

    def _with(self, columns: Mapping[str, NDArray[Any]], ragged: dict[str, RaggedArrays]) -> "Rows":
        plain: dict[str, Any] = dict(columns)
        return replace(self, ragged=ragged, **plain)

    def save(self, folder: Path) -> None:
        """Write one .npy file a column into a new folder."""
        with RowsWriter(folder) as writer:
            writer.add(self)

    @staticmethod
    def load(folder: Path, *, mmap: bool = True) -> "Rows":
        """Read what `save` or `RowsWriter` wrote; columns are memory-mapped, or read whole."""
        facts = json.loads((folder / FACTS).read_bytes())
        arrays = {name: _load(folder / f"{name}.npy", mmap) for name in facts["files"]}
        ragged = {
            name: RaggedArrays(*(arrays.get(f"ragged/{i}.{part}") for part in RaggedArrays._fields))  # type: ignore[arg-type]
            for i, name in enumerate(facts["ragged"])
        }
        columns = {name: array for name, array in arrays.items() if name in COLUMNS}
        return Rows(ragged=ragged, sides=tuple(facts["sides"]), **columns)


def concat(parts: Sequence[Rows]) -> Rows:
    """Put rows of the same columns one after the other."""
    first = parts[0]
    columns = {name: np.concatenate([part.columns()[name] for part in parts]) for name in first.columns()}
    return first._with(columns, {name: _concat_ragged([part.ragged[name] for part in parts]) for name in first.ragged})


@final
class RowsWriter:
    """Write rows chunk by chunk into a new folder; memory is bounded by a chunk, the files are those of `Rows.save`.

        with RowsWriter(folder) as writer:
            writer.add(rows)        # at least once, also with no row

    All chunks have the same columns.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._files: dict[str, _ArrayFile] = {}
        self._facts: dict[str, Any] = {}

    def add(self, rows: Rows) -> None:
        """Append rows."""
        if not self._facts:
            self._facts = {"sides": rows.sides, "ragged": list(rows.ragged)}
        assert list(rows.ragged) == self._facts["ragged"]
        for name, column in rows.columns().items():
            self._append(name, column)
        for i, ragged in enumerate(rows.ragged.values()):
            self._append_ragged(f"ragged/{i}", ragged)

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        if error is None:
            assert self._facts, "add rows at least once"
            facts = {**self._facts, "files": list(self._files)}
            (self._folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")

    def _append(self, name: str, array: NDArray[Any]) -> None:
        if name not in self._files:
            self._files[name] = _ArrayFile(self._folder / f"{name}.npy")
        self._files[name].append(array)

    def _append_ragged(self, name: str, ragged: RaggedArrays) -> None:
        written = self._files.get(f"{name}.values")
        offsets = ragged.offsets if written is None else ragged.offsets[1:] + written.rows
        self._append(f"{name}.values", ragged.values)
        self._append(f"{name}.offsets", offsets)
        if ragged.weights is not None:
            self._append(f"{name}.weights", ragged.weights)


@final
class _ArrayFile:
    """A .npy file that grows; its header, whose length does not change, is written again at the end."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file: BinaryIO = path.open("wb")
        self._like: NDArray[Any] | None = None
        self.rows = 0

    def append(self, array: NDArray[Any]) -> None:
        if self._like is None:
            self._like = array[:0]
            self._write_header()
        assert array.dtype == self._like.dtype
        assert array.shape[1:] == self._like.shape[1:]
        self._file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        assert self._like is not None
        shape = (self.rows, *self._like.shape[1:])
        header = {"descr": self._like.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


def _positions(index: Index, rows: int) -> Ints | slice:
    """A mask and negative places as integers from 0, a slice with step 1 as one of known ends."""
    if isinstance(index, slice):
        start, stop, step = index.indices(rows)
        return slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
    places = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64, copy=False)
    return np.where(places < 0, places + rows, places)


def _taken(column: NDArray[Any], rows: Ints | slice) -> NDArray[Any]:
    """The rows of a column; `take` copies whole rows where an index goes value by value."""
    return column[rows] if isinstance(rows, slice) else column.take(rows, axis=0)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def _ragged_tensor(ragged: RaggedArrays) -> Ragged:
    weights = None if ragged.weights is None else _tensor(ragged.weights)
    return Ragged(_tensor(ragged.values), _tensor(ragged.offsets), weights)


def _concat_ragged(parts: Sequence[RaggedArrays]) -> RaggedArrays:
    weights = [part.weights for part in parts if part.weights is not None]
    return RaggedArrays(
        np.concatenate([part.values for part in parts]),
        offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
        np.concatenate(weights) if weights else None,
    )


def _load(path: Path, mmap: bool) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    return array.view(np.ndarray)
