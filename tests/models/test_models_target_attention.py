"""`pooling="target"`: the history of the item's ids is weighed by the candidate, in every ranker with embeddings."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from msgspec.structs import replace
from sklearn.metrics import roc_auc_score
from torch import Tensor

from weft.batch import Batch, Field, Fields, Ragged
from weft.errors import ConfigError, Unsupported
from weft.models import create, entry, history_weights, names, score
from weft.models._inputs import Inputs
from weft.testing import check, fit, in_history, make_lopsided, tiny

SMALL = {"embedding_dim": 4, "hidden": [8], "batch_norm": False}
# lr has first-order weights alone, and in split no candidate meets the network that reads the history.
NOT_ATTENDING = ("lr", "split")
POOLED = [n for n in names("ranker") if "pooling" in entry(n).config.__struct_fields__ and n not in NOT_ATTENDING]


def double_tiny() -> tuple[Fields, Batch]:
    fields, batch = tiny()
    return fields, dataclasses.replace(batch, dense=batch.dense.double())


def attended(inputs: Inputs, batch: Batch, b: int) -> Tensor:
    """The history of one row, value by value: sum of a(e, v) e, padding left out."""
    unit, table = inputs.attention[0], inputs.embedding.table("item")
    values, offsets, _ = batch.ragged["recent"]
    v = table[int(batch.ids[b, 1])]
    total = torch.zeros_like(v)
    for e in (table[int(values[i])] for i in range(offsets[b], offsets[b + 1]) if values[i] != 0):
        h = unit.hidden.weight @ torch.cat([e, v, e * v]) + unit.hidden.bias
        total = total + (unit.out.weight[0] @ torch.where(h > 0, h, unit.slope * h) + unit.out.bias[0]) * e
    return total


def padded(batch: Batch) -> Batch:
    """The second value of the history of row 3 is padding."""
    values, offsets, _ = batch.ragged["recent"]
    values = values.clone()
    values[4] = 0
    return dataclasses.replace(batch, ragged=batch.ragged | {"recent": Ragged(values, offsets)})


@pytest.mark.parametrize("widths", [{}, {"item": 2, "user": 5}])
@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_the_history_is_its_formula_and_other_sets_stay_means(widths: dict[str, int], update: str) -> None:
    fields, batch = double_tiny()
    batch = padded(batch)
    options = {"embedding_dim": 3, "hidden": [4], "widths": widths, "embedding_update": update}
    target, mean = (
        make_lopsided(create("mlp", fields, {**options, "pooling": pooling})).inputs for pooling in ("target", "mean")
    )
    at, width = sum(slot.width for slot in target.slots[:-1]), target.slots[-1].width
    assert target.slots == mean.slots
    assert target.slots[-1].name == "recent"
    found_BD = target(batch)
    torch.testing.assert_close(found_BD[:, :at], mean(batch)[:, :at])
    for b in range(8):
        torch.testing.assert_close(found_BD[b, at : at + width], attended(target, batch, b))
    assert not found_BD[0, at:].any(), "row 0 has no history"


def test_the_gradient_is_that_of_the_formula() -> None:
    fields, batch = double_tiny()
    batch = padded(batch)
    inputs = make_lopsided(Inputs(fields, entry("mlp").config(embedding_dim=3, pooling="target", embedding_std=0.5)))
    width = inputs.slots[-1].width
    weight = inputs.embedding.stacked_3
    unit = list(inputs.attention.parameters())
    probe = torch.arange(8.0 * width).double().sin().view(8, width)
    fast = torch.autograd.grad(inputs(batch)[:, -width:], [weight, *unit], probe)
    start = inputs.embedding.slices["item"].start
    values, offsets, _ = batch.ragged["recent"]
    rows = []
    for b in range(8):
        v, total = weight[start + int(batch.ids[b, 1])], torch.zeros(width).double()
        for e in (weight[start + int(values[i])] for i in range(offsets[b], offsets[b + 1]) if values[i] != 0):
            h = F.prelu(inputs.attention[0].hidden(torch.cat([e, v, e * v])), inputs.attention[0].slope)
            total = total + inputs.attention[0].out(h) * e
        rows.append(total)
    slow = torch.autograd.grad(torch.stack(rows), [weight, *unit], probe)
    for got, want in zip(fast, slow, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dcn_v2", {**SMALL, "embedding_update": "sparse"}),
        ("fm", {"widths": {"item": 3}, "embedding_dim": 4}),
        ("deepfm", SMALL),
    ],
)
def test_models_keep_the_contract_with_target_attention(name: str, options: dict[str, Any]) -> None:
    check(name, {**options, "pooling": "target"})


@pytest.mark.parametrize("name", POOLED)
def test_every_ranker_that_embeds_its_fields_takes_target_attention(name: str) -> None:
    fields, batch = tiny()
    model = create(name, fields, {"pooling": "target", "embedding_update": "dense"}, seed=0)
    score(model, batch).sin().sum().backward()
    units = [p for key, p in model.named_parameters() if ".attention." in f".{key}" and "inputs." in key]
    assert len(units) == 5
    assert all(p.grad is not None and p.grad.any() for p in units)


def test_first_order_weights_stay_means() -> None:
    fields, batch = double_tiny()
    target, mean = (make_lopsided(create("fm", fields, {"pooling": p})).wide for p in ("target", "mean"))
    torch.testing.assert_close(target(batch), mean(batch))


@pytest.mark.parametrize(("name", "options"), [("fm", {}), ("mlp", {"hidden": [32]}), ("dcn_v2", {"hidden": [32]})])
def test_only_attention_by_the_candidate_finds_it_in_the_history(name: str, options: dict[str, Any]) -> None:
    world = in_history()
    found = {}
    for pooling in ("mean", "target"):
        model = create(
            name, world.fields, {**options, "embedding_dim": 2, "embedding_std": 0.3, "pooling": pooling}, seed=0
        )
        fit(model, world.train, steps=120, rate=0.02)
        with torch.no_grad():
            found[pooling] = roc_auc_score(world.test.label[:, 0], score(model.eval(), world.test))
    assert found["mean"] < 0.85
    assert found["target"] > 0.98


def test_the_world_is_balanced_and_says_the_truth() -> None:
    world = in_history(500)
    values, offsets, _ = world.train.ragged["recent"]
    for b in range(500):
        past = values[offsets[b] : offsets[b + 1]]
        assert 1 <= len(past.unique()) == len(past) <= 6
        assert bool((past == world.train.ids[b, 0]).any()) == bool(world.train.label[b, 0])
    assert abs(world.train.label.mean() - 0.5) < 0.1


def test_the_weights_of_a_history_can_be_seen() -> None:
    """In the world of histories the item itself outweighs the others of its row."""
    world = in_history()
    model = create(
        "mlp", world.fields, {"hidden": [32], "embedding_dim": 2, "embedding_std": 0.3, "pooling": "target"}, seed=0
    )
    fit(model, world.train, steps=120, rate=0.02)
    values, offsets, weights = history_weights(model.eval(), world.test)["recent"]
    assert torch.equal(values, world.test.ragged["recent"].values)
    candidate = world.test.ids[:, 0].repeat_interleave(offsets.diff())
    itself, other = weights[values == candidate].abs().mean(), weights[values != candidate].abs().mean()
    assert itself > 3 * other


def test_padding_weighs_nothing_and_other_models_have_nothing_to_tell() -> None:
    fields, batch = tiny()
    batch = padded(batch)
    weights = history_weights(create("dcn_v2", fields, {**SMALL, "pooling": "target"}, seed=0), batch)
    assert list(weights) == ["recent"]
    assert weights["recent"].weights[4] == 0
    assert (weights["recent"].weights != 0).sum() == 9
    assert history_weights(create("dcn_v2", fields, SMALL), batch) == {}
    assert history_weights(create("lr", fields), batch) == {}


def test_several_histories_of_the_item_have_a_unit_each() -> None:
    fields, batch = tiny()
    liked = Field(name="liked", side="user", rows=7, kind="sequence", table="item", max_length=3)
    both = replace(fields, ragged=(liked, *fields.ragged))
    model = create("mlp", both, {**SMALL, "pooling": "target"}, seed=0).eval()
    twice = dataclasses.replace(batch, ragged={"liked": batch.ragged["recent"], **batch.ragged})
    assert len(model.inputs.attention) == 2
    weights = history_weights(model, twice)
    assert not torch.equal(weights["liked"].weights, weights["recent"].weights)


def test_fields_without_the_items_history_are_refused() -> None:
    fields, _ = tiny()
    words = r"`pooling` = 'target' weighs a sequence of item ids by the item that is scored.*choose mean, sum or max"
    for without in (
        replace(fields, item=None),
        replace(fields, ragged=fields.ragged[:1]),
        replace(fields, ragged=(replace(fields.ragged[1], table="recent"),)),
        replace(fields, ragged=(replace(fields.ragged[1], kind="set"),)),
    ):
        with pytest.raises(Unsupported, match=words):
            create("mlp", without, {"pooling": "target"})


@pytest.mark.parametrize("sides", [("user", "context"), ("item",)])
def test_a_tower_that_sees_one_side_is_refused(sides: tuple[str, ...]) -> None:
    with pytest.raises(Unsupported, match="one tower of a retriever never has"):
        create("mlp", tiny()[0].of(*sides), {"pooling": "target"})


def test_a_model_without_vectors_has_nothing_to_attend_with() -> None:
    with pytest.raises(ConfigError, match="Invalid enum value 'target'"):
        create("lr", tiny()[0], {"pooling": "target"})
