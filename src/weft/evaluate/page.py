"""A judged pipeline as one HTML page that needs nothing else: plots by Plotly, whose code lies in the page.

Every text is escaped: names of features and of data are other people's. The page's policy forbids requests.
"""

import html
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from weft.artifacts import write_atomic
from weft.evaluate.funnel import Funnel
from weft.evaluate.report import Report, number

Figure = dict[str, Any]

REPORT, PAGE = "report.json", "index.html"
LINE = 34  # pixels


def write_report(report: Report, folder: str | Path) -> None:
    """Write a report into a folder, that of a bundle also as a page."""
    report.save(Path(folder) / REPORT)
    if isinstance(report.funnel, Funnel):
        write_atomic(Path(folder) / PAGE, render_page(report).encode())


def render_page(report: Report) -> str:
    """The page of the report on a bundle."""
    found = report.funnel
    assert isinstance(found, Funnel)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        funnel=found,
        stages=found.stage_table(),
        sources=found.source_table(),
        metrics=[
            (name, number(value.value), f"{number(value.low)} to {number(value.high)}", f"{value.count:,}")
            for name, value in report.metrics.items()
        ],
        figures=[left(found), lost(found), recalls(found)],
        plotly=Markup(get_plotlyjs()),
    )


def left(found: Funnel) -> Figure:
    """The relevant items behind each stage, from all of them to those that are shown."""
    names = ["relevant", *(step.name for step in found.steps), f"first {found.k}"]
    counts = [found.relevant, *(step.left for step in found.steps), found.shown]
    trace = {"type": "funnel", "y": _texts(names), "x": counts, "textinfo": "value+percent initial"}
    return _plot(trace, "Relevant items behind each stage", lines=len(names))


def lost(found: Funnel) -> Figure:
    """The relevant items that each stage loses."""
    names = [step.name for step in found.steps]
    trace = {"type": "bar", "orientation": "h", "y": _texts(names), "x": [step.lost for step in found.steps]}
    return _plot(trace, "Relevant items lost at each stage", lines=len(names))


def recalls(found: Funnel) -> Figure:
    """The share of the relevant items that each source proposes."""
    names = [source.name for source in found.sources]
    trace = {"type": "bar", "orientation": "h", "y": _texts(names), "x": [source.recall for source in found.sources]}
    return _plot(trace, "Recall of each source", lines=len(names))


def _plot(trace: Figure, title: str, *, lines: int) -> Figure:
    layout = {
        "title": {"text": title, "font": {"size": 15}},
        "height": 120 + LINE * lines,
        "margin": {"l": 60, "r": 30, "t": 50, "b": 40},
        "yaxis": {"type": "category", "automargin": True, "autorange": "reversed"},
        "xaxis": {"automargin": True, "rangemode": "tozero"},
    }
    return {"data": [trace], "layout": layout}


def _texts(values: Iterable[str]) -> list[str]:
    """Plotly reads some HTML in its labels; these have none."""
    return [html.escape(value) for value in values]
