"""Reading and checking what `catalog.get` wrote, and where the real data lie."""

import os
from pathlib import Path

import polars as pl
import pytest

from weft import artifacts, schema
from weft.schema import ColumnSplit, Schema

DATA = os.environ.get("WEFT_DATA")
real_data = pytest.mark.skipif(not DATA, reason="set WEFT_DATA to the folder with the public data")


def real(name: str) -> Path:
    assert DATA is not None
    return Path(DATA) / name


def read(folder: Path, name: str = "interactions") -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def read_schema(folder: Path) -> Schema:
    return schema.load(folder / "schema.toml")


def check(folder: Path) -> Schema:
    """The folder is whole, and every column that the schema names is in a table of it."""
    artifacts.verify(folder, "dataset")
    found = read_schema(folder)
    columns = {name for path in folder.glob("*.parquet") for name in pl.read_parquet_schema(path)}
    derived = {f.name for f in found.features if getattr(f, "of", None) or getattr(f, "by", None)}
    roles = found.roles
    named = {f.name for f in found.features} - derived | {label.name for label in roles.label}
    named |= {getattr(roles, role) for role in ("user", "item", "time", "position", "propensity", "group", "title")}
    named |= {getattr(f, "weights", None) for f in found.features}
    if isinstance(found.split, ColumnSplit):
        named.add(found.split.column)
    assert named - {None} <= columns
    return found
