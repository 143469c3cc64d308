"""The leaderboard: order, intervals of planted differences, and a page that needs no network."""

import io
import json
import statistics
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plotly.graph_objects import Figure
from rich.console import Console

from weft.metrics.bootstrap import replicates, weighted_mean
from weft.study.leaderboard import Difference, Entry, Leaderboard, Search, difference, mean_of_seeds, ranked, remarks
from weft.study.page import cost, gaps, render_page, years

Array = NDArray[Any]


def entry(model: str, values: tuple[float, ...], **changes: Any) -> Entry:
    facts: dict[str, Any] = {
        "paper": "none",
        "year": 2020,
        "state": "compared",
        "values": values,
        "mean": statistics.mean(values) if values else None,
        "best": max(values) if values else None,
        "parameters": 10,
        "seconds": 2.0,
    }
    return Entry(model=model, **{**facts, **changes})


def placed(rows: dict[str, Array], **options: Any) -> tuple[Entry, ...]:
    """Models by values of rows [S, N], whose mean is the metric."""
    entries = [entry(model, tuple(values.mean(1).tolist())) for model, values in rows.items()]
    drawn = {
        model: replicates([weighted_mean(seed) for seed in values], seed=0, resamples=400)
        for model, values in rows.items()
    }
    return ranked(entries, drawn, more_is_better=options.get("more_is_better", True))


def test_a_difference_that_every_row_shows_is_known_exactly() -> None:
    """The models share all that is hard in a row: paired, the interval has no width; apart, it would be 0.1 wide."""
    noise = np.random.default_rng(0).normal(0, 1, 1000)
    best, second = placed({"a": (noise + 0.001)[None], "b": noise[None]})
    assert (best.model, best.difference) == ("a", None)
    assert second.difference is not None
    assert (second.difference.value, second.difference.low, second.difference.high) == pytest.approx((-0.001,) * 3)
    assert not second.difference.indistinguishable


def test_equal_models_are_indistinguishable() -> None:
    generator = np.random.default_rng(0)
    found = placed({name: generator.normal(0, 1, (1, 1000)) for name in "ab"})
    assert found[1].difference is not None
    assert found[1].difference.indistinguishable
    assert found[1].difference.high - found[1].difference.low == pytest.approx(2 * 1.96 * (2 / 1000) ** 0.5, rel=0.15)


@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.0), (3, 0.1), (5, 0.1)])
def test_the_interval_covers_the_planted_difference_as_often_as_it_says(seeds: int, between: float) -> None:
    """Rows and seeds both vary: the truth is the difference over all rows and all seeds there could be."""
    generator = np.random.default_rng(1)
    worlds, rows, truth, covered = 200, 200, 0.1, 0
    for _ in range(worlds):
        hard = generator.normal(0, 1, rows)
        scores = [hard + generator.normal(0, 0.5, rows) + generator.normal(0, between, (seeds, 1)) for _ in range(2)]
        scores[0] = scores[0] + truth
        drawn = [
            mean_of_seeds(_replicates(many), np.random.default_rng([7, place])) for place, many in enumerate(scores)
        ]
        gap = difference(scores[0].mean(1).tolist(), scores[1].mean(1).tolist(), *drawn)
        covered += gap.low <= truth <= gap.high
    assert 0.88 <= covered / worlds <= 0.99


def _replicates(many: Array) -> Array:
    """As `replicates` of the means of rows, all resamples in one matrix product."""
    generator = np.random.default_rng(0)
    rows = many.shape[1]
    weights = np.stack([np.bincount(generator.integers(rows, size=rows), minlength=rows) for _ in range(200)])
    found: Array = weights @ many.T / rows
    return found


def test_what_seeds_add_is_the_variance_of_their_mean() -> None:
    """Without the widening three seeds would show two thirds of it."""
    values = np.array([0.70, 0.71, 0.75])
    drawn = mean_of_seeds(np.tile(values, (20_000, 1)), np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(values.mean(), abs=1e-4)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.05)


@pytest.mark.parametrize("more_is_better", [True, False])
def test_the_best_stands_first_and_those_without_a_place_last(more_is_better: bool) -> None:
    entries = [
        entry("z", (), state="skipped", reason="no user"),
        entry("low", (0.1,)),
        entry("y", (), state="failed", reason="diverged"),
        entry("high", (0.9,)),
        entry("even", (0.9,)),
    ]
    drawn = {model: np.full((9, 1), value) for model, value in {"low": 0.1, "high": 0.9, "even": 0.9}.items()}
    found = [one.model for one in ranked(entries, drawn, more_is_better=more_is_better)]
    assert found == (["even", "high", "low"] if more_is_better else ["low", "even", "high"]) + ["y", "z"]


