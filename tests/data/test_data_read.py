import lzma
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from weft.data._clean import Place, clean_keys, clean_lists, clean_numbers, clean_time, clean_weights, to_keys
from weft.data._tables import Tables
from weft.data.read import Source, open_table
from weft.errors import DataError, UnknownColumn
from weft.schema import Categorical, Dense, Label, MultiHot, Roles, Schema

FRAME = pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "00z"]})
HERE = Place("f.csv", "c", 10)


def read(source: Source, rows: int = 100) -> pl.DataFrame:
    return pl.concat([chunk.frame for chunk in source.chunks(["a", "b"], rows)])


def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "t.parquet")
    FRAME.write_ipc(tmp_path / "t.arrow")
    arrow = pa.table({"a": [1, 2, 3], "b": ["x", None, "00z"]})
    for table in (tmp_path / "t.parquet", str(tmp_path / "t.arrow"), FRAME, FRAME.lazy(), FRAME.to_pandas(), arrow):
        assert_frame_equal(read(open_table(table)), FRAME)


def test_text_files_are_read_as_text(tmp_path: Path) -> None:
    FRAME.write_csv(tmp_path / "t.csv")
    FRAME.write_csv(tmp_path / "t.tsv", separator="\t")
    (tmp_path / "t.csv.xz").write_bytes(lzma.compress((tmp_path / "t.csv").read_bytes()))
    for name in ("t.csv", "t.tsv", "t.csv.xz"):
        source = open_table(tmp_path / name)
        assert_frame_equal(read(source), FRAME.cast(pl.String))
        assert len(source) == 3


def test_an_unpacked_file_goes_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "t.csv.xz").write_bytes(lzma.compress(b"a,b\n1,2\n"))
    source = open_table(tmp_path / "t.csv.xz")
    assert len(list(tmp_path.glob("weft-*"))) == 1
    del source
    assert not list(tmp_path.glob("weft-*"))


def test_chunks_have_one_size_and_name_their_place(tmp_path: Path) -> None:
    for i in range(2):
        pl.DataFrame({"a": range(i * 5, i * 5 + 5), "b": "x"}).write_parquet(tmp_path / f"{i}.parquet")
    source = open_table([tmp_path / "0.parquet", tmp_path / "1.parquet"], "both")
    chunks = list(source.chunks(["a"], 2))
    assert [(c.file[-9:], c.start, c.frame["a"].to_list()) for c in chunks] == [
        ("0.parquet", 0, [0, 1]),
        ("0.parquet", 2, [2, 3]),
        ("0.parquet", 4, [4]),
        ("1.parquet", 0, [5, 6]),
        ("1.parquet", 2, [7, 8]),
        ("1.parquet", 4, [9]),
    ]


