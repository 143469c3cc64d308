"""Losses of pairs: a positive should score above a negative of the same user.

Dimension key: B pairs.
"""

import torch.nn.functional as F
from torch import Tensor


def bpr(positive_B: Tensor, negative_B: Tensor) -> Tensor:
    r"""Bayesian personalised ranking, mean over the pairs.

    .. math:: L = -\tfrac1B \sum_b \ln \sigma(s^+_b - s^-_b) = \tfrac1B \sum_b \mathrm{softplus}(s^-_b - s^+_b)

    Rendle et al., UAI 2009, https://arxiv.org/abs/1205.2618, without its L2 term, which belongs to the optimizer.

    >>> import torch
    >>> round(bpr(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)
    0.6931
    """
    return F.softplus(negative_B - positive_B).mean()
