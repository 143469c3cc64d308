"""Propagation against dense matrices, in value and gradient; no symmetry that hides a transpose."""

import math

import pytest
import torch
from torch import Tensor

from formulas_for_tests import assert_same_in_value_and_gradient, numbers
from weft.layers import Propagation, mean_weights, symmetric_weights

NODES = 6
ROW = torch.tensor([4, 0, 1, 0, 2, 4, 1])
COLUMN = torch.tensor([0, 3, 1, 0, 4, 2, 5])


def dense(row: Tensor, column: Tensor, weight: Tensor, nodes: int) -> Tensor:
    matrix = torch.zeros(nodes, nodes).double()
    for r, c, w in zip(row.tolist(), column.tolist(), weight.tolist(), strict=True):
        matrix[r, c] += w
    return matrix


def both_ways(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    there = torch.tensor(pairs).T
    return torch.cat([there[0], there[1]]), torch.cat([there[1], there[0]])


def test_propagation_is_the_dense_product() -> None:
    weight = numbers(len(ROW))
    layer = Propagation(ROW, COLUMN, weight, NODES)
    x = numbers(NODES, 3, shift=0.5).requires_grad_()
    assert_same_in_value_and_gradient(layer(x), dense(ROW, COLUMN, weight, NODES) @ x, [x])


def test_a_row_without_entries_is_zero() -> None:
    layer = Propagation(ROW, COLUMN, numbers(len(ROW)), NODES)
    assert not layer(numbers(NODES, 3))[[3, 5]].any()


def test_a_matrix_without_entries_gives_zeros() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    x = numbers(3, 2).requires_grad_()
    y = Propagation(none, none, torch.zeros(0).double(), 3)(x)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_backward_written_by_hand_passes_gradcheck(symmetric: bool) -> None:
    row, column = both_ways([(0, 1), (0, 2), (3, 1)]) if symmetric else (ROW, COLUMN)
    weight = torch.cat([numbers(3), numbers(3)]) if symmetric else numbers(len(ROW))
    layer = Propagation(row, column, weight, NODES)
    assert torch.autograd.gradcheck(layer, numbers(NODES, 2).requires_grad_())
    twice = sum(1 for _ in layer.buffers())
    assert twice == (3 if symmetric else 6), "a symmetric matrix is kept once, another with its transpose"


def test_no_entry_is_in_the_state_dict() -> None:
    assert not Propagation(ROW, COLUMN, numbers(len(ROW)), NODES).state_dict()


def test_the_product_stays_in_the_precision_of_the_weights_under_autocast() -> None:
    layer = Propagation(ROW, COLUMN, numbers(len(ROW)).float(), NODES)
    x = numbers(NODES, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), layer(x.float()))
        assert layer(x.bfloat16()).dtype == torch.float32


def test_symmetric_weights_are_the_paper_formula() -> None:
    row, column = both_ways([(0, 2), (0, 3), (1, 3), (0, 4)])
    degree = {0: 3, 1: 1, 2: 1, 3: 2, 4: 1}
    wanted = [1 / math.sqrt(degree[r] * degree[c]) for r, c in zip(row.tolist(), column.tolist(), strict=True)]
    torch.testing.assert_close(symmetric_weights(row, column, 5), torch.tensor(wanted))


def test_mean_weights_of_a_row_sum_to_one() -> None:
    matrix = dense(ROW, COLUMN, mean_weights(ROW, NODES), NODES)
    torch.testing.assert_close(matrix.sum(1), torch.tensor([1.0, 1, 1, 0, 1, 0]).double())
