"""Metrics of rows as they are: equal to scikit-learn's, and within groups to a slow loop."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sk

import camps_for_tests as camp
import weft
from weft.data.store import Store
from weft.evaluate.pointwise import by_task, lists_of_groups, pointwise
from weft.evaluate.report import Value
from weft.models._predict import predict
from weft.runs import SavedRun
from weft.schema import Categorical, Label, RandomSplit, Roles, Schema

ROWS = 300


def draw() -> tuple[Any, Any]:
    """Labels and logits with some equal ones."""
    rng = np.random.default_rng(3)
    logit = np.round(rng.normal(0, 2, ROWS), 1)
    return (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.float32), logit.astype(np.float32)


def test_binary_metrics_equal_scikit_learn() -> None:
    y, logit = draw()
    found = {name: value.value for name, value in by_task(Label(name="y"), y, logit, seed=0).items()}
    share = 1 / (1 + np.exp(-logit.astype(np.float64)))
    said = logit > 0
    base = np.full(ROWS, y.mean(dtype=np.float64))
    wanted = {
        "auc": sk.roc_auc_score(y, logit),
        "logloss": sk.log_loss(y, share),
        "ne": sk.log_loss(y, share) / sk.log_loss(y, base),
        "accuracy": sk.accuracy_score(y, said),
        "precision": sk.precision_score(y, said),
        "recall": sk.recall_score(y, said),
        "f1": sk.f1_score(y, said),
        "calibration": share.sum() / y.sum(),
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    assert set(found) == {*wanted, "ece"}


def test_other_tasks_equal_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    logit = rng.normal(0, 1, ROWS).astype(np.float32)
    y = rng.normal(0, 1, ROWS).astype(np.float32)
    rating = by_task(Label(name="y", task="regression"), y, logit, seed=0)
    assert rating["rmse"].value == pytest.approx(sk.root_mean_squared_error(y, logit), rel=1e-6)
    assert rating["mae"].value == pytest.approx(sk.mean_absolute_error(y, logit), rel=1e-6)
    plays = rng.poisson(np.exp(logit)).astype(np.float32)
    count = by_task(Label(name="y", task="count"), plays, logit, seed=0)
    assert count["poisson_deviance"].value == pytest.approx(sk.mean_poisson_deviance(plays, np.exp(logit)), rel=1e-5)
    assert count["rmse"].value == pytest.approx(sk.root_mean_squared_error(plays, np.exp(logit)), rel=1e-5)
    logits, classes = rng.normal(0, 1, (ROWS, 3)), rng.integers(0, 3, ROWS).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    many = by_task(Label(name="y", task="multiclass", classes=3), classes, logits, seed=0)
    assert many["logloss"].value == pytest.approx(sk.log_loss(classes, shares), rel=1e-6)
    assert many["accuracy"].value == pytest.approx(sk.accuracy_score(classes, logits.argmax(1)))


def test_every_value_lies_in_its_interval_and_says_of_how_many() -> None:
    y, logit = draw()
    for name, value in by_task(Label(name="y"), y, logit, seed=0).items():
        assert value.low is not None, name
        assert value.high is not None, name
        assert value.low <= (value.value or 0) + 0.02, name
        assert value.high >= (value.value or 0) - 0.02, name
        assert value.count == ROWS


def test_one_class_leaves_undefined_metrics_empty() -> None:
    found = by_task(Label(name="y"), np.ones(5), np.linspace(-1, 1, 5), seed=0)
    assert found["auc"] == Value(value=None, low=None, high=None, count=5)
    assert found["logloss"].value is not None


def test_wild_logits_are_no_warning() -> None:
    found = by_task(Label(name="y"), np.array([0.0, 1.0]), np.array([-3e4, 3e4]), seed=0)
    assert found["logloss"].value == pytest.approx(0.0)


def ndcg_by_hand(y: Any, score: Any, group: Any, k: int) -> float:
    found = []
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        falling = rows[np.argsort(-score[rows])]
        best = sum(1 / math.log2(r + 2) for r in range(min(k, int(y[rows].sum()))))
        if best:
            found.append(sum(y[row] / math.log2(r + 2) for r, row in enumerate(falling[:k])) / best)
    return float(np.mean(found))


def test_ndcg_within_groups_equals_a_loop(camps: Store) -> None:
    rows = camps.split("valid")
    assert rows.label is not None
    assert rows.group is not None
    rng = np.random.default_rng(0)
    score, group = rng.normal(size=len(rows)), rng.permutation(rows.group // 3)
    rows = replace(rows, group=group)
    found = pointwise(rows, score, camps.schema, seed=0)
    for k in camp.PROTOCOL.k:
        assert found[f"ndcg@{k}"].value == pytest.approx(ndcg_by_hand(rows.label[:, 0], score, group, k))
    aucs = {g: _auc(rows.label[group == g, 0], score[group == g]) for g in np.unique(group)}
    sizes = {g: (group == g).sum() for g, value in aucs.items() if value is not None}
    assert found["gauc"].value == pytest.approx(sum(aucs[g] * n for g, n in sizes.items()) / sum(sizes.values()))


def _auc(y: Any, score: Any) -> Any:
    return sk.roc_auc_score(y, score) if 0 < y.sum() < len(y) else None


def test_equal_scores_in_a_group_stand_in_random_order() -> None:
    """The positive is always first in the table: a constant model must not get it for that."""
    y, score, group = np.tile([1.0, 0.0, 0.0, 0.0], 500), np.zeros(2000), np.repeat(np.arange(500), 4)
    first = lists_of_groups(y, score, group, 1, seed=0)
    assert first[0].mean() == pytest.approx(0.25, abs=0.05)
    assert np.array_equal(first[0], lists_of_groups(y, score, group, 1, seed=0)[0])
    assert not np.array_equal(first[0], lists_of_groups(y, score, group, 1, seed=1)[0])


def test_short_groups_and_long_lists() -> None:
    hits, relevant = lists_of_groups(np.array([1.0, 1.0]), np.array([1.0, 2.0]), np.array([0, 0]), 5, seed=0)
    assert hits.tolist() == [[True, True, False, False, False]]
    assert relevant.tolist() == [2]


# Whole runs


def table(rows: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    user, item = rng.integers(0, 12, rows), rng.integers(0, 9, rows)
    likes = np.where((user + item) % 2 == 0, 1.0, -1.0) + rng.normal(0, 0.4, rows)
    return pl.DataFrame(
        {
            "user": user,
            "item": item,
            "click": (likes > 0).astype(int),
            "buy": (likes > 1).astype(int),
            "rating": 3 + likes,
            "plays": rng.poisson(np.exp(likes)),
            "mood": (likes > 0) + (likes > 1).astype(int),
        }
    )


CASES: dict[str, tuple[tuple[Label, ...], set[str]]] = {
    "binary": ((Label(name="click"),), {"auc", "ece", "gauc"}),
    "regression": ((Label(name="rating", task="regression"),), {"rmse", "mae"}),
    "count": ((Label(name="plays", task="count"),), {"poisson_deviance", "rmse"}),
    "multiclass": ((Label(name="mood", task="multiclass", classes=3),), {"logloss", "accuracy"}),
    "several": (
        (Label(name="click"), Label(name="buy"), Label(name="rating", task="regression")),
        {"click.auc", "buy.auc", "click.gauc", "rating.rmse"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_task_is_judged(case: str, tmp_path: Path) -> None:
    labels, names = CASES[case]
    schema = Schema(
        features=(Categorical(name="user", side="user"), Categorical(name="item", side="item")),
        roles=Roles(user="user", item="item", label=labels),
        split=RandomSplit(valid=0.2, test=0.3),
    )
    store = weft.prepare(schema, tmp_path / "store", interactions=table())
    run = weft.train(store, "lr", out=tmp_path / "run", sets=["train.epochs=2"])
    report = weft.evaluate(run)
    assert names <= set(report.metrics)
    assert not any(name.startswith("ndcg") for name in report.metrics)
    assert report.rows == 90
    assert ("GAUC within user" in report.protocol) == (case in ("binary", "several"))


def test_the_report_is_of_the_models_logits(camps: Store, camp_runs: dict[str, SavedRun]) -> None:
    rows = camps.split("test")
    assert rows.label is not None
    for run in camp_runs.values():
        logit = predict(run.load_model(), [rows.batch()])
        assert weft.evaluate(run).metrics["auc"].value == pytest.approx(sk.roc_auc_score(rows.label[:, 0], logit))


def test_users_that_training_does_not_know_are_no_group(camps: Store) -> None:
    """They share one id, so that they would count as one user."""
    rows = camps.split("test")
    found = pointwise(replace(rows, group=None), np.arange(len(rows)) / 9, camps.schema, seed=0)
    assert found["gauc"].count <= camp.USERS
    assert found["gauc"].value is not None


def test_kept_negatives_are_corrected_for(camps: Store, tmp_path: Path) -> None:
    sets = ["train.keep_negatives=0.5", "train.epochs=2"]
    run = weft.train(camps, "lr", out=tmp_path / "run", sets=sets, precision="fp32")
    rows = camps.split("test")
    assert rows.label is not None
    logit = predict(run.load_model(), [rows.batch()]) + math.log(0.5)
    share = 1 / (1 + np.exp(-logit.astype(np.float64)))
    assert weft.evaluate(run).metrics["logloss"].value == pytest.approx(sk.log_loss(rows.label[:, 0], share), rel=1e-5)
