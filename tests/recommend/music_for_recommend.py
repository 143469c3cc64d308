"""A small music service with runs of each kind, for pipelines over artists and genres."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

import weft
from weft.data import catalog
from weft.data.store import Store

QUICK = ("train.epochs=1", "train.batch_size=512", "train.learning_rate=0.01")


class Music(NamedTuple):
    """The tables, the store and the runs by model."""

    data: Path
    store: Store
    runs: Mapping[str, Path]

    @property
    def tracks(self) -> pl.DataFrame:
        return pl.read_parquet(self.data / "items.parquet")

    @property
    def plays(self) -> pl.DataFrame:
        return pl.read_parquet(self.data / "interactions.parquet").filter(pl.col("played") == 1)


def made(folder: Path) -> Music:
    """The service in a folder."""
    data = catalog.get("music", folder / "data", options={"rows": 6_000, "tracks": 300, "users": 60})
    store = weft.prepare(data / "schema.toml", folder / "store")
    settings = {
        "popularity": (),
        "mf": (*QUICK, "embedding_dim=8"),
        "lr": QUICK,
        "item_knn": (),
        "two_tower": (*QUICK, "embedding_dim=4", "hidden=[16]", "width=8"),
        "dcn_v2": (*QUICK, "embedding_dim=4", "hidden=[16]"),
    }
    runs = {
        name: weft.train(store, name, out=folder / name, sets=sets, precision="fp32").path
        for name, sets in settings.items()
    }
    return Music(data, store, runs)
