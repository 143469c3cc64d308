"""Target attention against equation (3) of the paper, value by value."""

import pytest
import torch
from torch import Tensor

from weft.layers import TargetAttention
from weft.testing import make_lopsided


def lopsided(*shape: int) -> Tensor:
    return torch.arange(1.0, torch.Size(shape).numel() + 1).mul(1.7).cos().view(shape).double()


def slow(unit: TargetAttention, rows: Tensor, offsets: Tensor, known: Tensor, target: Tensor) -> Tensor:
    pooled = []
    for b, v in enumerate(target):
        total = torch.zeros_like(v)
        for i in range(int(offsets[b]), int(offsets[b + 1])):
            e = rows[i]
            h = unit.hidden.weight @ torch.cat([e, v, e * v]) + unit.hidden.bias
            h = torch.where(h > 0, h, unit.slope * h)
            total = total + known[i] * (unit.out.weight[0] @ h + unit.out.bias[0]) * e
        pooled.append(total)
    return torch.stack(pooled)


OFFSETS = torch.tensor([0, 3, 3, 4, 6])


@pytest.mark.parametrize("offsets", [OFFSETS, OFFSETS[:2], torch.tensor([0, 0])])
def test_target_attention_is_the_paper_equation(offsets: Tensor) -> None:
    unit = make_lopsided(TargetAttention(2, 5))
    values = int(offsets[-1])
    rows, target = lopsided(values, 2).requires_grad_(), (lopsided(len(offsets) - 1, 2) + 0.3).requires_grad_()
    known = torch.tensor([1.0, 0.5, 1, 0, 1, 1]).double()[:values]
    fast, want = unit(rows, offsets, known, target), slow(unit, rows, offsets, known, target)
    torch.testing.assert_close(fast, want)
    weights = [rows, target, *unit.parameters()]
    probe = lopsided(*fast.shape)
    found = torch.autograd.grad(fast, weights, probe)
    wanted = torch.autograd.grad(want, weights, probe, allow_unused=True) if values else [None] * len(weights)
    for weight, got, grad in zip(weights, found, wanted, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(weight) if grad is None else grad)


def test_weights_are_not_normalised() -> None:
    """Two equal values weigh twice as much as one; a softmax would make them one."""
    unit = make_lopsided(TargetAttention(2))
    one, target = lopsided(1, 2), lopsided(1, 2) + 1
    once = unit(one, torch.tensor([0, 1]), torch.ones(1), target)
    twice = unit(one.repeat(2, 1), torch.tensor([0, 2]), torch.ones(2), target)
    torch.testing.assert_close(twice, 2 * once)


def test_an_empty_history_and_one_that_does_not_count_give_zero() -> None:
    unit = make_lopsided(TargetAttention(2))
    pooled = unit(lopsided(2, 2), torch.tensor([0, 0, 2]), torch.zeros(2), lopsided(2, 2))
    assert pooled.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_row_reads_its_own_history_and_candidate_only() -> None:
    unit = make_lopsided(TargetAttention(2))
    rows, target, known = lopsided(6, 2), lopsided(4, 2) + 0.3, torch.ones(6)
    together = unit(rows, OFFSETS, known, target)
    for b in range(4):
        mine = slice(int(OFFSETS[b]), int(OFFSETS[b + 1]))
        count = torch.tensor([0, mine.stop - mine.start])
        torch.testing.assert_close(unit(rows[mine], count, known[mine], target[b : b + 1])[0], together[b])


def test_training_starts_near_the_plain_sum() -> None:
    torch.manual_seed(0)
    rows, target = 1e-4 * torch.randn(6, 2), 1e-4 * torch.randn(4, 2)
    found = TargetAttention(2)(rows, OFFSETS, torch.ones(6), target)
    plain = torch.stack([rows[OFFSETS[b] : OFFSETS[b + 1]].sum(0) for b in range(4)])
    torch.testing.assert_close(found, plain, rtol=1e-2, atol=1e-8)
