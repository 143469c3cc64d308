"""Time of `weft.prepare`, beside the time in which polars reads the same file into memory.

    python benchmarks/prepare_speed.py [--rows 500000] [--repeats 3] [--profile]

A made-up table of 13 numbers and 26 text columns with 0.56 M distinct values at 500,000 rows (the shape of Criteo, in
Parquet), and MovieLens-1M with the protocol `ctr` where the variable WEFT_DATA names the folder of the datasets.
"""

import argparse
import cProfile
import os
import pstats
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

import weft
from _timing import machine, median_seconds, peak_memory_mib
from weft import schema as schemas
from weft.data import catalog
from weft.schema import Categorical, Dense, Label, RandomSplit, Roles, Schema, Tables

NUMBERS, TEXTS = 13, 26


def criteo_like(folder: Path, rows: int) -> Path:
    """Write the made-up table and its schema; returns the path of the schema."""
    generator = np.random.default_rng(0)
    sizes = np.maximum(4, 0.8 ** np.arange(TEXTS) * rows * 0.23).astype(int)
    columns: dict[str, pl.Series] = {"label": pl.Series(generator.random(rows) < 0.25).cast(pl.Int8)}
    for i in range(NUMBERS):
        values = generator.lognormal(2, 1.5, rows).astype(np.int64)
        columns[f"i{i}"] = pl.Series(np.where(generator.random(rows) < 0.1, np.nan, values), nan_to_null=True)
    for i, size in enumerate(sizes):
        values = (generator.random(rows) ** 2.5 * size).astype(np.uint32)
        columns[f"c{i}"] = pl.Series([f"{value * 2654435761 % 2**32:08x}" for value in values.tolist()])
    pl.DataFrame(columns).write_parquet(folder / "interactions.parquet")
    (folder / "schema.toml").write_text(schemas.dumps(_schema()))
    return folder / "schema.toml"


def _schema() -> Schema:
    numbers = tuple(Dense(name=f"i{i}", side="context", transform="log_standardize") for i in range(NUMBERS))
    texts = tuple(Categorical(name=f"c{i}", side="context") for i in range(TEXTS))
    return Schema(
        tables=Tables(interactions="interactions.parquet"),
        features=(*numbers, *texts),
        roles=Roles(label=(Label(name="label", task="binary"),)),
        split=RandomSplit(),
    )


def report(name: str, schema: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Time both and print a line; with --profile, where the time of one more run goes."""
    table = schema.parent / "interactions.parquet"

    def prepare() -> None:
        weft.prepare(schema, folder / f"{name}-store", overwrite=True)

    reading = median_seconds(lambda: pl.read_parquet(table), 2 * arguments.repeats + 1)
    seconds = median_seconds(prepare, arguments.repeats, warm=1)
    rows = pl.scan_parquet(table).select(pl.len()).collect().item()
    print(
        f"{name:>12} {rows:>10,} rows  prepare {seconds:6.2f} s  read {reading:6.3f} s  ratio {seconds / reading:6.1f}"
        f"  peak {peak_memory_mib():,.0f} MiB",
        flush=True,
    )
    if arguments.profile:
        _profile(prepare)


def _profile(call: Callable[[], None]) -> None:
    profile = cProfile.Profile()
    profile.runcall(call)
    pstats.Stats(profile).sort_stats("tottime").print_stats(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    print(f"{machine()}; polars {pl.__version__}, {pl.thread_pool_size()} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report("criteo-like", criteo_like(folder, arguments.rows), folder, arguments)
        if data := os.environ.get("WEFT_DATA"):
            catalog.get("movielens-1m", folder / "ml", protocol="ctr", source=Path(data) / "ml-1m")
            report("movielens-1m", folder / "ml" / "schema.toml", folder, arguments)
        else:
            print("movielens-1m is left out: WEFT_DATA is not set")


if __name__ == "__main__":
    main()
