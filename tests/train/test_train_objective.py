"""Losses and metrics by the labels' tasks."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weft import losses, metrics
from weft.batch import Batch
from weft.errors import ConfigError, Unsupported
from weft.schema import Label
from weft.train.objective import check_labels, check_weights, measure, monitored, objective

LOGIT = torch.tensor([0.3, -1.2, 2.0, 0.1])


class Fixed(nn.Module):
    """Gives logits that are known beforehand."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, batch: Batch) -> Tensor:
        return self.logits


def batch(label: Tensor, weight: Tensor | None = None) -> Batch:
    none = torch.zeros(len(label), 0)
    return Batch(ids=none.long(), dense=none, ragged={}, label=label, weight=weight)


def test_one_label_has_its_tasks_loss() -> None:
    label, weight = torch.tensor([[1.0], [0.0], [1.0], [0.0]]), torch.tensor([1.0, 2.0, 0.5, 1.0])
    found = objective([Label(name="click")], "fp32", {})(Fixed(LOGIT), batch(label, weight))
    torch.testing.assert_close(found, losses.logistic(LOGIT, label, weight))


def test_several_labels_have_the_mean_of_their_losses() -> None:
    labels = [Label(name="click"), Label(name="plays", task="count")]
    label = torch.tensor([[1.0, 3.0], [0.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    logits = torch.stack([LOGIT, LOGIT.flip(0)], dim=1)
    found = objective(labels, "fp32", {})(Fixed(logits), batch(label))
    slow = (losses.logistic(logits[:, 0], label[:, 0]) + losses.poisson(logits[:, 1], label[:, 1])) / 2
    torch.testing.assert_close(found, slow)


def test_losses_are_weighed_by_the_labels_names() -> None:
    labels = [Label(name="click"), Label(name="plays", task="count"), Label(name="stars", task="regression")]
    label = torch.tensor([[1.0, 3.0, 4.0], [0.0, 0.0, 2.0], [1.0, 1.0, 5.0], [0.0, 2.0, 3.0]])
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    logits = torch.stack([LOGIT, LOGIT.flip(0), LOGIT + 1], dim=1).requires_grad_()
    found = objective(labels, "fp32", {"plays": 3.0, "stars": 0.25})(Fixed(logits), batch(label, weight))
    slow = losses.logistic(logits[:, 0], label[:, 0], weight)
    slow = slow + 3.0 * losses.poisson(logits[:, 1], label[:, 1], weight)
    slow = (slow + 0.25 * losses.squared_error(logits[:, 2], label[:, 2], weight)) / 4.25
    torch.testing.assert_close(found, slow)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, slow)))


def test_a_label_of_weight_zero_teaches_nothing() -> None:
    labels = [Label(name="click"), Label(name="like")]
    logits = torch.stack([LOGIT, LOGIT.flip(0)], dim=1).requires_grad_()
    label = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    objective(labels, "fp32", {"like": 0.0})(Fixed(logits), batch(label)).backward()
    assert logits.grad[:, 0].all()
    assert not logits.grad[:, 1].any()


def test_weights_of_labels_that_are_not_there_are_refused() -> None:
    labels = [Label(name="click"), Label(name="like")]
    check_weights(labels, {"like": 0.0})
    with pytest.raises(ConfigError, match=r"names no label: 'clik'; did you mean click"):
        check_weights(labels, {"clik": 2.0})
    with pytest.raises(ConfigError, match="no label a weight above zero"):
        check_weights(labels, {"click": 0.0, "like": 0.0})


def test_metrics_by_task() -> None:
    logit, label = LOGIT.numpy(), np.array([[1.0, 2.0], [0, 1], [1, 5], [0, 3]], dtype=np.float32)
    click, stars = Label(name="click"), Label(name="stars", task="regression")
    assert measure([click], label[:, :1], logit) == {
        "auc": metrics.auc(label[:, 0], logit),
        "logloss": metrics.logloss(label[:, 0], logit),
    }
    both = measure([click, stars], label, np.stack([logit, logit], axis=1))
    assert list(both) == ["click.auc", "click.logloss", "stars.rmse"]
    assert both["stars.rmse"] == metrics.rmse(label[:, 1], logit)
    kinds = Label(name="kind", task="multiclass", classes=3)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    found = measure([kinds], np.array([[0.0], [1], [2], [1]], dtype=np.float32), logits)
    assert found["accuracy"] == 0.75


def test_the_monitor() -> None:
    two = [Label(name="click"), Label(name="stars", task="regression")]
    assert monitored(two[:1], None) == "auc"
    assert monitored(two[1:], None) == "rmse"
    assert monitored([Label(name="n", task="count")], None) == "poisson_deviance"
    assert monitored([Label(name="n", task="multiclass", classes=2)], None) == "logloss"
    assert monitored(two, None) == "click.auc"
    assert monitored(two, "stars.rmse") == "stars.rmse"
    with pytest.raises(ConfigError, match=r"did you mean click\.auc"):
        monitored(two, "clik.auc")


def test_labels_that_cannot_be_learned() -> None:
    with pytest.raises(Unsupported, match="needs a label"):
        check_labels([])
    with pytest.raises(Unsupported, match="must be the only one"):
        check_labels([Label(name="a"), Label(name="b", task="multiclass", classes=3)])
