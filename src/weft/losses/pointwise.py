"""Losses of single rows. Each is a mean; with row weights it is Σ w l / Σ w, and zero where no row weighs anything.

Dimension key: B rows, T labels, C classes. Logits are [B] or [B, T]; labels are [B, T], or [B] where T = 1.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def logistic(logit: Tensor, label: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Cross-entropy of a yes or no: log(1 + exp(s)) - y s; labels may be probabilities.

    >>> round(logistic(torch.zeros(2), torch.tensor([0.0, 1.0])).item(), 4)
    0.6931
    """
    s, y = _aligned(logit, label)
    return _mean(F.binary_cross_entropy_with_logits(s, y, reduction="none"), weight_B)


def squared_error(prediction: Tensor, label: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """(s - y)**2."""
    s, y = _aligned(prediction, label)
    return _mean((s - y).square(), weight_B)


def poisson(log_rate: Tensor, label: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of a count: exp(s) - y s. The term log(y!) is left out, it does not depend on s."""
    s, y = _aligned(log_rate, label)
    return _mean(s.exp() - y * s, weight_B)


def softmax(logit_BC: Tensor, label: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Cross-entropy of one class out of C; the label is the number of the class, [B] or [B, 1]."""
    return _mean(F.cross_entropy(logit_BC.float(), label.reshape(-1).long(), reduction="none"), weight_B)


_OF_TASK: dict[str, Loss] = {
    "binary": logistic,
    "regression": squared_error,
    "count": poisson,
    "multiclass": softmax,
}


def for_task(task: str) -> Loss:
    """The loss of a label's task: binary, regression, count or multiclass.

    >>> for_task("binary").__name__
    'logistic'
    """
    return _OF_TASK[task]


def _aligned(logit: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the logit's shape and at least in single precision; never broadcast [B] against [B, 1]."""
    dtype = torch.promote_types(logit.dtype, torch.float32)
    return logit.to(dtype), label.reshape(logit.shape).to(dtype)


def _mean(loss: Tensor, weight_B: Tensor | None) -> Tensor:
    if weight_B is None:
        return loss.mean()
    per_row_B = loss if loss.ndim == 1 else loss.mean(1)
    total = weight_B.sum()
    return (per_row_B * weight_B).sum() / total.masked_fill(total == 0, 1)
