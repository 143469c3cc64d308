"""The training loop: it knows no model, no file and no screen; whoever iterates over it hears of steps and epochs."""

from collections.abc import Callable, Iterable, Iterator
from math import isfinite, isnan
from typing import NamedTuple, Protocol

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor, nn

from weft.batch import Batch
from weft.errors import ConfigError, Diverged
from weft.metrics import more_is_better
from weft.train.memory import keep_freed_memory
from weft.train.optimizers import Optimizer
from weft.train.recipe import Recipe

Objective = Callable[[nn.Module, Batch], Tensor]


class Batches(Protocol):
    """The train rows in an order that the number of the epoch decides."""

    def batches(self, epoch: int, start_step: int = 0) -> Iterable[Batch]:
        """The batches of an epoch from a step on."""
        ...


class Progress(Struct, frozen=True, kw_only=True):
    """Where training stands.

    Attributes:
        epoch: The epoch in progress, from 0.
        step: Batches of this epoch that are done.
        updates: Batches that are done in all.
        loss_sum: Sum of the losses of this epoch's rows.
        rows: Rows of this epoch that are done.
        scale: What the learning rates are multiplied by.
        best: The best value of the monitored metric.
        best_epoch: The epoch that gave it.
        best_metrics: The validation metrics of that epoch, those that are defined.
        bad_epochs: Epochs in a row that were not better.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    rows: int = 0
    scale: float = 1.0
    best: float | None = None
    best_epoch: int | None = None
    best_metrics: dict[str, float] = {}
    bad_epochs: int = 0

    @property
    def loss(self) -> float:
        """Mean loss of this epoch's rows so far."""
        return self.loss_sum / max(self.rows, 1)

    def finished(self, recipe: Recipe) -> bool:
        """Whether no epoch is left to do."""
        return self.epoch >= recipe.epochs or self.bad_epochs >= recipe.patience

    def after_step(self, loss: float, rows: int) -> "Progress":
        """One batch further."""
        return replace(
            self,
            step=self.step + 1,
            updates=self.updates + 1,
            loss_sum=self.loss_sum + loss * rows,
            rows=self.rows + rows,
        )

    def after_epoch(self, metrics: dict[str, float], monitor: str, recipe: Recipe) -> "Progress":
        """One epoch further: the best so far, or a bad epoch, which lowers the learning rates.

        Without validation rows (no metrics) every epoch is the best so far.
        """
        following = replace(self, epoch=self.epoch + 1, step=0, loss_sum=0.0, rows=0)
        if metrics and not self._is_better(metrics[monitor], monitor, recipe.min_delta):
            return replace(following, bad_epochs=self.bad_epochs + 1, scale=self.scale * recipe.plateau_factor)
        best = metrics.get(monitor)
        return replace(following, best=best, best_epoch=self.epoch, best_metrics=defined(metrics), bad_epochs=0)

    def _is_better(self, value: float, monitor: str, min_delta: float) -> bool:
        if isnan(value):
            raise ConfigError(
                f"the metric {monitor!r} is not defined on the validation rows: their labels are all of one value; "
                "choose another with train.monitor, or another split"
            )
        if self.best is None:
            return True
        sign = 1.0 if more_is_better(monitor) else -1.0
        return sign * (value - self.best) >= min_delta


class Step(NamedTuple):
    """Heard after every update: the loss of its batch, and where training stands now."""

    loss: float
    progress: Progress


class Epoch(NamedTuple):
    """Heard after every epoch: its number, mean loss and validation metrics, and where training stands now."""

    number: int
    loss: float
    metrics: dict[str, float]
    progress: Progress

    @property
    def is_best(self) -> bool:
        """Whether its weights are the best so far."""
        return self.progress.best_epoch == self.number


def train(
    model: nn.Module,
    objective: Objective,
    data: Batches,
    optimizer: Optimizer,
    recipe: Recipe,
    *,
    validate: Callable[[nn.Module], dict[str, float]],
    monitor: str,
    progress: Progress | None = None,
) -> Iterator[Step | Epoch]:
    """Train until the epochs or the patience end; goes on from `progress` when it is given.

    Raises:
        Diverged: A loss or a gradient is not finite; the weights are those before that batch.
    """
    keep_freed_memory()
    progress = progress or Progress()
    while not progress.finished(recipe):
        model.train()
        optimizer.scale(progress.scale * recipe.rate_share(progress.epoch))
        for batch in data.batches(progress.epoch, progress.step):
            loss = objective(model, batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            norm = optimizer.prepare()
            _check_finite(loss, norm, batch, progress)
            optimizer.step()
            progress = progress.after_step(loss.item(), len(batch))
            yield Step(loss.item(), progress)
        done, metrics = progress, validate(model)
        progress = done.after_epoch(metrics, monitor, recipe)
        yield Epoch(done.epoch, done.loss, metrics, progress)


def defined(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are numbers.

    >>> defined({"auc": float("nan"), "logloss": 0.5})
    {'logloss': 0.5}
    """
    return {name: value for name, value in metrics.items() if isfinite(value)}


def _check_finite(loss: Tensor, norm: Tensor, batch: Batch, progress: Progress) -> None:
    if isfinite(loss.item()) and isfinite(norm.item()):
        return
    what = "the gradient" if isfinite(loss.item()) else f"the loss ({loss.item()})"
    first = progress.rows
    raise Diverged(
        f"{what} of epoch {progress.epoch}, batch {progress.step} is not finite "
        f"(rows {first} to {first + len(batch) - 1} in the epoch's order{_suspects(batch)}); "
        "lower train.learning_rate or train.clip, or look for extreme values in these rows"
    )


def _suspects(batch: Batch) -> str:
    """Rows of the batch whose numbers are not finite or huge, where there are any."""
    columns = [batch.dense] + [c[:, None] if c.dim() == 1 else c for c in (batch.label, batch.weight) if c is not None]
    values = torch.cat(columns, dim=1)
    bad = (~torch.isfinite(values) | (values.abs() > 1e6)).any(1).nonzero().flatten().tolist()
    return f"; extreme values in its rows {bad[:8]}" if bad else ""
