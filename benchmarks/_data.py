"""The made-up tables of the benchmarks: 13 numbers and 26 texts, the shape of Criteo; encoded rows, and raw Parquet.

Labels come from a planted logit (the numbers, the values of the small fields, one product), so that a loss can fall.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from _records import WORK
from weft import schema as schemas
from weft.schema import Categorical, Dense, Label, RandomSplit, Roles, Schema, Tables
from weft.transforms.rows import Rows, RowsWriter

NUMBERS, TEXTS, BUCKETS = 13, 26, 34
CHUNK = 1 << 18

Ints = NDArray[np.int64]


def table_sizes(rows: int, fields: int = TEXTS, fall: float = 0.7) -> list[int]:
    """Rows of each id field's table, `rows` in all: they fall geometrically, the two reserved ids are in."""
    share = fall ** np.arange(fields)
    return np.maximum(4, share / share.sum() * rows).astype(int).tolist()


def sizes_of(table_rows: int, numbers: int) -> list[int]:
    """The tables of a case: 26 id fields; without numbers 13 small ones stand for them, as buckets."""
    return table_sizes(table_rows) + [BUCKETS] * (NUMBERS - numbers)


def encoded(table_rows: int, rows: int, numbers: int = NUMBERS) -> Path:
    """A folder of encoded rows for tables of so many rows in all; made once."""
    folder = WORK / f"encoded-{table_rows}-{numbers}-{rows}"
    if not (folder / "rows.json").is_file():
        write_encoded(folder, sizes_of(table_rows, numbers), rows, numbers)
    return folder


def write_encoded(folder: Path, sizes: list[int], rows: int, numbers: int) -> None:
    """Encoded rows; ids fall off as in real tables (a power law), labels are about one in three."""
    generator = np.random.default_rng(0)
    effect = [generator.normal(0, 0.5, min(size, 1 << 16)) for size in sizes]
    with RowsWriter(folder) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            skewed = generator.random((count, len(sizes))) ** 3
            ids = (2 + skewed * (np.array(sizes) - 2)).astype(np.int32)
            dense = generator.normal(size=(count, numbers)).astype(np.float32)
            logit = sum(e[ids[:, i] % len(e)] for i, e in enumerate(effect)) - 1 + dense.sum(1) / 4
            label = generator.random(count) < 1 / (1 + np.exp(-logit))
            writer.add(
                Rows(
                    ids=ids,
                    dense=dense,
                    ragged={},
                    keys=np.zeros((count, 0), np.uint64),
                    label=label[:, None].astype(np.float32),
                )
            )


def raw(rows: int, distinct: int) -> Path:
    """A folder with the raw table in Parquet and its schema; made once, chunk by chunk. Returns the schema's path.

    Args:
        rows: Of the table.
        distinct: Distinct texts of all columns together, about.
    """
    folder = WORK / f"raw-{rows}-{distinct}"
    if not (folder / "schema.toml").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write_raw(folder, rows, distinct)
        (folder / "facts.json").write_text(json.dumps({"rows": rows, "distinct": distinct}))
        (folder / "schema.toml").write_text(schemas.dumps(raw_schema(-(-rows // PART))))
    return folder / "schema.toml"


PART = 1 << 20  # rows of a file


def raw_schema(files: int) -> Schema:
    """What the columns of the raw table mean."""
    numbers = tuple(Dense(name=f"i{i}", side="context", transform="log_standardize") for i in range(NUMBERS))
    texts = tuple(Categorical(name=f"c{i}", side="context") for i in range(TEXTS))
    return Schema(
        tables=Tables(interactions=tuple(f"part{i}.parquet" for i in range(files))),
        features=(*numbers, *texts),
        roles=Roles(label=(Label(name="label", task="binary"),)),
        split=RandomSplit(),
    )


def _write_raw(folder: Path, rows: int, distinct: int) -> None:
    generator = np.random.default_rng(0)
    texts = [_texts(size, i) for i, size in enumerate(np.array(table_sizes(distinct, fall=0.8)))]
    for number, start in enumerate(range(0, rows, PART)):
        count = min(PART, rows - start)
        raw_frame(texts, count, generator).write_parquet(folder / f"part{number}.parquet")


def _texts(size: int, column: int) -> pl.Series:
    """Distinct texts of eight hexadecimal digits."""
    values = (np.arange(size, dtype=np.uint64) * 2654435761 + column) % 2**32
    return pl.Series([f"{value:08x}" for value in values.tolist()])


def raw_frame(texts: list[pl.Series], rows: int, generator: np.random.Generator) -> pl.DataFrame:
    """Rows of the raw table; a tenth of the numbers is missing."""
    columns: dict[str, Any] = {"label": pl.Series(generator.random(rows) < 0.25).cast(pl.Int8)}
    for i in range(NUMBERS):
        values = generator.lognormal(2, 1.5, rows).astype(np.int64)
        columns[f"i{i}"] = pl.Series(np.where(generator.random(rows) < 0.1, np.nan, values), nan_to_null=True)
    for i, values in enumerate(texts):
        columns[f"c{i}"] = values.gather((generator.random(rows) ** 2.5 * len(values)).astype(np.uint32))
    return pl.DataFrame(columns)
