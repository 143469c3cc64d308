"""The cross-only world as a store, and runs of models on it."""

from pathlib import Path

import polars as pl

import weft
from weft.batch import Batch, Fields
from weft.data.store import Store
from weft.runs import SavedRun
from weft.schema import Categorical, ColumnSplit, Feature, Label, Roles, Schema
from weft.testing import cross_only

QUICK = ("train.batch_size=128", "train.epochs=15", "train.learning_rate=0.02")
SMALL = ("hidden=[16]", "embedding_dim=8", "embedding_std=0.1")


def world_store(folder: Path, *extra: Feature) -> Store:
    """`y` is the product of a sign of `a` and a sign of `b`; `<noise>` says nothing."""
    world = cross_only()
    parts = (("train", world.train), ("valid", world.test), ("test", world.test))
    schema = Schema(
        name="cross only",
        features=(*(Categorical(name=name, side="context") for name in ("a", "b", "<noise>")), *extra),
        roles=Roles(label=(Label(name="y"),)),
        split=ColumnSplit(column="split"),
    )
    rows = pl.concat([_frame(world.fields, batch, split) for split, batch in parts])
    return weft.prepare(schema, folder / "store", interactions=rows)


def trained(store: Store, model: str, out: Path, *sets: str) -> SavedRun:
    return weft.train(store, model, out=out, sets=(*QUICK, *sets), seed=1, precision="fp32")


def _frame(fields: Fields, batch: Batch, split: str) -> pl.DataFrame:
    assert batch.label is not None
    names = [field.name.replace("noise", "<noise>") for field in fields.ids]
    columns = {name: batch.ids[:, i].numpy() for i, name in enumerate(names)}
    return pl.DataFrame({**columns, "y": batch.label[:, 0].int().numpy(), "split": [split] * len(batch)})
