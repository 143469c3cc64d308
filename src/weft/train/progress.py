"""Who listens to the loop: the file `metrics.jsonl` and the screen."""

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from weft.train.loop import Epoch, Step

Kind = type[BaseException] | None


class Speed:
    """Rows a second since the first step of the epoch that was heard of."""

    def __init__(self) -> None:
        self._epoch = -1
        self._start = 0.0
        self._rows = 0
        self._found: float | None = None

    def of(self, event: Step | Epoch) -> float | None:
        """The speed of the epoch so far; None before there are two steps to tell it from."""
        if isinstance(event, Epoch):
            return self._found
        now, progress = time.monotonic(), event.progress
        if progress.epoch != self._epoch:
            self._epoch, self._start, self._rows, self._found = progress.epoch, now, progress.rows, None
        elif now > self._start:
            self._found = (progress.rows - self._rows) / (now - self._start)
        return self._found


class Log:
    """Writes `metrics.jsonl`: a line an epoch, and the running loss every few steps."""

    def __init__(self, path: Path, *, keep: int, every: int) -> None:
        self._file = path.open("ab")
        self._file.truncate(keep)
        self._file.seek(0, os.SEEK_END)
        self._every = every
        self._speed = Speed()

    def hear(self, event: Step | Epoch, rates: dict[str, float]) -> None:
        """Write what is worth a line; `rates` are the learning rates of the groups in this epoch."""
        speed = self._speed.of(event)
        if isinstance(event, Epoch):
            facts = {"epoch": event.number, "loss": event.loss, "metrics": event.metrics, "best": event.is_best}
            self._write(kind="epoch", **facts, learning_rate=rates, rows_per_second=speed)
        elif event.progress.step % self._every == 0:
            at = event.progress
            self._write(kind="step", epoch=at.epoch, step=at.step, loss=at.loss, rows_per_second=speed)

    def size(self) -> int:
        """Bytes written so far, all of them on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def _write(self, **facts: Any) -> None:
        self._file.write(msgspec.json.encode(facts) + b"\n")


class Display:
    """A progress bar on a terminal, a line an epoch everywhere, nothing without a console."""

    def __init__(self, console: Console | None, *, steps: int) -> None:
        self._console = console
        self._speed = Speed()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[found]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=console is None or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, found="")

    def hear(self, event: Step | Epoch) -> None:
        """Show a step or an epoch."""
        speed = self._speed.of(event)
        at = "" if speed is None else f"{speed:,.0f} rows/s"
        if isinstance(event, Step):
            done = event.progress
            found = f"loss {done.loss:.4f} {at}"
            self._bar.update(self._task, completed=done.step, description=f"epoch {done.epoch}", found=found)
        elif self._console is not None:
            values = "".join(f", {name} {value:.4f}" for name, value in event.metrics.items())
            mark = " (best)" if event.is_best else ""
            line = f"epoch {event.number}: loss {event.loss:.4f}{values}{mark} {at}"
            self._console.print(line, highlight=False, markup=False)

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
