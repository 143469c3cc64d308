"""Which rows are for training, which for validation, which for the test."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data._clean import Place, clean_keys
from weft.data._tables import Tables
from weft.errors import DataError
from weft.schema import ColumnSplit, LastSplit, RandomSplit, TimeSplit
from weft.transforms.columns import Ints

TRAIN, VALID, TEST = 0, 1, 2
NAMES = ("train", "valid", "test")

Assignment = NDArray[np.int8]


def assign(tables: Tables) -> Assignment:
    """The split of each interaction [n]: 0 train, 1 valid, 2 test.

    Raises:
        DataError: No row is left for training, or a split with a share gets none.
    """
    split = tables.schema.split
    match split:
        case RandomSplit():
            found = by_chance(len(tables), split)
        case TimeSplit():
            found = by_time(_column(tables, tables.schema.roles.time), split)
        case LastSplit():
            found = by_last(_user_codes(tables), _column(tables, tables.schema.roles.time), split)
        case ColumnSplit():
            found = by_column(tables, split)
    _refuse_empty(found, tables)
    return found


def by_chance(rows: int, split: RandomSplit) -> Assignment:
    """Rows drawn without replacement: round(share * rows) for the test, as many for validation, the rest for training.

    >>> np.bincount(by_chance(20, RandomSplit(valid=0.1, test=0.2, seed=3))).tolist()
    [14, 2, 4]
    """
    order = np.random.default_rng(split.seed).permutation(rows)
    test, valid = round(split.test * rows), round(split.valid * rows)
    found = np.zeros(rows, np.int8)
    found[order[:test]] = TEST
    found[order[test : test + valid]] = VALID
    return found


def by_time(times: Ints, split: TimeSplit) -> Assignment:
    """The newest rows for the test, the newest of the rest for validation; rows of one time stay together.

    Rows that share the time of a split's oldest row all belong to it.

    >>> by_time(np.array([5, 1, 2, 9, 9]), TimeSplit(valid=0.2, test=0.2)).tolist()
    [1, 0, 0, 2, 2]
    """
    found = np.zeros(len(times), np.int8)
    test, valid = round(split.test * len(times)), round(split.valid * len(times))
    start = _oldest_of_newest(times, test)
    rest = times[times < start] if start is not None else times
    valid_start = _oldest_of_newest(rest, valid)
    if valid_start is not None:
        found[times >= valid_start] = VALID
    if start is not None:
        found[times >= start] = TEST
    return found


def _oldest_of_newest(times: Ints, count: int) -> int | None:
    if count == 0 or len(times) == 0:
        return None
    place = max(len(times) - count, 0)
    return int(np.partition(times, place)[place])


def by_last(users: Ints, times: Ints, split: LastSplit) -> Assignment:
    """Each user's newest rows for the test, the ones before them for validation; of one time the later row is newer.

    A user with fewer rows than these and one more keeps all of them for training.

    >>> by_last(np.array([7, 7, 7, 8]), np.array([3, 1, 2, 1]), LastSplit()).tolist()
    [2, 0, 1, 0]
    """
    order = np.lexsort((times, users))
    _, starts, counts = np.unique(users[order], return_index=True, return_counts=True)
    from_end = np.repeat(starts + counts, counts) - 1 - np.arange(len(users))
    sizes = np.repeat(counts, counts)
    kept = np.where(from_end < split.test, TEST, np.where(from_end < split.test + split.valid, VALID, TRAIN))
    found = np.zeros(len(users), np.int8)
    found[order] = np.where(sizes > split.test + split.valid, kept, TRAIN)
    return found


def by_column(tables: Tables, split: ColumnSplit) -> Assignment:
    """The splits that a column names: `train`, `valid`, `test`."""
    parts = []
    for chunk in tables.column_chunks(split.column):
        place = Place(chunk.file, split.column, chunk.start)
        text = clean_keys(chunk.frame[split.column], place).cast(pl.String)
        codes = text.replace_strict(list(NAMES), [TRAIN, VALID, TEST], default=None, return_dtype=pl.Int8)
        place.refuse(codes.is_null(), text, "allowed are 'train', 'valid' and 'test'")
        parts.append(codes.to_numpy())
    return np.concatenate(parts)


def _column(tables: Tables, name: str | None) -> Ints:
    assert name is not None
    return np.concatenate([piece.frame[name].to_numpy() for piece in tables.chunks([name])])


def _user_codes(tables: Tables) -> Ints:
    name = tables.id_column("user")
    users = pl.concat([piece.frame[name] for piece in tables.chunks([name])])
    return users.rank("dense").cast(pl.Int64).to_numpy()


def _refuse_empty(found: Assignment, tables: Tables) -> None:
    counts = np.bincount(found, minlength=len(NAMES))
    wanted = {"train": True, "valid": _asked(tables, "valid"), "test": _asked(tables, "test")}
    for name, count in zip(NAMES, counts, strict=True):
        if wanted[name] and count == 0:
            raise DataError(
                f"{tables.name!r}: the split {name!r} gets none of the {len(found)} rows; "
                f"change [split] of the schema or give more rows"
            )


def _asked(tables: Tables, name: str) -> bool:
    split = tables.schema.split
    return not isinstance(split, ColumnSplit) and getattr(split, name) > 0
