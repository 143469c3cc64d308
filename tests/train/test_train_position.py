"""Runs of wrapped models: what training sees of positions, what serving sees, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from weft.data.store import Store, prepare
from weft.errors import ConfigError, Unsupported
from weft.models import Retriever
from weft.models._predict import predict
from weft.models.position import Position
from weft.runs import SavedRun
from weft.schema import Categorical, Label, RandomSplit, Roles, Schema
from weft.scoring import Scorer
from weft.train.objective import measure
from weft.train.run import train

SETS = ("train.epochs=2", "train.batch_size=64", "train.learning_rate=0.02")
PAL, WATCH_NEXT = "position.kind=pal", "position.kind=watch_next"


def schema(*, position: bool = True, tasks: tuple[str, ...] = ("binary",)) -> Schema:
    return Schema(
        features=(
            Categorical(name="user", side="user"),
            Categorical(name="device", side="user"),
            Categorical(name="item", side="item"),
        ),
        roles=Roles(
            user="user",
            item="item",
            label=tuple(Label(name=f"y{i}", task=task) for i, task in enumerate(tasks)),
            position="position" if position else None,
        ),
        split=RandomSplit(valid=0.2, test=0.2),
        name="page",
    )


def table(rows: int = 600) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    item, position = draw.integers(6, size=rows), draw.integers(1, 5, size=rows)
    click = draw.random(rows) < (0.3 + 0.1 * item) / position
    return pl.DataFrame(
        {
            "user": draw.integers(9, size=rows),
            "device": draw.choice(["phone", "car"], rows),
            "item": item,
            "position": position,
            "y0": click.astype(np.int64),
            "y1": draw.integers(2, size=rows),
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(schema(), tmp_path_factory.mktemp("page") / "store", interactions=table())


def other_store(folder: Path, **changes: Any) -> Store:
    return prepare(schema(**changes), folder / "store", interactions=table())


@pytest.mark.parametrize("model", ["lr", "mf"])
@pytest.mark.parametrize("sets", [(PAL,), (WATCH_NEXT, 'position.features=["device"]')])
def test_validation_sees_what_the_loss_trains_and_serving_sees_no_position(
    store: Store, tmp_path: Path, model: str, sets: tuple[str, ...]
) -> None:
    run = train(store, model, out=tmp_path / "run", sets=[*SETS, *sets], seed=1)
    valid, labels = store.split("valid"), store.schema.roles.label
    assert valid.label is not None
    loaded = run.load_model()
    given, dropped = (predict(loaded, [valid.batch()], keep_position=keep) for keep in (True, False))
    assert run.validation == pytest.approx(measure(labels, valid.label, given))
    assert run.validation["auc"] != pytest.approx(measure(labels, valid.label, dropped)["auc"])
    assert run.report.protocol == "pointwise, position given"
    served = Scorer(loaded, run.transforms, store.items).rows(valid)
    np.testing.assert_allclose(served, dropped, rtol=1e-6)


def test_a_run_reads_back_with_its_tower(store: Store, tmp_path: Path) -> None:
    sets = [*SETS, WATCH_NEXT, "position.dropout=0.3", "position.hidden=[4]", "position.max_position=7"]
    run = train(store, "lr", out=tmp_path / "run", sets=sets)
    options = SavedRun.open(run.path).config.options["position"]
    assert options == {
        "kind": "watch_next",
        "features": [],
        "hidden": [4],
        "max_position": 7,
        "dropout": 0.3,
        "curve": [],
    }
    model = run.load_model()
    assert isinstance(model, Position)
    assert model.tower.get_parameter("tables.0.weight").shape == (8, 4)
    assert model.position_curve(4)[-1] < model.position_curve(4)[0] == 1


def test_plain_models_are_told_the_same_as_before(store: Store, tmp_path: Path) -> None:
    assert train(store, "lr", out=tmp_path / "run", sets=SETS).report.protocol == "pointwise"


def test_a_retriever_in_pal_is_searched_by_its_vectors(store: Store, tmp_path: Path) -> None:
    run = train(store, "mf", out=tmp_path / "run", sets=[*SETS, PAL])
    scorer = Scorer(run.load_model(), run.transforms, store.items)
    assert isinstance(scorer.model, Retriever)
    users = store.split("test").take(slice(0, 3))
    every = np.broadcast_to(np.arange(len(store.items)), (3, len(store.items)))
    np.testing.assert_allclose(scorer.catalogue(users), scorer.candidates(users, every), rtol=1e-5)


def test_watch_next_over_a_retriever_scores_pairs(store: Store, tmp_path: Path) -> None:
    run = train(store, "mf", out=tmp_path / "run", sets=[*SETS, WATCH_NEXT])
    scorer = Scorer(run.load_model(), run.transforms, store.items)
    users = store.split("test").take(slice(0, 3))
    assert scorer.catalogue(users).shape == (3, len(store.items))
    model = run.load_model()
    inside = Scorer(model.inner(), run.transforms, store.items)  # type: ignore[operator]
    shift = scorer.catalogue(users) - inside.catalogue(users)
    np.testing.assert_allclose(shift, shift[0, 0], atol=1e-5)
    assert abs(shift[0, 0]) > 0


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        ((PAL, "train.keep_negatives=0.5"), ConfigError, "`train.keep_negatives` = 0.5 changes P"),
        ((PAL, "train.negatives=2"), ConfigError, "`train.negatives` = 2 adds rows that were shown nowhere"),
        ((WATCH_NEXT, "train.negatives=2"), ConfigError, "shown nowhere, and `position` learns where"),
        ((WATCH_NEXT, "position.kind=sum"), ConfigError, "Invalid enum value 'sum'"),
    ],
)
def test_recipes_that_do_not_go_with_positions_are_refused(
    store: Store, tmp_path: Path, sets: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(store, "lr", out=tmp_path / "run", sets=[*SETS, *sets])
    assert not (tmp_path / "run").exists()


def test_watch_next_goes_with_fewer_negatives(store: Store, tmp_path: Path) -> None:
    run = train(store, "lr", out=tmp_path / "run", sets=[*SETS, WATCH_NEXT, "train.keep_negatives=0.5"])
    assert run.intercept == pytest.approx(np.log(0.5))


def test_a_schema_without_positions_is_refused(tmp_path: Path) -> None:
    data = other_store(tmp_path, position=False)
    for kind in (PAL, WATCH_NEXT):
        with pytest.raises(Unsupported, match=r"the schema does not say; set `position` in \[roles\]"):
            train(data, "lr", out=tmp_path / "run", sets=[*SETS, kind])
    assert not (tmp_path / "run").exists()


def test_pal_wants_every_label_to_be_binary_and_watch_next_does_not(tmp_path: Path) -> None:
    data = other_store(tmp_path, tasks=("binary", "regression"))
    with pytest.raises(Unsupported, match=r"not every label is binary; set position\.kind=watch_next"):
        train(data, "lr", out=tmp_path / "pal", sets=[*SETS, PAL])
    train(data, "lr", out=tmp_path / "watch", sets=[*SETS, WATCH_NEXT])


def test_dropout_of_the_tower_is_the_runs_own_chance(store: Store, tmp_path: Path) -> None:
    """The same seed gives the same weights, another one others."""
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(found))
        run = train(store, "lr", out=tmp_path / name, sets=[*SETS, WATCH_NEXT, "position.dropout=0.5"], seed=seed)
        found.append(run.load_model().state_dict())
    first, again, other = found
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
