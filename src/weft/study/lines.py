"""Plots of lines over logarithmic or plain axes as SVG, so that the page needs no program to draw them."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 76, 180, 34, 52
COLOURS = ("#1f5fa8", "#c8501e", "#2e8540", "#7a3fa0", "#8a6d00", "#00808a", "#b0245a", "#555555")


class Line(NamedTuple):
    """A named line through points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class _Axis(NamedTuple):
    """Numbers to places on the page.

    Attributes:
        low: The number at `start`, or its logarithm.
        high: The number at `stop`, or its logarithm.
        start: Place on the page.
        stop: Place on the page.
        log: Whether the axis is logarithmic.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool

    def at(self, value: float) -> float:
        """The place of a number."""
        number = math.log10(value) if self.log else value
        return self.start + (number - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Numbers to write at the axis."""
        if not self.log:
            step = _round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        factors = (1, 2, 5) if self.high - self.low < 2 else (1,)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        return [value for value in values if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten.

    >>> _round_step(0.03), _round_step(7)
    (0.05, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step - 1e-12)


def _axis(values: Sequence[float], start: float, stop: float, log: bool) -> _Axis:
    numbers = [math.log10(value) for value in values] if log else list(values)
    low, high = min(numbers), max(numbers)
    margin = (high - low or 1.0) * 0.05
    return _Axis(low - margin, high + margin, start, stop, log)


def plot(title: str, x_name: str, y_name: str, lines: Sequence[Line], *, log: bool = True) -> str:
    """An SVG of some lines; with `log` both axes are logarithmic.

    Args:
        title: Above the plot.
        x_name: Under the x axis.
        y_name: Beside the y axis.
        lines: At least one, with positive numbers where the axes are logarithmic.
        log: Kind of both axes.
    """
    x = _axis([value for line in lines for value in line.x], LEFT, WIDTH - RIGHT, log)
    y = _axis([value for line in lines for value in line.y], HEIGHT - BOTTOM, TOP, log)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(title, LEFT, 20, size=14),
        _text(x_name, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, anchor="middle"),
        f'<g transform="rotate(-90 16 {HEIGHT / 2})">{_text(y_name, 16, HEIGHT / 2, anchor="middle")}</g>',
        *_grid(x, y),
    ]
    for number, line in enumerate(lines):
        parts += _drawn(line, x, y, COLOURS[number % len(COLOURS)], TOP + 16 + 18 * number)
    return "\n".join([*parts, "</svg>", ""])


def _grid(x: _Axis, y: _Axis) -> list[str]:
    found = []
    for value in x.ticks():
        place = x.at(value)
        found.append(_segment(place, y.start, place, y.stop, "#dddddd"))
        found.append(_text(_short(value), place, y.start + 18, anchor="middle"))
    for value in y.ticks():
        place = y.at(value)
        found.append(_segment(x.start, place, x.stop, place, "#dddddd"))
        found.append(_text(_short(value), x.start - 6, place + 4, anchor="end"))
    return found


def _drawn(line: Line, x: _Axis, y: _Axis, colour: str, legend: float) -> list[str]:
    places = [(x.at(a), y.at(b)) for a, b in zip(line.x, line.y, strict=True)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places),
        f'<rect x="{WIDTH - RIGHT + 14}" y="{legend - 9:.1f}" width="12" height="4" fill="{colour}"/>',
        _text(line.name, WIDTH - RIGHT + 32, legend - 3),
    ]


def _segment(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(text: str, x: float, y: float, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _short(value: float) -> str:
    """A number for an axis.

    >>> _short(2e6), _short(500), _short(0.89565), _short(0.1 + 0.2)
    ('2M', '500', '0.89565', '0.3')
    """
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:.6g}"