def test_quoted_line_breaks_are_part_of_a_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n1,"x\ny"\n2,z\n')
    source = open_table(tmp_path / "t.csv")
    assert len(source) == 2
    assert read(source)["b"].to_list() == ["x\ny", "z"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", r"t.csv' is empty \(0 bytes\)"),
        ("t.csv", b"a,b\n", "has no rows"),
        ("t.csv", b"a,b,a\n1,2,3\n", "has the column 'a' twice"),
        ("t.csv", b"a,b\n1,2\n1,\xff\n1,2\n", r"cannot be read \(row 1 is no UTF-8 text\)"),
        ("t.csv", b"\xff\xfe,b\n1,2\n", "no UTF-8 text"),
        ("t.csv", b"a,b\n1,2,3\n", r"cannot be read \(row 0 has 3 fields, the header has 2\)"),
        ("t.tsv", b'a\tb\n1\t2\n"1\t2\n3\t4\n', r"cannot be read \(row 1: unexpected end of data\)"),
        ("t.parquet", b"PAR1 not really", "cannot be read"),
        ("t.arrow", b"not really", "cannot be read"),
        ("t.csv.xz", b"not xz", "no complete xz file"),
        ("t.csv.xz", lzma.compress(b"a,b\n1,2\n" * 999)[:-9], "no complete xz file"),
        ("t.parquet.xz", b"a", "only CSV and TSV"),
        ("t.xlsx", b"a", "the format '.xlsx' is not known"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(open_table(tmp_path / name))


def test_damage_inside_a_parquet_file_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"a": range(9999), "b": "x"}).write_parquet(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.parquet' cannot be read"):
        open_table(tmp_path / "cut.parquet")
    (tmp_path / "hit.parquet").write_bytes(whole[:40] + b"\xff" * 4000 + whole[4040:])
    with pytest.raises(DataError, match=r"hit.parquet' cannot be read"):
        read(open_table(tmp_path / "hit.parquet"))


def test_other_tables_are_refused(tmp_path: Path) -> None:
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    tables: list[tuple[Any, str]] = [
        (tmp_path / "none.csv", "does not exist"),
        ([], "list of files of 'plays' is empty"),
        (3, "'plays' is a int"),
        (FRAME.clear(), "'plays' has no rows"),
        (twice, "a column twice"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "give every column one type and a name of its own"),
        (pd.DataFrame({"a": pd.Series(["x", 1], dtype=object)}), "give every column one type"),
        (tmp_path, "is a folder; name the files in it"),
    ]
    for table, message in tables:
        with pytest.raises(DataError, match=message):
            open_table(table, "plays")
    with pytest.raises(UnknownColumn, match=r"no column 'aa'.*did you mean a"):
        open_table(FRAME).require(["aa"])


# Columns


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pl.Series([1, None, 3], dtype=pl.UInt8), [1, None, 3]),
        (pl.Series([1.0, None, float("nan")]), [1, None, None]),
        (pl.Series(["a", "", None]), ["a", "", None]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series(["a", "b"], dtype=pl.Categorical), ["a", "b"]),
        (pl.Series([None, None]), [None, None]),
        (pl.Series(["2024-01-31"]).str.to_date(), ["2024-01-31"]),
    ],
)
def test_keys(values: pl.Series, expected: list[Any]) -> None:
    clean = clean_keys(values, HERE)
    assert clean.to_list() == expected
    assert clean.dtype in (pl.Int64, pl.String)
    keys = to_keys(clean)
    assert [None if code < 0 else keys.values[code] for code in keys.codes] == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            pl.Series([0, 2**63], dtype=pl.UInt64),
            r"'f.csv', column 'c', row 11: got 9223372036854775808; keys must fit",
        ),
        (pl.Series([0.0, 0.5]), r"row 11: got 0.5; keys must be whole"),
        (pl.Series([float("inf")]), r"row 10: got inf"),
        (pl.Series([2.0**60]), r"row 10: got"),
        (pl.Series([b"x"]), "type Binary"),
    ],
)
def test_keys_that_are_refused(values: pl.Series, message: str) -> None:
    with pytest.raises(DataError, match=message):
        clean_keys(values, HERE)


def test_numbers() -> None:
    text = pl.Series([" 1.5", "true", "", None, "nan", "1e3"])
    assert clean_numbers(text, HERE).to_list() == [1.5, 1.0, None, None, None, 1000.0]
    assert clean_numbers(pl.Series([True, None]), HERE).to_list() == [1.0, None]
    for values, message in (
        (pl.Series(["1", "x"]), r"row 11: got 'x'; a number is needed"),
        (pl.Series([1.0, float("-inf")]), r"row 11: got -inf; numbers must be finite"),
        (pl.Series(["inf"]), r"row 10: got 'inf'; numbers must be finite"),
        (pl.Series([[1.0]]), "numbers are needed"),
    ):
        with pytest.raises(DataError, match=message):
            clean_numbers(values, HERE)


def test_times() -> None:
    moment = pl.Series(["2024-01-01T00:00:01"]).str.to_datetime()
    assert clean_time(moment, HERE, "ms").to_list() == [1_704_067_201_000]
    assert clean_time(moment.dt.replace_time_zone("Asia/Tokyo"), HERE, "s").to_list() == [1_704_067_201 - 9 * 3600]
    assert clean_time(pl.Series([5.0]), HERE, "s").to_list() == [5]
    text = pl.Series(["7", "2024-01-01 00:00:01", "2024-01-01", "2024-01-01T00:00:01Z", ""])
    assert clean_time(text, HERE, "s").to_list() == [7, 1_704_067_201, 1_704_067_200, 1_704_067_201, None]
    for values, message in (
        (pl.Series([1, -1]), r"row 11: got -1; times lie between 1970 and 2200"),
        (pl.Series([1_704_067_201_000]), r"time_unit"),
        (pl.Series(["soon"]), r"row 10: got 'soon'"),
        (pl.Series([True]), "type Boolean"),
    ):
        with pytest.raises(DataError, match=message):
            clean_time(values, HERE, "s")


