"""Stores of public data for the benchmarks, made once from the folder that the variable WEFT_DATA names."""

import os
from pathlib import Path

import weft
from _records import WORK
from weft.data import catalog
from weft.data.store import Store

MISSING = "WEFT_DATA does not name a folder of data sets"


def store(name: str, source: str, protocol: str | None = None) -> Store | None:
    """The store of a data set; None without WEFT_DATA."""
    data = os.environ.get("WEFT_DATA")
    if data is None:
        return None
    place = WORK / f"{name}-{protocol or 'first'}"
    if not (place / "store" / "manifest.json").is_file():
        if not (place / "tables" / "schema.toml").is_file():
            catalog.get(name, place / "tables", protocol=protocol, source=Path(data) / source)
        weft.prepare(place / "tables" / "schema.toml", place / "store", overwrite=True)
    return Store.open(place / "store")
