"""The demo from tables to recommendations."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from weft.errors import ArtifactError
from weft.evaluate.report import Report, Value
from weft.study import demo as demos
from weft.study.demo import demo, verdict

QUICK = {
    "popularity": (),
    "lr": ("train.epochs=1",),
    "dcn_v2": ("hidden=[8]", "num_cross=1", "embedding_dim=4", "train.epochs=1"),
}


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(demos, "MODELS", QUICK)


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def test_the_demo_twice_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "de mo"
    first = demo(folder, rows=2_000, console=console())
    (folder / "mine.txt").write_text("kept")
    screen = console()
    second = demo(folder, rows=2_000, console=screen)
    assert list(second) == ["popularity", "lr", "dcn_v2"]
    assert {name: report.metrics for name, report in first.items()} == {n: r.metrics for n, r in second.items()}
    assert (folder / "mine.txt").read_text() == "kept"
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    parts = ("AUC", "logloss", "NE", "NDCG@10", "popularity", "dcn_v2 against lr", "had before", "protocol: music")
    for part in (*parts, f"next: weft recommend '{folder}/dcn_v2' --user "):
        assert part in text


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("my only copy")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ArtifactError, match="exists already"):
            demo(path, rows=2_000, console=console())
    assert (tmp_path / "thesis.txt").read_text() == "my only copy"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def report(low: float, value: float, high: float) -> Report:
    return Report(
        model="m",
        data="d",
        split="test",
        rows=1,
        protocol="p",
        metrics={"auc": Value(value=value, low=low, high=high, count=1)},
        parameters=1,
        seconds=1.0,
    )


def test_the_verdict_compares_the_intervals() -> None:
    linear = report(0.70, 0.71, 0.72)
    assert "beyond the intervals" in verdict({"lr": linear, "dcn_v2": report(0.73, 0.74, 0.75)})
    for low, value in ((0.715, 0.74), (0.60, 0.61)):
        assert "the intervals overlap" in verdict({"lr": linear, "dcn_v2": report(low, value, 0.75)})


@pytest.mark.slow
def test_the_demo_finds_the_planted_crosses(tmp_path: Path) -> None:
    """As `weft demo` runs it."""
    reports = demo(tmp_path / "demo", console=console())
    assert "beyond the intervals" in verdict(reports)
    linear, cross = (reports[name].metrics["ndcg@10"] for name in ("lr", "dcn_v2"))
    assert (cross.low or 0) > (linear.high or 1)
