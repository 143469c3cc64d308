"""DLRM equals its formula and starts as published; FM, DeepFM and DLRM show which pairs they multiply."""

import math
from dataclasses import replace as with_columns
from itertools import combinations
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from formulas_for_tests import assert_layer_is, assert_same_in_value_and_gradient, numbers
from weft.batch import Batch, Fields
from weft.errors import Unsupported
from weft.layers.dot import Dots
from weft.models import create, entry, score, search_space
from weft.testing import check, cross_only, fit, make_lopsided, tiny
from weft.train.recipe import resolve
from worlds_for_tests import auc_on, strongest_pair

SMALL = {"embedding_dim": 4, "bottom": (5,), "hidden": (6, 3), "batch_norm": False}
LIGHT = {"embedding_dim": 8, "hidden": (32,)}


def only(kind: str, count: int | None = None) -> tuple[Fields, Batch]:
    """The columns of one kind of the tiny batch."""
    fields, batch = tiny()
    kept = Fields(**{kind: getattr(fields, kind)[:count]})
    ids, dense = batch.ids[:, : len(kept.ids)], batch.dense[:, : len(kept.dense)]
    return kept, with_columns(batch, ids=ids, dense=dense, ragged=batch.ragged if kind == "ragged" else {})


def slow_triangle(x: Tensor) -> Tensor:
    return torch.stack([x[i] @ x[j] for i in range(len(x)) for j in range(i)])


def test_dots_are_the_strictly_lower_triangle() -> None:
    assert_layer_is(Dots(4), slow_triangle, numbers(2, 4, 3))


def test_the_top_network_reads_each_pair_once_and_the_bottom_vector() -> None:
    """Trap 10: width = (F + 1) F / 2 + d; no diagonal, no full square, no embeddings passed on."""
    fields, _ = tiny()
    others = len(fields.ids) + len(fields.ragged)
    model = create("dlrm", fields, SMALL)
    assert model.top.layers[0].in_features == (others + 1) * others // 2 + 4
    assert model.dots.width == (others + 1) * others // 2


def slow_network(layers: nn.Module, x: Tensor) -> Tensor:
    for layer in (m for m in layers.modules() if isinstance(m, nn.Linear)):
        x = torch.relu(layer.weight @ x + layer.bias)
    return x


def slow_logit(model: nn.Module, dense: Tensor, e: Tensor) -> Tensor:
    read = slow_triangle(e)
    if model.slots.bottom is not None:
        bottom = slow_network(model.slots.bottom, dense)
        read = torch.cat([bottom, slow_triangle(torch.cat([bottom[None], e]))])
    return (model.head.linear.weight @ slow_network(model.top, read) + model.head.bias).squeeze(0)


@pytest.mark.parametrize("kind", ["all", "ids"])
@pytest.mark.parametrize("hidden", [(6, 3), ()])
def test_dlrm_is_its_formula(kind: str, hidden: tuple[int, ...]) -> None:
    fields, batch = tiny() if kind == "all" else only(kind)
    model = make_lopsided(create("dlrm", fields, {**SMALL, "hidden": hidden}))
    batch = with_columns(batch, dense=batch.dense.double())
    slow = [slow_logit(model, d, e) for d, e in zip(batch.dense, model.slots.slots(batch), strict=True)]
    assert_same_in_value_and_gradient(score(model, batch), torch.stack(slow), model.parameters())


def test_the_bottom_network_ends_in_a_relu_at_the_width_of_the_slots() -> None:
    fields, batch = tiny()
    model = create("dlrm", fields, {**SMALL, "bottom": ()}).eval()
    bottom = model.slots(batch)[:, 0]
    assert bottom.shape == (8, 4)
    torch.testing.assert_close(bottom, model.slots.bottom.layers[0](batch.dense).clamp(min=0))


def test_dlrm_starts_as_published() -> None:
    fields = Fields(ids=(replace(tiny()[0].ids[0], rows=400),), dense=tiny()[0].dense)
    model = create("dlrm", fields, {"bottom": (300,), "hidden": (500,), "embedding_dim": 100}, seed=0)
    table = model.slots.slots.inputs.embedding.table("user")
    assert not table[0].any()
    assert table.abs().max().item() == pytest.approx(math.sqrt(1 / 400), rel=0.01)
    assert table[1:].std().item() == pytest.approx(math.sqrt(1 / 400) / math.sqrt(3), rel=0.02)
    inner = model.slots.bottom.layers[2]
    assert inner.weight.std().item() == pytest.approx(math.sqrt(2 / (300 + 100)), rel=0.02)
    assert inner.bias.std().item() == pytest.approx(math.sqrt(1 / 100), rel=0.2)
    assert model.top.layers[0].bias.std().item() == pytest.approx(math.sqrt(1 / 500), rel=0.1)


def test_dlrm_can_start_as_the_common_recipe_does() -> None:
    options = {"initialisation": "recipe", "embedding_std": 0.5, "hidden": (7,)}
    model = create("dlrm", tiny()[0], options, seed=0)
    assert model.slots.slots.inputs.embedding.table("item")[1:].abs().max() > 1
    assert not model.top.layers[0].bias.any()


