"""Reading tables: files and frames become one `Source` that gives its rows in order, chunk by chunk.

Parquet, Arrow (IPC), CSV and TSV files, lists of them, and polars, pandas and Arrow frames. A CSV or TSV file may be
compressed with xz; it is unpacked beside the system's temporary files. Values of CSV and TSV files are read as text
and parsed where the schema asks for numbers, so that "007" stays "007"; an empty field is a missing value.
"""

import csv
import lzma
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from weft.errors import DataError, UnknownColumn, WeftError, near

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".ipc", ".feather")
ALLOWED = "Parquet (.parquet), Arrow (.arrow, .ipc, .feather), .csv, .tsv, .csv.xz or .tsv.xz"


class Chunk(NamedTuple):
    """Consecutive rows of one file.

    Attributes:
        frame: The rows.
        file: The file's name, or the table's for a frame.
        start: Row number of the first one within the file, from 0.
    """

    frame: pl.DataFrame
    file: str
    start: int


class _Text(NamedTuple):
    """A text file as it lies on disk; asked what is wrong with it once polars has refused it."""

    path: Path
    separator: str

    def fault(self) -> str | None:
        """The first record that is no row of the table, with its number; None if there is none."""
        row = 0  # how many were looked at
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            records = csv.reader(file, delimiter=self.separator, strict=True)
            try:
                columns = len(next(records, []))
                for row, fields in enumerate(records, start=1):
                    if len(fields) > columns:
                        return f"row {row - 1} has {len(fields)} fields, the header has {columns}"
                    "".join(fields).encode()
            except csv.Error as error:
                return f"row {row}: {error}"
            except UnicodeEncodeError:
                return f"row {row - 1} is no UTF-8 text"
        return None


class _Part(NamedTuple):
    name: str
    lazy: pl.LazyFrame
    rows: int
    types: dict[str, pl.DataType]
    text: _Text | None = None


class Source:
    """A table that is read in order; its parts (files) have one and the same set of needed columns."""

    def __init__(self, name: str, parts: Sequence[_Part]) -> None:
        self.name = name
        self._parts = tuple(parts)

    def __len__(self) -> int:
        """Rows of all parts together."""
        return sum(part.rows for part in self._parts)

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Names and types of the first part's columns."""
        return self._parts[0].types

    def types(self, name: str) -> list[pl.DataType]:
        """The types of a column in the parts that have it."""
        return [part.types[name] for part in self._parts if name in part.types]

    def require(self, names: Sequence[str]) -> None:
        """Raises UnknownColumn, naming the file, where one of the parts lacks a column."""
        for part in self._parts:
            for name in names:
                if name not in part.types:
                    raise UnknownColumn(
                        f"{part.name!r} has no column {name!r} that the schema names; {near(name, part.types)}"
                    )

    def chunks(self, names: Sequence[str], rows: int) -> Iterator[Chunk]:
        """The columns `names` of all rows, in order, at most `rows` rows at a time, files one after the other."""
        self.require(names)
        for part in self._parts:
            start = 0
            for frame in _even(part, list(names), rows):
                yield Chunk(frame, part.name, start)
                start += frame.height

    def read(self, names: Sequence[str]) -> list[Chunk]:
        """All rows at once, one chunk a file."""
        return list(self.chunks(names, max(1, max(part.rows for part in self._parts))))


def open_table(table: Any, name: str = "table") -> Source:
    """Open a file, a list of files, or a frame.

    Args:
        table: A path or a polars, pandas or Arrow frame, or several of them, read one after the other.
        name: What messages call a frame.

    Raises:
        DataError: The file cannot be read, is empty, or has a column twice.
    """
    if isinstance(table, list | tuple):
        if not table:
            raise DataError(f"the list of files of {name!r} is empty; name at least one file")
        parts = [_open_part(part, name) for part in table]
        return Source(_joined_name([part.name for part in parts]), parts)
    part = _open_part(table, name)
    return Source(part.name, [part])


def _joined_name(names: list[str]) -> str:
    """What messages call several tables together.

    >>> _joined_name(["a.csv"]), _joined_name(["a.csv", "b.csv", "c.csv"])
    ('a.csv', 'a.csv and 2 more')
    """
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _open_part(table: Any, name: str) -> _Part:
    part = _open_file(Path(table)) if isinstance(table, str | os.PathLike) else _open_frame(table, name)
    if part.rows == 0:
        raise DataError(f"{part.name!r} has no rows; give a table with at least one row")
    return part


