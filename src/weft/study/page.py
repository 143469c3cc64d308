"""A leaderboard as one HTML page that needs nothing else: plots by Plotly, whose code lies in the page.

Every text is escaped, and the page's policy forbids requests.
"""

import html
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from weft.artifacts import write_atomic
from weft.study.leaderboard import Entry, Leaderboard, cells, columns, remarks

Figure = dict[str, Any]

BEST, EQUAL, WORSE = "#1a7f37", "#0969da", "#8c959f"


def write_page(board: Leaderboard, path: Path) -> None:
    """Write the page."""
    write_atomic(path, render_page(board).encode())


def render_page(board: Leaderboard) -> str:
    """The page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files(__package__).joinpath("leaderboard.html").read_text(encoding="utf-8")
    )
    return template.render(
        board=board,
        columns=columns(board),
        rows=[cells(board, entry) for entry in board.compared],
        remarks=remarks(board),
        figures=[gaps(board), years(board), cost(board, "seconds"), cost(board, "parameters")],
        plotly=Markup(get_plotlyjs()),
    )


def gaps(board: Leaderboard) -> Figure:
    """The difference of each model to the best one, with its interval; the best stands on top at 0."""
    shown = board.compared[::-1]
    found = [(gap.value, gap.low, gap.high) if (gap := entry.difference) else (0.0, 0.0, 0.0) for entry in shown]
    value = [gap[0] for gap in found]
    error = {
        "type": "data",
        "symmetric": False,
        "array": [high - middle for middle, _, high in found],
        "arrayminus": [middle - low for middle, low, _ in found],
    }
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": value,
        "y": _texts(shown, str),
        "error_x": error,
        "marker": {"color": [_color(entry) for entry in shown], "size": 9},
    }
    layout = {"xaxis": {"title": {"text": f"{html.escape(board.metric)}, difference to the best"}, "automargin": True}}
    layout["yaxis"] = {"type": "category", "automargin": True}
    return _plot(trace, layout, "What the rows can tell from chance", height=140 + 26 * len(shown))


def years(board: Leaderboard) -> Figure:
    """The metric of each architecture over the year of its paper; those without a paper are lines."""
    dated = [entry for entry in board.compared if entry.year]
    layout = _axes(board, {"title": {"text": "year of the paper"}, "dtick": 1})
    plain = [entry for entry in board.compared if not entry.year]
    layout["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": e.mean, "y1": e.mean, "line": {"dash": "dot"}}
        for e in plain
    ]
    layout["annotations"] = [
        {"xref": "paper", "x": 1, "y": e.mean, "text": text, "showarrow": False, "yanchor": "bottom"}
        for e, text in zip(plain, _texts(plain, str), strict=True)
    ]
    return _plot(_points(board, dated, [entry.year for entry in dated]), layout, "Quality against year")


def cost(board: Leaderboard, what: str) -> Figure:
    """The metric of each model over its training time or its number of weights; the title names those without any."""
    paid = [entry for entry in board.compared if getattr(entry, what)]
    missing = ", ".join(_texts([entry for entry in board.compared if not getattr(entry, what)], str))
    title = "Quality against cost" + (f" (without {missing}: none)" if missing else "")
    named = {"seconds": "training time of one seed, seconds", "parameters": "trained weights"}[what]
    layout = _axes(board, {"title": {"text": named}, "type": "log"})
    return _plot(_points(board, paid, [getattr(entry, what) for entry in paid]), layout, title)


def _points(board: Leaderboard, entries: list[Entry], x: list[float]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": x,
        "y": [entry.mean for entry in entries],
        "text": _texts(entries, str),
        "textposition": "top center",
        "error_y": {"type": "data", "array": [entry.deviation or 0.0 for entry in entries]},
        "marker": {"color": [_color(entry) for entry in entries], "size": 10},
        "hovertext": _texts(entries, lambda model: f"{model}, {board.metric}"),
    }


def _axes(board: Leaderboard, xaxis: Figure) -> Figure:
    y: Figure = {"title": {"text": html.escape(board.metric)}, "automargin": True}
    return {
        "xaxis": {**xaxis, "automargin": True},
        "yaxis": y if board.more_is_better else {**y, "autorange": "reversed"},
    }


def _color(entry: Entry) -> str:
    if entry.difference is None:
        return BEST
    return EQUAL if entry.difference.indistinguishable else WORSE


def _plot(trace: Figure, layout: Figure, title: str, *, height: int = 460) -> Figure:
    plain = {"title": {"text": title, "font": {"size": 15}}, "height": height, "margin": {"l": 60, "r": 30, "t": 50}}
    return {"data": [trace], "layout": {**plain, **layout}}


def _texts(entries: "tuple[Entry, ...] | list[Entry]", said: Callable[[str], str]) -> list[str]:
    """Plotly reads some HTML in its labels; these have none."""
    return [html.escape(said(entry.model)) for entry in entries]
