"""The softmax over every item against its formula, row by row, and its backward written by hand."""

import pytest
import torch
from torch import Tensor

from formulas_for_tests import assert_same_in_value_and_gradient, numbers
from weft.losses import full, full_softmax

USER, ITEM = numbers(3, 2).requires_grad_(), numbers(5, 2, shift=0.3).requires_grad_()
PLACE, OWN = torch.tensor([2, 0, 0, 2]), torch.tensor([4, 1, 3, 0])
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5]).double()


def positive() -> Tensor:
    return (USER[PLACE] * ITEM[OWN]).sum(1)


def slow() -> list[Tensor]:
    rows = []
    for user, own in zip(PLACE.tolist(), OWN.tolist(), strict=True):
        scores = [(USER[user] * item).sum().exp() for item in ITEM]
        rows.append(-torch.log(scores[own] / sum(scores)))
    return rows


@pytest.mark.parametrize("cells", [1, 10, 10_000])
def test_the_loss_is_its_formula_whatever_fits_the_cache(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(full, "CELLS_AT_ONCE", cells)
    rows = slow()
    fast = full_softmax(positive(), USER, ITEM, PLACE)
    assert_same_in_value_and_gradient(fast, torch.stack(rows).mean(), [USER, ITEM])
    weighed = sum(w * row for w, row in zip(WEIGHT, rows, strict=True)) / WEIGHT.sum()
    assert_same_in_value_and_gradient(full_softmax(positive(), USER, ITEM, PLACE, WEIGHT), weighed, [USER, ITEM])


def test_the_backward_written_by_hand_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(
        lambda p, u, i: full_softmax(p, u, i, PLACE, WEIGHT), (numbers(4).requires_grad_(), USER, ITEM)
    )


def test_large_scores_do_not_overflow() -> None:
    value = full_softmax(torch.full((4,), 4e4), torch.full((3, 2), 200.0), torch.full((5, 2), 100.0), PLACE)
    assert value.item() == pytest.approx(torch.tensor(5.0).log().item(), abs=1e-2)


def test_rows_without_weight_teach_nothing() -> None:
    value = full_softmax(positive(), USER, ITEM, PLACE, torch.zeros(4).double())
    assert value.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(value, [USER, ITEM]))


def test_products_in_bf16_change_little() -> None:
    user, item = (t.detach().float().requires_grad_() for t in (USER, ITEM))
    found = []
    for products in (None, torch.bfloat16):
        value = full_softmax((user[PLACE] * item[OWN]).sum(1), user, item, PLACE, products=products)
        found.append((value.detach(), *torch.autograd.grad(value, [user, item])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.01)
