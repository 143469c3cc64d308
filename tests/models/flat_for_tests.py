"""Models written out slowly, row by row over named tables, so that autograd gives their gradients too."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from weft.batch import PADDING, Batch, Fields
from weft.models import score
from weft.models._inputs import Inputs
from weft.testing import tiny

SlowRow = Callable[[nn.Module, Fields, Batch, int], Tensor]


def double_tiny() -> tuple[Fields, Batch]:
    fields, batch = tiny()
    return fields, replace(batch, dense=batch.dense.double())


def row_of(inputs: Inputs, table: str, value: Tensor) -> Tensor:
    """A row of a table; padding is zero and learns nothing."""
    weight, start, _ = inputs.embedding.slices[table]
    return weight[start + int(value)] * (int(value) != PADDING)


def x0_of(inputs: Inputs, fields: Fields, batch: Batch, b: int) -> dict[str, Tensor]:
    """The vectors of one row by field, in the order of the block: numbers, ids, weighted means of sets."""
    found = {f.name: batch.dense[b, d] * inputs.numeric.weight[d] for d, f in enumerate(fields.dense)}
    found |= {f.name: row_of(inputs, f.table, batch.ids[b, i]) for i, f in enumerate(fields.ids)}
    for f in fields.ragged:
        values, offsets, weights = batch.ragged[f.name]
        places = [v for v in range(int(offsets[b]), int(offsets[b + 1])) if values[v] != PADDING]
        w = [1.0 if weights is None else float(weights[v]) for v in places]
        rows = [row_of(inputs, f.table, values[v]) for v in places]
        zero = torch.zeros_like(row_of(inputs, f.table, torch.tensor(PADDING)))
        found[f.name] = sum((x * row for x, row in zip(w, rows, strict=True)), zero) / (sum(w) or 1)
    return {slot.name: found[slot.name] for slot in inputs.slots}


def deep_of(model: nn.Module, x: Tensor) -> Tensor:
    for layer in model.deep.layers:
        x = torch.relu(layer.weight @ x + layer.bias) if isinstance(layer, nn.Linear) else x
    return x


def head_of(model: nn.Module, *parts: Tensor) -> Tensor:
    return model.head.linear.weight @ torch.cat(parts) + model.head.bias


def assert_model_is(slow: SlowRow, model: nn.Module, fields: Fields, batch: Batch) -> None:
    """Same logits as the formula, and same gradient of every weight that has one."""
    fast = score(model, batch)
    want = torch.stack([slow(model, fields, batch, b) for b in range(len(batch))]).view_as(fast)
    torch.testing.assert_close(fast, want)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    probe = torch.arange(1.0, fast.numel() + 1).cos().view_as(fast).double()
    got, by_formula = (torch.autograd.grad((out * probe).sum(), list(weights.values())) for out in (fast, want))
    for name, left, right in zip(weights, got, by_formula, strict=True):
        torch.testing.assert_close(left, right, msg=lambda text, name=name: f"gradient of {name}: {text}")