NASTY = "<script>alert('x')</script> & \"music\""


def board(**changes: Any) -> Leaderboard:
    gap = Difference(value=-0.01, low=-0.02, high=0.001, indistinguishable=True)
    search = Search(trials=3, failed=1, value=0.8, metric="auc", settings={"l2": 0.1}, seconds=9)
    facts: dict[str, Any] = {
        "data": NASTY,
        "store": "abc",
        "split": "test",
        "rows": 1234,
        "protocol": "pointwise </script>",
        "metric": "auc",
        "more_is_better": True,
        "drawn": "rows",
        "units": 1234,
        "seeds": 2,
        "preset": "bars",
        "settings": ("hidden=[8]",),
        "trials": 3,
        "entries": (
            entry("dcn_v2", (0.8, 0.9), deviation=0.07, search=search),
            entry("popularity", (0.6, 0.6), year=0, parameters=None, difference=gap, notes=("a note",)),
            entry("<b>fm</b>", (), state="skipped", reason="no <i>item</i>"),
        ),
        "notes": ("how it was drawn",),
    }
    return Leaderboard(**{**facts, **changes})


class Page(HTMLParser):
    """What a browser would load, and the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.figures: list[str] = []
        self._figure = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            f"{tag} {name}={value}" for name, value in attributes if name in ("src", "href", "data", "action")
        ]
        self._figure = ("type", "application/json") in attributes

    def handle_data(self, data: str) -> None:
        if self._figure:
            self.figures.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._figure = False


def test_the_page_needs_no_network_and_escapes_everything() -> None:
    text = render_page(board())
    page = Page(text)
    assert page.loads == []
    assert "default-src 'none'" in text
    assert not {"link", "iframe", "img", "b", "i"} & set(page.tags)
    assert page.tags.count("script") == 2 + len(page.figures)
    assert len([Figure(json.loads(figure)) for figure in page.figures]) == 4  # which refuses what Plotly does not know
    for words in ("dcn_v2", "0.8500", "indistinguishable", "no &lt;i&gt;item&lt;/i&gt;", "a note", "best of 3 trials"):
        assert words in text
    assert "alert(&#39;x&#39;)" in text


def test_the_plots_show_what_there_is() -> None:
    found = board()
    assert gaps(found)["data"][0]["x"] == [-0.01, 0.0]
    assert gaps(found)["data"][0]["error_x"]["array"] == pytest.approx([0.011, 0.0])
    assert (years(found)["data"][0]["x"], years(found)["data"][0]["text"]) == ([2020], ["dcn_v2"])
    assert years(found)["layout"]["shapes"][0]["y0"] == 0.6
    assert cost(found, "seconds")["data"][0]["x"] == [2.0, 2.0]
    assert cost(found, "seconds")["layout"]["title"]["text"] == "Quality against cost"
    assert cost(found, "parameters")["data"][0]["text"] == ["dcn_v2"]
    assert cost(found, "parameters")["layout"]["title"]["text"] == "Quality against cost (without popularity: none)"
    assert "autorange" not in years(found)["layout"]["yaxis"]
    assert years(board(more_is_better=False))["layout"]["yaxis"]["autorange"] == "reversed"


def test_the_table_says_all_of_it_in_80_columns() -> None:
    screen = Console(file=io.StringIO(), width=80)
    board(data="camps").render(screen)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "model auc best to the best, 95 % weights rows/s train s" in lines
    assert "dcn_v2 0.8500 ± 0.0700 0.9000 - 10 - 2.0" in lines
    assert "popularity 0.6000 0.6000 -0.0200 to +0.0010 - - 2.0" in lines


def test_what_a_reader_must_know_stands_below_the_table() -> None:
    assert remarks(board()) == [
        "indistinguishable from dcn_v2 (the interval holds 0): popularity",
        "skipped: <b>fm</b>: no <i>item</i>",
        "tuned: dcn_v2: validation auc 0.8000 with l2=0.1, the best of 3 trials (1 failed), 9 s",
        "note: popularity: a note",
        "note: how it was drawn",
        "protocol: pointwise </script>",
    ]
    assert json.loads(board().json())["entries"][1]["difference"]["indistinguishable"]
    screen = Console(file=io.StringIO(), width=200)
    board().render(screen)
    assert NASTY in screen.file.getvalue()  # type: ignore[attr-defined]
