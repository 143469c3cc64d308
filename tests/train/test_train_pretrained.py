"""NeuMF starts from a gmf and an ncf_mlp trained alone, of the same store or of another one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from msgspec.structs import replace
from rich.console import Console
from safetensors.torch import save_file

from weft import artifacts
from weft.batch import FIRST_ID
from weft.data.store import Store, prepare
from weft.errors import ConfigError
from weft.models import _registry as registry
from weft.models import score, unwrapped
from weft.models.position import Position
from weft.runs import KIND, SavedRun
from weft.schema import Categorical, Dense, Label, RandomSplit, Roles, Schema
from weft.testing import make_lopsided
from weft.train.checkpoint import plain
from weft.train.pretrained import start_from_parts
from weft.train.recipe import resolve
from weft.train.run import train

SCHEMA = Schema(
    features=(
        Categorical(name="user", side="user"),
        Categorical(name="item", side="item"),
        Dense(name="age", side="user"),
    ),
    roles=Roles(user="user", item="item", position="place", label=(Label(name="y"),)),
    split=RandomSplit(valid=0.1, test=0.1),
)
RECIPE = ("train.negatives=2", "train.epochs=3", "train.batch_size=64", "train.learning_rate=0.01")
WIDTHS = {"gmf": ("embedding_dim=3",), "ncf_mlp": ("layers=[6, 4]",), "neumf": ("embedding_dim=3", "layers=[6, 4]")}


def positives(users: list[int], items: list[int]) -> pl.DataFrame:
    """Even users have even items, odd users odd ones."""
    pairs = np.array([(u, i) for u in users for i in items if (u + i) % 2 == 0 and (u * 7 + i) % 5])
    rng = np.random.default_rng(2)
    rows = {"user": pairs[:, 0], "item": pairs[:, 1], "place": rng.integers(1, 4, len(pairs)), "y": 1}
    return pl.DataFrame(rows).with_columns(age=pl.col("user") * 1.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    frame = positives(list(range(14)), list(range(20)))
    return prepare(SCHEMA, tmp_path_factory.mktemp("data") / "store", interactions=frame)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Some users and items are gone, others are new, and all have other ids."""
    frame = positives(list(range(19, 5, -1)), list(range(30, 8, -1)))
    return prepare(SCHEMA, tmp_path_factory.mktemp("data") / "other", interactions=frame)


