"""The softmax over a sample, of vectors: the scores are made and used piece by piece, and are never all there.

Dimension key: B rows, K of them at once, C items of the sample, E width, H hidden pairs.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.losses.full import CELLS_AT_ONCE


class Pairs(NamedTuple):
    """Rows and columns that are no negatives of each other: `row` [H] rising, `column` [H]."""

    row: Tensor
    column: Tensor


def same_items(item_B: Tensor, item_C: Tensor) -> Pairs:
    """Where `accidental_hits` is true.

    >>> same_items(torch.tensor([5, 6]), torch.tensor([6, 5, 5]))
    Pairs(row=tensor([0, 0, 1]), column=tensor([1, 2, 0]))
    """
    sorted_C, order_C = item_C.sort(stable=True)
    first_B = torch.searchsorted(sorted_C, item_B)
    count_B = torch.searchsorted(sorted_C, item_B, right=True) - first_B
    row_H = torch.repeat_interleave(torch.arange(len(item_B), device=item_B.device), count_B)
    within_H = torch.arange(len(row_H), device=item_B.device) - (count_B.cumsum(0) - count_B)[row_H]
    return Pairs(row_H, order_C[first_B[row_H] + within_H])


def softmax_of_vectors(
    positive_B: Tensor,
    user_BE: Tensor,
    item_CE: Tensor,
    shift_C: Tensor,
    hidden: Pairs,
    weight_B: Tensor | None = None,
    *,
    refined: bool = False,
    products: torch.dtype | None = None,
) -> Tensor:
    """`sampled_softmax`, or `refined_softmax`, of the negatives <user_b, item_c> + shift_c that are not hidden.

    Both have one gradient with respect to the logits, w_b σ(m_b) / Σ w times the share of each negative and minus that
    for the positive, m_b being how far all negatives together lie above the positive; so it comes with the value.

    Args:
        positive_B: Scores, corrected or not.
        user_BE: Vectors of the rows.
        item_CE: Vectors of the sample.
        shift_C: What is added to the scores of each item, such as the correction -log q; without gradient.
        hidden: What is no negative.
        weight_B: One without it.
        refined: Which of both.
        products: Precision of the matrix products; that of the vectors without it.
    """
    weight_B = torch.ones_like(positive_B) if weight_B is None else weight_B.to(positive_B.dtype)
    total = weight_B.sum()
    loss = _Sampled.apply(  # type: ignore[no-untyped-call]
        positive_B, user_BE, item_CE, shift_C, hidden, weight_B, refined, products or user_BE.dtype
    )
    return cast(Tensor, loss) / total.masked_fill(total == 0, 1)


class _Sampled(torch.autograd.Function):
    """Σ_b w_b loss_b; the gradients come with the value, while the scores are in the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        positive_B: Tensor,
        user_BE: Tensor,
        item_CE: Tensor,
        shift_C: Tensor,
        hidden: Pairs,
        weight_B: Tensor,
        refined: bool,
        products: torch.dtype,
    ) -> Tensor:
        low_CE, shift_C = item_CE.to(products), shift_C.to(user_BE.dtype)
        margin_B, grad_BE, grad_CE = torch.empty_like(positive_B), torch.empty_like(user_BE), torch.zeros_like(item_CE)
        step = max(1, CELLS_AT_ONCE // max(1, len(item_CE)))
        for start in range(0, len(user_BE), step):
            part = slice(start, min(start + step, len(user_BE)))
            low_KE = user_BE[part].to(products)
            score_KC = (low_KE @ low_CE.T).to(user_BE.dtype).add_(shift_C)
            _hide(score_KC, hidden, part)
            sum_K1, highest_K1 = _exponentials(score_KC)
            margin_B[part] = (highest_K1 + sum_K1.log())[:, 0] - positive_B[part]
            factor_K1 = (weight_B[part] * margin_B[part].sigmoid())[:, None] / sum_K1
            share_KC = score_KC.mul_(factor_K1.nan_to_num_(0.0)).to(products)
            grad_BE[part] = share_KC @ low_CE
            grad_CE += share_KC.T @ low_KE
        missed_B = margin_B.sigmoid()
        ctx.save_for_backward(-weight_B * missed_B, grad_BE, grad_CE)
        loss_B = missed_B * margin_B.masked_fill(missed_B == 0, 0) if refined else F.softplus(margin_B)
        return (weight_B * loss_B).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_positive_B, of_user_BE, of_item_CE = ctx.saved_tensors
        return grad * of_positive_B, grad * of_user_BE, grad * of_item_CE, None, None, None, None, None


def _hide(score_KC: Tensor, hidden: Pairs, part: slice) -> None:
    """Give -inf to the hidden pairs of some rows."""
    ends = torch.tensor([part.start, part.stop], device=hidden.row.device)
    first, last = torch.searchsorted(hidden.row, ends).tolist()
    score_KC[hidden.row[first:last] - part.start, hidden.column[first:last]] = -torch.inf


def _exponentials(score_KC: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the scores by exp(s - highest); the sums [K, 1] of these, zero without a negative, and the highest."""
    if not score_KC.shape[1]:
        return score_KC.new_zeros(len(score_KC), 1), score_KC.new_zeros(len(score_KC), 1)
    highest_K1 = score_KC.amax(1, keepdim=True)
    highest_K1 = highest_K1.masked_fill(highest_K1 == -torch.inf, 0)
    return score_KC.sub_(highest_K1).exp_().sum(1, keepdim=True), highest_K1
