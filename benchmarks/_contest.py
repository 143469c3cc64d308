"""Trainers as processes that take turns: one works while the others wait, so that what the machine does falls on all.

A trainer is a script that calls `serve` of peers/_worker.py. It is asked over its input and answers over its output,
one JSON object a line.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from _records import ROOT

Case = dict[str, Any]
PEERS = ROOT / ".peers"
HERE = Path(__file__).resolve().parent

SCRIPTS = {
    "weft": HERE / "weft_trainer.py",
    "plain": HERE / "peers" / "plain_torch.py",
    "fuxictr": HERE / "peers" / "fuxictr_trainer.py",
    "deepctr_torch": HERE / "peers" / "deepctr_torch_trainer.py",
    "torch_rechub": HERE / "peers" / "torch_rechub_trainer.py",
    "recbole": HERE / "peers" / "recbole_trainer.py",
    "torchrec": HERE / "peers" / "torchrec_trainer.py",
}
OURS = ("weft", "plain")


class CannotRun(Exception):
    """A trainer that is not installed, or stopped; the text says why."""


def python_of(name: str) -> str:
    """The interpreter that has a library; CannotRun where it is not installed."""
    if name in OURS:
        return sys.executable
    found = PEERS / name / "bin" / "python"
    if found.is_file():
        return str(found)
    failed = PEERS / f"{name}.failed"
    why = without_paths(failed.read_text().strip()) if failed.is_file() else "run benchmarks/peers/setup.sh"
    raise CannotRun(f"{name} is not installed: {why}")


def without_paths(words: str) -> str:
    """A message without the places where this project and Python lie."""
    for place in (ROOT, Path.home(), Path(sys.base_prefix)):
        words = words.replace(f"{place}/", "")
    return words


def environment(threads: int) -> dict[str, str]:
    """The environment of a process that may use so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "NUMEXPR_NUM_THREADS")
    found = {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONWARNINGS": "ignore"}
    return found | {name: os.path.abspath(found[name]) for name in ("FUXICTR_SOURCE",) if name in found}


class Trainer:
    """A running trainer.

    Attributes:
        name: As the case calls it.
        about: What it said when it was ready: library, parameters, load.
    """

    def __init__(self, name: str, case: Case) -> None:
        self.name = name
        self._place = tempfile.TemporaryDirectory(prefix=f"{name}-")  # some libraries write logs where they stand
        self._log = tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".log")  # noqa: SIM115, closed by close
        command = [python_of(name), str(SCRIPTS[name]), json.dumps(case)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(case["threads"]),
            cwd=self._place.name,
        )
        self.about = self._answer()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """One request and its answer; CannotRun with the end of its log when it stops."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        self._place.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        words = Path(self._log.name).read_text(errors="replace").strip().splitlines()[-3:]
        self.close()
        raise CannotRun(f"{self.name} ended with {code}: {without_paths(' | '.join(words))[:400]}")


def start(names: Mapping[str, str], cases: Mapping[str, Case]) -> tuple[dict[str, Trainer], dict[str, str]]:
    """Trainers by key, and of those that could not start, why.

    Args:
        names: The trainer of each key.
        cases: What each is to train.
    """
    running: dict[str, Trainer] = {}
    left_out: dict[str, str] = {}
    for key, name in names.items():
        try:
            running[key] = Trainer(name, cases[key])
        except CannotRun as reason:
            left_out[key] = str(reason)
    return running, left_out


def take_turns(
    running: dict[str, Trainer], *, rounds: int, steps: int, loader: bool, warm: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, str]]:
    """Steps of all trainers in turn; a trainer that stops leaves the contest.

    Returns:
        Median seconds of a step in each round by key, all losses by key, and why a trainer left.
    """
    seconds: dict[str, list[float]] = {key: [] for key in running}
    losses: dict[str, list[float]] = {key: [] for key in running}
    left: dict[str, str] = {}
    for number in range(rounds + 1):
        for key in list(running):
            try:
                answer = running[key].ask("steps", count=steps if number else warm, loader=loader)
            except CannotRun as reason:
                left[key] = str(reason)
                del running[key]
                continue
            losses[key] += answer["losses"]
            if number:
                seconds[key].append(statistics.median(answer["seconds"]))
    return {key: seconds[key] for key in running}, losses, left


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as fast the second is: the median over rounds that both measured."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
