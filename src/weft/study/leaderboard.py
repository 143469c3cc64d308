"""A leaderboard: models by one metric, and which of their differences the rows that were judged can tell from chance.

The interval of a difference to the best model is a paired bootstrap in two ways. Each resample draws the test rows (the
groups or users of a metric that is of those) with replacement, the same for all models, and draws the seeds of each
model with replacement, its own for each; the difference is that of the mean over the seeds. Pairing takes out what is
hard in a row for everybody; drawing the seeds puts in that another seed would have trained another model. The seeds'
deviations are widened by sqrt(S / (S - 1)), the shrinkage of a mean that is drawn out of S. With one seed the chance of
training is not in the interval, and the leaderboard says so. On simulated rows and seeds 93 to 94 % of such intervals
hold the truth; 86 % with two seeds that scatter more than the rows do: three seeds tell more than two.

Two things it cannot know: the best of many is the best partly by luck on these rows, and of many comparisons at 95 %
one in twenty looks different by chance. A lead that must hold wants new rows.

Dimension key: R resamples, S seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.evaluate.report import number
from weft.study.tune import in_brief

Floats = NDArray[np.floating[Any]]

RESAMPLES = 400
LEVEL = 0.95


class Difference(Struct, frozen=True, kw_only=True):
    """To the best model; below 0 where more is better, above where less is.

    Attributes:
        value: Mean over the seeds less that of the best.
        low: Lower end of the interval.
        high: Upper end.
        indistinguishable: The interval holds 0.
    """

    value: float
    low: float
    high: float
    indistinguishable: bool


class Search(Struct, frozen=True, kw_only=True):
    """What `--tune` found for a model.

    Attributes:
        trials: How many.
        failed: How many of them failed.
        value: The best on the validation rows.
        metric: Of the validation rows.
        settings: The best trial's, beside what was asked for.
        seconds: Training time of all trials.
    """

    trials: int
    failed: int
    value: float | None
    metric: str
    settings: dict[str, Any]
    seconds: float


class Entry(Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        model: Registry name.
        paper: Of the architecture.
        year: Of the paper; 0 where there is none.
        state: Whether it was compared, does not fit the data or the settings, or failed in training.
        reason: Why it was not compared.
        mean: Of the metric over the seeds.
        deviation: Sample deviation over the seeds; None of one.
        best: Of the seeds.
        values: One a seed.
        difference: To the best model; None of the best one itself.
        parameters: Number of weights trained by gradients; None of a model that is fitted in one pass, without any.
        rows_per_second: Training speed, the median epoch of all seeds; None where training has no epochs.
        seconds: Training time of one seed, the mean.
        metrics: Every metric of the reports, mean over the seeds.
        search: What tuning found.
        notes: What a reader must know.
    """

    model: str
    paper: str
    year: int
    state: Literal["compared", "skipped", "failed"]
    reason: str = ""
    mean: float | None = None
    deviation: float | None = None
    best: float | None = None
    values: tuple[float, ...] = ()
    difference: Difference | None = None
    parameters: int | None = None
    rows_per_second: float | None = None
    seconds: float | None = None
    metrics: dict[str, float | None] = {}
    search: Search | None = None
    notes: tuple[str, ...] = ()


class Leaderboard(Struct, frozen=True, kw_only=True):
    """The outcome of a comparison, best model first, those that were not compared last.

    Attributes:
        data: Name of the data set.
        store: Id of the store.
        split: Which rows were judged.
        rows: How many.
        protocol: How, in words.
        metric: What the models are sorted by.
        more_is_better: Its direction.
        drawn: What a resample draws: rows, groups or users.
        units: How many of those there are.
        seeds: How many each model was trained with.
        preset: The recipe that was asked for.
        settings: The settings that were asked for.
        trials: Of tuning, each model.
        entries: The models.
        notes: What a reader must know.
    """

    data: str
    store: str
    split: str
    rows: int
    protocol: str
    metric: str
    more_is_better: bool
    drawn: str
    units: int
    seeds: int
    preset: str | None
    settings: tuple[str, ...]
    trials: int
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def json(self) -> str:
        """As one JSON object."""
        return msgspec.json.encode(self).decode()

    @property
    def compared(self) -> tuple[Entry, ...]:
        """The models that have a place."""
        return tuple(entry for entry in self.entries if entry.state == "compared")

    def render(self, console: Console) -> None:
        """Print it as a table that fits into 80 columns, the models without a place below it."""
        title = f"{self.data}, {self.split} split: {self.rows:,} rows, by {self.metric}"
        table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
        for column in ("model", self.metric, "best", "to the best, 95 %", "weights", "rows/s", "train s"):
            table.add_column(Text(column), justify="left" if column == "model" else "right", no_wrap=True)
        for entry in self.compared:
            table.add_row(*(Text(cell) for cell in _short_cells(entry)))
        console.print(table)
        for line in remarks(self):
            console.print(line, highlight=False, markup=False)


def columns(board: Leaderboard) -> tuple[str, ...]:
    """Heads of the whole table."""
    return (
        "model",
        board.metric,
        "±",
        "best",
        "to the best",
        "95 % interval",
        "verdict",
        "weights",
        "rows/s",
        "train s",
    )


