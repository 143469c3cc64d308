r"""Softmax over a catalogue that is sampled: each row's own item against the items of a sample, and its corrections.

The partition function of row b is :math:`Z_b = \sum_j e^{s_{bj}}` over all items j. A sample in which item j stands
with probability q_j estimates it as :math:`\sum_{j \in S} e^{s_{bj} - \ln q_j}`, which is what `corrected` prepares.

Dimension key: B rows, C items of the sample, K hardest ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled_softmax(positive_B: Tensor, negative_BC: Tensor, weight_B: Tensor | None = None) -> Tensor:
    r"""Cross-entropy of each row's own item among it and the negatives.

    .. math:: L = -\tfrac1{\sum_b w_b} \sum_b w_b \ln \frac{e^{s_b}}{e^{s_b} + \sum_c e^{s_{bc}}}

    With logits that are corrected, the positive's too, it is the loss of Yi et al., RecSys 2019,
    https://doi.org/10.1145/3298689.3346996, equation (5), whose rewards r_i are the weights; but for their constant
    divisor, which is the sum of the weights here. A negative of -inf is none.

    >>> round(sampled_softmax(torch.zeros(1), torch.zeros(1, 3)).item(), 4)
    1.3863
    """
    return _mean(F.softplus(_log_sum(negative_BC) - positive_B), weight_B)


def refined_softmax(positive_B: Tensor, negative_BC: Tensor, weight_B: Tensor | None = None) -> Tensor:
    r"""The same where the positive is no sample: it is uncorrected, and each row weighs what the model misses.

    .. math:: L = \tfrac1{\sum_b w_b} \sum_b w_b (1 - p_b) \Big(\ln \sum_c e^{s_{bc}} - s_b\Big), \quad
        p_b = \frac{e^{s_b}}{e^{s_b} + \sum_c e^{s_{bc}}} \text{ without gradient}

    Khrylchenko et al., RecSys 2025, https://arxiv.org/abs/2507.09331. Where the negatives are all other items its
    gradient is that of the full softmax.

    Args:
        positive_B: Raw scores.
        negative_BC: Corrected scores; -inf is none. A row without any has no loss.
        weight_B: One without it.

    >>> round(refined_softmax(torch.zeros(1), torch.zeros(1, 3)).item(), 4)
    0.824
    """
    margin_B = _log_sum(negative_BC) - positive_B
    missed_B = margin_B.detach().sigmoid()
    return _mean(missed_B * margin_B.masked_fill(missed_B == 0, 0), weight_B)


def corrected(logit: Tensor, log_q: Tensor) -> Tensor:
    """The logits less log q, the correction for how items are drawn: what comes often by chance counts less.

    >>> corrected(torch.zeros(2), torch.tensor([0.5, 0.01]).log()).tolist()[0] < 1
    True
    """
    return logit - log_q


def without(logit_BC: Tensor, hidden_BC: Tensor) -> Tensor:
    """The logits with -inf where `hidden_BC` says that it is no negative."""
    return logit_BC.masked_fill(hidden_BC, -torch.inf)


def accidental_hits(item_B: Tensor, item_C: Tensor) -> Tensor:
    """[B, C], where the item of a column is the row's own: by id, so that its twins in other rows are found too.

    >>> accidental_hits(torch.tensor([5, 6]), torch.tensor([5, 6, 5])).int().tolist()
    [[1, 0, 1], [0, 1, 0]]
    """
    return item_B[:, None] == item_C


def hardest(logit_BC: Tensor, k: int) -> Tensor:
    """The k largest logits of each row [B, K]; all where there are not more."""
    return logit_BC.topk(min(k, logit_BC.shape[1]), dim=1, sorted=False).values


def twins(item_C: Tensor) -> Tensor:
    """How many columns hold the item of each column [C].

    >>> twins(torch.tensor([5, 6, 5])).tolist()
    [2, 1, 2]
    """
    _, place_C, count_U = torch.unique(item_C, return_inverse=True, return_counts=True)
    counted_C: Tensor = count_U[place_C]
    return counted_C


def _log_sum(negative_BC: Tensor) -> Tensor:
    """The logarithm of Σ exp of each row; -inf, with a gradient of zero, where a row has no negative."""
    none_B = (negative_BC == -torch.inf).all(1)
    return negative_BC.masked_fill(none_B[:, None], 0).logsumexp(1).masked_fill(none_B, -torch.inf)


def _mean(loss_B: Tensor, weight_B: Tensor | None) -> Tensor:
    if weight_B is None:
        return loss_B.mean()
    total = weight_B.sum()
    return (loss_B * weight_B).sum() / total.masked_fill(total == 0, 1)
