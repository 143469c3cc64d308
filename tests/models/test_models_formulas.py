"""Each model equals its formula, written out slowly over named tables."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.models import create, score
from weft.models._inputs import Inputs
from weft.testing import make_lopsided, tiny


def double_tiny() -> tuple[Fields, Batch]:
    fields, batch = tiny()
    return fields, Batch(**{n: getattr(batch, n) for n in batch.__slots__} | {"dense": batch.dense.double()})


def vectors(inputs: Inputs, fields: Fields, batch: Batch, b: int) -> list[Tensor]:
    """The vectors of one row, field by field: numbers, ids, sets (weighted mean; padding does not count)."""
    table = inputs.embedding.table
    found = [batch.dense[b, d] * inputs.numeric.weight[d] for d in range(len(fields.dense))]
    found += [table(f.table)[int(batch.ids[b, i])] for i, f in enumerate(fields.ids)]
    for f in fields.ragged:
        values, offsets, weights = batch.ragged[f.name]
        places = [v for v in range(offsets[b], offsets[b + 1]) if values[v] != 0]
        w = [float(weights[v]) if weights is not None else 1.0 for v in places]
        rows = [table(f.table)[int(values[v])] for v in places]
        total = sum((x * r for x, r in zip(w, rows, strict=True)), torch.zeros(rows[0].shape if rows else 1).double())
        found.append(total / sum(w) if places else torch.zeros_like(table(f.table)[0]))
    return found


def slow_lr(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    return model.bias + sum(vectors(model.wide.inputs, fields, batch, b))


def slow_pairs(inputs: Inputs, fields: Fields, batch: Batch, b: int) -> Tensor:
    return sum(left @ right for left, right in itertools.combinations(vectors(inputs, fields, batch, b), 2))


def slow_fm(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    return slow_lr(model, fields, batch, b) + slow_pairs(model.slots.inputs, fields, batch, b)


def slow_deep(model: nn.Module, x: Tensor) -> Tensor:
    for layer in model.deep.layers:
        x = torch.relu(layer.weight @ x + layer.bias) if isinstance(layer, nn.Linear) else x
    return x


def slow_deepfm(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    e = vectors(model.slots.inputs, fields, batch, b)
    first = sum(vectors(model.wide.inputs, fields, batch, b))
    deep = model.head.linear.weight @ slow_deep(model, torch.cat(e)) + model.head.bias
    return first + slow_pairs(model.slots.inputs, fields, batch, b) + deep


def slow_mlp(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    x = torch.cat(vectors(model.inputs, fields, batch, b))
    return model.head.linear.weight @ slow_deep(model, x) + model.head.bias


def slow_crosses(model: nn.Module, x0: Tensor) -> Tensor:
    x = x0
    for layer in model.cross.layers:
        x = x0 * (layer.linear.weight @ x + layer.linear.bias) + x
    return x


def slow_parallel(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    x0 = torch.cat(vectors(model.inputs, fields, batch, b))
    both = torch.cat([slow_crosses(model, x0), slow_deep(model, x0)])
    return model.head.linear.weight @ both + model.head.bias


def slow_stacked(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    x0 = torch.cat(vectors(model.inputs, fields, batch, b))
    return model.head.linear.weight @ slow_deep(model, slow_crosses(model, x0)) + model.head.bias


SMALL = {"embedding_dim": 3, "hidden": (4, 2), "batch_norm": False}


@pytest.mark.parametrize(
    ("name", "options", "slow"),
    [
        ("lr", {}, slow_lr),
        ("fm", {"embedding_dim": 3}, slow_fm),
        ("deepfm", SMALL, slow_deepfm),
        ("mlp", SMALL, slow_mlp),
        ("dcn_v2", {**SMALL, "num_cross": 2}, slow_parallel),
        ("dcn_v2", {**SMALL, "num_cross": 2, "structure": "stacked"}, slow_stacked),
    ],
)
@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_a_model_is_its_formula(
    name: str, options: dict[str, object], slow: Callable[..., Tensor], update: str
) -> None:
    fields, batch = double_tiny()
    model = make_lopsided(create(name, fields, {**options, "embedding_update": update}))
    logits_B = score(model, batch)
    for b in range(len(batch)):
        torch.testing.assert_close(logits_B[b], slow(model, fields, batch, b).squeeze())


def test_deepfm_has_one_table_for_both_parts() -> None:
    model = create("deepfm", tiny()[0], {"embedding_dim": 3})
    tables = [name for name in model.state_dict() if name.endswith("user.weight")]
    assert sorted(tables) == ["slots.inputs.embedding.user.weight", "wide.inputs.embedding.user.weight"]
    assert model.state_dict()["wide.inputs.embedding.user.weight"].shape[1] == 1


def test_slots_of_other_widths_are_aligned_by_a_map_per_field() -> None:
    fields, batch = double_tiny()
    options = {"embedding_dim": 3, "widths": {"item": 2, "genres": 4}}
    model = make_lopsided(create("fm", fields, options)).eval()
    slots_BNE = model.slots(batch)
    places = {slot.name: i for i, slot in enumerate(model.slots.inputs.slots)}
    assert list(places) == ["hour", "tempo", "item", "user", "hour.bucket", "genres", "recent"]
    assert slots_BNE.shape == (8, 7, 3)
    row = model.slots.inputs.embedding.table("item")[int(batch.ids[1, 1])]
    torch.testing.assert_close(slots_BNE[1, places["item"]], model.slots.align[2].weight @ row)
    own = model.slots.inputs.embedding.table("user")[int(batch.ids[1, 0])]
    torch.testing.assert_close(slots_BNE[1, places["user"]], own)


def test_flat_keeps_the_own_width_of_each_field() -> None:
    fields, batch = double_tiny()
    model = make_lopsided(create("dcn_v2", fields, {"embedding_dim": 3, "widths": {"item": 2, "genres": 4}}))
    widths = [slot.width for slot in model.inputs.slots]
    assert widths == [3, 3, 2, 3, 3, 4, 2]
    flat_BD = model.inputs(batch)
    assert flat_BD.shape == (8, sum(widths) == model.inputs.width and sum(widths))
    torch.testing.assert_close(flat_BD[1, 6:8], model.inputs.embedding.table("item")[int(batch.ids[1, 1])])


def test_mf_is_vectors_and_biases() -> None:
    fields, batch = double_tiny()
    model = make_lopsided(create("mf", fields, {"embedding_dim": 3}))
    p, q = model.embedding.table("user"), model.embedding.table("item")
    for b, (u, i) in enumerate(zip(batch.user, batch.item, strict=True)):
        want = p[u, :3] @ q[i, :3] + p[u, 3] + q[i, 3] + model.bias[0]
        torch.testing.assert_close(score(model, batch)[b], want)


def test_mf_without_biases_is_vectors() -> None:
    fields, batch = double_tiny()
    model = make_lopsided(create("mf", fields, {"embedding_dim": 3, "biases": False}))
    want = (model.embedding.table("user")[batch.user] * model.embedding.table("item")[batch.item]).sum(1)
    torch.testing.assert_close(score(model, batch), want)
