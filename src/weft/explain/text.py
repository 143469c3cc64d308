"""An explanation on a terminal: the two things that a person asks first."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.explain.explanation import Explanation

MOST = 10


def render(found: Explanation, console: Console) -> None:
    """Print the importance of the features, the strongest pairs of fields and the largest weights of crosses."""
    title = f"{found.model} on {found.data} {found.split} ({found.rows:,} rows)"
    table = Table("feature", "metric", title=Text(title), title_justify="left")
    for column in ("worse when shuffled", "95 % interval"):
        table.add_column(column, justify="right")
    first = [one for one in found.importance if one.metric == found.importance[0].metric]
    for one in first:
        interval = f"{_number(one.low)} to {_number(one.high)}"
        table.add_row(Text(one.feature), one.metric, _number(one.worse), interval)
    console.print(table)
    for map in (one for one in found.maps[-1:] if one.pairs):
        words = ", ".join(f"{' x '.join(pair.fields)} ({pair.strength:.3g})" for pair in map.pairs[:MOST])
        console.print(f"strongest pairs, {map.title}: {words}", soft_wrap=True)
    for cross in found.crosses[:MOST]:
        words = " and ".join(f"{part} = {value}" for part, value in cross.values.items())
        console.print(f"{cross.weight:+.4f} for {words}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"
