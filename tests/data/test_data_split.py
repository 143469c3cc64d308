import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.data._tables import Tables
from weft.data.read import open_table
from weft.data.split import TEST, TRAIN, VALID, assign, by_chance, by_last, by_time
from weft.errors import DataError, UnknownColumn
from weft.schema import Categorical, ColumnSplit, Label, LastSplit, RandomSplit, Roles, Schema, Split, TimeSplit

TIMES = st.lists(st.integers(0, 20), min_size=1, max_size=60)


def tables(split: Split, **columns: list[object]) -> Tables:
    frame = pl.DataFrame({"u": [1] * 4, "y": [0, 1, 0, 1], "t": [4, 3, 2, 1], **columns})
    roles = Roles(label=(Label(name="y"),), user="u", time="t")
    schema = Schema(features=(Categorical(name="u", side="user"),), roles=roles, split=split)
    return Tables(schema, open_table(frame, "plays"))


def test_shares_are_exact_and_seeded() -> None:
    found = by_chance(1000, RandomSplit(valid=0.1, test=0.25))
    assert np.bincount(found).tolist() == [650, 100, 250]
    assert (found != by_chance(1000, RandomSplit(valid=0.1, test=0.25, seed=1))).any()


@given(TIMES, st.floats(0, 0.9), st.floats(0, 0.9))
def test_a_split_by_time_never_mixes(times: list[int], valid: float, test: float) -> None:
    array = np.array(times)
    found = by_time(array, TimeSplit(valid=valid, test=test))
    for older, newer in ((TRAIN, VALID), (VALID, TEST), (TRAIN, TEST)):
        if (found == older).any() and (found == newer).any():
            assert array[found == older].max() < array[found == newer].min()
    assert (found == TEST).sum() >= round(test * len(array))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40))
def test_last_rows_of_each_user(rows: list[tuple[int, int]]) -> None:
    users, times = np.array(rows).T
    found = by_last(users, times, LastSplit(valid=1, test=2))
    for user in np.unique(users):
        mine = sorted(np.flatnonzero(users == user), key=lambda row: (times[row], row))
        expected = [TRAIN] * (len(mine) - 3) + [VALID, TEST, TEST] if len(mine) > 3 else [TRAIN] * len(mine)
        assert found[mine].tolist() == expected


def test_a_column_names_the_split() -> None:
    found = assign(tables(ColumnSplit(column="part"), part=["train", "test", "valid", "train"]))
    assert found.tolist() == [TRAIN, TEST, VALID, TRAIN]
    with pytest.raises(DataError, match=r"'plays', column 'part', row 2: got 'dev'; allowed are 'train'"):
        assign(tables(ColumnSplit(column="part"), part=["train", "test", "dev", "train"]))
    with pytest.raises(UnknownColumn, match="no column 'split'"):
        assign(tables(ColumnSplit()))


@pytest.mark.parametrize(
    ("split", "name"),
    [
        (RandomSplit(valid=0.01), "valid"),
        (TimeSplit(valid=0.01), "valid"),
        (LastSplit(valid=4), "valid"),
        (LastSplit(valid=0, test=9), "test"),
        (ColumnSplit(column="t"), "train"),
    ],
)
def test_a_split_without_rows_is_refused(split: Split, name: str) -> None:
    given_tables = tables(split, t=["test"] * 4) if isinstance(split, ColumnSplit) else tables(split)
    with pytest.raises(DataError, match=f"'plays': the split '{name}' gets none of the 4 rows"):
        assign(given_tables)


def test_one_time_leaves_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="the split 'train' gets none of the 4 rows"):
        assign(tables(TimeSplit(valid=0, test=0.25), t=[5, 5, 5, 5]))


def test_last_split_of_the_table() -> None:
    assert assign(tables(LastSplit())).tolist() == [TEST, VALID, TRAIN, TRAIN]
