"""The softmax over a sample, piece by piece: equal to its slow form in value and gradient."""

import pytest
import torch
from torch import Tensor

from formulas_for_tests import assert_same_in_value_and_gradient, numbers
from weft.losses import accidental_hits, refined_softmax, same_items, sampled_softmax, softmax_of_vectors, without

USER, ITEM = numbers(5, 3).requires_grad_(), numbers(7, 3, shift=0.4).requires_grad_()
POSITIVE, SHIFT = numbers(5, shift=0.8).requires_grad_(), numbers(7, shift=0.1)
OWN, ITEMS = torch.tensor([4, 9, 4, 2, 6]), torch.tensor([4, 9, 4, 2, 6, 9, 8])
WEIGHT = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0]).double()


def slow(refined: bool, weight: Tensor | None) -> Tensor:
    negative = without(USER @ ITEM.T + SHIFT, accidental_hits(OWN, ITEMS))
    return (refined_softmax if refined else sampled_softmax)(POSITIVE, negative, weight)


def fast(refined: bool, weight: Tensor | None, **options: torch.dtype) -> Tensor:
    hidden = same_items(OWN, ITEMS)
    return softmax_of_vectors(POSITIVE, USER, ITEM, SHIFT, hidden, weight, refined=refined, **options)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighed"])
@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("cells", [1, 14, 21, 10_000])
def test_pieces_of_any_size_give_the_slow_form(
    monkeypatch: pytest.MonkeyPatch, refined: bool, weight: Tensor | None, cells: int
) -> None:
    monkeypatch.setattr("weft.losses.fused.CELLS_AT_ONCE", cells)
    assert_same_in_value_and_gradient(fast(refined, weight), slow(refined, weight), [POSITIVE, USER, ITEM])


def test_the_gradient_by_hand_is_that_of_the_value() -> None:
    hidden = same_items(OWN, ITEMS)

    def loss(positive: Tensor, user: Tensor, item: Tensor) -> Tensor:
        return softmax_of_vectors(positive, user, item, SHIFT, hidden, WEIGHT)

    assert torch.autograd.gradcheck(loss, (POSITIVE, USER, ITEM))


def test_hidden_pairs_are_the_accidental_hits() -> None:
    row, column = same_items(OWN, ITEMS)
    found = torch.zeros(5, 7, dtype=torch.bool)
    found[row, column] = True
    assert torch.equal(found, accidental_hits(OWN, ITEMS))
    assert row.tolist() == sorted(row.tolist())
    assert len(same_items(torch.tensor([1]), torch.tensor([2, 3])).row) == 0


@pytest.mark.parametrize("refined", [False, True])
def test_a_row_without_negatives_teaches_nothing(refined: bool) -> None:
    item, user = torch.tensor([3, 3]), numbers(2, 3).requires_grad_()
    loss = softmax_of_vectors(
        POSITIVE[:2], user, user.detach(), torch.zeros(2), same_items(item, item), refined=refined
    )
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, user)[0].any()
    none = softmax_of_vectors(POSITIVE[:2], user, user[:0], torch.zeros(0), same_items(item, item[:0]))
    assert none.item() == 0


def test_far_scores_do_not_overflow() -> None:
    user, item = torch.tensor([[300.0], [-300.0]]), torch.tensor([[1.0], [2.0]])
    loss = softmax_of_vectors(
        torch.tensor([-300.0, 300.0]),
        user,
        item,
        torch.zeros(2),
        same_items(torch.tensor([8, 9]), torch.tensor([5, 6])),
    )
    assert loss.item() == pytest.approx(450.0)


def test_products_in_bf16_are_near() -> None:
    near, exact = fast(False, None, products=torch.bfloat16), fast(False, None)
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0.0)
    got, want = (torch.autograd.grad(loss, ITEM)[0] for loss in (near, exact))
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.02)
