"""Several labels, the whole road: prepare, train, evaluate, predict and recommend."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file

import weft
from weft.data import catalog
from weft.data.store import Store
from weft.errors import ConfigError, Unsupported
from weft.metrics import poisson_deviance
from weft.runs import SavedRun
from weft.schema import Categorical, Label, RandomSplit, Roles, Schema
from weft.scoring import Scorer

LABELS = (Label(name="click"), Label(name="stars", task="regression"), Label(name="plays", task="count"))
QUICK = ("train.batch_size=64", "train.learning_rate=0.01", "train.epochs=4", "embedding_dim=4", "embedding_std=0.1")
DEEP = (*QUICK, "hidden=[8]")
MMOE = (*DEEP, "tasks.kind=mmoe", "tasks.hidden=[8]", "tasks.experts=2", "tasks.expert_hidden=[8]")
STILL = ("train.epochs=1", "train.learning_rate=1e-12", "hidden=[8]", "embedding_dim=4")
USERS, ITEMS = 12, 10


def table(rows: int = 1_000) -> pl.DataFrame:
    """Even users like even items and odd users odd ones; a liked item is clicked, praised and played more."""
    rng = np.random.default_rng(5)
    user, item = rng.integers(0, USERS, rows), rng.integers(0, ITEMS, rows)
    likes = np.where((user + item) % 2 == 0, 1.0, -1.0) + rng.normal(0, 0.3, rows)
    return pl.DataFrame(
        {"user": user, "item": item, "click": likes > 0.9, "stars": 3 + likes, "plays": rng.poisson(np.exp(likes))}
    ).with_columns(pl.col("click").cast(pl.Int8))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    schema = Schema(
        features=(Categorical(name="user", side="user"), Categorical(name="item", side="item")),
        roles=Roles(user="user", item="item", label=LABELS),
        split=RandomSplit(valid=0.2, test=0.2),
        name="several",
    )
    return weft.prepare(schema, tmp_path_factory.mktemp("several") / "store", interactions=table())


@pytest.fixture(scope="module")
def towers(store: Store, tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    sets = [*MMOE, "train.epochs=20", "train.patience=20", "train.batch_size=32", "train.learning_rate=0.02"]
    return weft.train(store, "dcn_v2", out=tmp_path_factory.mktemp("runs") / "mmoe", sets=sets, precision="fp32")


KEYS = {"click.auc", "click.logloss", "stars.rmse", "plays.poisson_deviance"}


@pytest.mark.parametrize(
    ("model", "sets"),
    [
        ("lr", QUICK[:3]),
        ("mlp", DEEP),
        ("dcn_v2", (*DEEP, "tasks.kind=shared_bottom", "tasks.hidden=[8]")),
    ],
)
def test_labels_of_different_tasks_are_learned_together(
    store: Store, tmp_path: Path, model: str, sets: tuple[str, ...]
) -> None:
    run = weft.train(store, model, out=tmp_path / "run", sets=sets, precision="fp32")
    assert set(run.validation) == KEYS
    metrics = weft.evaluate(run).metrics
    assert {"click.auc", "click.ne", "stars.rmse", "stars.mae", "plays.poisson_deviance"} <= set(metrics)


def test_a_mixture_of_experts_learns_every_label(store: Store, towers: SavedRun) -> None:
    """Clicks are chance among liked items: knowing who likes what gives an AUC of 0.865."""
    metrics = weft.evaluate(towers).metrics
    assert metrics["click.auc"].value > 0.82
    assert metrics["stars.rmse"].value < 0.75 * float(table()["stars"].std())
    plays = store.split("test").label[:, 2]
    constant = poisson_deviance(plays, np.full(len(plays), np.log(plays.mean())))
    assert metrics["plays.poisson_deviance"].value < 0.8 * constant


@pytest.mark.parametrize(
    ("model", "sets", "key"),
    [
        ("lr", STILL[:2], "bias"),
        ("mlp", STILL, "head.linear.bias"),
        ("dcn_v2", (*STILL, "tasks.kind=mmoe"), "head.bias"),
    ],
)
def test_each_output_starts_at_its_own_labels_mean(
    store: Store, tmp_path: Path, model: str, sets: tuple[str, ...], key: str
) -> None:
    run = weft.train(store, model, out=tmp_path / "run", sets=sets, precision="fp32")
    click, stars, plays = store.split("train").label.mean(axis=0, dtype=np.float64)
    wanted = [np.log(click / (1 - click)), stars, np.log(plays)]
    np.testing.assert_allclose(load_file(run.path / "weights.safetensors")[key].numpy(), wanted, rtol=1e-5)


def monitored(run: SavedRun) -> float:
    return float(json.loads((run.path / "state.json").read_text())["progress"]["best"])


def test_the_first_label_decides_unless_another_is_named(store: Store, tmp_path: Path) -> None:
    first = weft.train(store, "mlp", out=tmp_path / "first", sets=DEEP)
    assert monitored(first) == first.validation["click.auc"]
    second = weft.train(store, "mlp", out=tmp_path / "second", sets=[*DEEP, "train.monitor=stars.rmse"])
    assert monitored(second) == second.validation["stars.rmse"]
    with pytest.raises(ConfigError, match=r"'auc'; (did you mean|known).*click\.auc"):
        weft.train(store, "mlp", out=tmp_path / "third", sets=[*DEEP, "train.monitor=auc"])


def test_weights_of_losses_are_settings_of_any_model(store: Store, tmp_path: Path) -> None:
    """A label that does not count leaves its weights where they were; one that is not there is refused."""
    still = weft.train(store, "mlp", out=tmp_path / "still", sets=[*STILL, "train.task_weights.plays=0.5"])
    moved = weft.train(
        store, "mlp", out=tmp_path / "moved", sets=[*DEEP, "train.task_weights.plays=0", "train.task_weights.click=2"]
    )
    assert moved.config.recipe["task_weights"] == {"plays": 0.0, "click": 2.0}
    before, after = (load_file(run.path / "weights.safetensors")["head.linear.weight"] for run in (still, moved))
    assert not np.allclose(before[0], after[0])
    assert not np.allclose(before[1], after[1])
    np.testing.assert_allclose(before[2], after[2], atol=1e-6)
    with pytest.raises(ConfigError, match=r"`train.task_weights` names no label: 'clicks'; did you mean click"):
        weft.train(store, "mlp", out=tmp_path / "none", sets=["train.task_weights.clicks=2"])
    assert not (tmp_path / "none").exists()


def test_predict_writes_a_column_for_each_label(store: Store, towers: SavedRun, tmp_path: Path) -> None:
    rows = table().drop("click", "stars", "plays").head(50)
    weft.predict(towers.path, rows, tmp_path / "scored.parquet")
    scored = pl.read_parquet(tmp_path / "scored.parquet")
    assert scored.columns == ["user", "item", "score.click", "score.stars", "score.plays"]
    liked = (scored["user"] + scored["item"]) % 2 == 0
    for name in ("score.click", "score.stars", "score.plays"):
        assert scored.filter(liked)[name].mean() > scored.filter(~liked)[name].mean()
    assert scored["score.click"].is_between(0, 1).all()
    assert scored["score.plays"].min() > 0


def test_lists_are_ordered_by_the_first_label(store: Store, towers: SavedRun) -> None:
    recommender = weft.Recommender.load(towers.path)
    answer = recommender.recommend(3, k=5, seen="allow")
    assert all(item.id % 2 == 1 for item in answer.items)
    users = store.catalogue.users.take(np.array([towers.transforms.user_ids.id_of(3)]))
    pairs = Scorer(towers.load_model(), towers.transforms, store.items).catalogue(users)
    best = np.sort(pairs[0][2:])[::-1][:5]
    np.testing.assert_allclose([item.score for item in answer.items], best, rtol=1e-5)
    report = weft.evaluate(towers, protocol="full")
    assert "relevant from 0.5 of click" in report.protocol


def test_a_ranker_that_cannot_is_refused_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"model 'fm' gives one number a row and the labels need 3; .*dcn_v2"):
        weft.train(store, "fm", out=tmp_path / "fm", sets=["tasks.kind=mmoe"])
    assert not (tmp_path / "fm").exists()


def test_the_music_service_has_three_labels(tmp_path: Path) -> None:
    folder = catalog.get("music", tmp_path / "data", protocol="tasks", options={"rows": 6_000, "seed": 3})
    store = weft.prepare(folder / "schema.toml", tmp_path / "store")
    rows = pl.read_parquet(folder / "interactions.parquet")
    tracks = pl.read_parquet(folder / "items.parquet").select("track_id", "duration")
    told = rows.join(tracks, on="track_id", maintain_order="left")
    assert (told["finished"] == (told["listen_seconds"] >= told["duration"]).cast(pl.Int8)).all()
    assert 0 < rows["finished"].mean() < rows["played"].mean()
    sets = [*MMOE, "pooling=target", "train.epochs=2", "train.batch_size=512"]
    run = weft.train(store, "dcn_v2", out=tmp_path / "run", sets=sets, precision="fp32")
    metrics = weft.evaluate(run).metrics
    for label in ("played", "liked", "finished"):
        assert {f"{label}.auc", f"{label}.logloss", f"{label}.gauc", f"{label}.ndcg@10"} <= set(metrics)
        assert metrics[f"{label}.auc"].value > 0.55
