from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from weft.errors import DataError, SchemaError
from weft.schema import Categorical, Count, Dense, Label, MultiHot, Roles, Schema, Sequence
from weft.transforms.columns import (
    ColumnSpec,
    Keys,
    Lists,
    as_numbers,
    as_times,
    feature_columns,
    from_values,
    history_columns,
    keys_of,
    role_columns,
    table_columns,
    table_rows,
)

SCHEMA = Schema(
    features=(
        Dense(name="age", side="user"),
        Categorical(name="user", side="user"),
        MultiHot(name="tags", side="item", weights="w", separator="|"),
        Sequence(name="recent", of="user", where="liked"),
        Count(name="spent", by=("user",), of="price", stat="sum"),
    ),
    roles=Roles(user="user", item="item", time="t", time_unit="ms", label=(Label(name="y"),), position="age"),
)


def column(name: str, *values: Any, **further: Any) -> Any:
    return from_values(SCHEMA, [{name: value, **further} for value in values])[name]


def test_what_each_column_must_be() -> None:
    assert feature_columns(SCHEMA) == {
        "age": ColumnSpec("numbers"),
        "user": ColumnSpec("keys"),
        "tags": ColumnSpec("lists", "|", "w"),
    }
    assert role_columns(SCHEMA) == {
        "item": ColumnSpec("keys"),
        "t": ColumnSpec("time"),
        "y": ColumnSpec("numbers"),
    }
    assert history_columns(SCHEMA) == {"price": ColumnSpec("numbers"), "liked": ColumnSpec("numbers")}
    assert len(table_columns(SCHEMA)) == 8


def test_features_are_always_there_and_roles_when_named() -> None:
    assert list(from_values(SCHEMA, [{}])) == ["age", "user", "tags"]
    table = from_values(SCHEMA, [{"user": 1, "t": 5, "y": None}, {"t": 6, "other": "x"}])
    assert list(table) == ["age", "user", "tags", "t", "y"]
    assert table_rows(table) == 2
    assert isinstance(table["user"], Keys)
    assert table["user"].codes.tolist() == [0, -1]


def test_keys_of_python_values() -> None:
    assert keys_of([3, 3.0, np.int32(3), None, float("nan"), -1], column="c").values.tolist() == [3, -1]
    mixed = keys_of(["3", 3, True, np.False_], column="c")
    assert mixed.values.tolist() == ["3", "true", "false"]
    assert mixed.codes.tolist() == [0, 0, 1, 2]
    assert keys_of([None], column="c").values.dtype == np.int64
    assert keys_of(["\x00", "\ud800", ""], column="c").codes.tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [2**63, 1.5, float("inf"), b"x", [1], {}])
def test_values_that_are_no_key(value: object) -> None:
    with pytest.raises(DataError, match=r"column 'user', row 1.*text or an integer of 64 bits"):
        column("user", 1, value)


def test_numbers() -> None:
    values = column("age", 1, 2.5, None, True, np.float32(0.5))
    np.testing.assert_array_equal(values, [1, 2.5, np.nan, 1, 0.5])


@pytest.mark.parametrize("value", ["5", float("inf"), -np.inf, 10**400, [1.0]])
def test_values_that_are_no_number(value: object) -> None:
    with pytest.raises(DataError, match=r"column 'age', row 0.*a finite number"):
        column("age", value)


def test_times() -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    assert column("t", 5, 5.0, moment, moment.replace(tzinfo=None)).tolist() == [5, 5, 1577836800000, 1577836800000]
    for value in ("2020-01-01", None, True, 1.5):
        with pytest.raises(DataError, match=r"column 't', row 0"):
            column("t", value)


def test_lists() -> None:
    lists: Lists = from_values(
        SCHEMA, [{"tags": "a||b|", "w": [1, 2.5]}, {"tags": None}, {"tags": ["b", None, 3], "w": (1, 2, None)}]
    )["tags"]  # type: ignore[assignment]
    assert lists.offsets.tolist() == [0, 2, 2, 5]
    assert lists.keys.values.tolist() == ["a", "b", "3"]
    assert lists.keys.codes.tolist() == [0, 1, 1, -1, 2]
    np.testing.assert_array_equal(lists.weights, [1, 2.5, 1, 2, np.nan])


def test_lists_that_are_none() -> None:
    with pytest.raises(DataError, match=r"column 'tags', row 0.*separated by '\|'"):
        column("tags", 5)
    with pytest.raises(DataError, match=r"column 'w', row 0.*one weight for each of the 2"):
        column("tags", ["a", "b"], w=[1.0])
    with pytest.raises(DataError, match=r"column 'tags', row 0"):
        column("tags", [b"x"], w=[1.0])


def test_a_categorical_column_as_numbers() -> None:
    values = as_numbers(keys_of(["true", "false", None, "2.5"], column="c"), name="c")
    np.testing.assert_array_equal(values, [1, 0, np.nan, 2.5])
    np.testing.assert_array_equal(as_numbers(keys_of([4, None], column="c"), name="c"), [4, np.nan])
    with pytest.raises(DataError, match="'c' is used as a number; got 'x'"):
        as_numbers(keys_of(["x"], column="c"), name="c")
    with pytest.raises(SchemaError, match="holds lists"):
        as_numbers(Lists(np.array([0]), keys_of([], column="c")), name="c")


def test_a_column_as_times() -> None:
    assert as_times(np.array([5.0, 6.0]), name="t").tolist() == [5, 6]
    assert as_times(np.array([5]), name="t").tolist() == [5]
    with pytest.raises(DataError, match=r"'t', row 1: the time is missing"):
        as_times(np.array([5.0, np.nan]), name="t")
