r"""Softmax over every item, without a table of all scores: rows of one user share one sum over the items.

.. math:: L = \tfrac1{\sum_b w_b} \sum_b w_b \Big(\ln \sum_j e^{s_{u(b) j}} - s_b\Big)
    = \tfrac1{\sum_b w_b} \Big(\sum_u c_u \ln \sum_j e^{s_{uj}} - \sum_b w_b s_b\Big), \quad
    c_u = \sum_{b: u(b) = u} w_b

Dimension key: B rows, U users, K of them at once, I items, E width.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CELLS_AT_ONCE = 64 * 40_000  # scores that lie in the cache together


def full_softmax(
    positive_B: Tensor,
    user_UE: Tensor,
    item_IE: Tensor,
    place_B: Tensor,
    weight_B: Tensor | None = None,
    *,
    products: torch.dtype | None = None,
) -> Tensor:
    """Cross-entropy of each row's own item among all items, by dot products.

    Args:
        positive_B: The score of each row's own item.
        user_UE: The vectors of the users, each once.
        item_IE: The vectors of all items.
        place_B: The place in `user_UE` of each row's user.
        weight_B: One without it.
        products: Precision of the matrix products; that of the vectors without it.

    >>> user, item, place = torch.zeros(1, 2), torch.ones(4, 2), torch.tensor([0, 0])
    >>> round(full_softmax(torch.zeros(2), user, item, place).item(), 4)
    1.3863
    """
    weight_B = torch.ones_like(positive_B) if weight_B is None else weight_B
    count_U = positive_B.new_zeros(len(user_UE)).index_add_(0, place_B, weight_B)
    total = weight_B.sum()
    sums = _LogSums.apply(user_UE, item_IE, count_U, products or user_UE.dtype)  # type: ignore[no-untyped-call]
    return (cast(Tensor, sums) - (weight_B * positive_B).sum()) / total.masked_fill(total == 0, 1)


class _LogSums(torch.autograd.Function):
    """Σ_u c_u log Σ_j exp <user_u, item_j>; the gradients come with the value, while the scores are in the cache."""

    @staticmethod
    def forward(ctx: Any, user_UE: Tensor, item_IE: Tensor, count_U: Tensor, products: torch.dtype) -> Tensor:
        low_IE, total = item_IE.to(products), user_UE.new_zeros(())
        grad_UE, grad_IE = torch.empty_like(user_UE), torch.zeros_like(item_IE)
        step = max(1, CELLS_AT_ONCE // max(1, len(item_IE)))
        for start in range(0, len(user_UE), step):
            part = slice(start, start + step)
            low_KE, count_K1 = user_UE[part].to(products), count_U[part, None]
            score_KI = (low_KE @ low_IE.T).to(user_UE.dtype)
            highest_K1 = score_KI.amax(1, keepdim=True)
            sum_K1 = score_KI.sub_(highest_K1).exp_().sum(1, keepdim=True)
            total += (count_K1 * (highest_K1 + sum_K1.log())).sum()
            share_KI = score_KI.mul_(count_K1 / sum_K1).to(products)
            grad_UE[part] = share_KI @ low_IE
            grad_IE += share_KI.T @ low_KE
        ctx.save_for_backward(grad_UE, grad_IE)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_UE, grad_IE = ctx.saved_tensors
        return grad * grad_UE, grad * grad_IE, None, None
