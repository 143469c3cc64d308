"""AutoInt equals its formula, finds crosses and shows them; its options are those of the paper and of its code."""

from dataclasses import replace as with_columns
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from formulas_for_tests import assert_same_in_value_and_gradient
from weft.batch import Batch
from weft.errors import ConfigError
from weft.models import create, entry, score, search_space
from weft.testing import check, cross_only, fit, make_lopsided, tiny
from weft.train.recipe import resolve
from worlds_for_tests import auc_on, strongest_pair

CODE = {"scaled": True, "activated": True, "layer_norm": True}
LIGHT = {"embedding_dim": 8, "attention_dim": 16, "embedding_std": 0.1, "num_layers": 1}
SMALL = {"embedding_dim": 4, "attention_dim": 6, "num_layers": 2, "batch_norm": False}


def slow_logit(model: nn.Module, e: Tensor) -> Tensor:
    """w . [e_1, ..., e_N] + b, plus the logit of the network on the vectors that the first layer saw."""
    x = e[None]
    for layer in model.attention:
        x = layer(x)
    w, attended = model.head.linear.weight, x.flatten()
    logit = w[:, : len(attended)] @ attended + model.head.bias
    if model.deep is not None:
        h = e.flatten()
        for linear in (m for m in model.deep.layers if isinstance(m, nn.Linear)):
            h = torch.relu(linear.weight @ h + linear.bias)
        logit = logit + w[:, len(attended) :] @ h
    return logit.squeeze(0)


@pytest.mark.parametrize("options", [{}, CODE, {"hidden": (5, 3)}, {"hidden": (5,), **CODE}])
def test_autoint_is_its_formula(options: dict[str, Any]) -> None:
    fields, batch = tiny()
    model = make_lopsided(create("autoint", fields, {**SMALL, **options}))
    batch = with_columns(batch, dense=batch.dense.double())
    slow = torch.stack([slow_logit(model, e) for e in model.slots(batch)])
    assert_same_in_value_and_gradient(score(model, batch), slow, model.parameters())


def test_the_residual_and_the_relu_are_in_every_layer() -> None:
    """Trap 7: the popular port has one residual at the end. Without attended values each layer is ReLU(W_Res e)."""
    fields, batch = tiny()
    model = make_lopsided(create("autoint", fields, SMALL))
    batch = with_columns(batch, dense=batch.dense.double())
    with torch.no_grad():
        for layer in model.attention:
            layer.projection.weight.chunk(4)[2].zero_()
    x = model.slots(batch)
    for layer in model.attention:
        x = torch.relu(x @ layer.projection.weight.chunk(4)[3].T)
    torch.testing.assert_close(model.represent(batch)[0], x.flatten(1))


@pytest.mark.parametrize("option", CODE)
def test_each_difference_of_the_code_from_the_paper_is_an_option(option: str) -> None:
    """Trap 7: the authors' code is not their paper."""
    fields, batch = tiny()
    plain = create("autoint", fields, SMALL, seed=0).eval()
    other = create("autoint", fields, {**SMALL, option: True}, seed=0).eval()
    assert not torch.allclose(score(plain, batch), score(other, batch))


def test_the_preset_of_the_code_sets_what_the_code_adds() -> None:
    assert {key: resolve("autoint", preset="code").options[key] for key in CODE} == CODE
    assert not any(resolve("autoint", preset="paper").options[key] for key in CODE)
    assert resolve("autoint", preset="paper").recipe.batch_size == 1024


@pytest.mark.parametrize(
    "options",
    [CODE, {"hidden": (8,)}, {"num_layers": 1, "num_heads": 1}, {"widths": {"item": 3}, "embedding_update": "sparse"}],
)
def test_autoint_keeps_the_contract(options: dict[str, Any]) -> None:
    check("autoint", options)


def test_heads_share_the_width_of_a_layer() -> None:
    with pytest.raises(ConfigError, match="got 32 for 3 heads; choose a multiple of `num_heads`"):
        create("autoint", tiny()[0], {"num_heads": 3})


def test_one_field_attends_to_itself() -> None:
    fields, batch = tiny()
    alone = replace(fields, ids=fields.ids[:1], dense=(), ragged=())
    batch = with_columns(batch, ids=batch.ids[:, :1], dense=batch.dense[:, :0], ragged={})
    model = create("autoint", alone)
    assert fit(model, batch, steps=3)[-1] > 0
    assert (model.field_maps(batch)[0].value_BRC == 1).all()


def test_several_outputs() -> None:
    fields, batch = tiny()
    assert score(create("autoint", replace(fields, outputs=3), {"hidden": (4,)}), batch).shape == (8, 3)


@pytest.mark.parametrize("world", ["cross_only", "third_order"])
def test_autoint_finds_crosses_of_two_and_three(world: str) -> None:
    assert auc_on(world, "autoint", {**LIGHT, "num_layers": 2}, steps=60) > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_attention_puts_the_planted_pair_first(seed: int) -> None:
    assert strongest_pair("autoint", LIGHT, seed, steps=60) == {"a", "b"}


def test_a_map_is_given_for_each_layer_and_head() -> None:
    fields, batch = tiny()
    model = create("autoint", fields).eval()
    maps = model.field_maps(batch)
    assert [m.title for m in maps[:3]] == [
        "attention of layer 1, head 1",
        "attention of layer 1, head 2",
        "attention of layer 2, head 1",
    ]
    assert len(maps) == 6
    for shown in maps:
        assert shown.rows == shown.columns == ("hour", "tempo", "user", "item", "hour.bucket", "genres", "recent")
        assert shown.value_BRC.shape == (8, 7, 7)
        torch.testing.assert_close(shown.value_BRC.sum(-1), torch.ones(8, 7))


def test_the_second_layer_is_shown_on_what_the_first_gives() -> None:
    fields, batch = tiny()
    model = create("autoint", fields, {"num_layers": 2}).eval()
    first, second = model.attention
    shown = model.field_maps(batch)[2].value_BRC
    torch.testing.assert_close(shown, second.weights(first(model.slots(batch)))[:, 0])


def test_bf16_is_near_single_precision() -> None:
    world: Batch = cross_only(200).test
    model = create("autoint", cross_only(200).fields, {"embedding_std": 0.3, "hidden": (8,)}, seed=0).eval()
    with torch.no_grad():
        full = score(model, world)
        with torch.autocast("cpu", torch.bfloat16):
            half = score(model, world)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.02)


def test_what_a_search_varies_are_options() -> None:
    known = entry("autoint").config.__struct_fields__
    assert all(key in known or key.startswith("train.") for key in search_space(entry("autoint").config))