def test_lists() -> None:
    assert clean_lists(pl.Series(["a|b||", "", None]), HERE, "|").to_list() == [["a", "b"], [], None]
    assert clean_lists(pl.Series([[1, None], None], dtype=pl.List(pl.Int8)), HERE, None).to_list() == [[1, None], None]
    assert clean_lists(pl.Series([[1.0, float("nan")]]), HERE, None).to_list() == [[1, None]]
    assert clean_lists(pl.Series([None, None]), HERE, None).to_list() == [None, None]
    with pytest.raises(DataError, match=r"row 12: got 0.5"):
        clean_lists(pl.Series([[1.0, 2.0], [], [3.0, 0.5]]), HERE, None)
    with pytest.raises(DataError, match="separator"):
        clean_lists(pl.Series(["a"]), HERE, None)
    keys = pl.Series([["a"], ["b", "c"]])
    assert clean_weights(pl.Series([[1], [2, 3]]), keys, HERE).to_list() == [[1.0], [2.0, 3.0]]
    for weights, message in (
        (pl.Series([[1.0], [2.0]]), "row 11.*as many weights"),
        (pl.Series([[1.0], [2.0, float("inf")]]), "row 11.*finite"),
        (pl.Series([[1.0], [2.0, None]]), "row 11.*a weight is needed"),
        (pl.Series(["a", "b"]), "list column of numbers"),
    ):
        with pytest.raises(DataError, match=message):
            clean_weights(weights, keys, HERE)


# Tables


def test_side_tables_are_joined_by_id_whatever_its_type() -> None:
    schema = Schema(
        features=(
            Categorical(name="u", side="user"),
            Dense(name="age", side="user"),
            MultiHot(name="tags", side="item"),
            Categorical(name="day", side="context"),
        ),
        roles=Roles(label=(Label(name="y"),), user="u", item="i"),
    )
    plays = pl.DataFrame({"u": ["2", "1", "9"], "i": [7, 8, 7], "y": [0, 1, 0], "day": [1, 2, 3]})
    users = pl.DataFrame({"u": [1, 2], "age": [10, 20], "day": [5, 5]})
    items = pl.DataFrame({"i": [8, 7], "tags": [["a"], ["b", "c"]]})
    tables = Tables(schema, open_table(plays), open_table(users), open_table(items))
    frame = next(iter(tables.chunks())).frame
    assert frame["u"].to_list() == ["2", "1", "9"]
    assert frame["age"].to_list() == [20.0, 10.0, None]
    assert frame["tags"].to_list() == [["b", "c"], ["a"], ["b", "c"]]
    assert frame["day"].to_list() == [1, 2, 3]
    with pytest.raises(UnknownColumn, match="no column 'tags'"):
        Tables(schema, open_table(plays), open_table(users))
    with pytest.raises(DataError, match=r"'table', column 'u', row 1: got '1'; an id may stand once"):
        Tables(schema, open_table(plays), open_table(users.with_columns(u=1)), open_table(items))


def test_the_id_may_be_the_title() -> None:
    schema = Schema(
        features=(Categorical(name="i", side="item"), Dense(name="x", side="item")),
        roles=Roles(label=(Label(name="y"),), item="i", title="i"),
    )
    plays, items = pl.DataFrame({"i": ["a", "b"], "y": [0, 1]}), pl.DataFrame({"i": ["b", "a"], "x": [1, 2]})
    tables = Tables(schema, open_table([plays, plays]), items=open_table(items))
    assert [piece.frame["i"].to_list() for piece in tables.chunks()] == [["a", "b"], ["a", "b"]]
    assert [piece.frame["x"].to_list() for piece in tables.chunks()] == [[2, 1], [2, 1]]
    assert tables.side_columns("item") == ["i", "x"]
