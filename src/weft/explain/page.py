"""An explanation as one HTML page that needs nothing else: plots by Plotly, whose code lies in the page.

Every text is escaped: names of features and titles of items are other people's. The page's policy forbids requests.
"""

import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from weft.explain.explanation import Explanation, Importance, Map, TableVariance
from weft.metrics import more_is_better

Figure = dict[str, Any]

MOST_FIELDS = 60  # a larger heat map cannot be read
CELL = 26  # pixels


def render_page(found: Explanation) -> str:
    """The page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    metrics = list(dict.fromkeys(one.metric for one in found.importance))
    return template.render(
        found=found,
        importance={metric: [one for one in found.importance if one.metric == metric] for metric in metrics},
        bars=[bars(metric, [one for one in found.importance if one.metric == metric]) for metric in metrics],
        heat=heat,
        variance=variance(found.tables) if found.tables else None,
        figure=_figure,
        plotly=Markup(get_plotlyjs()),
    )


def bars(metric: str, importance: Sequence[Importance]) -> Figure:
    """Importance as bars with intervals, the largest on top."""
    shown = [one for one in importance if one.worse is not None][::-1]
    worse = [one.worse or 0.0 for one in shown]
    above = [(one.high or 0.0) - value for one, value in zip(shown, worse, strict=True)]
    below = [value - (one.low or 0.0) for one, value in zip(shown, worse, strict=True)]
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    bar = {"type": "bar", "orientation": "h", "x": worse, "y": _texts(one.feature for one in shown), "error_x": error}
    what = "fall" if more_is_better(metric) else "rise"
    return _plot([bar], f"{what} of {metric}", height=120 + CELL * len(shown))


def heat(one: Map) -> Figure:
    """A heat map; the first field is on top."""
    trace: Figure = {"type": "heatmap", "z": one.values, "x": _texts(one.columns), "y": _texts(one.rows)}
    trace |= {"colorscale": "RdBu", "zmid": 0} if one.diverging else {"colorscale": "Viridis"}
    return _plot([trace], one.title, height=200 + CELL * min(len(one.rows), MOST_FIELDS), reverse=True)


def variance(tables: Sequence[TableVariance]) -> Figure:
    """How much of each table's variance its first principal components hold."""
    longest = max(len(one.cumulative) for one in tables)
    z = [one.cumulative + [None] * (longest - len(one.cumulative)) for one in tables]
    trace = {
        "type": "heatmap",
        "z": z,
        "x": list(range(1, longest + 1)),
        "y": _texts(f"{one.table} ({one.categories:,})" for one in tables),
        "colorscale": "Viridis",
        "zmin": 0,
        "zmax": 1,
    }
    height = 160 + CELL * len(tables)
    return _plot([trace], "share of the variance in the first principal components", height=height, reverse=True)


def _plot(data: list[Figure], title: str, *, height: int, reverse: bool = False) -> Figure:
    axis: Figure = {"automargin": True, "type": "category"}
    layout = {
        "title": {"text": html.escape(title), "font": {"size": 14}},
        "height": height,
        "margin": {"l": 40, "r": 20, "t": 40, "b": 40},
        "yaxis": axis | ({"autorange": "reversed"} if reverse else {}),
        "xaxis": axis if reverse else {"automargin": True},
    }
    return {"data": data, "layout": layout}


def _texts(values: Any) -> list[str]:
    """Plotly reads some HTML in its labels; these have none."""
    return [html.escape(str(value)) for value in values]


def _figure(figure: Figure) -> Markup:
    """A figure as JSON that cannot end its script element."""
    text = json.dumps(figure, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
