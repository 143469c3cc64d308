"""Several labels: towers over any ranker with a representation, and plain models of several outputs."""

import dataclasses
from itertools import count
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from weft.batch import Batch
from weft.errors import ConfigError, Unsupported
from weft.models import create, score, set_output_bias, unwrapped
from weft.models._registry import complete, representing
from weft.models.tasks import Tasks
from weft.testing import check, tiny

SHARED = {"kind": "shared_bottom", "hidden": [4]}
MMOE = {"kind": "mmoe", "hidden": [4], "experts": 3, "expert_hidden": [5]}
SMALL = {"embedding_dim": 4, "hidden": [8], "batch_norm": False}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dcn_v2", {**SMALL, "tasks": MMOE}),
        ("dcn_v2", {**SMALL, "tasks": SHARED, "structure": "stacked", "embedding_update": "sparse"}),
        ("mlp", {**SMALL, "tasks": {"kind": "shared_bottom", "hidden": []}}),
        ("mlp", {**SMALL, "tasks": MMOE, "pooling": "target"}),
        ("mlp", SMALL),
        ("dcn_v2", SMALL),
        ("lr", {}),
    ],
)
def test_several_labels_keep_the_contract(name: str, options: dict[str, Any]) -> None:
    check(name, options, labels=3)


def double_tiny(labels: int) -> tuple[Any, Batch]:
    fields, batch = tiny(labels)
    return fields, dataclasses.replace(batch, dense=batch.dense.double())


def each_its_own(module: nn.Module) -> nn.Module:
    """Double-precision weights of which no two are alike: towers, experts and gates cannot stand for each other."""
    number = count(1)
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.copy_(torch.tensor([next(number) for _ in range(weight.numel())]).double().sin().view_as(weight))
    for layer in (m for m in module.modules() if hasattr(m, "slices")):
        for name in layer.slices:
            layer.table(name)[0] = 0
    return module


def dense(layer: nn.Linear, x: Tensor) -> Tensor:
    return torch.relu(layer.weight @ x + layer.bias)


def slow(model: Tasks, batch: Batch, b: int, t: int) -> Tensor:
    x = torch.cat([part[b] for part in model.model.represent(batch)])
    if model.mixture is not None:
        odds = [torch.exp(row @ x) for row in model.mixture.gates[t].weight]
        outputs = [dense(expert.layers[0], x) for expert in model.mixture.experts]
        x = sum(odd / sum(odds) * output for odd, output in zip(odds, outputs, strict=True))
    return model.head.weight[t] @ dense(model.head.towers[t].layers[0], x) + model.head.bias[t]


