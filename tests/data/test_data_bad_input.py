"""Whatever a table holds, `prepare` makes a store, or says in one sentence what to mend and leaves nothing behind."""

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from weft import schema as schemas
from weft.data.store import Store, prepare
from weft.errors import DataError, UnknownColumn, WeftError
from weft.schema import (
    Categorical,
    ColumnSplit,
    Count,
    Cross,
    Dense,
    Label,
    LastSplit,
    MultiHot,
    RandomSplit,
    Roles,
    Schema,
    Sequence,
    Split,
    Tables,
    TimeSplit,
)

FEATURES = (
    Categorical(name="user", side="user"),
    Categorical(name="item", side="item"),
    Dense(name="price", side="item", transform="quantile", buckets=3),
    MultiHot(name="tags", side="item", weights="weights"),
    Cross(name="both", of=("user", "tags")),
    Count(name="bought", by=("user",), of="y", stat="sum"),
    Sequence(name="recent", of="item"),
)
SHARES = RandomSplit(valid=0.2, test=0.2)
GOOD: dict[str, list[Any]] = {
    "user": ["a", "b", "a", "b", "c", "a"],
    "item": [1, 2, 3, 1, 2, 3],
    "price": [1.5, 2.0, None, 1.5, 2.0, 3.0],
    "tags": [["x"], ["x", "y"], [], ["x"], None, ["y"]],
    "weights": [[1.0], [1.0, 2.0], [], [1.0], None, [0.5]],
    "y": [0, 1, 0, 1, 0, 1],
    "t": [1, 2, 3, 4, 5, 6],
}


def bought(split: Split = SHARES, **roles: Any) -> Schema:
    named = {"label": (Label(name="y"),), "user": "user", "item": "item", "time": "t", **roles}
    return Schema(features=FEATURES, roles=Roles(**named), split=split)


def changed(**columns: Any) -> pl.DataFrame:
    """The good table with some columns replaced by a list or a Series, or dropped (None)."""
    return pl.DataFrame({name: column for name, column in {**GOOD, **columns}.items() if column is not None})


def test_the_good_table_is_good(tmp_path: Path) -> None:
    assert prepare(bought(), tmp_path / "s", interactions=changed()).rows == {"train": 4, "valid": 1, "test": 1}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"price": None}, "no column 'price'"),
    ({"y": None}, "no column 'y'"),
    ({"weights": None}, "no column 'weights'"),
    ({"price": ["1", "2", "x", "4", "5", "6"]}, "column 'price', row 2: got 'x'; a number is needed"),
    ({"price": [1.0, float("inf"), 2.0, 3.0, 4.0, 5.0]}, "column 'price', row 1: got inf"),
    ({"price": [[1.0]] * 6}, "column 'price', from row 0 on: type List"),
    ({"tags": [1, 2, 3, 4, 5, 6]}, "column 'tags', from row 0 on: type Int64; a list column"),
    ({"weights": [[1.0], [1.0], [], [1.0], None, [0.5]]}, "column 'weights', row 1: got .*as many weights"),
    ({"user": ["a", "b", None, "b", "c", "a"]}, "column 'user', row 2: the value is missing"),
    ({"user": [0.5, 1.0, 2.0, 3.0, 4.0, 5.0]}, "column 'user', row 0: got 0.5"),
    ({"item": [1, 2, 3, None, 2, 3]}, "column 'item', row 3: the value is missing"),
    ({"item": pl.Series([1, 2, 3, 1, 2, 2**63], dtype=pl.UInt64)}, "column 'item', row 5: got 9223372036854775808"),
    ({"y": [0, 1, 0, 2, 0, 1]}, "column 'y', row 3: got 2.0; a binary label is 0 or 1"),
    ({"y": [0, 1, 0, 0.5, 0.0, 1.0]}, "column 'y', row 3: got 0.5; a binary label"),
    ({"y": [0, None, 0, 1, 0, 1]}, "column 'y', row 1: the value is missing"),
    ({"y": [0.0, 1.0, float("nan"), 1.0, 0.0, 1.0]}, "column 'y', row 2: the value is missing"),
    ({"t": [1, 2, 3, -4, 5, 6]}, "column 't', row 3: got -4; times lie between 1970 and 2200"),
    ({"t": [1, 2, 3, 4, 5, 10**13]}, "column 't', row 5: got 10000000000000"),
    ({"t": [1, 2, None, 4, 5, 6]}, "column 't', row 2: the value is missing"),
    ({"t": [1, 2, 3, 4, 5, 6.5]}, "column 't', row 5: got 6.5"),
    ({"user": ["a"] * 6}, "column 'user': it has one and the same value in all 4 train rows, from row 0 on"),
    ({"price": [2.5] * 6}, "column 'price': it has one and the same value"),
    ({"price": [None] * 6}, "column 'price': it has no value"),
    ({"y": [0] * 6}, "column 'y': the label is 0 in all 4 train rows, from row 0 on"),
]


