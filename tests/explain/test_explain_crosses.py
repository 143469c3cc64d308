"""The largest weights of crosses, each with the values that it stands for."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from worlds_for_explain import trained, world_store

import weft
from weft.batch import FIRST_ID
from weft.data.store import Store
from weft.explain.crosses import largest_crosses
from weft.models import create
from weft.schema import Categorical, ColumnSplit, Cross, Dense, Label, MultiHot, Roles, Schema


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Crosses of a set, of a bucket, of three parts and into buckets; few rows, so that each can be counted."""
    rng = np.random.default_rng(0)
    n = 200
    frame = pl.DataFrame(
        {
            "color": rng.choice(["red", "green", "blue", None], n, p=[0.4, 0.3, 0.2, 0.1]),
            "size": rng.integers(1, 4, n),
            "tags": [sorted(set(rng.choice(["x", "y", "z"], rng.integers(0, 4)))) for _ in range(n)],
            "year": rng.integers(1990, 2020, n),
            "y": rng.integers(0, 2, n),
            "split": ["train"] * 160 + ["valid"] * 20 + ["test"] * 20,
        }
    )
    schema = Schema(
        name="things",
        features=(
            Categorical(name="color", side="item"),
            Categorical(name="size", side="item"),
            MultiHot(name="tags", side="item"),
            Dense(name="year", side="item", buckets=2),
            Cross(name="plain", of=("color", "size")),
            Cross(name="three", of=("size", "tags", "color")),
            Cross(name="old", of=("year.bucket", "size")),
            Cross(name="hashed", of=("color", "tags"), hash_buckets=5),
        ),
        roles=Roles(label=(Label(name="y"),)),
        split=ColumnSplit(column="split"),
    )
    return weft.prepare(schema, tmp_path_factory.mktemp("things") / "store", interactions=frame)


@pytest.mark.parametrize("name", ["plain", "three", "old", "hashed"])
def test_every_weight_has_the_values_that_give_its_id(store: Store, name: str) -> None:
    """A cross whose weights are its ids: each is found again by encoding the values that are said."""
    model = create("lr", store.fields, seed=0)
    layer = model.wide.inputs.embedding
    for table in layer.slices:
        layer.table(table).zero_()
    layer.table(name)[:, 0] = torch.arange(len(layer.table(name)), dtype=torch.float32)
    train = store.split("train")
    found = largest_crosses(model, store.transforms, train, top=1000)
    assert found
    assert all(one.cross == name for one in found)
    weights = [one.weight for one in found]
    assert weights == sorted(weights, reverse=True)
    cross = next(feature for feature in store.schema.features if feature.name == name)
    for one in found:
        assert list(one.values) == list(cross.of)
        ids = tuple(_id(store, part, value) for part, value in one.values.items())
        assert store.transforms.cross_id(name, ids) == one.weight
    if name == "hashed":
        assert {one.rows for one in found} == {None}
    else:
        assert len(found) == store.fields.tables()[name] - FIRST_ID
        assert [one.rows for one in found] == [
            store.transforms.crosses[name].counts[int(w) - FIRST_ID] for w in weights
        ]


def _id(store: Store, part: str, value: str) -> int:
    if part == "year.bucket":
        return FIRST_ID if value.startswith("below") else FIRST_ID + 1
    return store.transforms.vocabularies[part].id_of(value)


def test_the_largest_by_size_come_first_and_no_more_than_asked(store: Store) -> None:
    model = create("lr", store.fields, seed=0)
    layer = model.wide.inputs.embedding
    for table in layer.slices:
        layer.table(table).zero_()
    layer.table("plain")[[0, 1, 2, 3], 0] = torch.tensor([90.0, 80.0, -7.0, 3.0])
    layer.table("old")[2, 0] = 5.0
    found = largest_crosses(model, store.transforms, store.split("train"), top=2)
    assert [(one.cross, one.weight) for one in found] == [("plain", -7.0), ("old", 5.0)]


def test_a_model_without_a_wide_part_has_none(store: Store) -> None:
    assert largest_crosses(create("mlp", store.fields, seed=0), store.transforms, store.split("train")) == ()


@pytest.mark.parametrize("model", ["lr", "wide_deep"])
def test_on_the_planted_world_the_planted_cross_comes_first_with_the_right_sign(tmp_path: Path, model: str) -> None:
    crosses = (Cross(name="a_noise", of=("a", "<noise>")), Cross(name="a_b", of=("a", "b")))
    store = world_store(tmp_path, *crosses)
    sets = ("hidden=[4]",) if model == "wide_deep" else ()
    run = trained(store, model, tmp_path / "run", *sets)
    found = largest_crosses(run.load_model(), run.transforms, store.split("train"), top=40)
    assert [one.cross for one in found] == ["a_b"] * 40
    for one in found:
        same = int(one.values["a"]) % 2 == int(one.values["b"]) % 2
        assert (one.weight > 0) == same
