"""Layers of graph networks against their equations, node by node, on lopsided weights."""

import pytest
import torch
from torch import Tensor

from formulas_for_tests import assert_same_in_value_and_gradient, numbers
from weft.layers import NGCFLayer, SAGELayer
from weft.testing import make_lopsided

ADJACENCY = torch.tensor([[0, 0, 1.0, 0.5], [0, 0, 0, 0.3], [1.0, 0, 0, 0], [0.5, 0.3, 0, 0]]).double()


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def test_a_layer_of_ngcf_is_the_paper_equation() -> None:
    """m_ii = W1 e_i and m_ij = L_ij (W1 e_j + W2 (e_j ⊙ e_i)): equations (3), (5) and (6)."""
    layer = make_lopsided(NGCFLayer(3, 2))
    e = numbers(4, 3).requires_grad_()
    w1, w2 = layer.sum.weight, layer.product.weight
    rows = []
    for i in range(4):
        message = w1 @ e[i]
        for j in range(4):
            message = message + ADJACENCY[i, j] * (w1 @ e[j] + w2 @ (e[j] * e[i]))
        rows.append(leaky(message))
    assert_same_in_value_and_gradient(layer(e, ADJACENCY @ e), torch.stack(rows), [e, *layer.parameters()])


@pytest.mark.parametrize("last", [False, True])
def test_a_layer_of_graphsage_is_the_paper_algorithm(last: bool) -> None:
    layer = make_lopsided(SAGELayer(3, 4, last=last))
    h = numbers(4, 3).requires_grad_()
    mean = numbers(4, 3, shift=0.3)
    rows = []
    for i in range(4):
        row = layer.linear.weight @ torch.cat([h[i], mean[i]]) + layer.linear.bias
        row = row if last else torch.where(row > 0, row, 0.0)
        rows.append(row / row.square().sum().sqrt())
    assert_same_in_value_and_gradient(layer(h, mean), torch.stack(rows), [h, *layer.parameters()])
    assert bool((layer(h, mean) < 0).any()) == last