def cells(board: Leaderboard, entry: Entry) -> tuple[str, ...]:
    """A model's row of the whole table, under `columns`."""
    gap = entry.difference
    return (
        entry.model,
        number(entry.mean),
        number(entry.deviation),
        number(entry.best),
        "-" if gap is None else f"{gap.value:+.4f}",
        "-" if gap is None else f"{gap.low:+.4f} to {gap.high:+.4f}",
        verdict(entry),
        "-" if entry.parameters is None else f"{entry.parameters:,}",
        "-" if entry.rows_per_second is None else f"{entry.rows_per_second:,.0f}",
        "-" if entry.seconds is None else f"{entry.seconds:,.1f}",
    )


def verdict(entry: Entry) -> str:
    """A model against the best one in a word or two."""
    if entry.difference is None:
        return "best"
    return "indistinguishable" if entry.difference.indistinguishable else "worse"


def _short_cells(entry: Entry) -> tuple[str, ...]:
    gap, deviation = entry.difference, "" if entry.deviation is None else f" ± {entry.deviation:.4f}"
    return (
        entry.model,
        number(entry.mean) + deviation,
        number(entry.best),
        "-" if gap is None else f"{gap.low:+.4f} to {gap.high:+.4f}",
        short(entry.parameters),
        short(entry.rows_per_second),
        "-" if entry.seconds is None else f"{entry.seconds:,.1f}",
    )


def short(count: float | None) -> str:
    """A count in few characters.

    >>> short(613), short(8_489), short(1_250_000.0), short(None)
    ('613', '8.5k', '1.2M', '-')
    """
    if count is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


def remarks(board: Leaderboard) -> list[str]:
    """What stands below the table: who equals the best, models without a place, notes, how to read it."""
    entries = board.compared
    equal = [entry.model for entry in entries if entry.difference and entry.difference.indistinguishable]
    lines = [f"indistinguishable from {entries[0].model} (the interval holds 0): {', '.join(equal)}"] if equal else []
    lines += [f"{entry.state}: {entry.model}: {entry.reason}" for entry in board.entries if entry.reason]
    lines += [f"tuned: {entry.model}: {found(entry.search)}" for entry in entries if entry.search]
    lines += [f"note: {entry.model}: {note}" for entry in entries for note in entry.notes]
    return [*lines, *(f"note: {note}" for note in board.notes), f"protocol: {board.protocol}"]


def found(search: Search) -> str:
    """What tuning found, in words.

    >>> found(Search(trials=9, failed=1, value=0.75, metric="auc", settings={"l2": 0.1}, seconds=60.0))
    'validation auc 0.7500 with l2=0.1, the best of 9 trials (1 failed), 60 s'
    """
    settings = in_brief(search.settings) or "nothing changed"
    failed = f" ({search.failed} failed)" if search.failed else ""
    value = f"validation {search.metric} {number(search.value)}"
    return f"{value} with {settings}, the best of {search.trials} trials{failed}, {search.seconds:,.0f} s"


def ranked(
    entries: Sequence[Entry], replicates: Mapping[str, Floats], *, more_is_better: bool, seed: int = 0
) -> tuple[Entry, ...]:
    """The entries sorted, each with its difference to the best one.

    Args:
        entries: Of all models, in any order.
        replicates: Of each model that was compared, [R, S]: the metric of each of its seeds on the same resamples.
        more_is_better: The metric's direction.
        seed: Draws the seeds.
    """
    sign = -1.0 if more_is_better else 1.0
    placed = [entry for entry in entries if entry.state == "compared"]
    placed.sort(key=lambda entry: (sign * (entry.mean or 0.0), entry.model))
    others = sorted((entry for entry in entries if entry.state != "compared"), key=lambda e: (e.state, e.model))
    generators = dict(zip(sorted(replicates), np.random.default_rng(seed).spawn(len(replicates)), strict=True))
    drawn = {model: mean_of_seeds(many, generators[model]) for model, many in replicates.items()}
    best = placed[0]
    behind = [
        msgspec.structs.replace(
            entry, difference=difference(entry.values, best.values, drawn[entry.model], drawn[best.model])
        )
        for entry in placed[1:]
    ]
    return (best, *behind, *others)


def mean_of_seeds(replicates_RS: Floats, generator: np.random.Generator) -> Floats:
    """The mean [R] over as many seeds as there are, drawn with replacement on each resample; see the module."""
    resamples, seeds = replicates_RS.shape
    mean_R: Floats = replicates_RS.mean(1)
    if seeds == 1:
        return mean_R
    places = generator.integers(seeds, size=(resamples, seeds))
    drawn_R: Floats = np.take_along_axis(replicates_RS, places, axis=1).mean(1)
    return mean_R + math.sqrt(seeds / (seeds - 1)) * (drawn_R - mean_R)


def difference(mine: Sequence[float], best: Sequence[float], mine_R: Floats, best_R: Floats) -> Difference:
    """The difference of two models, by the values of their seeds and the means on the same resamples.

    >>> difference([0.5, 0.7], [0.8], np.array([0.5, 0.6]), np.array([0.8, 0.7])).indistinguishable
    False
    """
    gap_R = mine_R - best_R
    gap_R = gap_R[~np.isnan(gap_R)]
    low, high = np.quantile(gap_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = statistics.mean(mine) - statistics.mean(best)
    return Difference(value=value, low=float(low), high=float(high), indistinguishable=bool(low <= 0 <= high))
