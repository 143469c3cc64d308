"""DHEN: any subset of modules, any depth, layers of different kinds; it finds crosses of three and shows pairs."""

from dataclasses import replace as with_columns
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from formulas_for_tests import assert_same_in_value_and_gradient
from weft.batch import Fields
from weft.errors import ConfigError, Unsupported
from weft.layers.dhen import AttentionSlots, ConvolutionSlots, CrossSlots, DotSlots
from weft.layers.slot_linear import SlotLinear
from weft.models import create, entry, score, search_space
from weft.testing import check, cross_only, fit, make_lopsided, tiny
from worlds_for_tests import auc_on, strongest_pair

MODULES = {
    "dot": DotSlots,
    "attention": AttentionSlots,
    "convolution": ConvolutionSlots,
    "linear": SlotLinear,
    "cross": CrossSlots,
}
SMALL = {"embedding_dim": 4, "bottom": (5,), "slots": 3}
LIGHT = {"embedding_dim": 8, "slots": 4}


def kinds(model: nn.Module) -> list[list[type]]:
    return [[type(module) for module in layer.interactions] for layer in model.layers]


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_dhen_is_layer_after_layer_and_a_head_over_all_slots(hidden: tuple[int, ...]) -> None:
    fields, batch = tiny()
    modules = [["dot", "cross"], ["linear", "attention"]]
    model = make_lopsided(create("dhen", fields, {**SMALL, "modules": modules, "num_layers": 2, "hidden": hidden}))
    batch = with_columns(batch, dense=batch.dense.double())
    bottom = model.slots.bottom(batch.dense)
    x = torch.cat([bottom[:, None], model.slots.slots(batch)], dim=1)
    for layer in model.layers:
        x = layer.norm(torch.cat([module(x) for module in layer.interactions], dim=1) + layer.shortcut(x))
    h = x.flatten(1)
    if hidden:
        h = torch.relu(h @ model.top.layers[0].weight.T + model.top.layers[0].bias)
    logit = (h @ model.head.linear.weight.T + model.head.bias)[:, 0]
    assert_same_in_value_and_gradient(score(model, batch), logit, model.parameters())


def test_layers_may_differ() -> None:
    model = create("dhen", tiny()[0], {"modules": [["dot", "cross"], ["linear"]], "num_layers": 2})
    assert kinds(model) == [[DotSlots, CrossSlots], [SlotLinear]]


def test_the_list_of_layers_starts_again_where_there_are_more() -> None:
    model = create("dhen", tiny()[0], {"modules": [["cross"], ["linear"]], "num_layers": 3})
    assert kinds(model) == [[CrossSlots], [SlotLinear], [CrossSlots]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"modules": [["dot"], ["dot"]], "num_layers": 1},
            "describes 2 layers and `num_layers` is 1; set num_layers=2",
        ),
        ({"modules": [["dots"]]}, r"Invalid enum value 'dots'.*modules\[0\]\[0\]"),
        ({"modules": [[]]}, r"length >= 1.*modules\[0\]"),
        ({"modules": [["attention"]], "num_heads": 3}, "embedding_dim 16 for 3 heads; choose a multiple"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("dhen", tiny()[0], options)


def test_heads_matter_to_attention_only() -> None:
    assert create("dhen", tiny()[0], {"modules": [["linear"]], "num_heads": 3})


def test_numbers_alone_are_one_slot_and_have_no_pair() -> None:
    fields, batch = tiny()
    numbers, batch = Fields(dense=fields.dense), with_columns(batch, ids=batch.ids[:, :0], ragged={})
    with pytest.raises(
        Unsupported, match=r"'dot' of model 'dhen' .* gets one slot; add features .*, or leave 'dot' out"
    ):
        create("dhen", numbers)
    model = create("dhen", numbers, {"modules": [["linear", "cross", "attention", "convolution"]]})
    assert fit(model, batch, steps=3)[-1] > 0


def test_several_outputs_and_no_numbers() -> None:
    fields, batch = tiny()
    model = create("dhen", replace(fields, outputs=3, dense=()))
    assert score(model, with_columns(batch, dense=batch.dense[:, :0])).shape == (8, 3)


@pytest.mark.parametrize("module", MODULES)
def test_each_module_keeps_the_contract_alone(module: str) -> None:
    check("dhen", {**LIGHT, "modules": [[module]], "num_layers": 1, "bottom": (8,)})


@pytest.mark.parametrize("ensemble", ["concat", "sum", "weighted_sum"])
def test_all_modules_keep_the_contract_together(ensemble: str) -> None:
    check("dhen", {**LIGHT, "modules": [list(MODULES)], "num_layers": 1, "ensemble": ensemble, "bottom": (8,)})


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (8,), "batch_norm": True, "widths": {"item": 3}, "embedding_update": "sparse"},
        {"modules": [["dot", "linear"], ["attention", "linear"]], "num_layers": 2},
    ],
)
def test_dhen_keeps_the_contract(options: dict[str, Any]) -> None:
    check("dhen", {**LIGHT, "bottom": (8,), **options})


@pytest.mark.parametrize("modules", [[["dot", "linear"]], [list(MODULES)]])
def test_eight_layers_train(modules: list[list[str]]) -> None:
    fields, batch = tiny()
    model = create("dhen", fields, {**LIGHT, "modules": modules, "num_layers": 8}, seed=0)
    score(model, batch).square().sum().backward()
    lengths = [float(torch.cat([p.grad.flatten() for p in layer.parameters()]).norm()) for layer in model.layers]
    assert min(lengths[1:]) > 0.01 * max(lengths[1:]), "the gradient neither vanishes nor explodes on its way down"
    assert fit(model, batch, steps=80, rate=0.01)[-1] < 0.02


@pytest.mark.parametrize("world", ["cross_only", "third_order"])
@pytest.mark.parametrize("modules", [[["dot", "linear"]], [["attention", "cross"]]])
def test_dhen_finds_crosses_of_two_and_three(world: str, modules: list[list[str]]) -> None:
    assert auc_on(world, "dhen", {**LIGHT, "modules": modules, "num_layers": 2}, steps=60) > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_the_dots_of_the_first_layer_put_the_planted_pair_first(seed: int) -> None:
    assert strongest_pair("dhen", {**LIGHT, "num_layers": 1}, seed, steps=60) == {"a", "b"}


def test_a_map_is_given_for_the_dots_of_the_first_layer_only() -> None:
    fields, batch = tiny()
    (shown,) = create("dhen", fields).field_maps(batch)
    assert shown.rows == ("(dense)", "user", "item", "hour.bucket", "genres", "recent")
    assert shown.value_BRC.shape == (8, 6, 6)
    assert create("dhen", fields, {"modules": [["linear"], ["dot"]]}).field_maps(batch) == []


def test_bf16_is_near_single_precision() -> None:
    world = cross_only(200)
    options = {**LIGHT, "modules": [list(MODULES)], "num_layers": 2, "embedding_std": 0.3}
    model = create("dhen", world.fields, options, seed=0).eval()
    with torch.no_grad():
        full = score(model, world.test)
        with torch.autocast("cpu", torch.bfloat16):
            half = score(model, world.test)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.1)


def test_what_a_search_varies_are_options() -> None:
    known = entry("dhen").config.__struct_fields__
    assert all(key in known or key.startswith("train.") for key in search_space(entry("dhen").config))
