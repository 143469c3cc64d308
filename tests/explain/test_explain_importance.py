"""Permutation importance: what moves, what it is worth, and that noise is worth nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from worlds_for_explain import SMALL, trained, world_store

from weft import metrics
from weft.batch import DenseField, Field, Fields
from weft.explain.explanation import Importance
from weft.explain.importance import Columns, features, importances, metrics_of, shuffled
from weft.schema import Categorical, Dense, Label, MultiHot, Roles, Schema
from weft.scoring import Scorer
from weft.transforms.rows import RaggedArrays, Rows, offsets_of

SCHEMA = Schema(
    name="all kinds",
    features=(
        Categorical(name="user", side="user"),
        Dense(name="year", side="item", buckets=3, missing_indicator=True),
        MultiHot(name="genres", side="item"),
    ),
    roles=Roles(user="user", item="song", label=(Label(name="y"),)),
)
FIELDS = Fields(
    ids=(Field(name="user", side="user", rows=9), Field(name="year.bucket", side="item", rows=5)),
    dense=(DenseField(name="year", side="item"), DenseField(name="year.missing", side="item")),
    ragged=(Field(name="genres", side="item", rows=9, kind="set"),),
)


def some_rows(n: int = 60, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, n)
    return Rows(
        ids=rng.integers(2, 9, (n, 2)).astype(np.int32),
        dense=rng.normal(size=(n, 2)).astype(np.float32),
        ragged={"genres": RaggedArrays(rng.integers(2, 9, lengths.sum()).astype(np.int32), offsets_of(lengths))},
        keys=np.zeros((n, 0), np.uint64),
        label=rng.integers(0, 2, (n, 1)).astype(np.float32),
        user=np.arange(n, dtype=np.int32),
        item=np.arange(n, dtype=np.int32) + 100,
    )


def sets_of(rows: Rows) -> list[list[int]]:
    sets = rows.ragged["genres"]
    return [sets.values[a:b].tolist() for a, b in zip(sets.offsets[:-1], sets.offsets[1:], strict=True)]


def test_a_feature_has_all_its_columns_and_a_role_stands_alone() -> None:
    assert features(SCHEMA, FIELDS) == [
        Columns("user", ids=(0,), role="user"),
        Columns("year", ids=(1,), dense=(0, 1)),
        Columns("genres", ragged=("genres",)),
        Columns("song", role="item"),
    ]


def test_a_feature_that_is_called_like_a_bucket_is_its_own() -> None:
    schema = Schema(features=(Dense(name="x", side="item"), Categorical(name="x.bucket", side="item")))
    fields = Fields(ids=(Field(name="x.bucket", side="item", rows=4),), dense=(DenseField(name="x", side="item"),))
    assert features(schema, fields) == [Columns("x", dense=(0,)), Columns("x.bucket", ids=(0,))]


@pytest.mark.parametrize("place", range(4))
def test_a_shuffle_moves_one_feature_whole_and_nothing_else(place: int) -> None:
    rows, columns = some_rows(), features(SCHEMA, FIELDS)[place]
    before = replace(rows, ids=rows.ids.copy(), dense=rows.dense.copy())
    order = np.random.default_rng(1).permutation(len(rows))
    moved = shuffled(rows, columns, order)
    np.testing.assert_array_equal(rows.ids, before.ids)
    np.testing.assert_array_equal(rows.dense, before.dense)
    for i in range(2):
        np.testing.assert_array_equal(moved.ids[:, i], rows.ids[order if i in columns.ids else slice(None), i])
        np.testing.assert_array_equal(moved.dense[:, i], rows.dense[order if i in columns.dense else slice(None), i])
    expected = [sets_of(rows)[i] for i in order] if columns.ragged else sets_of(rows)
    assert sets_of(moved) == expected
    for role, mine, theirs in (("user", moved.user, rows.user), ("item", moved.item, rows.item)):
        assert mine is not None
        assert theirs is not None
        np.testing.assert_array_equal(mine, theirs[order] if columns.role == role else theirs)
    assert moved.label is rows.label


@pytest.mark.parametrize("feature", ["user", "year", "genres"])
def test_only_what_is_read_is_worth_something(feature: str) -> None:
    """A score that reads one feature: its importance is the whole AUC above one half, that of the others exactly 0."""

    def score(rows: Rows) -> NDArray[np.float32]:
        read = {
            "user": rows.ids[:, 0],
            "year": rows.dense[:, 0],
            "genres": np.diff(rows.ragged["genres"].offsets),
        }
        return read[feature].astype(np.float32)

    rows = some_rows(400)
    threshold = np.median(score(rows))
    rows = replace(rows, label=(score(rows) > threshold).astype(np.float32)[:, None])
    found = {one.feature: one for one in importances(rows, SCHEMA, features(SCHEMA, FIELDS), score, seed=0)
             if one.metric == "auc"}  # fmt: skip
    assert found[feature].worse == pytest.approx(0.5, abs=0.05)
    low, high = interval(found[feature])
    assert 0.4 < low < found[feature].worse < high < 0.6
    for name in {*found} - {feature}:
        assert (found[name].worse, *interval(found[name])) == (0.0, 0.0, 0.0)
    assert next(iter(found)) == feature


def interval(one: Importance) -> tuple[float, float]:
    assert one.low is not None
    assert one.high is not None
    return one.low, one.high


def test_the_value_is_the_mean_over_the_shuffles_written_out() -> None:
    rows = some_rows(50)
    assert rows.label is not None

    def score(rows: Rows) -> NDArray[np.float32]:
        return (rows.dense[:, 0] + 0.3 * rows.ids[:, 0] - 1).astype(np.float32)

    user = features(SCHEMA, FIELDS)[:1]
    found = importances(rows, SCHEMA, user, score, seed=7, shuffles=3, resamples=2)
    random = np.random.default_rng(7)
    falls, rises = [], []
    y = rows.label[:, 0]
    for _ in range(3):
        order = random.permutation(50)
        other = score(replace(rows, ids=np.stack([rows.ids[order, 0], rows.ids[:, 1]], axis=1)))
        falls.append(metrics.auc(y, score(rows)) - metrics.auc(y, other))
        rises.append(metrics.logloss(y, other) - metrics.logloss(y, score(rows)))
    assert [one.metric for one in found] == ["auc", "logloss"]
    np.testing.assert_allclose([one.worse for one in found], [np.mean(falls), np.mean(rises)])


TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "binary": ({"auc": metrics.auc, "logloss": metrics.logloss}, {}),
    "regression": ({"rmse": metrics.rmse}, {}),
    "count": ({"poisson_deviance": metrics.poisson_deviance}, {}),
    "multiclass": ({"logloss": metrics.multiclass_logloss}, {"classes": 2}),
}


@pytest.mark.parametrize("task", TASKS)
def test_metrics_by_weight_are_those_of_rows_drawn_so_often(task: Any) -> None:
    expected, more = TASKS[task]
    rows, rng = some_rows(40), np.random.default_rng(5)
    assert rows.label is not None
    logits = rng.normal(size=(40, 2) if task == "multiclass" else 40).round(1).astype(np.float32)
    weight = rng.integers(0, 4, 40)
    found = metrics_of((Label(name="y", task=task, **more),), rows, logits)
    assert found.keys() == expected.keys()
    y = np.repeat(rows.label[:, 0], weight)
    for name, metric in expected.items():
        drawn = metric(y, np.repeat(logits, weight, axis=0))
        assert found[name](weight.astype(np.float64)) == pytest.approx(drawn, rel=1e-6)


def test_several_labels_have_their_own_metrics() -> None:
    rows = some_rows(40)
    rows = replace(rows, label=np.concatenate([rows.label, rows.dense[:, :1]], axis=1))
    labels = (Label(name="click"), Label(name="time", task="regression"))
    assert list(metrics_of(labels, rows, np.zeros((40, 2)))) == ["click.auc", "click.logloss", "time.rmse"]


def test_a_metric_that_is_not_defined_is_none() -> None:
    rows = some_rows(20)
    rows = replace(rows, label=np.ones((20, 1), np.float32))
    found = importances(rows, SCHEMA, features(SCHEMA, FIELDS)[:1], lambda rows: rows.dense[:, 0], seed=0)
    assert (found[0].metric, found[0].worse, found[0].low, found[0].high) == ("auc", None, None, None)
    assert found[1].worse == 0.0


def test_the_seed_decides() -> None:
    def run(seed: int) -> tuple[Importance, ...]:
        return importances(some_rows(), SCHEMA, features(SCHEMA, FIELDS), lambda rows: rows.dense[:, 0], seed=seed)

    assert run(3) == run(3)
    assert run(3) != run(4)


@pytest.mark.parametrize("model", ["fm", "mlp", "dcn_v2"])
def test_the_planted_features_stand_out_and_noise_does_not(tmp_path: Path, model: str) -> None:
    store = world_store(tmp_path)
    run = trained(store, model, tmp_path / "run", *(SMALL if model != "fm" else SMALL[1:]))
    rows = store.split("test")
    scorer = Scorer(run.load_model(), run.transforms, store.items)
    found = importances(rows, run.schema, features(run.schema, run.fields), scorer.rows, seed=0)
    by_auc = {one.feature: one for one in found if one.metric == "auc"}
    assert set(list(by_auc)[:2]) == {"a", "b"}
    noise = interval(by_auc["<noise>"])
    assert noise[1] < 0.02
    assert min(interval(by_auc["a"])[0], interval(by_auc["b"])[0]) > 0.4
