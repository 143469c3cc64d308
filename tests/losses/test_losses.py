import math

import pytest
import torch
from torch import Tensor

from weft.losses import Loss, bpr, for_task, logistic, poisson, softmax, squared_error

LOGIT = torch.tensor([-1.5, 0.3, 2.0], dtype=torch.float64)
LABEL = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)


def slow_logistic(s: float, y: float) -> float:
    p = 1 / (1 + math.exp(-s))
    return -y * math.log(p) - (1 - y) * math.log(1 - p)


SLOW = {
    "binary": slow_logistic,
    "regression": lambda s, y: (s - y) ** 2,
    "count": lambda s, y: math.exp(s) - y * s,
}


@pytest.mark.parametrize("task", list(SLOW))
def test_losses_are_their_formulas(task: str) -> None:
    rows = [SLOW[task](s, y) for s, y in zip(LOGIT.tolist(), LABEL.tolist(), strict=True)]
    loss = for_task(task)
    assert loss(LOGIT, LABEL, None).item() == pytest.approx(sum(rows) / 3)
    assert loss(LOGIT, LABEL, WEIGHT).item() == pytest.approx((rows[0] + 3 * rows[2]) / 4)


@pytest.mark.parametrize("loss", [logistic, squared_error, poisson])
def test_a_column_of_labels_goes_with_a_row_of_logits(loss: object) -> None:
    assert loss(LOGIT, LABEL[:, None]) == loss(LOGIT, LABEL)


def test_several_labels_weigh_the_same() -> None:
    logit, label = LOGIT.repeat(2, 1).T, torch.stack([LABEL, 1 - LABEL], 1)
    both = (logistic(LOGIT, LABEL, WEIGHT) + logistic(LOGIT, 1 - LABEL, WEIGHT)) / 2
    torch.testing.assert_close(logistic(logit, label, WEIGHT), both)


def test_softmax_is_the_logarithm_of_the_share() -> None:
    logit = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]])
    rows = [-(x[c] - x.exp().sum().log()) for x, c in zip(logit, (1, 0), strict=True)]
    label = torch.tensor([[1.0], [0.0]])
    torch.testing.assert_close(softmax(logit, label), (rows[0] + rows[1]) / 2)
    torch.testing.assert_close(softmax(logit, label, torch.tensor([3.0, 1.0])), (3 * rows[0] + rows[1]) / 4)


def test_extreme_logits_stay_finite() -> None:
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = logistic(far, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert torch.isfinite(far.grad).all()
    assert bpr(torch.tensor([-1e4]), torch.tensor([1e4])).item() == pytest.approx(2e4)


def test_half_precision_logits_are_judged_in_single_precision() -> None:
    assert logistic(LOGIT.bfloat16(), LABEL.float()).dtype == torch.float32
    assert squared_error(LOGIT.bfloat16(), LABEL.float()).dtype == torch.float32


def test_bpr_is_its_formula() -> None:
    negative = torch.tensor([0.5, -2.0, 2.5], dtype=torch.float64)
    rows = [-math.log(1 / (1 + math.exp(-(p - n)))) for p, n in zip(LOGIT.tolist(), negative.tolist(), strict=True)]
    assert bpr(LOGIT, negative).item() == pytest.approx(sum(rows) / 3)


@pytest.mark.parametrize("loss", [logistic, squared_error, poisson, bpr])
def test_gradients(loss: object) -> None:
    def of(s: Tensor) -> Tensor:
        return loss(s, LABEL)

    assert torch.autograd.gradcheck(of, (LOGIT.clone().requires_grad_(),))


@pytest.mark.parametrize("loss", [logistic, squared_error, poisson])
def test_rows_that_weigh_nothing_have_no_loss(loss: Loss) -> None:
    logit = LOGIT.clone().requires_grad_()
    found = loss(logit, LABEL, torch.zeros(3))
    found.backward()
    assert found == 0
    assert not logit.grad.any()