@pytest.fixture(scope="module")
def parts(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("gmf", "ncf_mlp"):
        train(store, name, out=folder / name, sets=[*RECIPE, *WIDTHS[name]], seed=1)
    return {"gmf": str(folder / "gmf"), "mlp": str(folder / "ncf_mlp")}


def pretrained(parts: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"pretrained.{part}={path}" for part, path in parts.items())


def neumf(store: Store, options: dict[str, Any] | None = None) -> torch.nn.Module:
    return registry.create("neumf", store.fields, {"embedding_dim": 3, "layers": [6, 4], **(options or {})}, seed=5)


def test_the_first_logit_is_the_mean_of_the_halves(store: Store, parts: dict[str, str]) -> None:
    model = neumf(store)
    told = start_from_parts(model, parts, store.transforms, seed=0)
    assert "embedding rows" in told
    assert "gmf from" in told
    batch = store.split("valid").batch()
    halves = [score(SavedRun.open(path).load_model(), batch) for path in parts.values()]
    torch.testing.assert_close(score(model.eval(), batch), sum(halves) / 2)


def test_another_store_is_matched_by_value(store: Store, other: Store, parts: dict[str, str]) -> None:
    model = neumf(other)
    start_from_parts(model, parts, other.transforms, seed=0)
    gmf, mlp = (SavedRun.open(path).load_model() for path in parts.values())
    for role in ("user", "item"):
        before, after = (getattr(s.transforms, f"{role}_ids") for s in (store, other))
        old = {before.value_of(i): i for i in range(FIRST_ID, before.rows)}
        shared = [(old[value], i) for i in range(FIRST_ID, after.rows) if (value := after.value_of(i)) in old]
        assert 5 < len(shared) < after.rows - FIRST_ID
        assert any(was != now for was, now in shared)
        for half, layer in ((gmf, model.gmf_embedding), (mlp, model.mlp_embedding)):
            for was, now in shared:
                assert torch.equal(layer.table(role)[now], half.embedding.table(role)[was])
        fresh = sorted(set(range(FIRST_ID, after.rows)) - {now for _, now in shared})
        assert model.gmf_embedding.table(role)[fresh].any(1).all(), "strangers start as in a fresh gmf"


def test_a_whole_run_starts_there(store: Store, parts: dict[str, str], tmp_path: Path) -> None:
    console = Console(record=True, width=400)
    sets = [*RECIPE, *WIDTHS["neumf"], *pretrained(parts), "train.learning_rate=1e-9", "train.epochs=1"]
    run = train(store, "neumf", out=tmp_path / "run", preset="pretrained", sets=sets, console=console)
    assert run.config.recipe["optimizer"] == "sgd"
    assert run.config.options["pretrained"] == parts
    batch = store.split("test").batch()
    halves = [score(SavedRun.open(path).load_model(), batch) for path in parts.values()]
    torch.testing.assert_close(score(run.load_model(), batch), sum(halves) / 2, atol=1e-5, rtol=1e-4)
    assert "taken over" in console.export_text()


def test_a_wrapped_neumf_starts_there_too(store: Store, parts: dict[str, str]) -> None:
    if "position" not in registry.option_names("neumf"):
        pytest.skip("no wrapper for positions")
    model = neumf(store, {"position": {"kind": "watch_next"}})
    start_from_parts(model, parts, store.transforms, seed=0)
    plain = neumf(store)
    start_from_parts(plain, parts, store.transforms, seed=0)
    weights = model.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(next(v for name, v in weights.items() if name.endswith(key)), value)


def with_options(path: str, folder: Path, options: dict[str, Any]) -> str:
    """A run like the one in `path`, of the same model under wrappers and with lopsided weights."""
    run = SavedRun.open(path)
    config = replace(run.config, options=run.config.options | options)
    model = make_lopsided(registry.create(config.model, run.fields, config.options, seed=9)).float()
    shutil.copytree(path, folder)
    (folder / "run.toml").write_bytes(config.toml())
    save_file(plain(model.state_dict()), folder / "weights.safetensors")
    artifacts.write_manifest(folder, KIND)
    return str(folder)


@pytest.mark.parametrize("kind", ["pal", "watch_next"])
def test_of_a_half_trained_with_positions_the_network_inside_counts(
    kind: str, store: Store, parts: dict[str, str], tmp_path: Path
) -> None:
    options = {"position": {"kind": kind}}
    halves = {part: with_options(path, tmp_path / part, options) for part, path in parts.items()}
    model = neumf(store)
    start_from_parts(model, halves, store.transforms, seed=0)
    batch = store.split("valid").batch()
    logits = [score(unwrapped(SavedRun.open(path).load_model()), batch) for path in halves.values()]
    torch.testing.assert_close(score(model.eval(), batch), sum(logits) / 2)


def test_halves_without_an_output_of_their_own_are_refused(store: Store, parts: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(parts["gmf"], folder)
    config = SavedRun.open(parts["gmf"]).config
    tasks = {"tasks": {"kind": "shared_bottom"}}
    (folder / "run.toml").write_bytes(replace(config, options=config.options | tasks).toml())
    artifacts.write_manifest(folder, KIND)
    with pytest.raises(ConfigError, match=r"`pretrained.gmf` must be a run whose output is its own, .* with `tasks`"):
        start_from_parts(neumf(store), parts | {"gmf": str(folder)}, store.transforms, seed=0)


def test_towers_leave_no_output_to_pretrain(store: Store, parts: dict[str, str]) -> None:
    two = replace(store.fields, outputs=2)
    options = {"embedding_dim": 3, "layers": [6, 4], "tasks": {"kind": "shared_bottom"}}
    for more in ({}, {"position": {"kind": "pal"}}):
        model = registry.create("neumf", two, options | more, seed=5)
        with pytest.raises(ConfigError, match="`tasks` puts towers in its place; leave out one of them"):
            start_from_parts(model, parts, store.transforms, seed=0)


def test_the_preset_for_after_the_halves_steps_as_often_as_theirs() -> None:
    after, alone = (resolve("neumf", preset=name).recipe for name in ("pretrained", "paper"))
    assert after == replace(alone, optimizer="sgd")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            lambda p: pretrained({"gmf": p["mlp"], "mlp": p["mlp"]}),
            r"`pretrained.gmf` must be a run of the model 'gmf'",
        ),
        (lambda p: (*pretrained(p), "embedding_dim=5"), "'gmf_embedding.user.weight' is .*, 3] there and .*, 5] here"),
        (lambda p: (*pretrained(p), "layers=[6, 5]"), "'tower.layers.0.weight' is"),
        (lambda p: pretrained({"gmf": "nowhere", "mlp": p["mlp"]}), "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_folder(
    sets: Callable[[dict[str, str]], tuple[str, ...]],
    message: str,
    store: Store,
    parts: dict[str, str],
    tmp_path: Path,
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        train(store, "neumf", out=tmp_path / "run", sets=[*RECIPE, *WIDTHS["neumf"], *sets(parts)])
    assert caught.type.__module__ == "weft.errors"
    assert not (tmp_path / "run").exists()


def test_a_run_has_one_start(store: Store, parts: dict[str, str], tmp_path: Path) -> None:
    sets = [*RECIPE, *WIDTHS["neumf"], *pretrained(parts)]
    with pytest.raises(ConfigError, match="`init` or from the parts in `pretrained`, both are given"):
        train(store, "neumf", out=tmp_path / "run", sets=sets, init=parts["gmf"])


@pytest.mark.parametrize(("sets", "reads"), [((), False), (("position.features=['user']",), True)])
def test_under_a_position_they_read_features_where_the_tower_does(
    sets: tuple[str, ...], reads: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = set()
    forward = Position.forward
    monkeypatch.setattr(Position, "forward", lambda net, batch: widths.add(batch.ids.shape[1]) or forward(net, batch))
    recipe = ("position.kind=pal", "train.monitor=logloss", "train.epochs=1")
    train(store, "gmf", out=tmp_path / "run", sets=[*recipe, *sets])
    assert widths == {store.split("train").ids.shape[1] if reads else 0}


@pytest.mark.parametrize("name", ["mf", "gmf", "ncf_mlp", "neumf"])
def test_models_of_ids_alone_train_without_joining_features(
    name: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("features were joined")

    monkeypatch.setattr(type(store.transforms), "join", refuse)
    run = train(store, name, out=tmp_path / "run", sets=list(RECIPE))
    assert "auc" in run.validation
    with pytest.raises(AssertionError, match="features were joined"):
        train(store, "lr", out=tmp_path / "lr", sets=list(RECIPE))


def test_the_output_starts_at_the_share_of_positives_among_rows_and_negatives(store: Store, tmp_path: Path) -> None:
    sets = ["train.negatives=4", "train.epochs=1", "train.learning_rate=1e-9"]
    run = train(store, "gmf", out=tmp_path / "run", sets=sets)
    assert run.load_model().head.bias.sigmoid().item() == pytest.approx(0.2, abs=1e-4)
