"""A new model takes over what still means the same."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from weft import artifacts
from weft.errors import ConfigError
from weft.models import _registry as registry
from weft.models import unwrapped
from weft.runs import KIND, RunConfig, SavedRun
from weft.schema import Categorical, Cross, Dense, Label, Roles, Schema
from weft.testing.lopsided import make_lopsided
from weft.train.checkpoint import plain
from weft.train.warm_start import warm_start
from weft.transforms.cross import CrossVocabulary
from weft.transforms.encode import Transforms
from weft.transforms.scale import Scaler
from weft.transforms.vocabulary import Vocabulary

SCHEMA = Schema(
    features=(
        Categorical(name="user", side="user"),
        Categorical(name="item", side="item"),
        Categorical(name="page", side="context", hash_buckets=6),
        Dense(name="age", side="user", buckets=(20.0, 40.0), transform="none"),
        Cross(name="pair", of=("user", "item")),
    ),
    roles=Roles(label=(Label(name="click"),), user="user", item="item"),
)


def vocabulary(values: list[Any]) -> Vocabulary:
    kind = np.int64 if isinstance(values[0], int) else object
    return Vocabulary(np.array(values, dtype=kind), np.arange(len(values), 0, -1))


def transforms(users: list[str], items: list[int], keys: list[int], edges: list[float], schema: Schema) -> Transforms:
    return Transforms(
        schema,
        vocabularies={"user": vocabulary(users), "item": vocabulary(items)},
        scalers={"age": Scaler(kind="none")},
        edges={"age": np.array(edges)},
        crosses={"pair": CrossVocabulary(np.array(keys, dtype=np.uint64), np.ones(len(keys), np.int64))},
        user_ids=vocabulary(users),
        item_ids=vocabulary(items),
    )


def saved(path: Path, name: str, old: Transforms, options: dict[str, Any]) -> tuple[SavedRun, nn.Module]:
    model = registry.create(name, old.fields, options, seed=1)
    with torch.no_grad():
        make_lopsided(model).float()
    path.mkdir()
    old.save(path / "transforms")
    (path / "run.toml").write_bytes(RunConfig(model=name, store="s", store_id="0", options=options).toml())
    (path / "schema.json").write_bytes(msgspec.json.encode(old.schema))
    save_file(plain(model.state_dict()), path / "weights.safetensors")
    artifacts.write_manifest(path, KIND)
    return SavedRun.open(path), model


OLD = (["ann", "bob", "eve"], [10, 20, 30], [7, 8], [20.0, 40.0])
NEW = (["eve", "zoe", "ann", "dan"], [30, 10], [9, 8, 5], [20.0, 40.0])
OPTIONS = {"embedding_dim": 4, "hidden": [8], "batch_norm": True}


def test_rows_go_by_value_and_weights_by_name(tmp_path: Path) -> None:
    run, old = saved(tmp_path / "run", "mlp", transforms(*OLD, SCHEMA), OPTIONS)
    new_transforms = transforms(*NEW, SCHEMA)
    new = registry.create("mlp", new_transforms.fields, OPTIONS, seed=2)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    report = warm_start(new, new_transforms, run)

    before, after = old.state_dict(), new.state_dict()
    prefix = next(name for name in after if name.endswith("user.weight")).removesuffix("user.weight")
    user, item, pair = (f"{prefix}{name}.weight" for name in ("user", "item", "pair"))
    assert torch.equal(after[user][[1, 2, 4]], before[user][[1, 4, 2]]), "unknown, eve, ann"
    assert torch.equal(after[user][[0, 3, 5]], fresh[user][[0, 3, 5]]), "padding, zoe and dan start fresh"
    assert torch.equal(after[item][[1, 2, 3]], before[item][[1, 4, 2]])
    assert torch.equal(after[pair][[1, 3]], before[pair][[1, 3]]), "the key 8"
    for name in (f"{prefix}page.weight", f"{prefix}age.bucket.weight"):
        assert torch.equal(after[name][1:], before[name][1:]), "hashes and buckets go by position"
    others = [name for name in after if not name.startswith(prefix)]
    assert all(torch.equal(after[name], before[name]) for name in others)
    assert set(report.weights) == set(others)
    assert report.left == ()
    assert "embedding rows" in str(report)


def test_what_has_changed_its_shape_or_meaning_starts_fresh(tmp_path: Path) -> None:
    run, _ = saved(tmp_path / "run", "mlp", transforms(*OLD, SCHEMA), OPTIONS)
    features = tuple(msgspec.structs.replace(f, hash_buckets=9) if f.name == "page" else f for f in SCHEMA.features)
    changed = msgspec.structs.replace(SCHEMA, features=features)
    new_transforms = transforms(*NEW[:3], [18.0, 40.0], changed)
    new = registry.create("mlp", new_transforms.fields, OPTIONS | {"hidden": [6]}, seed=2)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    report = warm_start(new, new_transforms, run)
    left = {name for name in report.left if "page" in name or "age.bucket" in name}
    assert len(left) == 2
    assert any("layers.0" in name for name in report.left)
    for name in report.left:
        assert torch.equal(new.state_dict()[name], fresh[name]), name


def test_tables_that_are_called_by_the_role(tmp_path: Path) -> None:
    run, old = saved(tmp_path / "run", "mf", transforms(*OLD, SCHEMA), {"embedding_dim": 2})
    new_transforms = transforms(*NEW, SCHEMA)
    new = registry.create("mf", new_transforms.fields, {"embedding_dim": 2}, seed=2)
    warm_start(new, new_transforms, run)
    assert torch.equal(new.embedding.table("user")[2], old.embedding.table("user")[4])
    assert torch.equal(new.embedding.table("item")[3], old.embedding.table("item")[2])


def test_another_width_starts_fresh(tmp_path: Path) -> None:
    run, _ = saved(tmp_path / "run", "mlp", transforms(*OLD, SCHEMA), OPTIONS)
    new_transforms = transforms(*NEW, SCHEMA)
    new = registry.create("mlp", new_transforms.fields, OPTIONS | {"embedding_dim": 3}, seed=2)
    report = warm_start(new, new_transforms, run)
    assert report.rows == 0
    assert sum("embedding" in name for name in report.left) == 5


PAL = {"position": {"kind": "pal", "max_position": 3}}
TASKS = {"tasks": {"kind": "mmoe", "hidden": [3], "expert_hidden": [4]}}
TWO_LABELS = msgspec.structs.replace(
    SCHEMA, roles=Roles(label=(Label(name="click"), Label(name="like")), user="user", item="item")
)


@pytest.mark.parametrize("name", ["mlp", "ncf_mlp"])
@pytest.mark.parametrize(
    ("before", "after", "fresh"),
    [
        ({}, PAL, ["tower"]),
        (PAL, {}, []),
        (PAL, PAL, []),
        ({}, TASKS, ["head", "mixture"]),
        (TASKS, {}, ["head"]),
        (TASKS, PAL | TASKS, ["tower"]),
        (PAL | TASKS, TASKS, []),
        (PAL, TASKS, ["head", "mixture"]),
        (TASKS, PAL, ["model.head", "tower"]),
    ],
)
def test_wrappers_come_and_go(
    name: str, before: dict[str, Any], after: dict[str, Any], fresh: list[str], tmp_path: Path
) -> None:
    own = OPTIONS if name == "mlp" else {"layers": [6, 4]}
    run, old = saved(tmp_path / "run", name, transforms(*OLD, TWO_LABELS), own | before)
    new = registry.create(name, run.fields, own | after, seed=2)
    report = warm_start(new, run.transforms, run)
    assert {next(f for f in [*fresh, key] if key.startswith(f"{f}.")) for key in report.left} == set(fresh)
    given, taken = unwrapped(old).state_dict(), unwrapped(new).state_dict()
    shared = given.keys() & taken.keys()
    assert len(shared) >= 4
    for key in shared:
        start = int("embedding" in key)  # padding has no value
        assert torch.equal(*(torch.atleast_1d(net[key])[start:] for net in (taken, given))), key


def test_what_a_wrapper_adds_goes_to_the_same_wrapper(tmp_path: Path) -> None:
    run, old = saved(tmp_path / "run", "mlp", transforms(*OLD, TWO_LABELS), OPTIONS | TASKS | PAL)
    new = registry.create("mlp", run.fields, OPTIONS | TASKS | PAL, seed=2)
    warm_start(new, run.transforms, run)
    for key in (
        "tower.head.linear.weight",
        "tower.tables.0.weight",
        "model.head.weight",
        "model.mixture.gates.1.weight",
    ):
        assert torch.equal(new.state_dict()[key], old.state_dict()[key]), key


def test_a_run_with_nothing_in_common_is_refused(tmp_path: Path) -> None:
    run, _ = saved(tmp_path / "run", "mlp", transforms(*OLD, SCHEMA), OPTIONS)
    new = registry.create("lr", run.fields, seed=2)
    with pytest.raises(ConfigError, match=r"no weight of the run .*, of the model 'mlp', has a place in the new model"):
        warm_start(new, run.transforms, run)


@pytest.mark.parametrize("name", ["run.toml", "weights.safetensors"])
def test_a_damaged_run_is_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "run", "mlp", transforms(*OLD, SCHEMA), OPTIONS)
    with (tmp_path / "run" / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(artifacts.ArtifactError, match=name):
        SavedRun.open(tmp_path / "run")
