"""What a recommender answers."""

from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item of a list.

    Attributes:
        id: External id.
        title: What a person reads, where the catalogue has titles.
        score: A probability where the answer is `calibrated`; else a raw score: a logit, a rating or a log rate.
        propensity: The probability with which the place got this item, where some places are drawn.
        why: What each stage had to do with it, where a trace was asked for.
    """

    id: str | int
    title: str | None
    score: float
    propensity: float | None = None
    why: tuple[str, ...] = ()


class StageTrace(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a stage did.

    Attributes:
        name: Such as `ranking.dcn_v2`.
        milliseconds: How long it took.
        items: How many came out.
        skipped: Why it did nothing; None when it did its part.
    """

    name: str
    milliseconds: float
    items: int
    skipped: str | None = None


class Trace(Struct, frozen=True, kw_only=True):
    """What each stage did, in order, and how long all of it took."""

    stages: tuple[StageTrace, ...]
    milliseconds: float


class Recommendation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer for one user.

    Attributes:
        user: As it was asked.
        known: False when the user is unknown and the list is the most popular items.
        items: Best first.
        recent: The items that the user has had last, newest first; their score is 0.
        model: Registry name of what gave the scores; `popularity` for an unknown user, `merged` for several sources.
        bundle: Id of the bundle or run.
        calibrated: Whether scores are probabilities.
        degraded: Which stages were skipped, and why.
        unknown: Candidates that nobody knows, of a request that gave some.
        trace: Where it was asked for.
    """

    user: str | int
    known: bool
    items: tuple[Item, ...]
    recent: tuple[Item, ...]
    model: str
    bundle: str = ""
    calibrated: bool = False
    degraded: tuple[str, ...] = ()
    unknown: tuple[str | int, ...] = ()
    trace: Trace | None = None


def render(answer: Recommendation, console: Console) -> None:
    """Print a list, and beside it what the user has had last; below it what was skipped, and the trace."""
    title = f"for user {answer.user}" if answer.known else f"user {answer.user} is unknown: the most popular items"
    traced = answer.trace is not None
    table = Table("#", "recommended", "score", title=Text(title), title_justify="left")
    for column in (["why"] if traced else []) + (["had before, newest first"] if answer.recent else []):
        table.add_column(column)
    for place, item in enumerate(answer.items):
        row = [str(place + 1), _name(item), f"{item.score:.3f}"]
        if traced:
            row.append("; ".join(item.why))
        if answer.recent:
            row.append(_name(answer.recent[place]) if place < len(answer.recent) else "")
        table.add_row(*map(Text, row))
    console.print(table)
    for reason in answer.degraded:
        console.print(Text(f"degraded: {reason}"))
    if answer.trace is not None:
        _render_trace(answer.trace, console)


def _render_trace(trace: Trace, console: Console) -> None:
    table = Table("stage", "ms", "items", "skipped")
    for stage in trace.stages:
        table.add_row(*map(Text, (stage.name, f"{stage.milliseconds:.2f}", str(stage.items), stage.skipped or "")))
    table.add_row(*map(Text, ("all", f"{trace.milliseconds:.2f}", "", "")))
    console.print(table)


def _name(item: Item) -> str:
    return str(item.id) if item.title is None else f"{item.title} ({item.id})"
