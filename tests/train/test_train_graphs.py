"""Whole runs of graph models on the two camps: what is saved, loaded, resumed and taken over."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import camps_for_tests as camps
from weft.data.store import Store, prepare
from weft.errors import Unsupported
from weft.models import names, reads_graph
from weft.runs import SavedRun
from weft.schema import Categorical, Dense
from weft.scoring import Scorer
from weft.train import run as runs
from weft.train.optimizers import Optimizer
from weft.train.run import train

GRAPHS = [name for name in names("retriever") if reads_graph(name)]
SMALL = (
    "embedding_dim=8",
    "layers=2",
    "train.batch_size=50",
    "train.learning_rate=0.05",
    "train.patience=99",
    "train.plateau_factor=1.0",
)
PLAIN = (Categorical(name="user", side="user"), Categorical(name="song", side="item"), Dense(name="year", side="item"))


def prepared(path: Path, rows: pl.DataFrame | None = None) -> Store:
    rows = camps.interactions() if rows is None else rows
    return prepare(camps.schema(features=PLAIN), path, interactions=rows, items=camps.songs())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepared(tmp_path_factory.mktemp("camps") / "store")


def weights(run: SavedRun) -> dict[str, torch.Tensor]:
    return load_file(run.path / "weights.safetensors")


def in_camp(run: SavedRun, store: Store) -> float:
    """The share of the six best unseen songs that are of the user's camp."""
    scorer = Scorer(run.load_model(), store.transforms, store.items)
    users = store.split("test").take(slice(0, 60))
    score = torch.from_numpy(scorer.catalogue(users))[:, 2:]
    songs = torch.tensor([int(name.removeprefix("song-")) for name in store.transforms.item_ids.values.tolist()])
    camp = torch.tensor([value % 2 for value in store.transforms.user_ids.values[users.user - 2].tolist()])
    best = score.topk(6).indices
    return (songs[best] % 2 == camp[:, None]).double().mean().item()


@pytest.mark.parametrize("loss", ["bpr", "softmax", "full_softmax"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_run_finds_the_camps_and_is_loaded_without_a_graph(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, loss: str
) -> None:
    sets = [*SMALL, "train.epochs=25", "train.learning_rate=0.02", f"train.loss={loss}"]
    run = train(store, name, out=tmp_path / "run", sets=sets)
    monkeypatch.setattr(runs, "train_graph", None)
    assert in_camp(run, store) > 0.95
    assert not [key for key, value in weights(run).items() if not value.is_floating_point()], "an edge is an integer"
    with pytest.raises(Unsupported, match="made without one"):
        run.load_model().train().vectors(store.split("train").batch())


@pytest.mark.parametrize("name", GRAPHS)
def test_a_run_that_is_cut_short_ends_with_the_same_bits(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("weft.train.checkpoint.SHARE_OF_TIME", float("inf"))
    sets = [*SMALL, "train.epochs=3", "train.checkpoint_seconds=0"]
    sets += ["dropout=0.2"] if name == "ngcf" else ["neighbours=walks"] if name == "graphsage" else []
    whole = train(store, name, out=tmp_path / "whole", sets=sets)
    with cut_after(6), pytest.raises(KeyboardInterrupt):
        train(store, name, out=tmp_path / "cut", sets=sets)
    resumed = train(store, name, out=tmp_path / "cut", resume=True)
    found = weights(resumed)
    assert all(torch.equal(value, found[key]) for key, value in weights(whole).items())


@contextmanager
def cut_after(steps: int) -> Iterator[None]:
    """Training stops after so many steps, in the middle of an epoch."""
    left, original = iter(range(steps)), Optimizer.step

    def counted(self: Optimizer) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "step", counted)
        yield


def test_a_run_without_validation_rows_keeps_its_last_vectors(tmp_path: Path) -> None:
    rows = camps.interactions().with_columns(split=pl.col("split").replace("valid", "train"))
    run = train(prepared(tmp_path / "store", rows), "lightgcn", out=tmp_path / "run", sets=[*SMALL, "train.epochs=2"])
    found = weights(run)
    assert run.validation == {}
    assert found["final.user"][2:].any(dim=1).all(), "every user has a vector to serve"


def test_warm_start_takes_over_the_rows_of_known_users(tmp_path: Path) -> None:
    rows = camps.interactions()
    first = prepared(tmp_path / "first", rows.filter(pl.col("user") != 1_000))
    old = train(first, "lightgcn", out=tmp_path / "old", sets=[*SMALL, "train.epochs=2"])
    grown, console = prepared(tmp_path / "grown", rows), Console(file=StringIO(), width=300)
    sets = [*SMALL, "train.epochs=1", "train.learning_rate=1e-9"]
    new = train(grown, "lightgcn", out=tmp_path / "new", sets=sets, init=old.path, console=console)
    assert "embedding rows" in console.file.getvalue()
    table = "embedding.tables.user.weight"
    for user in (1_001, 1_030):
        place, before = (s.transforms.user_ids.encode_values(np.array([user]))[0] for s in (grown, first))
        torch.testing.assert_close(weights(new)[table][place], weights(old)[table][before], rtol=0, atol=1e-6)
    stranger = grown.transforms.user_ids.encode_values(np.array([1_000]))[0]
    assert weights(new)["final.user"][stranger].any(), "a user of the new store has a vector of the new graph"
    assert new.validation["recall@6"] > 0.8
