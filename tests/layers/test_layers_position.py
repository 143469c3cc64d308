"""PAL's product of two probabilities as one logit, and the towers that read positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.layers import KnownCurve, ShallowTower, both
from weft.losses import for_task
from weft.testing import make_lopsided

EXTREME = torch.tensor([-80.0, -30.0, -1.5, 0.0, 2.0, 30.0, 80.0], dtype=torch.float64)


def pairs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Every pair of the extreme logits."""
    a, b = torch.meshgrid(EXTREME.to(dtype), EXTREME.to(dtype), indexing="ij")
    return a.flatten().requires_grad_(), b.flatten().requires_grad_()


def log_product(a: Tensor, b: Tensor) -> Tensor:
    """log(σ(a) σ(b)) by pieces."""
    return F.logsigmoid(a) + F.logsigmoid(b)


def log_rest(a: Tensor, b: Tensor) -> Tensor:
    """log(1 - σ(a) σ(b)) = log((1 - σ(a)) + σ(a) (1 - σ(b))): what is missing is added up, nothing is subtracted."""
    return torch.logaddexp(F.logsigmoid(-a), F.logsigmoid(a) + F.logsigmoid(-b))


def test_trap_12_pal_multiplies_two_sigmoids_and_does_not_add_their_logits() -> None:
    a, b = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([-0.7, 0.2, 1.1]).double()
    torch.testing.assert_close(both(a, b).sigmoid(), a.sigmoid() * b.sigmoid())
    assert (both(a, b) - (a + b)).abs().min() > 0.1


@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
def test_trap_12_the_loss_is_that_of_the_pieces_at_any_logits_in_value_and_gradient(label: float) -> None:
    a, b = pairs()
    slow = -(label * log_product(a, b) + (1 - label) * log_rest(a, b)).sum()
    fast = for_task("binary")(both(a, b), torch.full_like(a, label), None) * len(a)
    torch.testing.assert_close(fast, slow)
    for got, want in zip(torch.autograd.grad(fast, (a, b)), torch.autograd.grad(slow, (a, b)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-15)


def test_single_precision_holds_at_logits_of_80() -> None:
    a, b = pairs(torch.float32)
    exact_a, exact_b = pairs()
    got, want = both(a, b), both(exact_a, exact_b)
    torch.testing.assert_close(got, want.float())
    gradients = torch.autograd.grad(got.sum(), (a, b)), torch.autograd.grad(want.sum(), (exact_a, exact_b))
    for single, double in zip(*gradients, strict=True):
        assert single.isfinite().all()
        torch.testing.assert_close(single, double.float())


def test_the_gradient_is_what_the_formula_says() -> None:
    """ds/da = (1 - σ(a)) / (1 - σ(a) σ(b)) ."""
    a, b = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (0.7, -0.4))
    (got,) = torch.autograd.grad(both(a, b), a)
    p, q = 1 / (1 + math.exp(-0.7)), 1 / (1 + math.exp(0.4))
    assert got.item() == pytest.approx((1 - p) / (1 - p * q))
    assert torch.autograd.gradcheck(both, (a, b))


def test_a_certain_event_changes_nothing() -> None:
    a = EXTREME.clone().requires_grad_()
    s = both(a, torch.tensor(torch.inf))
    torch.testing.assert_close(s, a)
    torch.testing.assert_close(torch.autograd.grad(s.sum(), a)[0], torch.ones_like(a))


def test_one_probability_goes_with_all_labels() -> None:
    a, b = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[0.5], [-1], [0], [2]])
    torch.testing.assert_close(both(a, b), torch.stack([both(a[:, t], b[:, 0]) for t in range(3)], dim=1))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_shallow_tower_is_its_formula(rows: int, outputs: int) -> None:
    """w · relu(W_2 relu(E_1[i] + E_2[j]) + b_2) + b, in value and gradient."""
    tower = make_lopsided(ShallowTower([5, 3], [4, 3], outputs))
    ids_BF = torch.tensor([[4, 2], [0, 1], [3, 0], [4, 1]])[:rows]
    names = ("tables.0.weight", "tables.1.weight", "deep.layers.0.weight", "deep.layers.0.bias")
    e1, e2, w2, b2, w, b = (tower.get_parameter(name) for name in (*names, "head.linear.weight", "head.linear.bias"))
    slow = torch.stack([w @ (w2 @ (e1[i] + e2[j]).relu() + b2).relu() + b for i, j in ids_BF.tolist()])
    fast = tower(ids_BF)
    assert fast.shape == (rows, outputs)
    torch.testing.assert_close(fast, slow)
    probe = torch.arange(1.0, slow.numel() + 1).view(slow.shape).double()
    weights = list(tower.parameters())
    for got, want in zip(
        torch.autograd.grad(fast, weights, probe), torch.autograd.grad(slow, weights, probe), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_without_hidden_layers_the_tower_is_a_weight_for_each_id() -> None:
    tower = make_lopsided(ShallowTower([5, 3], [], 1))
    first, second = (table.weight for table in tower.tables)
    ids_BF = torch.tensor([[4, 2], [0, 1]])
    torch.testing.assert_close(tower(ids_BF), torch.stack([first[4] + second[2], first[0] + second[1]]))


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_a_tower_starts_flat(hidden: tuple[int, ...]) -> None:
    tower = ShallowTower([6, 3], hidden, 2, start=2.0)
    every = torch.cartesian_prod(torch.arange(6), torch.arange(3))
    assert torch.equal(tower(every), torch.full((18, 2), 2.0))


def test_a_known_curve_gives_the_logits_of_its_probabilities_and_learns_nothing() -> None:
    curve = KnownCurve([1.0, 0.5, 0.2])
    assert not list(curve.parameters())
    assert not curve.state_dict()
    found = curve(torch.tensor([[1], [2], [3], [0]])).sigmoid()
    torch.testing.assert_close(found, torch.tensor([[1.0], [0.5], [0.2], [1.0]]))
