from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from weft.study.lines import Line, plot


def points(text: str) -> NDArray[np.float64]:
    """The points of the only line of a plot."""
    (line,) = (part for part in ElementTree.fromstring(text).iter() if part.tag.endswith("polyline"))
    return np.array([[float(number) for number in pair.split(",")] for pair in line.attrib["points"].split()])


def test_a_plot_places_powers_of_ten_evenly() -> None:
    text = plot("a < b", "rows", "s", [Line("one", [1, 10, 100], [1, 100, 10_000])])
    steps = np.diff(points(text), axis=0)
    assert steps[0] == pytest.approx(steps[1], abs=0.11)
    assert steps[0, 0] > 0 > steps[0, 1]
    assert any(part.text == "a < b" for part in ElementTree.fromstring(text).iter())


def test_plain_axes_place_equal_steps_evenly() -> None:
    steps = np.diff(points(plot("t", "x", "y", [Line("one", range(1, 4), [0.9, 0.8, 0.7])], log=False)), axis=0)
    assert steps[0] == pytest.approx(steps[1], abs=0.11)
    assert steps[0, 0] > 0
    assert steps[0, 1] > 0, "what is less stands lower, and y grows downwards"


def test_a_single_point_has_a_place() -> None:
    assert np.isfinite(points(plot("t", "x", "y", [Line("one", [1], [0.5])], log=False))).all()
