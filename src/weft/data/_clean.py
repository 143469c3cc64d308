"""Columns of a table as the schema asks for them, with every value checked; what cannot be used is named and refused.

After cleaning a key column is Int64 or String, a number column Float64 without NaN or infinity, the time column Int64
in the schema's unit, a list column a List of keys. Null is a missing value everywhere.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl

from weft.errors import DataError
from weft.schema import UNITS_PER_SECOND, Label, Schema, TimeUnit
from weft.transforms.columns import Column, ColumnSpec, Keys, Lists, RawTable

EXACT = 2**53  # integers up to here are exact as float64
YEAR_2200 = 7_258_118_400  # seconds
DATE_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d")
BOOLEANS = {"true": 1.0, "false": 0.0}


class Place(NamedTuple):
    """Where values stand, for messages.

    Attributes:
        file: The file.
        column: The column.
        start: Row number of the first value within the file, from 0.
        lists: Where values are the elements of lists, those lists; a message then names the list's row.
    """

    file: str
    column: str
    start: int = 0
    lists: pl.Series | None = None

    def refuse(self, bad: pl.Series, values: pl.Series, mend: str) -> None:
        """Raises DataError about the first value for which `bad` is true; null is not bad."""
        if bad.any():
            first = int(bad.fill_null(False).arg_max() or 0)
            self.refuse_row(self._row(first), values[first], mend)

    def refuse_row(self, row: int, value: object, mend: str) -> None:
        """Raises DataError about one row."""
        raise DataError(f"{self.file!r}, column {self.column!r}, row {self.start + row}: {_shown(value)}; {mend}")

    def type_error(self, series: pl.Series, mend: str) -> DataError:
        """A DataError about the type of the whole column."""
        return DataError(
            f"{self.file!r}, column {self.column!r}, from row {self.start} on: type {series.dtype}; {mend}"
        )

    def _row(self, value: int) -> int:
        if self.lists is None:
            return value
        return int(np.searchsorted(lengths(self.lists).cum_sum().to_numpy(), value, side="right"))


def _shown(value: object) -> str:
    if value is None:
        return "the value is missing"
    text = repr(value.to_list() if isinstance(value, pl.Series) else value)
    return f"got {text if len(text) <= 60 else text[:60] + '...'}"


class Rule(NamedTuple):
    """What the numbers of a role may be.

    Attributes:
        whole: Only integers.
        low: The smallest one allowed.
        high: The largest one allowed.
        allowed: The mend, for the message.
    """

    allowed: str
    whole: bool = False
    low: float = -float("inf")
    high: float = float("inf")


def rules(schema: Schema) -> dict[str, Rule]:
    """The rules of the number columns that have a role."""
    roles = schema.roles
    found = {label.name: _label_rule(label) for label in roles.label}
    if roles.position:
        found[roles.position] = Rule("positions are integers from 1", whole=True, low=1, high=2**31 - 1)
    if roles.propensity:
        found[roles.propensity] = Rule("propensities lie above 0 and are at most 1", low=1e-300, high=1.0)
    if roles.weight:
        found[roles.weight] = Rule("weights are numbers from 0", low=0.0)
    return found


def _label_rule(label: Label) -> Rule:
    if label.task == "binary":
        return Rule("a binary label is 0 or 1; change the values or the label's task", whole=True, low=0, high=1)
    if label.task == "multiclass":
        top = (label.classes or 0) - 1
        return Rule(f"the label's classes are the integers 0 to {top}; set `classes`", whole=True, low=0, high=top)
    if label.task == "count":
        return Rule("a count label is an integer from 0; use the task 'regression'", whole=True, low=0, high=EXACT)
    return Rule("a label must be a number; drop the row or fill it")


def required_columns(schema: Schema) -> set[str]:
    """The columns in which no value may be missing."""
    roles = schema.roles
    named = {roles.user, roles.item, roles.time, roles.propensity, roles.weight, *(label.name for label in roles.label)}
    return {name for name in named if name}


def clean(series: pl.Series, spec: ColumnSpec, place: Place, unit: TimeUnit = "s") -> pl.Series:
    """A column as its `spec` asks for it.

    Raises:
        DataError: A value or the column's type cannot be used.
    """
    if spec.kind == "keys":
        return clean_keys(series, place)
    if spec.kind == "numbers":
        return clean_numbers(series, place)
    if spec.kind == "time":
        return clean_time(series, place, unit)
    return clean_lists(series, place, spec.separator)


# Keys


def clean_keys(series: pl.Series, place: Place) -> pl.Series:
    """Keys: integers as Int64; text, booleans and dates as String; floating-point numbers must be whole."""
    kind = series.dtype
    if kind.is_integer():
        return _to_int64(series, place)
    if kind.is_float():
        return _whole(series, place)
    if kind == pl.Null or kind.is_temporal() or isinstance(kind, pl.Categorical | pl.Enum | pl.Boolean):
        return series.cast(pl.String)
    if kind != pl.String:
        raise place.type_error(series, "a column of keys holds text, integers, booleans or dates; convert it")
    return series


def keeps_integers(kind: pl.DataType) -> bool:
    """Whether the keys (or a list's elements) of a column of this type come out as integers, not as text."""
    if isinstance(kind, pl.List | pl.Array):
        kind = kind.inner  # type: ignore[assignment]
    return kind.is_integer() or kind.is_float()


def _to_int64(series: pl.Series, place: Place) -> pl.Series:
    converted = series.cast(pl.Int64, strict=False)
    place.refuse(converted.is_null() & series.is_not_null(), series, "keys must fit into 64 bits; store them as text")
    return converted


def _whole(series: pl.Series, place: Place) -> pl.Series:
    values = series.cast(pl.Float64).fill_nan(None)
    bad = ~((values == values.round()) & (values.abs() <= EXACT))
    place.refuse(bad, series, "keys must be whole numbers or text; convert them, or use a dense feature")
    return values.cast(pl.Int64)


# Numbers


def clean_numbers(series: pl.Series, place: Place) -> pl.Series:
    """Float64 without NaN; text is parsed, `true` and `false` are 1 and 0."""
    kind = series.dtype
    if isinstance(kind, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        values = _parse(series, place)
    elif kind.is_numeric() or isinstance(kind, pl.Boolean | pl.Null):
        values = series.cast(pl.Float64)
    else:
        raise place.type_error(series, "numbers are needed; convert the column, or make the feature categorical")
    values = values.fill_nan(None)
    place.refuse(values.is_infinite(), series, "numbers must be finite; drop the row or leave it empty")
    return values


def _parse(series: pl.Series, place: Place) -> pl.Series:
    text = series.str.strip_chars()
    values = text.cast(pl.Float64, strict=False)
    failed = values.is_null() & text.is_not_null() & (text != "")
    if failed.any():
        spoken = text.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Float64)
        values = values.zip_with(~failed, spoken)
        place.refuse(failed & spoken.is_null(), series, "a number is needed; mend the value or leave it empty")
    return values


def check_rule(values: pl.Series, rule: Rule, place: Place) -> None:
    """Raises DataError where a number of a role is not allowed; missing ones pass."""
    bad = (values < rule.low) | (values > rule.high)
    if rule.whole:
        bad |= values != values.round()
    place.refuse(bad, values, rule.allowed)


# Time


def clean_time(series: pl.Series, place: Place, unit: TimeUnit) -> pl.Series:
    """Integers since 1970 in the schema's unit; a datetime column is converted."""
    if series.dtype.is_temporal():
        values = _since_1970(series, place, unit)
    elif series.dtype == pl.String:
        values = _parse_time(series, place, unit)
    elif series.dtype.is_integer() or series.dtype.is_float() or series.dtype == pl.Null:
        values = _whole(series, place) if series.dtype.is_float() else _to_int64(series, place)
    else:
        raise place.type_error(series, "times are integers since 1970 or datetimes; convert the column")
    bad = (values < 0) | (values > YEAR_2200 * UNITS_PER_SECOND[unit])
    allowed = f"times lie between 1970 and 2200, in the unit {unit!r}; mend the row or set `time_unit` in [roles]"
    place.refuse(bad, series, allowed)
    return values


def _since_1970(series: pl.Series, place: Place, unit: TimeUnit) -> pl.Series:
    if not isinstance(series.dtype, pl.Datetime | pl.Date):
        raise place.type_error(series, "times are integers since 1970 or datetimes; convert the column")
    return series.dt.epoch(unit).cast(pl.Int64)


def _parse_time(series: pl.Series, place: Place, unit: TimeUnit) -> pl.Series:
    text = series.str.strip_chars().str.strip_suffix("Z")
    values = text.cast(pl.Int64, strict=False)
    for form in DATE_FORMATS:
        if not values.null_count():
            break
        moments = text.str.to_datetime(form, time_unit="us", strict=False)
        values = values.zip_with(values.is_not_null(), moments.dt.epoch(unit).cast(pl.Int64))
    failed = values.is_null() & text.is_not_null() & (text != "")
    place.refuse(failed, series, "times are integers since 1970 or dates as 2024-01-31 23:59:59; mend the value")
    return values


# Lists


def lengths(lists: pl.Series) -> pl.Series:
    """Elements of each list; a missing list has none."""
    return lists.list.len().fill_null(0).cast(pl.Int64)


def flat(lists: pl.Series) -> pl.Series:
    """The elements of all lists, one after the other."""
    return lists.explode(empty_as_null=False, keep_nulls=False)


def clean_lists(series: pl.Series, place: Place, separator: str | None) -> pl.Series:
    """Lists of keys; text is split at the separator."""
    lists = _split(series, place, separator) if series.dtype == pl.String else _as_lists(series)
    if not isinstance(lists.dtype, pl.List):
        raise place.type_error(series, "a list column is needed, or text with a `separator`; convert the column")
    elements = clean_keys(flat(lists), place._replace(lists=lists))
    if lists.dtype.inner.is_float():
        return lists.list.eval(pl.element().fill_nan(None).cast(pl.Int64))
    return lists.cast(pl.List(elements.dtype))


def _as_lists(series: pl.Series) -> pl.Series:
    if isinstance(series.dtype, pl.Array):
        return series.arr.to_list()
    return series.cast(pl.List(pl.String)) if series.dtype == pl.Null else series


def _split(series: pl.Series, place: Place, separator: str | None) -> pl.Series:
    if not separator:
        raise place.type_error(series, "text needs the feature's `separator` to become a list; set it in the schema")
    return series.str.split(separator).list.eval(pl.element().filter(pl.element() != ""))


def clean_weights(series: pl.Series, keys: pl.Series, place: Place) -> pl.Series:
    """Lists of finite numbers with the lengths of `keys`."""
    lists = _as_lists(series)
    if not isinstance(lists.dtype, pl.List) or not lists.dtype.inner.is_numeric():
        raise place.type_error(series, "weights are a list column of numbers; convert the column")
    place.refuse(lengths(lists) != lengths(keys), series, "a row needs as many weights as values; mend the row")
    inside = place._replace(lists=lists)
    inside.refuse(clean_numbers(flat(lists), inside).is_null(), flat(lists), "a weight is needed for every value")
    return lists.cast(pl.List(pl.Float64))


# NumPy


def to_raw(frame: pl.DataFrame, specs: Mapping[str, ColumnSpec]) -> RawTable:
    """The columns of a clean frame as NumPy arrays, sets with their weights where those are there."""
    weights = {name: frame[spec.weights] for name, spec in specs.items() if spec.weights in frame.columns}
    with ThreadPoolExecutor(pl.thread_pool_size()) as threads:
        columns = threads.map(lambda name: to_column(frame[name], specs[name], weights.get(name)), specs)
        return dict(zip(specs, columns, strict=True))


def to_column(series: pl.Series, spec: ColumnSpec, weights: pl.Series | None = None) -> Column:
    """The raw column of a clean series."""
    if spec.kind == "keys":
        return to_keys(series)
    if spec.kind == "numbers":
        return series.fill_null(float("nan")).to_numpy()
    if spec.kind == "time":
        return series.to_numpy()
    offsets = np.zeros(len(series) + 1, np.int64)
    np.cumsum(lengths(series).to_numpy(), out=offsets[1:])
    return Lists(offsets, to_keys(flat(series)), None if weights is None else flat(weights).to_numpy())


def to_keys(series: pl.Series) -> Keys:
    """Codes and distinct values of clean keys."""
    values = series.drop_nulls().unique(maintain_order=True)
    if series.dtype == pl.String:
        codes = series.cast(pl.Enum(values)).to_physical().cast(pl.Int32)
        return Keys(codes.fill_null(-1).to_numpy(), values.to_numpy())
    known = np.sort(values.to_numpy())
    codes_of_rows = np.searchsorted(known, series.fill_null(0).to_numpy())
    return Keys(np.where(series.is_null().to_numpy(), -1, codes_of_rows), known)