def test_the_presets_are_the_published_run_and_the_common_recipe() -> None:
    paper, bars = resolve("dlrm", preset="paper"), resolve("dlrm", preset="bars")
    assert (paper.options["bottom"], paper.options["hidden"]) == ((512, 256, 64), (512, 256))
    assert (paper.options["initialisation"], paper.options["pooling"]) == ("paper", "sum")
    assert (paper.recipe.optimizer, paper.recipe.learning_rate, paper.recipe.batch_size) == ("sgd", 0.1, 128)
    assert (bars.options["bottom"], bars.options["hidden"]) == ((400, 400, 400), (400, 400, 400))
    assert (bars.options["initialisation"], bars.options["embedding_std"]) == ("recipe", 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": ()},
        {"bottom": (), "initialisation": "recipe", "batch_norm": True},
        {"widths": {"item": 3, "genres": 5}, "pooling": "sum", "embedding_update": "sparse"},
    ],
)
def test_dlrm_keeps_the_contract(options: dict[str, Any]) -> None:
    check("dlrm", options)


@pytest.mark.parametrize(("kind", "count", "width"), [("dense", None, 4), ("dense", 1, 4), ("ids", 2, 1)])
def test_what_the_top_network_reads_of_few_columns(kind: str, count: int | None, width: int) -> None:
    fields, batch = only(kind, count)
    model = create("dlrm", fields, {**SMALL, "hidden": ()})
    assert model.represent(batch)[0].shape == (8, width)
    assert fit(model, batch, steps=2)[-1] > 0


def test_one_field_alone_has_no_pair() -> None:
    fields, _ = only("ids", 1)
    with pytest.raises(Unsupported, match="gives only 'user'; add features, or choose lr or mlp"):
        create("dlrm", fields)


def test_several_outputs() -> None:
    fields, batch = tiny()
    assert score(create("dlrm", replace(fields, outputs=3)), batch).shape == (8, 3)


@pytest.mark.parametrize(
    ("world", "hidden", "finds"),
    [("cross_only", (), True), ("cross_only", (32,), True), ("third_order", (), False), ("third_order", (32,), True)],
)
def test_pairs_are_the_dots_and_what_is_above_is_the_top_network(
    world: str, hidden: tuple[int, ...], finds: bool
) -> None:
    reached = auc_on(world, "dlrm", {**LIGHT, "hidden": hidden}, steps=60)
    assert reached > 0.99 if finds else reached < 0.56


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dlrm", LIGHT),
        ("dlrm", {**LIGHT, "hidden": ()}),
        ("dlrm", {**LIGHT, "batch_norm": True, "initialisation": "recipe", "embedding_std": 0.1}),
        ("fm", {"embedding_dim": 8, "embedding_std": 0.1}),
        ("deepfm", {"embedding_dim": 8, "hidden": (16,)}),
    ],
)
def test_dot_products_put_the_planted_pair_first(name: str, options: dict[str, Any], seed: int) -> None:
    assert strongest_pair(name, options, seed, steps=60) == {"a", "b"}


@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_a_map_of_a_factorisation_machine_adds_up_to_its_pairs(name: str) -> None:
    fields, batch = tiny()
    model = create(name, fields, {"embedding_std": 1.0}).eval()
    (shown,) = model.field_maps(batch)
    assert shown.rows == shown.columns == ("hour", "tempo", "user", "item", "hour.bucket", "genres", "recent")
    assert shown.signed
    e = model.slots(batch)
    for i, j in combinations(range(7), 2):
        torch.testing.assert_close(shown.value_BRC[:, i, j], (e[:, i] * e[:, j]).sum(1))
    torch.testing.assert_close(shown.value_BRC, shown.value_BRC.mT)
    assert not shown.value_BRC.diagonal(dim1=1, dim2=2).any()
    assert not shown.value_BRC.requires_grad


@pytest.mark.parametrize("hidden", [(), (5, 4)])
def test_a_map_of_dlrm_weighs_a_pair_by_what_reads_it(hidden: tuple[int, ...]) -> None:
    fields, batch = tiny()
    model = create("dlrm", fields, {**SMALL, "hidden": hidden}).eval()
    (shown,) = model.field_maps(batch)
    assert shown.rows == ("(dense)", "user", "item", "hour.bucket", "genres", "recent")
    x = model.slots(batch)
    weight = (model.top.layers[0] if hidden else model.head.linear).weight
    place = 4 + 3 * 2 // 2 + 1
    torch.testing.assert_close(shown.value_BRC[:, 3, 1], (x[:, 3] * x[:, 1]).sum(1) * weight[:, place].norm())
    torch.testing.assert_close(shown.value_BRC, shown.value_BRC.mT)


@pytest.mark.parametrize("hidden", [(), (5, 4)])
def test_a_map_of_dlrm_without_its_head(hidden: tuple[int, ...]) -> None:
    """Towers of several tasks take the head's place."""
    fields, batch = tiny()
    model = create("dlrm", fields, {**SMALL, "hidden": hidden}).eval()
    (whole,) = model.field_maps(batch)
    del model.head
    (headless,) = model.field_maps(batch)
    assert torch.equal(headless.value_BRC, whole.value_BRC) == bool(hidden)


def test_bf16_is_near_single_precision() -> None:
    world = cross_only(200)
    model = create("dlrm", world.fields, LIGHT, seed=0).eval()
    with torch.no_grad():
        full = score(model, world.test)
        with torch.autocast("cpu", torch.bfloat16):
            half = score(model, world.test)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.02)


def test_what_a_search_varies_are_options() -> None:
    known = entry("dlrm").config.__struct_fields__
    assert all(key in known or key.startswith("train.") for key in search_space(entry("dlrm").config))
