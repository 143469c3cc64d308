"""Raw columns: what `data` makes from tables and what the online door makes from Python values.

Dimension key: n rows, m distinct values, nnz list elements.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Series
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import isinf, isnan
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.errors import DataError, SchemaError
from weft.schema import UNITS_PER_SECOND, Categorical, Count, Dense, MultiHot, Schema, Sequence

Ints = NDArray[np.int64]
Numbers = NDArray[np.float64]

INT64 = range(-(2**63), 2**63)
LARGEST = 1e150
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOOLEANS = {"true": 1.0, "false": 0.0}


class Keys(NamedTuple):
    """A categorical column: codes into its distinct values.

    Attributes:
        codes: [n] integer, -1 where the value is missing.
        values: [m] int64, or object array of str; distinct.
    """

    codes: NDArray[np.integer[Any]]
    values: NDArray[Any]


class Lists(NamedTuple):
    """A list column: row i owns elements offsets[i]:offsets[i + 1].

    Attributes:
        offsets: [n + 1] int64, from 0.
        keys: The elements, flat; a missing element (code -1) is left out when encoded.
        weights: [nnz] float64, or None for ones.
    """

    offsets: Ints
    keys: Keys
    weights: Numbers | None = None


Column = Keys | Lists | Numbers | Ints
"""Numbers are float64 with NaN for missing; the time column is int64."""
RawTable = dict[str, Column]
"""Column name to column, all of one length."""


class ColumnSpec(NamedTuple):
    """What a column of a table must be turned into.

    Attributes:
        kind: `keys`, `lists`, `numbers` or `time` (int64 in the schema's unit).
        separator: With `lists`: splits text into elements; empty elements are dropped.
        weights: With `lists`: the list column that becomes `Lists.weights`.
    """

    kind: Literal["keys", "lists", "numbers", "time"]
    separator: str | None = None
    weights: str | None = None


def feature_columns(schema: Schema) -> dict[str, ColumnSpec]:
    """The columns that features need to be encoded, in schema order."""
    columns: dict[str, ColumnSpec] = {}
    for feature in schema.features:
        match feature:
            case Dense():
                columns[feature.name] = ColumnSpec("numbers")
            case Categorical():
                columns[feature.name] = ColumnSpec("keys")
            case MultiHot():
                columns[feature.name] = ColumnSpec("lists", feature.separator, feature.weights)
            case Sequence(of=None):
                columns[feature.name] = ColumnSpec("lists", feature.separator)
    return columns


def role_columns(schema: Schema) -> dict[str, ColumnSpec]:
    """The columns of roles that are no features themselves; a column that is both stands in `feature_columns`."""
    roles = schema.roles
    columns = {name: ColumnSpec("keys") for name in (roles.user, roles.item, roles.group) if name is not None}
    if roles.time is not None:
        columns[roles.time] = ColumnSpec("time")
    numbers = (roles.position, roles.propensity, roles.weight, *(label.name for label in roles.label))
    columns |= {name: ColumnSpec("numbers") for name in numbers if name is not None}
    features = feature_columns(schema)
    return {name: spec for name, spec in columns.items() if name not in features}


def history_columns(schema: Schema) -> dict[str, ColumnSpec]:
    """The further columns that only events need: what a Count sums (`of`), what a Sequence asks (`where`)."""
    counted = [f.of for f in schema.features if isinstance(f, Count) and f.of is not None]
    asked = [f.where for f in schema.features if isinstance(f, Sequence) and f.where is not None]
    known = {**feature_columns(schema), **role_columns(schema)}
    return {name: ColumnSpec("numbers") for name in (*counted, *asked) if name not in known}


def table_columns(schema: Schema) -> dict[str, ColumnSpec]:
    """All columns that the schema reads: of features, roles and events."""
    return {**feature_columns(schema), **role_columns(schema), **history_columns(schema)}


def from_values(schema: Schema, rows: Series[Mapping[str, object]]) -> RawTable:
    """Make raw columns of Python values, the online door: one mapping a row, a missing key or None is missing.

    Every feature column is there; a role or event column only when a row names it.

    Raises:
        DataError: a value of the wrong type, an infinity, an integer beyond int64; names column and row.
    """
    unit = UNITS_PER_SECOND[schema.roles.time_unit]
    specs = feature_columns(schema)
    further = {**role_columns(schema), **history_columns(schema)}
    specs |= {name: spec for name, spec in further.items() if any(name in row for row in rows)}
    return {name: _column(name, spec, rows, unit) for name, spec in specs.items()}


def keys_of(values: Iterable[object], *, column: str) -> Keys:
    """Keys of Python values: text, integers (also integral floats), booleans (as `true` and `false`), None.

    >>> keys_of(["b", None, "b", "a"], column="genre").codes.tolist()
    [0, -1, 0, 1]
    """
    return _factorize([_key(value, column, row) for row, value in enumerate(values)])


def as_numbers(column: Column, *, name: str) -> Numbers:
    """A column as numbers, also where it is a categorical feature whose values are numbers or booleans."""
    if isinstance(column, Lists):
        raise SchemaError(f"column {name!r} is used as a number, and holds lists; name a column of numbers")
    if not isinstance(column, Keys):
        return column.astype(np.float64, copy=False)
    values: Numbers = np.array([_parsed(value, name) for value in column.values.tolist()] + [np.nan])
    numbers: Numbers = values[column.codes]
    return numbers


def as_times(column: Column, *, name: str) -> Ints:
    """A column as int64 moments."""
    if not isinstance(column, Keys | Lists) and column.dtype == np.int64:
        return column.astype(np.int64, copy=False)
    numbers = as_numbers(column, name=name)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise DataError(f"column {name!r}, row {row}: the time is missing; every row needs one")
    return numbers.astype(np.int64)


def bounded(values: Numbers) -> Numbers:
    """Numbers within 1e150 of zero, so that their squares and differences stay finite; NaN stays NaN."""
    return np.clip(values, -LARGEST, LARGEST)


def table_rows(table: RawTable) -> int:
    """The number of rows of a raw table."""
    assert table, "a raw table has at least one column"
    column = next(iter(table.values()))
    match column:
        case Keys():
            return len(column.codes)
        case Lists():
            return len(column.offsets) - 1
        case _:
            return len(column)


def _column(name: str, spec: ColumnSpec, rows: Series[Mapping[str, object]], unit: int) -> Column:
    values = [row.get(name) for row in rows]
    match spec.kind:
        case "keys":
            return keys_of(values, column=name)
        case "numbers":
            return _numbers(values, name)
        case "time":
            return np.array([_time(value, unit, name, row) for row, value in enumerate(values)], np.int64)
        case "lists":
            weights = None if spec.weights is None else [row.get(spec.weights) for row in rows]
            return _lists(values, weights, spec, name)


def _wrong(column: str, row: int, value: object, allowed: str) -> DataError:
    return DataError(f"column {column!r}, row {row}: got {value!r:.80}; give {allowed}")


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float | np.floating) and isnan(value))


def _key(value: object, column: str, row: int) -> str | int | None:
    match value:
        case str():
            return str(value)
        case bool() | np.bool_():
            return "true" if value else "false"
        case Integral() if int(value) in INT64:
            return int(value)
    if _is_missing(value):
        return None
    if isinstance(value, float | np.floating) and value.is_integer() and int(value) in INT64:
        return int(value)
    raise _wrong(column, row, value, "text or an integer of 64 bits")


def _factorize(values: list[str | int | None]) -> Keys:
    if any(isinstance(value, str) for value in values):
        values = [None if value is None else str(value) for value in values]
    known = [value for value in dict.fromkeys(values) if value is not None]
    codes: dict[str | int | None, int] = {None: -1, **{value: code for code, value in enumerate(known)}}
    kind = object if known and isinstance(known[0], str) else np.int64
    return Keys(np.array([codes[value] for value in values], np.int32), np.array(known, kind))


def _numbers(values: Iterable[object], column: str) -> Numbers:
    return np.array([_number(value, column, row) for row, value in enumerate(values)], np.float64)


def _number(value: object, column: str, row: int) -> float:
    if _is_missing(value):
        return np.nan
    if isinstance(value, Real | np.bool_):
        try:
            number = float(value)
        except OverflowError:
            number = np.inf
        if not isinf(number):
            return number
    raise _wrong(column, row, value, "a finite number")


def _time(value: object, unit: int, column: str, row: int) -> int:
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return (moment - _EPOCH) // timedelta(microseconds=1) * unit // 1_000_000
    key = None if isinstance(value, bool | np.bool_) else _key(value, column, row)
    if isinstance(key, int):
        return key
    raise _wrong(column, row, value, "an integer since 1970 in `roles.time_unit`, or a datetime")


def _lists(values: list[object], weights: list[object] | None, spec: ColumnSpec, column: str) -> Lists:
    elements = [_elements(value, spec.separator, column, row) for row, value in enumerate(values)]
    lengths = [len(of_row) for of_row in elements]
    flat = [_key(value, column, row) for row, of_row in enumerate(elements) for value in of_row]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Lists(offsets, _factorize(flat), None if weights is None else _weights(weights, lengths, str(spec.weights)))


def _weights(values: list[object], lengths: list[int], column: str) -> Numbers:
    weights = [_elements(value, None, column, row) for row, value in enumerate(values)]
    for row, (of_row, length) in enumerate(zip(weights, lengths, strict=True)):
        if len(of_row) != length:
            raise _wrong(column, row, values[row], f"one weight for each of the {length} values")
    return _numbers(chain.from_iterable(weights), column)


def _elements(value: object, separator: str | None, column: str, row: int) -> Series[object]:
    if _is_missing(value):
        return ()
    if isinstance(value, str) and separator is not None:
        return [element for element in value.split(separator) if element]
    if isinstance(value, list | tuple):
        return value
    raise _wrong(column, row, value, "a list" if separator is None else f"a list, or text separated by {separator!r}")


def _parsed(value: Any, column: str) -> float:
    try:
        return _BOOLEANS[value] if value in _BOOLEANS else float(value)
    except ValueError:
        raise DataError(f"column {column!r} is used as a number; got {value!r:.80}, give numbers") from None
