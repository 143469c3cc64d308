"""The gate: a fixed number of threads that work, a bounded number of requests that wait, and no more."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar, final

from weft.errors import Overloaded

T = TypeVar("T")


@final
class Gate:
    """Runs functions in threads.

    Args:
        threads: Functions that run at once.
        waiting: Functions that wait for a thread; one more is refused.
        patience: Seconds after which one that still waits is refused: its caller has given up on it by then, and what
            is fresh is answered instead, so that the service is well again as soon as the flood is over.
    """

    def __init__(self, *, threads: int, waiting: int, patience: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="weft-gate")
        self._most, self._patience = threads + waiting, patience
        self.inside = 0

    async def run(self, function: Callable[[], T]) -> T:
        """The result of a function; Overloaded when too many wait, or it waited too long."""
        if self.inside >= self._most:
            raise Overloaded("too many requests wait; try again later")
        self.inside += 1
        until = time.monotonic() + self._patience
        future: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(
            self._pool, copy_context().run, self._within, until, function
        )
        future.add_done_callback(self._leave)
        return await asyncio.shield(future)

    def close(self) -> None:
        """Let what runs end, and the threads go."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _within(self, until: float, function: Callable[[], T]) -> T:
        if time.monotonic() > until:
            raise Overloaded("the request waited too long for its turn; try again later")
        return function()

    def _leave(self, future: "asyncio.Future[Any]") -> None:
        self.inside -= 1
        if not future.cancelled():
            future.exception()  # one that nobody waits for any more is not reported as forgotten


@final
class Rates:
    """A bucket of tokens for each key: `rate` flow in a second, at most `burst` are saved.

    At most `keys` buckets are kept, the ones used last.
    """

    def __init__(self, rate: float | None, burst: int, *, keys: int = 10_000) -> None:
        self._rate, self._burst, self._keys = rate, float(burst), keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Take a token: 0, or the seconds until there is one."""
        if self._rate is None:
            return 0.0
        saved, last = self._buckets.pop(key, (self._burst, now))
        saved = min(self._burst, saved + (now - last) * self._rate)
        enough = saved >= 1
        self._buckets[key] = (saved - 1 if enough else saved, now)
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        return 0.0 if enough else (1 - saved) / self._rate
