"""The loop on hand-made modules: what it does when, and when it stops."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from weft.batch import Batch
from weft.errors import ConfigError, Diverged
from weft.train.loop import Epoch, Progress, Step, train
from weft.train.optimizers import Optimizer
from weft.train.recipe import Recipe

METRIC = "auc"


class Line(nn.Module):
    """y = w x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        with torch.no_grad():
            self.linear.weight.fill_(0.5)
            self.linear.bias.zero_()

    def forward(self, batch: Batch) -> Tensor:
        return self.linear(batch.dense)[:, 0]


def squared(model: nn.Module, batch: Batch) -> Tensor:
    assert batch.label is not None
    return (model(batch) - batch.label[:, 0]).square().mean()


class Points:
    """Eight points of y = 2 x - 1, four a batch, in an order that the epoch decides."""

    def __init__(self, bad_at: tuple[int, int] | None = None) -> None:
        self.bad_at = bad_at
        self.asked: list[tuple[int, int]] = []

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        self.asked.append((epoch, start_step))
        x = torch.linspace(-1, 1, 8).roll(epoch)
        for step in range(start_step, 2):
            part = x[4 * step : 4 * step + 4, None].clone()
            label = 2 * part - 1
            if self.bad_at == (epoch, step):
                part[2] = torch.nan
            yield Batch(ids=torch.zeros(4, 0, dtype=torch.int64), dense=part, ragged={}, label=label)


def run(recipe: Recipe, values: list[float], *, monitor: str = METRIC, start: Progress | None = None) -> list[Epoch]:
    """Train with validation metrics that are given beforehand."""
    model = Line()
    given = iter(values)
    events = train(
        model,
        squared,
        Points(),
        Optimizer(model, recipe),
        recipe,
        validate=lambda _: {monitor: next(given)},
        monitor=monitor,
        progress=start,
    )
    return [event for event in events if isinstance(event, Epoch)]


def test_training_is_gradient_descent() -> None:
    model, slow = Line(), Line()
    recipe = Recipe(optimizer="sgd", learning_rate=0.1, epochs=3, clip=float("inf"))
    events = list(train(model, squared, Points(), Optimizer(model, recipe), recipe, validate=lambda _: {}, monitor="x"))
    losses = []
    for epoch in range(3):
        for batch in Points().batches(epoch):
            loss = squared(slow, batch)
            slow.zero_grad()
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for p in slow.parameters():
                    p.sub_(0.1 * p.grad)
    torch.testing.assert_close(model.state_dict(), slow.state_dict())
    assert [event.loss for event in events if isinstance(event, Step)] == pytest.approx(losses)
    epochs = [event for event in events if isinstance(event, Epoch)]
    assert [epoch.loss for epoch in epochs] == pytest.approx([sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)])
    assert all(epoch.is_best for epoch in epochs), "without validation rows the last epoch is the best"


def test_plateau_and_patience_as_by_hand() -> None:
    """.5 best; .6 best; .6 bad, x 0.1; .7 best; .65 bad, x 0.1; .7 bad, x 0.1 -> two in a row: stop."""
    epochs = run(Recipe(epochs=20), [0.5, 0.6, 0.6, 0.7, 0.65, 0.7, 0.9])
    assert [epoch.is_best for epoch in epochs] == [True, True, False, True, False, False]
    assert [epoch.progress.scale for epoch in epochs] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])
    assert [epoch.progress.bad_epochs for epoch in epochs] == [0, 0, 1, 0, 1, 2]
    last = epochs[-1].progress
    assert (last.best, last.best_epoch, last.best_metrics) == (0.7, 3, {METRIC: 0.7})


def test_least_change_counts() -> None:
    epochs = run(Recipe(epochs=3, min_delta=0.01), [0.5, 0.509, 0.52])
    assert [epoch.is_best for epoch in epochs] == [True, False, True]


@pytest.mark.parametrize("monitor", ["logloss", "click.logloss", "rmse", "poisson_deviance"])
def test_errors_should_fall(monitor: str) -> None:
    epochs = run(Recipe(epochs=3), [0.5, 0.6, 0.4], monitor=monitor)
    assert [epoch.is_best for epoch in epochs] == [True, False, True]


def test_learning_rate_of_the_next_epoch_is_lower() -> None:
    model = Line()
    recipe = Recipe(epochs=3, learning_rate=0.01, min_learning_rate=0.002)
    optimizer = Optimizer(model, recipe)
    values = iter([0.5, 0.4, 0.6])
    rates = [
        optimizer.learning_rates()["dense"]
        for event in train(
            model, squared, Points(), optimizer, recipe, validate=lambda _: {METRIC: next(values)}, monitor=METRIC
        )
        if isinstance(event, Step)
    ]
    assert rates == pytest.approx([0.01] * 4 + [0.002] * 2)


def test_epochs_end_the_training() -> None:
    assert len(run(Recipe(epochs=2), [0.1, 0.2, 0.3])) == 2


def test_goes_on_within_an_epoch() -> None:
    model, data, recipe = Line(), Points(), Recipe(epochs=2)
    start = Progress(epoch=1, step=1, updates=3, rows=4, loss_sum=8.0)
    events = list(
        train(
            model,
            squared,
            data,
            Optimizer(model, recipe),
            recipe,
            validate=lambda _: {},
            monitor=METRIC,
            progress=start,
        )
    )
    assert data.asked == [(1, 1)]
    assert [type(event) for event in events] == [Step, Epoch]
    assert events[0].progress.updates == 4
    assert events[0].progress.loss == pytest.approx((8.0 + 4 * events[0].loss) / 8)


def test_a_loss_that_is_not_finite_stops_with_the_batch_named_and_moves_nothing() -> None:
    model, recipe = Line(), Recipe(epochs=3)
    events = train(
        model,
        squared,
        Points(bad_at=(1, 1)),
        Optimizer(model, recipe),
        recipe,
        validate=lambda _: {METRIC: 0.5},
        monitor=METRIC,
    )
    heard = []
    heard: list[Step | Epoch] = []
    with pytest.raises(Diverged, match=r"epoch 1, batch 1 is not finite \(rows 4 to 7 .* in its rows \[2\]\)"):
        heard.extend(events)
    assert [type(event) for event in heard] == [Step, Step, Epoch, Step]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    def endless(model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch) * 0).abs().sqrt().sum()

    model, recipe = Line(), Recipe()
    with pytest.raises(Diverged, match=r"the gradient of epoch 0, batch 0"):
        list(train(model, endless, Points(), Optimizer(model, recipe), recipe, validate=lambda _: {}, monitor=METRIC))


def test_a_metric_that_is_not_defined_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"'auc' is not defined on the validation rows"):
        run(Recipe(), [float("nan")])


def test_rates_fall_along_half_a_cosine() -> None:
    """1, then 0.1 + 0.9 (1 + cos(pi / 2)) / 2 = .55, then a tenth; a plateau multiplies what is left."""
    rates = []
    model = Line()
    recipe = Recipe(epochs=3, final_share=0.1, learning_rate=0.5, plateau_factor=0.5)
    optimizer = Optimizer(model, recipe)
    given = iter([0.5, 0.4, 0.6])
    for event in train(
        model, squared, Points(), optimizer, recipe, validate=lambda _: {METRIC: next(given)}, monitor=METRIC
    ):
        if isinstance(event, Epoch):
            rates += optimizer.learning_rates().values()
    assert rates == pytest.approx([0.5, 0.5 * 0.55, 0.5 * 0.1 * 0.5])
