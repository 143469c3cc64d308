"""What tests of formulas share: numbers without symmetry, and the comparison of a fast form with a slow one."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def numbers(*shape: int, shift: float = 0.0) -> Tensor:
    """Numbers without symmetry, in double precision."""
    return torch.arange(1.0, math.prod(shape) + 1).mul(1.7).add(shift).cos().view(shape).double()


def assert_same_in_value_and_gradient(fast: Tensor, slow: Tensor, weights: Iterable[Tensor]) -> None:
    """Compare two ways to one value, and the gradients of both for the same weights."""
    torch.testing.assert_close(fast, slow)
    probe, weights = numbers(*fast.shape), list(weights)
    got, want = (torch.autograd.grad(out, weights, probe, retain_graph=True) for out in (fast, slow))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


def assert_layer_is(layer: nn.Module, slow: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare a layer with its formula for one row, for its weights and its input, in a batch and alone."""
    for rows in (x, x[:1]):
        rows = rows.clone().requires_grad_()
        wanted = torch.stack([slow(row) for row in rows])
        assert_same_in_value_and_gradient(layer(rows), wanted, [rows, *layer.parameters()])
