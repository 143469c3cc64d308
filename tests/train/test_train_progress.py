"""What the file and the screen show of a training."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from weft.train import progress as shown
from weft.train.loop import Epoch, Progress, Step
from weft.train.progress import Display, Log, Speed

EVENTS = [
    Step(0.5, Progress(epoch=2, step=1, rows=10, loss_sum=5.0)),
    Step(0.3, Progress(epoch=2, step=2, rows=20, loss_sum=8.0)),
    Epoch(2, 0.4, {"auc": 0.75}, Progress(epoch=3, best=0.75, best_epoch=2)),
]


def test_speed_is_rows_a_second_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(shown.time, "monotonic", lambda: next(clock))
    speed = Speed()
    assert [speed.of(event) for event in EVENTS] == [None, 2.5, 2.5]
    assert speed.of(Step(0.5, Progress(epoch=3, step=1, rows=10))) is None


def test_the_log_keeps_what_belongs_to_the_training_state(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Log(path, keep=0, every=2) as log:
        log.hear(EVENTS[0], {})
        kept = log.size()
        assert kept == 0
        log.hear(EVENTS[1], {})
        kept = log.size()
        log.hear(EVENTS[2], {"dense": 0.1})
    with Log(path, keep=kept, every=2) as log:
        assert log.size() == kept
        log.hear(EVENTS[2], {"dense": 0.01})
    step, epoch = (json.loads(line) for line in path.read_text().splitlines())
    assert (step["kind"], step["epoch"], step["step"], step["loss"]) == ("step", 2, 2, 0.4)
    assert (epoch["kind"], epoch["metrics"], epoch["best"]) == ("epoch", {"auc": 0.75}, True)
    assert epoch["learning_rate"] == {"dense": 0.01}


def show(console: Console | None) -> None:
    with Display(console, steps=2) as display:
        for event in EVENTS:
            display.hear(event)


def test_plain_lines_where_there_is_no_terminal() -> None:
    file = StringIO()
    show(Console(file=file, width=120))
    assert file.getvalue().startswith("epoch 2: loss 0.4000, auc 0.7500 (best)")
    assert len(file.getvalue().splitlines()) == 1


def test_a_bar_on_a_terminal() -> None:
    file = StringIO()
    show(Console(file=file, width=120, force_terminal=True))
    assert "loss 0.4000" in file.getvalue()
    assert "2/2" in file.getvalue()


def test_silence_without_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    show(None)
    assert capsys.readouterr() == ("", "")
