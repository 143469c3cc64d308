"""Time budgets: a call that may be left behind when it runs late.

A late call goes on in its own thread until it ends; its result is dropped. A stage with too many of them is not asked
again before one has ended, so that a source that hangs costs a few threads and no request's time.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, final

T = TypeVar("T")

MOST_LATE = 4


class Late(Exception):
    """A call did not end within its budget, or was not begun because of earlier ones."""


@final
class Workers:
    """Threads that are kept for the next call; as many as there are calls at once. They do not hold up the exit."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done in some thread."""
        with self._lock:
            new = self._idle == 0
            self._idle -= not new
        self._tasks.put(task)
        if new:
            threading.Thread(target=self._work, daemon=True, name="weft-stage").start()

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=60.0)
            except Empty:
                with self._lock:
                    if self._idle == 0:
                        continue
                    self._idle -= 1
                    return
            task()
            with self._lock:
                self._idle += 1


@final
class Budget:
    """The time that a stage may take.

    Args:
        milliseconds: None is no limit: calls are made in the caller's thread.
        workers: Where calls with a limit are made.
    """

    def __init__(self, milliseconds: float | None, workers: Workers) -> None:
        self.milliseconds = milliseconds
        self._workers = workers
        self._late = 0
        self._lock = threading.Lock()

    def call(self, function: Callable[[], T]) -> T:
        """What a function gives, or what it raises; Late when that takes too long."""
        if self.milliseconds is None:
            return function()
        if self._late >= MOST_LATE:
            raise Late(f"{self._late} earlier calls are still running")
        call = _Call(function)
        self._workers.submit(lambda: self._finish(call))
        if not call.done.wait(self.milliseconds / 1000):
            with self._lock:
                late = not call.done.is_set()
                call.left = late
                self._late += late
            if late:
                raise Late(f"not done within {self.milliseconds:g} ms")
        return call.result()

    def _finish(self, call: "_Call[T]") -> None:
        call.run()
        with self._lock:
            call.done.set()
            self._late -= call.left


class _Call(Generic[T]):
    """A call under way, and whether its caller has left."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.done = threading.Event()
        self.left = False
        self._function = function
        self._found: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._found.append(self._function())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._found[0]
