"""Losses of pairs: a positive should score above a negative of the same user.

Dimension key: B rows, n negatives a row.
"""

import torch.nn.functional as F
from torch import Tensor


def bpr(positive_B: Tensor, negative: Tensor, weight_B: Tensor | None = None) -> Tensor:
    r"""Bayesian personalised ranking, mean over the pairs.

    .. math:: L = -\tfrac1B \sum_b \ln \sigma(s^+_b - s^-_b) = \tfrac1B \sum_b \mathrm{softplus}(s^-_b - s^+_b)

    Rendle et al., UAI 2009, https://arxiv.org/abs/1205.2618, without its L2 term, which belongs to the optimizer.

    Args:
        positive_B: Scores of what the row's user has.
        negative: Scores of what that user has not, [B] or [B, n], of which the mean is taken.
        weight_B: Of the rows; with them it is Σ w l / Σ w, and zero where no row weighs anything.

    >>> import torch
    >>> round(bpr(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)
    0.6931
    """
    loss_Bn = F.softplus(negative.reshape(len(positive_B), -1) - positive_B[:, None])
    if weight_B is None:
        return loss_Bn.mean()
    total = weight_B.sum()
    return (loss_Bn.mean(1) * weight_B).sum() / total.masked_fill(total == 0, 1)
