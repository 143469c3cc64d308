"""What a model is trained for, and what is measured on the validation rows: by the labels' tasks, not by the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from weft import metrics
from weft.batch import Batch
from weft.errors import ConfigError, Unsupported, near
from weft.losses import for_task
from weft.models._contract import score
from weft.models._predict import autocast
from weft.models.position import Position
from weft.schema import Label, Roles
from weft.train.loop import Objective
from weft.train.recipe import Recipe

Floats = NDArray[np.floating[Any]]
Metric = Callable[[Floats, Floats], float]

# The first metric of the first label's task decides, unless the recipe names another.
METRICS: dict[str, dict[str, Metric]] = {
    "binary": {"auc": metrics.auc, "logloss": metrics.logloss},
    "regression": {"rmse": metrics.rmse},
    "count": {"poisson_deviance": metrics.poisson_deviance},
    "multiclass": {"logloss": metrics.multiclass_logloss, "accuracy": metrics.multiclass_accuracy},
}


def check_labels(labels: Sequence[Label]) -> None:
    """Unsupported when the labels cannot be learned together, or there is none."""
    if not labels:
        raise Unsupported("training needs a label, and the schema has none; set `label` in [roles]")
    if len(labels) > 1 and any(label.task == "multiclass" for label in labels):
        raise Unsupported("a multiclass label must be the only one; train a model for each label")


def check_weights(labels: Sequence[Label], weights: Mapping[str, float]) -> None:
    """ConfigError where a weight is of no label, or all of them are zero."""
    names = [label.name for label in labels]
    for name in weights:
        if name not in names:
            raise ConfigError(f"`train.task_weights` names no label: {name!r}; {near(name, names)}")
    if not any(weights.get(name, 1.0) for name in names):
        raise ConfigError(f"`train.task_weights` gives no label a weight above zero, got {dict(weights)}; raise one")


def check_position(model: nn.Module, roles: Roles, recipe: Recipe) -> None:
    """Unsupported or ConfigError where a model is to learn what positions do from rows that cannot tell it."""
    if not isinstance(model, Position):
        return
    if roles.position is None:
        raise Unsupported(
            "`position` learns where rows were shown, and the schema does not say; set `position` in [roles], or leave "
            "out the option `position`"
        )
    if recipe.negatives:
        raise ConfigError(
            f"`train.negatives` = {recipe.negatives} adds rows that were shown nowhere, and `position` learns where "
            "rows were shown; leave out one of them"
        )
    if model.pal and any(label.task != "binary" for label in roles.label):
        raise Unsupported(
            "position.kind = pal multiplies probabilities of a yes, and not every label is binary; set "
            "position.kind=watch_next"
        )
    if model.pal and recipe.keep_negatives < 1:
        raise ConfigError(
            f"`train.keep_negatives` = {recipe.keep_negatives} changes P(click) so that it is no product any more; "
            "leave it out, or set position.kind=watch_next"
        )


def objective(labels: Sequence[Label], precision: str, weights: Mapping[str, float]) -> Objective:
    """Σ w_t L_t / Σ w_t over the labels, L_t the loss of a label's task.

    Args:
        labels: All labels of the rows.
        precision: Of the forward pass, fp32 or bf16.
        weights: w by label name; one where there is none.
    """
    losses = [for_task(label.task) for label in labels]
    w = [weights.get(label.name, 1.0) for label in labels]

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        assert batch.label is not None
        with autocast(precision, batch.ids.device):
            logits = score(model, batch)
        if len(losses) == 1:
            return losses[0](logits, batch.label, batch.weight)
        parts = [w[t] * f(logits[:, t], batch.label[:, t], batch.weight) for t, f in enumerate(losses)]
        return sum(parts[1:], parts[0]) / sum(w)

    return loss_of


def metric_names(labels: Sequence[Label]) -> list[str]:
    """Names of the validation metrics; several labels have keys such as `click.auc`."""
    return [_key(labels, label, name) for label in labels for name in METRICS[label.task]]


def monitored(labels: Sequence[Label], wanted: str | None) -> str:
    """The metric that decides; ConfigError when there is none of that name."""
    names = metric_names(labels)
    if wanted is not None and wanted not in names:
        raise ConfigError(f"`train.monitor` names no validation metric: {wanted!r}; {near(wanted, names)}")
    return wanted or names[0]


def measure(labels: Sequence[Label], label_NT: Floats, logit: Floats) -> dict[str, float]:
    """The validation metrics of logits [N], [N, T] or, for one multiclass label, [N, C]."""
    found: dict[str, float] = {}
    for t, label in enumerate(labels):
        logits = logit[:, t] if len(labels) > 1 else logit
        for name, metric in METRICS[label.task].items():
            found[_key(labels, label, name)] = float(metric(label_NT[:, t], logits))
    return found


def _key(labels: Sequence[Label], label: Label, name: str) -> str:
    return f"{label.name}.{name}" if len(labels) > 1 else name
