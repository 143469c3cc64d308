"""Whole runs on a small store: what lies in the folder, and what happens when a run is cut short."""

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from torch import Tensor

from weft import artifacts, metrics
from weft.data.store import Store, prepare
from weft.errors import ArtifactError, ConfigError, Diverged, Locked, StaleModel, Unsupported, WeftError
from weft.models._predict import predict
from weft.runs import SavedRun
from weft.schema import Categorical, Dense, Label, MultiHot, RandomSplit, Roles, Schema
from weft.train import run as runs
from weft.train.optimizers import Optimizer
from weft.train.run import train

SMALL = ("hidden=[8]", "embedding_dim=4", "dropout=0.3", "train.batch_size=64", "train.learning_rate=0.01")
STEPS = 5  # an epoch
FOUR = ("train.epochs=4", "train.patience=4")
WILD = ("train.learning_rate=1e38", "train.clip=inf", "train.optimizer=sgd")
FILES = {
    "run.toml",
    "schema.json",
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "metrics.jsonl",
    "report.json",
    "environment.json",
    "manifest.json",
}


def schema(task: str = "binary", **split: Any) -> Schema:
    label = Label(name="y", task=task, classes=3 if task == "multiclass" else None)
    return Schema(
        features=(
            Categorical(name="user", side="user"),
            Categorical(name="item", side="item"),
            Dense(name="age", side="user"),
            MultiHot(name="tags", side="item"),
        ),
        roles=Roles(user="user", item="item", label=(label,)),
        split=RandomSplit(**split),
        name="camps",
    )


def table(rows: int = 400, task: str = "binary", users: int = 12) -> pl.DataFrame:
    """Even users like even items, odd users odd ones."""
    rng = np.random.default_rng(5)
    user, item = rng.integers(0, users, rows), rng.integers(0, 9, rows)
    likes = np.where((user + item) % 2 == 0, 1.0, -1.0) + rng.normal(0, 0.4, rows)
    label = {
        "binary": (likes > 0).astype(int),
        "regression": 3 + likes,
        "count": rng.poisson(np.exp(likes)),
        "multiclass": (likes > 0) + (likes > 1).astype(int),
    }[task]
    tags = [[int(i) % 2, int(i) % 5] for i in item]
    return pl.DataFrame({"user": user, "item": item, "age": rng.normal(30, 9, rows), "tags": tags, "y": label})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(schema(), tmp_path_factory.mktemp("data") / "store", interactions=table())


def weights(run: SavedRun) -> dict[str, Tensor]:
    return run.load_model().state_dict()


def assert_same_bits(one: SavedRun, other: SavedRun) -> None:
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
    assert one.validation == other.validation


def lines(run: SavedRun) -> list[dict[str, Any]]:
    """What `metrics.jsonl` says, but for the times."""
    found = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "rows_per_second"} for line in found]