def _open_file(path: Path) -> _Part:
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder; name the files in it, one by one")
    if not path.is_file():
        raise DataError(f"the file {str(path)!r} does not exist; give the path of a table")
    if path.stat().st_size == 0:
        raise DataError(f"{str(path)!r} is empty (0 bytes); write the table again")
    suffix = path.with_suffix("").suffix if path.suffix == ".xz" else path.suffix
    if path.suffix == ".xz" and suffix not in SEPARATORS:
        raise DataError(f"{str(path)!r}: only CSV and TSV files are read with .xz; allowed are {ALLOWED}")
    return _open_unpacked(path) if path.suffix == ".xz" else _scan(path, str(path), suffix)


def _open_unpacked(path: Path) -> _Part:
    folder = Path(tempfile.mkdtemp(prefix="weft-"))
    unpacked = folder / path.with_suffix("").name
    try:
        with lzma.open(path) as packed, unpacked.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        part = _scan(unpacked, str(path), unpacked.suffix)
    except (lzma.LZMAError, EOFError) as error:
        shutil.rmtree(folder)
        raise DataError(f"{str(path)!r} is no complete xz file ({error}); fetch it again") from error
    except BaseException:
        shutil.rmtree(folder)
        raise
    weakref.finalize(part.lazy, shutil.rmtree, folder, ignore_errors=True)
    return part


def _scan(path: Path, name: str, suffix: str) -> _Part:
    text = _Text(path, SEPARATORS[suffix]) if suffix in SEPARATORS else None
    with reading(name, text):
        if suffix in PARQUET:
            return _part(name, pl.scan_parquet(path, glob=False))
        if suffix in ARROW:
            return _part(name, pl.scan_ipc(path))
        if text is not None:
            _check_header(text, name)
            lazy = pl.scan_csv(path, separator=text.separator, infer_schema=False, glob=False)
            return _part(name, lazy)._replace(text=text)
    raise DataError(f"{name!r}: the format {suffix!r} is not known; allowed are {ALLOWED}")


def _part(name: str, lazy: pl.LazyFrame) -> _Part:
    types = dict(lazy.collect_schema())
    return _Part(name, lazy, lazy.select(pl.len()).collect().item() if types else 0, types)


def _check_header(text: _Text, name: str) -> None:
    with text.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            header = next(csv.reader(file, delimiter=text.separator), [])
        except csv.Error as error:
            raise DataError(f"{name!r}: the header cannot be read ({error}); write column names into it") from error
    if any("\ufffd" in column for column in header):
        raise DataError(f"{name!r}: the header is no UTF-8 text; save the file as UTF-8")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(f"{name!r} has the column {twice[0]!r} twice; rename or drop one of them")


def _open_frame(table: Any, name: str) -> _Part:
    with reading(name, mend="give every column one type and a name of its own"):
        if isinstance(table, pl.LazyFrame):
            return _part(name, table)
        if isinstance(table, pl.DataFrame):
            return _part(name, table.lazy())
        if type(table).__module__.split(".")[0] == "pandas":
            return _part(name, pl.from_pandas(table).lazy())
        if hasattr(table, "__arrow_c_stream__"):
            return _part(name, pl.DataFrame(table).lazy())
    raise DataError(
        f"{name!r} is a {type(table).__name__}; give a path, a list of paths, or a polars, pandas or Arrow frame"
    )


def _even(part: _Part, names: list[str], rows: int) -> Iterator[pl.DataFrame]:
    """Chunks of exactly `rows` rows (the last one less), whatever the pieces that polars reads."""
    held: list[pl.DataFrame] = []
    count = 0
    with reading(part.name, part.text):
        for piece in part.lazy.select(names).collect_batches(chunk_size=rows, maintain_order=True):
            held.append(piece)
            count += piece.height
            while count >= rows:
                frame = pl.concat(held) if len(held) > 1 else held[0]
                yield frame[:rows]
                held, count = [frame[rows:]], count - rows
        if count:
            yield pl.concat(held)


@contextmanager
def reading(
    name: str, text: _Text | None = None, mend: str = "it may be cut short or damaged, write it again"
) -> Iterator[None]:
    """Turn what goes wrong while a table is read into a DataError that names it, and the row of a text file."""
    try:
        yield
    except pl.exceptions.DuplicateError as error:
        raise DataError(f"{name!r} has a column twice ({_first_line(error)}); rename or drop one of them") from error
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        ValueError,
        TypeError,
        ImportError,
    ) as error:
        if isinstance(error, WeftError):
            raise
        fault = text.fault() if text is not None else None
        raise DataError(f"{name!r} cannot be read ({fault or _first_line(error)}); {mend}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
