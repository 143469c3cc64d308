"""Line plots as small SVG files that a page of Markdown can show."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 80, 40, 190, 60
Points = Sequence[tuple[float, float]]


class Axis(NamedTuple):
    """One axis: what it says, and whether it is logarithmic."""

    label: str
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies before the axis is stretched."""
        return math.log10(value) if self.log else value

    def ticks(self, low: float, high: float) -> list[float]:
        """Round values between two others, both possible.

        >>> Axis("rows", log=True).ticks(900, 2e5), Axis("AUC").ticks(0.9, 0.9061)
        ([1000.0, 10000.0, 100000.0], [0.9, 0.902, 0.904, 0.906])
        """
        if self.log:
            powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        rough = (high - low) / 4 or 1.0
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough - 1e-12)
        first = math.ceil(low / step - 1e-9)
        return [round(first * step + i * step, 12) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def line_plot(series: Mapping[str, Points], x: Axis, y: Axis, *, title: str) -> str:
    """The SVG of some lines, each with its name at the right."""
    points = [point for line in series.values() for point in line]
    (left, right), (low, high) = (_span([p[i] for p in points], axis) for i, axis in enumerate((x, y)))

    def at(px: float, py: float) -> tuple[float, float]:
        across = (x.place(px) - x.place(left)) / ((x.place(right) - x.place(left)) or 1.0)
        up = (y.place(py) - y.place(low)) / ((y.place(high) - y.place(low)) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 22, title, size=15, anchor="middle"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, x.label, anchor="middle"),
        f'<g transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">',
        f"{_text(0, 0, y.label, anchor='middle')}</g>",
    ]
    for value in x.ticks(left, right):
        place = at(value, low)[0]
        parts += [_line(place, TOP, place, HEIGHT - BOTTOM), _text(place, HEIGHT - 40, f"{value:g}", anchor="middle")]
    for value in y.ticks(low, high):
        place = at(left, value)[1]
        parts += [_line(LEFT, place, WIDTH - RIGHT, place), _text(LEFT - 8, place + 4, f"{value:g}", anchor="end")]
    for number, (name, line) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        places = [at(*point) for point in line]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{color}"/>' for px, py in places]
        below = TOP + 14 + 20 * number
        parts.append(_line(WIDTH - RIGHT + 14, below - 4, WIDTH - RIGHT + 34, below - 4, color=color, width=3))
        parts.append(_text(WIDTH - RIGHT + 40, below, name))
    return "\n".join([*parts, "</svg>", ""])


def _span(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    low, high = min(values), max(values)
    if axis.log:
        return low / 1.2, high * 1.2
    room = 0.06 * (high - low)
    return low - room, high + room


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, *, color: str = "#ddd", width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"/>'