@pytest.mark.parametrize(("columns", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_one_sentence_names_the_place_and_nothing_is_left(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    frame = pl.DataFrame(
        {name: pl.Series(column, strict=False) if name in columns else column for name, column in GOOD.items()}
        | {name: pl.Series(column, strict=False) for name, column in columns.items() if column is not None}
    ).drop([name for name, column in columns.items() if column is None])
    frame.write_parquet(tmp_path / "plays.parquet")
    with pytest.raises(WeftError, match=f"plays.parquet'.*{message}|{message}.*plays.parquet'") as caught:
        prepare(bought(), tmp_path / "s", interactions=tmp_path / "plays.parquet")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["plays.parquet"]


@pytest.mark.parametrize(
    ("label", "values", "message"),
    [
        (Label(name="y", task="multiclass", classes=2), [0, 1, 2, 0, 1, 0], "row 2: got 2.0; .*integers 0 to 1"),
        (Label(name="y", task="count"), [0, 1, -1, 0, 1, 0], "row 2: got -1.0; a count label"),
        (Label(name="y", task="regression"), [0, 1, float("inf"), 0, 1, 0], "row 2: got inf"),
    ],
)
def test_labels_fit_their_task(tmp_path: Path, label: Label, values: list[float], message: str) -> None:
    with pytest.raises(DataError, match=f"'interactions', column 'y', {message}"):
        prepare(bought(label=(label,)), tmp_path / "s", interactions=changed(y=[float(v) for v in values]))


@pytest.mark.parametrize(
    ("role", "values", "message"),
    [
        ("position", [1, 2, 0, 1, 2, 3], "row 2: got 0.0; positions are integers from 1"),
        ("propensity", [0.1, 1.0, 1.5, 0.1, 0.1, 0.1], "row 2: got 1.5; propensities"),
        ("propensity", [0.1, 0.0, 0.5, 0.1, 0.1, 0.1], "row 1: got 0.0; propensities"),
        ("weight", [0.1, 1.0, 1.5, -0.1, 0.1, 0.1], "row 3: got -0.1; weights"),
    ],
)
def test_roles_have_their_range(tmp_path: Path, role: str, values: list[float], message: str) -> None:
    with pytest.raises(DataError, match=f"column 'extra', {message}"):
        prepare(bought(SHARES, **{role: "extra"}), tmp_path / "s", interactions=changed(extra=values))


@pytest.mark.parametrize("split", [RandomSplit(valid=0.01), TimeSplit(valid=0.05), LastSplit(valid=4, test=4)])
def test_a_split_without_rows(tmp_path: Path, split: Split) -> None:
    with pytest.raises(DataError, match="gets none of the 6 rows"):
        prepare(bought(split), tmp_path / "s", interactions=changed())
    assert not list(tmp_path.iterdir())


def test_the_row_is_that_of_its_file(tmp_path: Path) -> None:
    changed().write_parquet(tmp_path / "a.parquet")
    changed(y=[0, 1, 0, 1, 7, 1]).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet', column 'y', row 4: got 7.0"):
        prepare(bought(), tmp_path / "s", interactions=[tmp_path / "a.parquet", tmp_path / "b.parquet"])
    changed(price=None).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(UnknownColumn, match=r"b.parquet' has no column 'price'"):
        prepare(bought(), tmp_path / "s", interactions=[tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_a_file_that_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    changed().write_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.parquet").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"b.parquet' (cannot be read|is empty)"):
            prepare(bought(), tmp_path / "s", interactions=tmp_path / "b.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_only_binary_labels_may_all_be_one(tmp_path: Path) -> None:
    assert prepare(bought(), tmp_path / "s", interactions=changed(y=[1] * 6)).rows["train"] == 4
    rated = bought(label=(Label(name="y", task="regression"),))
    with pytest.raises(DataError, match="column 'y': the label is 1 in all 4 train rows"):
        prepare(rated, tmp_path / "t", interactions=changed(y=[1] * 6))


def test_one_file_in_a_list_is_named_itself(tmp_path: Path) -> None:
    changed(price=None).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UnknownColumn, match=r"no column 'price', which the schema names, in '.*a.parquet'"):
        prepare(bought(), tmp_path / "s", interactions=[tmp_path / "a.parquet"])


HOSTILE = ["\x00", "a\nb", "../../etc/passwd", "'; DROP TABLE", "\u202e", "\U0001f3b5" * 50, "x" * 100_000, "", "NaN"]


def test_hostile_strings_are_values_like_others(tmp_path: Path) -> None:
    rows = {name: (column * 2)[:9] for name, column in GOOD.items()}
    store = prepare(bought(), tmp_path / "s", interactions=pl.DataFrame({**rows, "user": HOSTILE}))
    reopened = Store.open(tmp_path / "s", verify=True)
    assert reopened.transforms.user_ids is not None
    assert set(reopened.transforms.user_ids.values.tolist()) <= set(HOSTILE)
    assert len(reopened.transforms.user_ids) == store.rows["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


@pytest.mark.parametrize("name", ["../up", "a/b", "a\nb", "\U0001f3b5", "x" * 256, "a b", "label'"])
def test_hostile_column_names(tmp_path: Path, name: str) -> None:
    odd = Schema(
        features=(
            MultiHot(name=name, side="context"),
            Categorical(name="z", side="user"),
            Cross(name="c", of=(name, "z")),
        ),
        roles=Roles(label=(Label(name="y"),)),
        split=RandomSplit(valid=0.2, test=0.2),
    )
    frame = pl.DataFrame({name: GOOD["tags"], "z": GOOD["item"], "y": GOOD["y"]})
    store = prepare(odd, tmp_path / "s", interactions=frame)
    assert set(store.split("train").ragged) == {name, "c"}
    assert Store.open(tmp_path / "s", verify=True).schema == odd
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


# Anything at all

SIZE = 8
BASE = {**GOOD, "part": ["train", "train", "test", "train"]}


def columns_of_one_type(elements: list[st.SearchStrategy[Any]]) -> st.SearchStrategy[list[Any]]:
    return st.one_of([st.lists(st.one_of(st.none(), kind), min_size=SIZE, max_size=SIZE) for kind in elements])


COLUMN = columns_of_one_type(
    [
        st.integers(0, 3),
        st.integers(0, 1),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(0, 5),
        st.floats(),
        st.sampled_from(["a", "b", "", "1", "0"]),
        st.text(max_size=3),
        st.booleans(),
        st.datetimes(),
        st.lists(st.integers(0, 3), max_size=3),
        st.lists(st.floats(allow_infinity=False), max_size=3),
        st.binary(max_size=2),
        st.none(),
    ]
)


@given(
    st.dictionaries(st.sampled_from([*GOOD, "part", "other"]), COLUMN, max_size=2),
    st.sampled_from([None] * 9 + [*GOOD]),
    st.sampled_from(
        [RandomSplit(valid=0, test=0.2), TimeSplit(valid=0, test=0.2), LastSplit(valid=0), ColumnSplit(column="part")]
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_table_is_prepared_or_refused(
    columns: dict[str, list[Any]], dropped: str | None, split: Split, as_text: bool
) -> None:
    rows: dict[str, list[Any]] = {
        name: (column * 2)[:SIZE] for name, column in BASE.items() if name != dropped
    } | columns
    frame = pl.DataFrame({name: pl.Series(column, strict=False) for name, column in rows.items()})
    with tempfile.TemporaryDirectory() as folder:
        table: Any = frame
        if as_text:
            flat = frame.drop([name for name, kind in frame.schema.items() if not _fits_into_csv(kind)])
            table = Path(folder) / "t.csv"
            flat.write_csv(table)
        before = sorted(Path(folder).iterdir())
        try:
            store = prepare(bought(split), Path(folder) / "s", interactions=table)
        except WeftError:
            event("refused")
            assert sorted(Path(folder).iterdir()) == before
        else:
            event("prepared")
            assert sum(store.rows.values()) == SIZE
            Store.open(store.path, verify=True).split("train").batch()


def _fits_into_csv(kind: pl.DataType) -> bool:
    return not kind.is_nested() and kind not in (pl.Binary, pl.Null)


def test_a_schema_file_whose_table_is_not_there(tmp_path: Path) -> None:
    text = schemas.dumps(Schema(features=FEATURES, roles=bought().roles, tables=Tables(interactions="gone.csv")))
    (tmp_path / "schema.toml").write_text(text)
    with pytest.raises(DataError, match=r"gone.csv' does not exist"):
        prepare(tmp_path / "schema.toml", tmp_path / "s")
