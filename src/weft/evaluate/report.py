"""A report: what was judged, by which protocol, and each metric with its interval and count."""

import math
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, UnsetType
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.artifacts import write_json
from weft.errors import ArtifactError
from weft.evaluate.funnel import Funnel
from weft.metrics import Interval


class Value(Struct, frozen=True, kw_only=True):
    """One metric.

    Attributes:
        value: The metric; None where it is not defined (an AUC with one class).
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        count: How many rows, groups or users it is a mean or statistic of.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


class Report(Struct, frozen=True, kw_only=True):
    """What one model reached on one split under one protocol.

    Attributes:
        model: Registry name.
        data: Name of the data set.
        split: train, valid or test.
        rows: Rows of the split.
        protocol: The protocol in words, beside every number.
        metrics: Metric name to value; several tasks have keys such as `click.auc`.
        parameters: Number of weights trained by gradients; 0 of a model that is fitted in one pass, which has none,
            though what it counts or grows is not free.
        seconds: Wall time of the evaluation.
        notes: What a reader must know to compare the numbers.
        funnel: Of a bundle, what each stage loses; UNSET of a run.
    """

    model: str
    data: str
    split: str
    rows: int
    protocol: str
    metrics: dict[str, Value]
    parameters: int
    seconds: float
    notes: tuple[str, ...] = ()
    funnel: Funnel | UnsetType = UNSET

    def json(self) -> str:
        """The report as one JSON object."""
        return msgspec.json.encode(self).decode()

    def save(self, path: Path) -> None:
        """Write the report as a JSON file."""
        write_json(path, self)

    def render(self, console: Console) -> None:
        """Print the report as a table."""
        title = f"{self.model} on {self.data} {self.split} ({self.rows:,} rows)"
        table = Table(title=Text(title), title_justify="left")
        for column in ("metric", "value", "95 % interval", "of"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for name, value in self.metrics.items():
            table.add_row(
                Text(name), number(value.value), f"{number(value.low)} to {number(value.high)}", f"{value.count:,}"
            )
        console.print(table)
        if isinstance(self.funnel, Funnel):
            self.funnel.render(console)
        for line in (f"protocol: {self.protocol}", *(f"note: {note}" for note in self.notes)):
            console.print(line, highlight=False, markup=False)


def number(value: float | None) -> str:
    """A metric as a person reads it.

    >>> number(0.98382), number(None)
    ('0.9838', '-')
    """
    return "-" if value is None else f"{value:.4f}"


def from_interval(interval: Interval) -> Value:
    """A `Value`; what is not finite becomes None, since JSON has no NaN."""
    value, low, high = (None if not math.isfinite(x) else float(x) for x in interval[:3])
    return Value(value=value, low=low, high=high, count=interval.count)


def load(path: Path) -> Report:
    """Read a report file; ArtifactError when it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{str(path)!r} is no report ({error}); run `weft evaluate` again") from error