@pytest.mark.parametrize("tasks", [SHARED, MMOE])
def test_each_label_has_its_formula(tasks: dict[str, Any]) -> None:
    fields, batch = double_tiny(3)
    options = {"embedding_dim": 2, "hidden": [3], "batch_norm": False, "num_cross": 1, "tasks": tasks}
    model = each_its_own(create("dcn_v2", fields, options))
    logits = score(model, batch)
    wanted = torch.stack([torch.stack([slow(model, batch, b, t) for t in range(3)]) for b in range(8)])
    torch.testing.assert_close(logits, wanted)
    probe = torch.arange(24.0).double().cos().view(8, 3)
    weights = [p for p in model.parameters() if p.requires_grad]
    for got, want in zip(
        torch.autograd.grad(logits, weights, probe), torch.autograd.grad(wanted, weights, probe), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("tasks", [SHARED, MMOE])
@pytest.mark.parametrize("name", representing())
def test_every_ranker_with_a_representation_takes_towers(name: str, tasks: dict[str, Any]) -> None:
    """And its own head is gone: no weight is left that no label moves."""
    fields, batch = tiny(3)
    plain = create(name, fields, seed=0)
    assert score(plain, batch).shape == (8, 3)
    model = create(name, fields, {"embedding_update": "dense", "tasks": tasks}, seed=0)
    logits = score(model, batch)
    assert logits.shape == (8, 3)
    (logits * torch.arange(24.0).cos().view(8, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert type(unwrapped(model)) is type(plain)
    mine = {key.removeprefix("model.") for key in model.state_dict() if key.startswith("model.")}
    assert mine == {key for key in plain.state_dict() if not key.startswith("head.")}


@pytest.mark.parametrize("name", representing())
def test_the_logits_of_a_ranker_are_its_head_on_its_representation(name: str) -> None:
    fields, batch = tiny(3)
    model = create(name, fields, seed=0).eval()
    torch.testing.assert_close(model.head(*model.represent(batch)), score(model, batch))


def test_a_label_moves_its_own_tower_and_what_all_share() -> None:
    fields, batch = tiny(2)
    model = create("mlp", fields, {**SMALL, "embedding_update": "dense", "tasks": MMOE}, seed=0)
    score(model, batch)[:, 0].sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("head.towers.0") for name in moved)
    assert any(name.startswith("mixture.gates.0") for name in moved)
    assert not any(name.startswith(("head.towers.1", "mixture.gates.1")) for name in moved)
    assert all(any(name.startswith(f"mixture.experts.{k}") for name in moved) for k in range(3))
    assert any(name.startswith("model.inputs") for name in moved)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lr", {}),
        ("mlp", SMALL),
        ("dcn_v2", SMALL),
        ("dcn_v2", {**SMALL, "tasks": SHARED}),
        ("dcn_v2", {**SMALL, "tasks": MMOE}),
        ("dcn_v2", {**SMALL, "tasks": MMOE, "position": {"kind": "watch_next"}}),
    ],
)
def test_each_output_starts_at_its_labels_mean(name: str, options: dict[str, Any]) -> None:
    fields, batch = tiny(3)
    model = create(name, fields, options, seed=0).eval()
    before = score(model, batch)
    set_output_bias(model, ["binary", "regression", "count"], [0.2, 3.5, 2.0])
    moved = (score(model, batch) - before).mean(0)
    torch.testing.assert_close(moved, torch.tensor([-1.386294, 3.5, 0.693147]), atol=1e-5, rtol=1e-5)


def test_position_goes_around_the_towers() -> None:
    fields, batch = tiny(3)
    shown = dataclasses.replace(batch, position=torch.arange(1, 9))
    model = create("dcn_v2", fields, {**SMALL, "tasks": MMOE, "position": {"kind": "pal"}}, seed=0)
    assert score(model, shown).shape == (8, 3)
    assert isinstance(model.inner(), Tasks)
    assert type(unwrapped(model)) is type(create("dcn_v2", fields))


def test_options_are_complete_and_come_back() -> None:
    options = complete("dcn_v2", {"tasks": {"kind": "mmoe"}})
    assert set(options["tasks"]) == {"kind", "hidden", "experts", "expert_hidden", "dropout"}
    fields, _ = tiny(2)
    model = create("dcn_v2", fields, options)
    assert len(model.mixture.experts) == 4
    assert create("dcn_v2", fields, {"tasks": {"kind": "shared_bottom"}}).mixture is None


@pytest.mark.parametrize("name", ["lr", "wide_deep"])
def test_a_ranker_without_a_representation_is_refused_with_those_that_have_one(name: str) -> None:
    with pytest.raises(Unsupported, match=r"choose one of .*dcn_v2.*mlp"):
        create(name, tiny(2)[0], {"tasks": SHARED})


def test_a_ranker_of_one_output_names_those_that_give_several() -> None:
    fields, _ = tiny(3)
    with pytest.raises(Unsupported, match="model 'fm' gives one number a row and the labels need 3") as error:
        create("fm", fields, {"tasks": SHARED})
    named = str(error.value).partition("choose one of ")[2].split(", ")
    assert named == list(representing())
    assert {"dcn_v2", "mlp"} <= set(named)


@pytest.mark.parametrize(
    ("change", "words"),
    [({}, "the schema has one label"), ({"outputs": 3, "task": "multiclass"}, "has a multiclass label")],
)
def test_towers_need_several_labels(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        create("mlp", replace(tiny()[0], **change), {"tasks": SHARED})


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"hidden": [8]}, "missing required field `kind`"),
        ({"kind": "ple"}, "Invalid enum value 'ple'"),
        ({**MMOE, "expert": 4}, "did you mean expert"),
        ({**MMOE, "experts": 1}, ">= 2"),
        ({**MMOE, "expert_hidden": []}, "length >= 1"),
    ],
)
def test_options_of_tasks_are_checked(tasks: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create("mlp", tiny(2)[0], {"tasks": tasks})
