"""Layers whose first linear map is computed in pieces give what they give for the whole block."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from weft.layers import MLP, CrossNet, GatedCrossNet, LowRankCrossNet, MixCrossNet, TargetAttention, VectorCrossNet
from weft.testing import make_lopsided

WIDTH = 5
PIECES = (torch.tensor([0, 3]), torch.tensor([4]), torch.tensor([2, 1]))

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "cross": lambda: CrossNet(WIDTH, 3),
    "one cross": lambda: CrossNet(WIDTH, 1),
    "vector": lambda: VectorCrossNet(WIDTH, 2),
    "low rank": lambda: LowRankCrossNet(WIDTH, 3, 2),
    "gated": lambda: GatedCrossNet(WIDTH, 2),
    "mix": lambda: MixCrossNet(WIDTH, 2, experts=3, rank=2),
    "mix, sigmoid, shared": lambda: MixCrossNet(WIDTH, 3, experts=2, rank=2, gate="sigmoid", shared_gates=True),
    "mix, constant": lambda: MixCrossNet(WIDTH, 2, experts=2, rank=3, gate="constant", activation="hardtanh"),
    "mlp": lambda: MLP(WIDTH, [4, 3]),
    "mlp, batch norm": lambda: MLP(WIDTH, [4, 3], activation="tanh", batch_norm=True, dropout=0.5),
}


def lopsided(*shape: int) -> Tensor:
    return torch.arange(1.0, torch.Size(shape).numel() + 1).mul(1.7).cos().view(shape).double()


def in_pieces(layer: nn.Module, x_BD: Tensor) -> Tensor:
    z_BH = sum(layer.first(x_BD[:, columns], columns) for columns in PIECES)
    return layer.after(z_BH) if isinstance(layer, MLP) else layer.after(z_BH, x_BD)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("rows", [1, 4])
def test_a_layer_in_pieces_is_the_layer(kind: str, rows: int) -> None:
    layer = make_lopsided(LAYERS[kind]()).eval()
    for norm in (module for module in layer.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.running_mean.copy_(lopsided(norm.num_features))
        norm.running_var.copy_(lopsided(norm.num_features) + 2)
    x_BD = lopsided(rows, WIDTH).requires_grad_()
    whole, pieces = layer(x_BD), in_pieces(layer, x_BD)
    torch.testing.assert_close(pieces, whole)
    weights = [x_BD, *layer.parameters()]
    found, wanted = (torch.autograd.grad(out, weights, lopsided(*out.shape)) for out in (pieces, whole))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_map_of_the_whole_block_is_the_sum_of_its_pieces(kind: str) -> None:
    layer, x_BD = make_lopsided(LAYERS[kind]()), lopsided(3, WIDTH)
    pieces = sum(layer.first(x_BD[:, columns], columns) for columns in PIECES)
    torch.testing.assert_close(layer.first(x_BD), pieces)


def test_histories_of_one_length_are_attended_like_ragged_ones() -> None:
    unit = make_lopsided(TargetAttention(2, 5))
    rows_VE, target_BE = lopsided(6, 2), lopsided(3, 2) + 0.3
    known_V = torch.tensor([1.0, 0.5, 1, 0, 1, 1]).double()
    offsets = torch.tensor([0, 4, 4, 6])
    past_BLE, known_BL = torch.ones(3, 4, 2).double(), torch.zeros(3, 4).double()
    past_BLE[0], past_BLE[2, :2], known_BL[0], known_BL[2, :2] = rows_VE[:4], rows_VE[4:], known_V[:4], known_V[4:]
    found = unit.over(past_BLE, known_BL, target_BE)
    torch.testing.assert_close(found, unit(rows_VE, offsets, known_V, target_BE))
    for b in range(3):
        candidates = lopsided(5, 2)
        one = unit.over(past_BLE[b : b + 1], known_BL[b : b + 1], candidates)
        each = unit.over(past_BLE[b].expand(5, -1, -1), known_BL[b].expand(5, -1), candidates)
        torch.testing.assert_close(one, each)
    assert not unit.over(past_BLE[:, :0], known_BL[:, :0], target_BE).any()
