"""Softmax over a sample: formulas written out slowly, what corrections are for, and the traps."""

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from formulas_for_tests import assert_same_in_value_and_gradient, numbers
from weft.losses import (
    ExactFrequency,
    accidental_hits,
    bpr,
    corrected,
    hardest,
    refined_softmax,
    sampled_softmax,
    together,
    twins,
    without,
)

POSITIVE = numbers(3).requires_grad_()
NEGATIVE = numbers(3, 4, shift=0.3).requires_grad_()
WEIGHT = torch.tensor([1.0, 0.0, 2.5]).double()


def slow_softmax(s: Tensor, others: Tensor) -> Tensor:
    return -torch.log(torch.exp(s) / (torch.exp(s) + sum(torch.exp(o) for o in others)))


def slow_refined(s: Tensor, others: Tensor) -> Tensor:
    rest = sum(torch.exp(o) for o in others)
    p = float(torch.exp(s.detach()) / (torch.exp(s) + rest).detach())
    return -(1 - p) * torch.log(torch.exp(s) / rest)


@pytest.mark.parametrize(("loss", "slow"), [(sampled_softmax, slow_softmax), (refined_softmax, slow_refined)])
def test_losses_over_a_sample_are_their_formulas(loss, slow) -> None:  # type: ignore[no-untyped-def]
    rows = torch.stack([slow(s, others) for s, others in zip(POSITIVE, NEGATIVE, strict=True)])
    assert_same_in_value_and_gradient(loss(POSITIVE, NEGATIVE), rows.mean(), [POSITIVE, NEGATIVE])
    weighed = (rows[0] + 2.5 * rows[2]) / 3.5
    assert_same_in_value_and_gradient(loss(POSITIVE, NEGATIVE, WEIGHT), weighed, [POSITIVE, NEGATIVE])
    assert loss(POSITIVE, NEGATIVE, torch.zeros(3).double()).item() == 0


@pytest.mark.parametrize("loss", [sampled_softmax, refined_softmax])
def test_a_row_without_negatives_teaches_nothing(loss) -> None:  # type: ignore[no-untyped-def]
    positive, negative = (t.detach().clone().requires_grad_() for t in (POSITIVE, NEGATIVE))
    hidden = torch.zeros(3, 4, dtype=torch.bool)
    hidden[1] = True
    value = loss(positive, without(negative, hidden))
    value.backward()
    assert torch.isfinite(value)
    assert positive.grad is not None
    assert negative.grad is not None
    assert positive.grad[1] == 0
    assert not negative.grad[1].any()
    assert torch.isfinite(negative.grad).all()
    assert loss(positive, negative[:, :0]).item() == 0


def test_far_scores_neither_overflow_nor_lose_their_gradient() -> None:
    s = torch.tensor([-300.0], requires_grad=True)
    for loss in (sampled_softmax, refined_softmax):
        value = loss(s, torch.tensor([[300.0, 0.0]]))
        assert value.item() == pytest.approx(600)
        assert torch.autograd.grad(value, s)[0].item() == pytest.approx(-1)


def test_the_refined_loss_has_the_gradient_of_the_full_softmax() -> None:
    score = numbers(3, 6, shift=0.7).requires_grad_()
    own = torch.tensor([4, 0, 2])
    full = torch.nn.functional.cross_entropy(score, own)
    positive = score.gather(1, own[:, None])[:, 0]
    negative = without(score, accidental_hits(own, torch.arange(6)))
    got, want = (torch.autograd.grad(f, score)[0] for f in (refined_softmax(positive, negative), full))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(sampled_softmax(positive, negative), full)


def test_the_correction_takes_from_what_comes_often() -> None:
    """The trap of the sign: a popular item's logit goes down against a rare one's."""
    often, seldom = corrected(torch.zeros(2), torch.tensor([0.5, 0.001]).log())
    assert often < seldom
    assert often.item() == pytest.approx(math.log(2))


def test_a_corrected_batch_estimates_the_whole_catalogue() -> None:
    """The mean over all batches that can be drawn is the partition function, however unequal the items are."""
    share, score = torch.tensor([0.6, 0.25, 0.1, 0.05]).double(), numbers(4)
    q = ExactFrequency(share)(torch.arange(4), 3).double()
    mean = sum(
        math.prod(share[list(batch)].tolist()) * estimate(torch.tensor(batch), score, q).item()
        for batch in product(range(4), repeat=3)
    )
    assert mean == pytest.approx(score.exp().sum().item(), rel=1e-6)


def test_a_batch_and_drawn_items_estimate_it_together() -> None:
    share, score = torch.tensor([0.6, 0.25, 0.1, 0.05]).double(), numbers(4)
    q = together(ExactFrequency(share)(torch.arange(4), 2).double(), torch.full((4,), 0.5).double())
    drawn = list(combinations(range(4), 2))
    mean = sum(
        math.prod(share[list(batch)].tolist()) * estimate(torch.tensor([*batch, *extra]), score, q).item() / len(drawn)
        for batch in product(range(4), repeat=2)
        for extra in drawn
    )
    assert mean == pytest.approx(score.exp().sum().item(), rel=1e-6)


def estimate(item_C: Tensor, score_I: Tensor, q_I: Tensor) -> Tensor:
    return corrected(score_I[item_C], q_I[item_C].log() + twins(item_C).log()).exp().sum()


def test_an_items_twins_in_other_rows_are_no_negatives() -> None:
    item = torch.tensor([7, 3, 7])
    logit = without(torch.zeros(3, 3), accidental_hits(item, item))
    assert logit.isinf().tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert sampled_softmax(torch.zeros(3), logit).item() == pytest.approx((2 * math.log(2) + math.log(3)) / 3)


def test_the_hardest_are_the_best_scored() -> None:
    logit = torch.tensor([[0.1, 3.0, -1.0, 2.0], [5.0, -torch.inf, 1.0, 0.0]])
    assert hardest(logit, 2).sort(descending=True).values.tolist() == [[3.0, 2.0], [5.0, 1.0]]
    assert hardest(logit, 9).shape == (2, 4)


def test_bpr_of_several_negatives_is_the_mean_of_its_pairs() -> None:
    slow = torch.stack(
        [
            torch.stack([-torch.log(torch.sigmoid(s - o)) for o in others]).mean()
            for s, others in zip(POSITIVE, NEGATIVE, strict=True)
        ]
    )
    assert_same_in_value_and_gradient(bpr(POSITIVE, NEGATIVE), slow.mean(), [POSITIVE, NEGATIVE])
    weighed = (slow[0] + 2.5 * slow[2]) / 3.5
    assert_same_in_value_and_gradient(bpr(POSITIVE, NEGATIVE, WEIGHT), weighed, [POSITIVE, NEGATIVE])
    far = torch.tensor([-500.0], requires_grad=True)
    assert torch.autograd.grad(bpr(far, torch.tensor([[500.0]])), far)[0].item() == pytest.approx(-1)
