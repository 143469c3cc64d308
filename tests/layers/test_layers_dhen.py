"""Modules and layers of DHEN equal their formulas, written out slot by slot."""

import pytest
import torch
from torch import Tensor, nn

from formulas_for_tests import assert_layer_is, numbers
from weft.layers.convolution import SlotConvolution
from weft.layers.dhen import AttentionSlots, ConvolutionSlots, CrossSlots, DHENLayer, DotSlots
from weft.layers.slot_linear import SlotLinear
from weft.testing import make_lopsided

N, M, E = 4, 3, 2


def slow_slots(weight: Tensor, x: Tensor) -> Tensor:
    return torch.stack([sum(weight[m, n] * x[n] for n in range(len(x))) for m in range(len(weight))])


def slow_convolution(layer: SlotConvolution, x: Tensor) -> Tensor:
    weight, bias, rows = layer.filters.weight[:, 0], layer.filters.bias, []
    for c in range(len(weight)):
        for n in range(x.shape[0]):
            for e in range(x.shape[1]):
                near = [(i, j) for i in range(3) for j in range(3)]
                near = [(i, j) for i, j in near if 0 <= n + i - 1 < x.shape[0] and 0 <= e + j - 1 < x.shape[1]]
                rows.append(bias[c] + sum(weight[c, i, j] * x[n + i - 1, e + j - 1] for i, j in near))
    return torch.stack(rows).view(-1, x.shape[1])


def slow_dots(layer: DotSlots, x: Tensor) -> Tensor:
    dots = torch.stack([x[i] @ x[j] for i in range(len(x)) for j in range(i)])
    return (layer.linear.weight @ dots + layer.linear.bias).view(-1, x.shape[1])


def slow_cross(layer: CrossSlots, x: Tensor) -> Tensor:
    """In the paper's letters: X is [d, m], W and b are [d, l]."""
    paper_x, w, b = x.T, layer.weight.T, layer.bias.T
    return (paper_x @ paper_x.T @ w + b).T


def test_a_linear_map_of_slots_is_its_formula() -> None:
    layer = make_lopsided(SlotLinear(N, M))
    assert_layer_is(layer, lambda x: slow_slots(layer.weight, x), numbers(2, N, E))


def test_a_convolution_is_its_formula() -> None:
    layer = make_lopsided(SlotConvolution(2))
    assert_layer_is(layer, lambda x: slow_convolution(layer, x), numbers(2, N, 3))


def test_dots_become_slots() -> None:
    layer = make_lopsided(DotSlots(N, M, E))
    assert_layer_is(layer, lambda x: slow_dots(layer, x), numbers(2, N, E))


def test_a_cross_of_slots_is_its_formula() -> None:
    layer = make_lopsided(CrossSlots(M, E))
    assert_layer_is(layer, lambda x: slow_cross(layer, x), numbers(2, N, E))


def test_a_cross_of_slots_has_no_skip_of_its_own() -> None:
    layer = CrossSlots(N, E).double()
    nn.init.zeros_(layer.weight)
    assert not layer(numbers(2, N, E)).any()


def test_attention_becomes_slots() -> None:
    layer = make_lopsided(AttentionSlots(N, M, E, 2))
    assert layer.encoder.first.out_features == 4 * E
    assert_layer_is(layer, lambda x: slow_slots(layer.slots.weight, layer.encoder(x[None])[0]), numbers(2, N, E))


def test_the_channels_of_a_convolution_become_slots() -> None:
    layer = make_lopsided(ConvolutionSlots(N, M, 2))
    assert layer.slots.weight.shape == (M, 2 * N)
    assert_layer_is(
        layer, lambda x: slow_slots(layer.slots.weight, slow_convolution(layer.convolution, x)), numbers(2, N, E)
    )


def test_maps_of_slots_leave_the_coordinates_alone() -> None:
    """Trap 11: permuting the coordinates of the input permutes those of the output in the same way."""
    x, order = numbers(2, N, 5), torch.tensor([3, 0, 4, 1, 2])
    layer = make_lopsided(DHENLayer(N, M, 5, [SlotLinear(N, M)], "sum"))
    assert layer.shortcut.weight.shape == (M, N)
    for part in (layer.interactions[0], layer.shortcut):
        torch.testing.assert_close(part(x[..., order]), part(x)[..., order])


def slow_layer(layer: DHENLayer, ensemble: str, x: Tensor) -> Tensor:
    found = [module(x[None])[0] for module in layer.interactions]
    if ensemble == "concat":
        together = torch.cat(found)
    else:
        weights = layer.weight if ensemble == "weighted_sum" else [1.0] * len(found)
        together = sum(w * u for w, u in zip(weights, found, strict=True))
    shortcut = x if len(together) == len(x) else slow_slots(layer.shortcut.weight, x)
    out = []
    for slot in together + shortcut:
        normal = (slot - slot.mean()) / torch.sqrt(((slot - slot.mean()) ** 2).mean() + layer.norm.eps)
        out.append(normal * layer.norm.weight + layer.norm.bias)
    return torch.stack(out)


@pytest.mark.parametrize("ensemble", ["concat", "sum", "weighted_sum"])
@pytest.mark.parametrize("outputs", [2, 3, 4])
def test_a_layer_is_its_formula(ensemble: str, outputs: int) -> None:
    modules = [DotSlots(N, outputs, 3), CrossSlots(outputs, 3)]
    layer = make_lopsided(DHENLayer(N, outputs, 3, modules, ensemble))
    assert layer.slots == (2 * outputs if ensemble == "concat" else outputs)
    assert_layer_is(layer, lambda x: slow_layer(layer, ensemble, x), numbers(2, N, 3))


def test_the_shortcut_is_the_input_itself_where_the_number_of_slots_stays() -> None:
    stays = DHENLayer(N, 2, E, [SlotLinear(N, 2), SlotLinear(N, 2)], "concat")
    changes = DHENLayer(N, 2, E, [SlotLinear(N, 2), SlotLinear(N, 2)], "sum")
    assert isinstance(stays.shortcut, nn.Identity)
    assert changes.shortcut.weight.shape == (2, N)


def test_a_weighted_sum_starts_as_a_sum() -> None:
    modules = [SlotLinear(N, M), CrossSlots(M, E)]
    plain, weighted = (DHENLayer(N, M, E, modules, ensemble) for ensemble in ("sum", "weighted_sum"))
    weighted.shortcut = plain.shortcut
    x = numbers(2, N, E).float()
    torch.testing.assert_close(weighted(x), plain(x))
