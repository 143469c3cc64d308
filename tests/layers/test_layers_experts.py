"""Experts, gates and towers against the equations of the paper, written out task by task."""

from itertools import count

import pytest
import torch
from torch import Tensor, nn

from weft.layers import MixtureOfExperts, Towers


def lopsided(*shape: int) -> Tensor:
    return torch.arange(1.0, torch.Size(shape).numel() + 1).mul(1.7).cos().view(shape).double()


def each_its_own(module: nn.Module) -> nn.Module:
    """Double-precision weights of which no two are alike: experts, gates and towers cannot stand for each other."""
    number = count(1)
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.copy_(torch.tensor([next(number) for _ in range(weight.numel())]).double().sin().view_as(weight))
    return module


def slow_mixture(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """f^t(x) = sum_k g^t(x)_k f_k(x), row by row, task by task, expert by expert."""
    rows = []
    for row in x:
        outputs = [torch.relu(e.layers[0].weight @ row + e.layers[0].bias) for e in layer.experts]
        tasks = []
        for gate in layer.gates:
            odds = [torch.exp(gate.weight[k] @ row) for k in range(len(outputs))]
            tasks.append(sum(odd / sum(odds) * f for odd, f in zip(odds, outputs, strict=True)))
        rows.append(torch.stack(tasks))
    return torch.stack(rows)


def slow_towers(layer: Towers, x: Tensor) -> Tensor:
    rows = []
    for row in x:
        logits = []
        for t, tower in enumerate(layer.towers):
            h = torch.relu(tower.layers[0].weight @ row[t] + tower.layers[0].bias)
            logits.append(layer.weight[t] @ h + layer.bias[t])
        rows.append(torch.stack(logits))
    return torch.stack(rows)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_mixture_of_experts_is_the_paper_equation(rows: int) -> None:
    layer = each_its_own(MixtureOfExperts(3, (4,), experts=3, tasks=2))
    x = lopsided(rows, 3).requires_grad_()
    weights = [x, *layer.parameters()]
    fast, slow = layer(x), slow_mixture(layer, x)
    assert fast.shape == (rows, 2, 4)
    torch.testing.assert_close(fast, slow)
    probe = lopsided(*fast.shape)
    for got, want in zip(
        torch.autograd.grad(fast, weights, probe), torch.autograd.grad(slow, weights, probe), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("rows", [1, 5])
def test_towers_are_a_network_for_each_task(rows: int) -> None:
    layer = each_its_own(Towers(3, (4,), tasks=2))
    x = lopsided(rows, 2, 3).requires_grad_()
    weights = [x, *layer.parameters()]
    fast, slow = layer(x), slow_towers(layer, x)
    assert fast.shape == (rows, 2)
    torch.testing.assert_close(fast, slow)
    probe = lopsided(*fast.shape)
    for got, want in zip(
        torch.autograd.grad(fast, weights, probe), torch.autograd.grad(slow, weights, probe), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_a_tower_without_hidden_layers_is_one_linear_map() -> None:
    layer = each_its_own(Towers(3, (), tasks=2))
    x = lopsided(4, 2, 3)
    torch.testing.assert_close(layer(x), torch.einsum("btd,td->bt", x, layer.weight) + layer.bias)


def test_shares_of_experts_add_up_to_one_and_differ_by_task() -> None:
    layer = each_its_own(MixtureOfExperts(3, (4,), experts=3, tasks=2))
    shares = layer.shares(lopsided(5, 3))
    assert shares.shape == (5, 2, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(5, 2).double())
    assert not torch.allclose(shares[:, 0], shares[:, 1])


def test_experts_and_towers_start_one_by_one() -> None:
    """Xavier on a stack of matrices would take the number of experts or tasks for a width."""
    torch.manual_seed(0)
    mixture = MixtureOfExperts(400, (100,), experts=4, tasks=3)
    for expert in mixture.experts:
        assert expert.layers[0].weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.05)
    for gate in mixture.gates:
        assert gate.weight.std().item() == pytest.approx((2 / 404) ** 0.5, rel=0.1)
    towers = Towers(10, (2_000,), tasks=3)
    assert towers.weight.std(1).tolist() == pytest.approx([(2 / 2_001) ** 0.5] * 3, rel=0.1)
    assert towers.bias.tolist() == [0.0, 0.0, 0.0]


def test_logits_of_lowered_towers_are_single_precision() -> None:
    layer, x = Towers(8, (4,), tasks=2), torch.randn(16, 2, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, layer(x), rtol=0.05, atol=0.05)
