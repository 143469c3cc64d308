"""Metrics to compare models by: those of the report, as functions of what is drawn."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import camps_for_tests as camp
import weft
from weft.data.store import Store
from weft.errors import ConfigError
from weft.evaluate import compared
from weft.evaluate.evaluator import judge, resolve
from weft.runs import SavedRun
from weft.schema import Label, Protocol, Roles

QUICK = ("train.epochs=2", "train.batch_size=64")


@pytest.mark.parametrize("kind", ["pointwise", "full"])
def test_the_value_is_that_of_the_report(camps: Store, camp_runs: dict[str, SavedRun], kind: str) -> None:
    judged = judge(camp_runs["lr"], protocol=kind)
    protocol = resolve(camps.schema, kind)
    names = compared.comparable(camps.schema, protocol)
    assert names[0] == {"pointwise": "auc", "full": "ndcg@1"}[kind]
    assert {"gauc", "ndcg@6", "accuracy"} <= set(names) or kind == "full"
    for name in names:
        found = compared.weighted(name, camps.split("test"), judged.values, camps.schema, protocol)
        assert found.value == pytest.approx(judged.report.metrics[name].value, rel=1e-9)


def labels_store(folder: Path, label: tuple[Label, ...]) -> Store:
    rng = np.random.default_rng(0)
    table = camp.interactions()
    table = table.with_columns(
        stars=pl.Series(rng.normal(3.0, 1.0, len(table))), plays=pl.Series(rng.poisson(2.0, len(table)))
    )
    roles = Roles(user="user", item="song", time="time", label=label)
    return weft.prepare(camp.schema(roles=roles), folder, interactions=table, items=camp.songs())


@pytest.mark.parametrize(
    ("label", "main"),
    [
        ((Label(name="stars", task="regression"),), "rmse"),
        ((Label(name="plays", task="count"),), "poisson_deviance"),
        ((Label(name="liked", task="multiclass", classes=2),), "logloss"),
        ((Label(name="liked"), Label(name="stars", task="regression")), "liked.auc"),
    ],
    ids=["regression", "count", "multiclass", "several"],
)
def test_every_task_has_its_metrics(tmp_path: Path, label: tuple[Label, ...], main: str) -> None:
    store = labels_store(tmp_path / "store", label)
    run = weft.train(store, "lr", out=tmp_path / "run", sets=QUICK)
    judged, protocol = judge(run), resolve(store.schema, None)
    names = compared.comparable(store.schema, protocol)
    assert compared.choose(None, store.schema, protocol) == names[0] == main
    for name in names:
        found = compared.weighted(name, store.split("test"), judged.values, store.schema, protocol)
        assert found.value == pytest.approx(judged.report.metrics[name].value, rel=1e-6)
    assert len(names) == sum(len(compared.OF_ROWS[part.task]) + (part.task == "binary") for part in label)


def test_what_is_drawn() -> None:
    assert compared.drawn("click.gauc", Protocol()) == "groups"
    assert compared.drawn("ndcg@10", Protocol()) == "groups"
    assert compared.drawn("ndcg@10", Protocol(kind="full")) == "users"


def test_an_unknown_metric_names_its_neighbours(camps: Store) -> None:
    with pytest.raises(ConfigError, match="cannot be compared by 'aux' here; did you mean auc"):
        compared.choose("aux", camps.schema, Protocol())