def test_the_folder_has_everything_and_reads_back(store: Store, tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=200)
    run = train(store, "dcn_v2", out=tmp_path / "run", sets=[*SMALL, *FOUR], seed=3, console=console)
    assert {path.name for path in run.path.iterdir()} - {".lock", "transforms"} == FILES
    artifacts.verify(run.path, "run")
    assert (run.config.model, run.config.seed, run.config.store_id) == ("dcn_v2", 3, store.id)
    assert run.config.options["embedding_dim"] == 4
    assert run.config.recipe["batch_size"] == 64
    assert run.schema == store.schema
    assert run.fields == store.fields
    valid = store.split("valid")
    logit = predict(run.load_model(), [valid.batch()], precision=run.config.precision)
    assert valid.label is not None
    assert run.validation["auc"] == pytest.approx(metrics.auc(valid.label[:, 0], logit), abs=1e-3)
    epochs = [line for line in lines(run) if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [0, 1, 2, 3]
    assert max(line["metrics"]["auc"] for line in epochs) == run.validation["auc"]
    assert epochs[run.report.epoch or 0]["best"]
    assert "epoch 3: loss" in console.file.getvalue()
    assert json.loads((run.path / "environment.json").read_bytes())["torch"] == torch.__version__


def test_same_seed_same_bits_other_seed_other_bits(store: Store, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    one, two, other = (
        train(store, "mlp", out=tmp_path / name, sets=[*SMALL, "train.epochs=1"], seed=seed)
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert_same_bits(one, two)
    assert (one.path / "weights.safetensors").read_bytes() != (other.path / "weights.safetensors").read_bytes()
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are his own"


class Killed(BaseException):
    """Stands for a kill within this process."""


def killed(*_: Any, **__: Any) -> None:
    raise Killed


def train_until(step: int, *arguments: Any, call: str = "step", **options: Any) -> None:
    """Train until the optimizer's `step` is called so many times, or its `tensors` in the middle of saving."""
    count = 0
    original = getattr(Optimizer, call)

    def counted(self: Optimizer) -> Any:
        nonlocal count
        count += 1
        return killed() if count == step else original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, call, counted)
        train(*arguments, **options)


@pytest.mark.parametrize("update", ["dense", "sparse"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_is_cut_short_ends_with_the_same_bits(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str, precision: str
) -> None:
    monkeypatch.setattr("weft.train.checkpoint.SHARE_OF_TIME", float("inf"))
    sets = [*SMALL, f"embedding_update={update}", "train.epochs=6", "train.checkpoint_seconds=0", "train.log_every=2"]
    whole = train(store, "dcn_v2", out=tmp_path / "whole", sets=sets, precision=precision)
    rng, out = random.Random(f"{update} {precision}"), tmp_path / "cut"
    for cut, call in enumerate(("step", "tensors", "step", "tensors")):
        step = rng.randint(1, STEPS + 1)
        options = {"out": out, "sets": sets, "precision": precision, "resume": cut > 0}
        with pytest.raises(Killed):
            train_until(step, store, "dcn_v2", call=call, **options)
        with pytest.raises(ArtifactError, match="not finished"):
            SavedRun.open(out)
    assert_same_bits(train(store, "dcn_v2", out=out, precision=precision, resume=True), whole)
    assert lines(SavedRun.open(out)) == lines(whole)


KILLED = """
import os, signal, sys
from weft.train import checkpoint, run
from weft.train.optimizers import Optimizer

store, out, step, *sets = sys.argv[1:]
checkpoint.SHARE_OF_TIME = float("inf")
done, original = 0, Optimizer.step

def counted(self):
    global done
    done += 1
    if done == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
    original(self)

Optimizer.step = counted
run.train(store, "dcn_v2", out=out, sets=sets, resume=os.path.exists(out))
"""


def test_sigkill_frees_the_lock_and_loses_nothing(store: Store, tmp_path: Path) -> None:
    sets = [*SMALL, "train.epochs=3", "train.checkpoint_seconds=0"]
    out = tmp_path / "killed"
    for step in (random.Random(0).randint(2, STEPS), STEPS):
        command = [sys.executable, "-c", KILLED, str(store.path), str(out), str(step), *sets]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    whole = train(store, "dcn_v2", out=tmp_path / "whole", sets=sets)
    assert_same_bits(train(store, "dcn_v2", out=out, resume=True), whole)


@pytest.mark.parametrize("place", ["_publish", "_Run._finish", "artifacts.write_json", "_manifest"])
def test_killed_while_the_folder_is_finished(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    whole = train(store, "lr", out=tmp_path / "whole", sets=["train.epochs=1"])
    out = tmp_path / "cut"
    original = artifacts.write_json
    after = 2 if place == "artifacts.write_json" else 0
    calls = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(f"weft.train.run.{place}", lambda *a: killed() if next(calls) >= after else original(*a))
        with pytest.raises(Killed):
            train(store, "lr", out=out, sets=["train.epochs=1"])
    assert_same_bits(train(store, "lr", out=out, resume=True), whole)


def test_a_finished_run_is_not_resumed(store: Store, tmp_path: Path) -> None:
    run = train(store, "lr", out=tmp_path / "run", sets=["train.epochs=1"])
    console = Console(file=StringIO(), width=200)
    assert train(store, "lr", out=run.path, resume=True, console=console).id == run.id
    assert "is finished, there is nothing to resume" in console.file.getvalue()


@pytest.fixture(scope="module")
def begun(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was cut short after its first epoch."""
    out = tmp_path_factory.mktemp("begun") / "run"
    with pytest.raises(Killed):
        train_until(STEPS + 2, store, "lr", out=out, sets=["train.batch_size=64"], seed=4, precision="fp32")
    return out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "fm"}, StaleModel, "begun with model 'lr', not with 'fm'"),
        ({"sets": ["train.batch_size=32"]}, ConfigError, "another `recipe`"),
        ({"sets": ["train.batch_size=64", "embedding_std=0.5"]}, ConfigError, "another `options`"),
        ({"seed": 5}, ConfigError, "another `seed`"),
        ({"precision": "bf16"}, ConfigError, "another `precision`"),
        ({"init": "elsewhere"}, ConfigError, "another `init`"),
        ({"resume": False}, ArtifactError, "holds a run already"),
    ],
)
def test_a_resumed_run_keeps_what_it_was_begun_with(
    store: Store, begun: Path, arguments: dict[str, Any], error: type[WeftError], message: str
) -> None:
    before = sorted(begun.rglob("*"))
    with pytest.raises(error, match=message):
        train(store, **({"model": "lr", "out": begun, "resume": True} | arguments))
    assert sorted(begun.rglob("*")) == before


def test_the_same_settings_may_be_given_again(store: Store, begun: Path, tmp_path: Path) -> None:
    again = shutil.copytree(begun, tmp_path / "again")
    run = train(store, "lr", out=again, sets=["train.batch_size=64"], seed=4, resume=True)
    assert run.config.recipe["batch_size"] == 64


def test_another_store_is_refused(begun: Path, tmp_path: Path) -> None:
    other = prepare(schema(seed=7), tmp_path / "other", interactions=table())
    with pytest.raises(StaleModel, match="begun with store"):
        train(other, "lr", out=begun, resume=True)


def test_a_live_folder_is_refused(store: Store, begun: Path) -> None:
    with artifacts.lock(begun), pytest.raises(Locked, match="in use by process"):
        train(store, "lr", out=begun, resume=True)


def test_a_folder_that_is_no_run_is_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ArtifactError, match="exists already"):
            train(store, "lr", out=tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ArtifactError, match=r"no run .* to resume"):
        train(store, "lr", out=tmp_path / "new", resume=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sets": ["train.l2=0.1", "embedding_update=sparse"]}, ConfigError, "embedding_update=dense"),
        ({"sets": ["train.monitor=ndcg"]}, ConfigError, "names no validation metric: 'ndcg'"),
        ({"sets": ["train.epochs=0"]}, ConfigError, r"train\.epochs"),
        ({"precision": "fp8"}, ConfigError, "precision"),
        ({"init": "nowhere"}, ArtifactError, "nowhere"),
        ({"init": "nowhere", "model": "popularity"}, ConfigError, "starts from no other run"),
        ({"sets": [*WILD, "train.batch_size=64"]}, Diverged, "not finite"),
    ],
)
def test_what_cannot_work_leaves_no_folder(
    store: Store, tmp_path: Path, arguments: dict[str, Any], error: type[WeftError], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(store, **({"model": "lr", "out": tmp_path / "run"} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_never_becomes_the_best(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = runs.objective, 0

    def spoiled(*arguments: Any) -> Callable[..., Tensor]:
        inner = original(*arguments)

        def loss_of(*pair: Any) -> Tensor:
            nonlocal calls
            calls += 1
            return inner(*pair) * (float("nan") if calls == STEPS + 3 else 1.0)

        return loss_of

    monkeypatch.setattr(runs, "objective", spoiled)
    out = tmp_path / "run"
    with pytest.raises(Diverged, match=r"epoch 1, batch 2 is not finite \(rows 128 to 191"):
        train(store, "lr", out=out, sets=["train.batch_size=64"])
    monkeypatch.setattr(runs, "objective", original)
    run = train(store, "lr", out=out, resume=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights(run).values())


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    """Without validation rows nothing else reads the weights of the last step."""
    store = prepare(schema(valid=0.0), tmp_path / "store", interactions=table())
    sets = ["train.epochs=1", "train.optimizer=sgd", "train.learning_rate=1e300"]
    with pytest.raises(Diverged, match=r"after epoch 0 the weights .* are not finite"):
        train(store, "lr", out=tmp_path / "run", sets=sets)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["regression", "count", "multiclass"])
def test_other_tasks(tmp_path: Path, task: str) -> None:
    store = prepare(schema(task), tmp_path / "store", interactions=table(task=task))
    run = train(store, "mlp", out=tmp_path / "run", sets=[*SMALL, "train.epochs=2"])
    expected = {"regression": {"rmse"}, "count": {"poisson_deviance"}, "multiclass": {"logloss", "accuracy"}}
    assert set(run.validation) == expected[task]


def test_a_model_without_gradients(store: Store, tmp_path: Path) -> None:
    run = train(store, "popularity", out=tmp_path / "run")
    assert {path.name for path in run.path.iterdir()} - {".lock", "transforms"} == FILES
    assert run.validation["logloss"] == pytest.approx(np.log(2), abs=0.1)
    assert not weights(run)["line"].isnan().any()


def test_without_validation_rows_the_last_epoch_is_kept(tmp_path: Path) -> None:
    store = prepare(schema(valid=0.0), tmp_path / "store", interactions=table())
    run = train(store, "lr", out=tmp_path / "run", sets=["train.epochs=3"])
    assert run.validation == {}
    assert run.report.epoch == 2


def test_warm_start_continues_with_new_users(store: Store, tmp_path: Path) -> None:
    sets = [*SMALL, "train.epochs=12", "train.patience=12", "train.plateau_factor=1.0", "train.learning_rate=0.03"]
    first = train(store, "dcn_v2", out=tmp_path / "first", sets=sets)
    grown = prepare(schema(), tmp_path / "grown", interactions=table(users=14))
    console = Console(file=StringIO(), width=300)
    sets = [*SMALL, "train.epochs=1", "train.learning_rate=1e-9"]
    cold = train(grown, "dcn_v2", out=tmp_path / "cold", sets=sets)
    second = train(grown, "dcn_v2", out=tmp_path / "second", sets=sets, init=first.path, console=console)
    assert second.config.init == str(first.path)
    assert "embedding rows and" in console.file.getvalue()
    assert second.validation["auc"] > cold.validation["auc"] + 0.2


def test_one_and_two_threads_agree(store: Store, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            run = train(store, "dcn_v2", out=tmp_path / str(count), sets=[*SMALL, "train.epochs=2"], precision="fp32")
            found.append(weights(run))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found)


def test_a_store_without_label_is_said(tmp_path: Path) -> None:
    bare = Schema(features=schema().features, roles=Roles(user="user", item="item"))
    store = prepare(bare, tmp_path / "store", interactions=table())
    with pytest.raises(Unsupported, match="needs a label"):
        train(store, "lr", out=tmp_path / "run")


def test_negatives_are_sampled_for_rows_that_are_all_positive(tmp_path: Path) -> None:
    positives = table(600).filter(pl.col("y") == 1)
    store = prepare(schema(), tmp_path / "store", interactions=positives)
    with pytest.raises(ConfigError, match="'auc' is not defined on the validation rows"):
        train(store, "mf", out=tmp_path / "none")
    alone = train(store, "mf", out=tmp_path / "alone", sets=["train.monitor=logloss", "train.epochs=1"])
    assert set(alone.validation) == {"logloss"}
    sets = ["train.negatives=3", "train.epochs=20", "train.learning_rate=0.03", "train.batch_size=64"]
    run = train(store, "mf", out=tmp_path / "run", sets=sets)
    assert run.validation["auc"] > 0.8
    assert run.report.protocol == "pointwise, 3 sampled negatives a row"


def test_kept_negatives_are_corrected_for(store: Store, tmp_path: Path) -> None:
    rate = float(store.split("train").label[:, 0].mean())
    sets = ["train.keep_negatives=0.2", "train.epochs=20", "train.learning_rate=0.01", "train.batch_size=64"]
    run = train(store, "lr", out=tmp_path / "run", sets=[*sets, "train.monitor=logloss"])
    assert run.intercept == pytest.approx(np.log(0.2))
    logit = predict(run.load_model(), [store.split("valid").batch()]) + run.intercept
    assert (1 / (1 + np.exp(-logit))).mean() == pytest.approx(rate, abs=0.1)


def test_sampling_needs_a_binary_label(tmp_path: Path) -> None:
    store = prepare(schema("regression"), tmp_path / "store", interactions=table(task="regression"))
    with pytest.raises(ConfigError, match="need one binary label"):
        train(store, "mf", out=tmp_path / "run", sets=["train.negatives=2"])
