"""Time budgets: a call that may be left behind when it runs late.

A late call goes on in its own thread until it ends; its result is dropped. A stage with too many of them is not asked
again before one has ended, so that a source that hangs costs a few threads and no request's time.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar, final

T = TypeVar("T")

MOST_LATE = 4
PATIENCE = 1.0  # seconds that late calls have when the program ends


class Late(Exception):
    """A call did not end within its budget, or was not begun because of earlier ones."""


@final
class Workers:
    """Threads that are kept for the next call; as many as there are calls at once.

    They end with this object, and at the latest with the program; a call that hangs then is left behind.
    """

    def __init__(self) -> None:
        self._crew = _Crew()
        CREWS.add(self._crew)
        weakref.finalize(self, self._crew.dismiss).atexit = False

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done in some thread."""
        self._crew.submit(task)


class _Crew:
    """The threads of `Workers`; they hold this alone, so that it outlives what asks it."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def submit(self, task: Callable[[], None]) -> None:
        with self._lock:
            new = self._idle == 0
            self._idle -= not new
        if new:
            thread = threading.Thread(target=self._work, daemon=True, name="weft-stage")
            thread.start()
            self.threads.add(thread)
        self._tasks.put(task)

    def dismiss(self) -> None:
        """Let each thread end behind its task."""
        for _ in range(len(self.threads)):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task
            with self._lock:
                self._idle += 1


CREWS: "weakref.WeakSet[_Crew]" = weakref.WeakSet()


@atexit.register
def _dismiss() -> None:
    """End the threads before the interpreter ends: one that wakes up during that may crash in a library's clean-up."""
    until = time.monotonic() + PATIENCE
    threads = [thread for crew in list(CREWS) for thread in list(crew.threads)]
    for crew in list(CREWS):
        crew.dismiss()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


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
