"""The loader: batches of a store's rows in an order that depends on the seed and the epoch only."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from weft.batch import Batch
from weft.errors import ConfigError
from weft.transforms.rows import Rows

Shuffle = Literal["global", "block", "users", "none"]

BLOCK = 262_144  # consecutive rows that a block shuffle keeps together


class Sampler(Protocol):
    """Adds sampled rows to the rows of a batch."""

    def __call__(self, rows: Rows, *, epoch: int, step: int) -> Rows:
        """The rows and the sampled ones; the same for the same epoch and step."""
        ...


class ItemSampler(Protocol):
    """Draws items for the rows of a batch."""

    def __call__(self, rows: Rows, *, epoch: int, step: int) -> Rows:
        """Rows of the item's side alone; the same for the same epoch and step."""
        ...


class Loader:
    """Cuts rows into batches, with a thread that prepares the next ones.

    Args:
        rows: Rows in memory or memory-mapped.
        batch_size: Rows a batch, before a sampler adds its own.
        shuffle: `global` is a permutation of all rows. `block` permutes blocks of 262,144 consecutive rows, and the
            rows inside each: reading stays local where the rows do not fit into memory. `users` permutes the users and
            keeps the rows of each together. `none` keeps the order.
        seed: Of the shuffle.
        drop_last: Leave out the last batch where it is smaller.
        prefetch: Batches that are prepared ahead; 0 prepares each one when it is asked for.
        sampler: Adds rows to each batch.
        items: Draws the `negatives` of each batch.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        *,
        shuffle: Shuffle = "global",
        seed: int = 0,
        drop_last: bool = False,
        prefetch: int = 2,
        sampler: Sampler | None = None,
        items: ItemSampler | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, got {batch_size}; give a positive number of rows")
        if shuffle not in get_args(Shuffle):
            raise ConfigError(f"`shuffle` must be one of {', '.join(get_args(Shuffle))}, got {shuffle!r}")
        self._rows, self._batch_size = rows, batch_size
        self._shuffle, self._seed = shuffle, seed
        self._drop_last, self._prefetch = drop_last, prefetch
        self._sampler, self._items = sampler, items

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self._rows), self._batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def batches(self, epoch: int = 0, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the batch `start_step` on."""
        made = self._made(epoch, start_step)
        return _ahead(made, self._prefetch) if self._prefetch else made

    def _made(self, epoch: int, start_step: int) -> Iterator[Batch]:
        order = self.order(epoch)
        for step in range(start_step, len(self)):
            part = slice(step * self._batch_size, min((step + 1) * self._batch_size, len(self._rows)))
            index = part if order is None else order[part]
            if self._sampler is None and self._items is None:
                yield self._rows.batch(index)
            else:
                yield self._with_samples(self._rows.take(index), epoch, step)

    def _with_samples(self, rows: Rows, epoch: int, step: int) -> Batch:
        batch = (rows if self._sampler is None else self._sampler(rows, epoch=epoch, step=step)).batch()
        if self._items is None:
            return batch
        return replace(batch, negatives=self._items(rows, epoch=epoch, step=step).batch())

    def order(self, epoch: int) -> NDArray[np.int64] | None:
        """The rows in the order of an epoch; None is the order of the table."""
        generator = np.random.default_rng([self._seed, epoch])
        if self._shuffle == "none":
            return None
        if self._shuffle == "global":
            return generator.permutation(len(self._rows))
        if self._shuffle == "users":
            return self._by_users(generator)
        return _block_order(len(self._rows), generator)

    def _by_users(self, generator: np.random.Generator) -> NDArray[np.int64]:
        user = self._rows.user
        if user is None:
            raise ConfigError(
                "`shuffle` = 'users' keeps rows of a user together, and the rows say none; choose another"
            )
        place = generator.permutation(int(user.max(initial=0)) + 1)
        return place[user].argsort(kind="stable")


def _block_order(rows: int, generator: np.random.Generator) -> NDArray[np.int64]:
    starts = generator.permutation(np.arange(0, rows, BLOCK))
    blocks = [start + generator.permutation(min(BLOCK, rows - start)) for start in starts.tolist()]
    return np.concatenate(blocks) if blocks else np.empty(0, np.int64)


class _Failed(NamedTuple):
    error: BaseException


def _ahead(made: Iterator[Batch], prefetch: int) -> Iterator[Batch]:
    """The same batches, prepared by a thread that is at most `prefetch` ahead and ends with its reader."""
    waiting: queue.Queue[Batch | _Failed | None] = queue.Queue(prefetch)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(made, waiting, stop), name="weft-loader", daemon=True)
    thread.start()
    try:
        while (batch := waiting.get()) is not None:
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch
    finally:
        stop.set()
        thread.join()


def _fill(made: Iterator[Batch], waiting: "queue.Queue[Batch | _Failed | None]", stop: threading.Event) -> None:
    try:
        for batch in made:
            if not _put(waiting, batch, stop):
                return
        _put(waiting, None, stop)
    except BaseException as error:
        _put(waiting, _Failed(error), stop)


def _put(waiting: "queue.Queue[Batch | _Failed | None]", batch: Batch | _Failed | None, stop: threading.Event) -> bool:
    """Wait for room; False when nobody reads any more."""
    while not stop.is_set():
        try:
            waiting.put(batch, timeout=0.05)
        except queue.Full:
            continue
        return True
    return False
