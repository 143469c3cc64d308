"""What is new in the log: rows to go on from, and the newest ones, which judge."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.learn.growth import SIDES, Side, named, translated
from weft.schema import Schema
from weft.serve.rows import TrainingRows, training_rows
from weft.serve.store import EventStore
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, concat

PAGES = 20  # parts of what is new, between which the offset can lie
PAGE_LEAST = 50


@dataclass(frozen=True, kw_only=True)
class Logged:
    """Rows of the log with the external ids that they are of.

    Attributes:
        rows: As they were logged: the ids are those of the bundles that answered.
        names: External ids by side, one a row.
        bundles: Id of the bundle that answered, one a row.
    """

    rows: Rows
    names: dict[Side, tuple[str, ...]]
    bundles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: NDArray[np.int64]) -> "Logged":
        """Some of them."""
        names = {side: tuple(self.names[side][i] for i in index.tolist()) for side in SIDES}
        return Logged(rows=self.rows.take(index), names=names, bundles=tuple(self.bundles[i] for i in index.tolist()))

    def encoded(self, of: Callable[[str], Transforms | None], new: Transforms) -> Rows | None:
        """The rows with the ids of new transforms; those of a bundle that is gone (`of` gives None) are left out."""
        parts, places = [], []
        for bundle in dict.fromkeys(self.bundles):
            at = np.flatnonzero(np.array([mine == bundle for mine in self.bundles]))
            old = of(bundle)
            if old is not None:
                parts.append(translated(self.rows.take(at), old, new))
                places.append(at)
        if not parts:
            return None
        order = np.argsort(np.concatenate(places), kind="stable")
        kept = np.concatenate(places)[order].tolist()
        names = {side: [self.names[side][i] for i in kept] for side in SIDES}
        return named(concat(parts).take(order), new, names)


@dataclass(frozen=True, kw_only=True)
class News:
    """What is new.

    Attributes:
        since: The offset before.
        offset: The `seq` behind the last row of `train`; what follows it was not trained on.
        train: To go on from; None when there is nothing.
        held: The rows after `offset`: they judge now, and are trained on the next time.
        left_out: Rows by the reason why they are not in `train` or `held`.
    """

    since: int
    offset: int
    train: Logged | None
    held: Logged | None
    left_out: dict[str, int]


def news(
    store: EventStore,
    schema: Schema,
    *,
    since: int,
    window: float,
    held_share: float,
    user_most: int,
    explored_only: bool,
    clock: int | None = None,
) -> News:
    """Read the log on from an offset.

    Args:
        store: The log.
        schema: Of the bundles.
        since: Where the reading before ended.
        window: Seconds after an impression in which what a user does counts for it.
        held_share: Of the rows, the newest, that judge.
        user_most: At most so many rows of a user; the first ones stay.
        explored_only: Only rows of answers that were left to chance in part.
        clock: Now, microseconds since 1970.
    """
    left_out: Counter[str] = Counter()
    pages = list(_pages(store, schema, since, window, clock))
    sizes = np.cumsum([0 if page.rows is None else len(page.rows) for page in pages], dtype=np.int64)
    total = int(sizes[-1]) if pages else 0
    cut = int(np.searchsorted(sizes, total * (1 - held_share), side="right"))
    left_out["not usable"] = sum(page.skipped for page in pages)
    train, held = (_joined(part, user_most, explored_only, left_out) for part in (pages[:cut], pages[cut:]))
    return News(since=since, offset=pages[cut - 1].offset if cut else since, train=train, held=held, left_out=+left_out)


def _pages(store: EventStore, schema: Schema, since: int, window: float, clock: int | None) -> Iterator[TrainingRows]:
    limit = max(PAGE_LEAST, (store.newest() - since) // PAGES)
    while True:
        page = training_rows(store, schema, since=since, window=window, clock=clock, limit=limit)
        if page.offset == since:
            return
        yield page
        since = page.offset


def _joined(
    pages: Sequence[TrainingRows], user_most: int, explored_only: bool, left_out: Counter[str]
) -> Logged | None:
    full = [page for page in pages if page.rows is not None]
    if not full:
        return None
    users = tuple(user for page in full for user in page.users)
    found = Logged(
        rows=concat([page.rows for page in full if page.rows is not None]),
        names={"user": users, "item": tuple(item for page in full for item in page.items)},
        bundles=tuple(bundle for page in full for bundle in page.bundles),
    )
    explored = np.array([chance for page in full for chance in page.explored], bool)
    kept = np.ones(len(found), bool) if not explored_only else explored
    left_out["not left to chance"] += int((~kept).sum())
    few = kept & (_nth(users) < user_most)
    left_out["beyond the most rows of a user"] += int((kept & ~few).sum())
    return found.take(np.flatnonzero(few)) if few.any() else None


def _nth(users: Sequence[str]) -> NDArray[np.int64]:
    """How many earlier rows each row's user has.

    >>> _nth(["a", "b", "a"]).tolist()
    [0, 0, 1]
    """
    seen: Counter[str] = Counter()
    found = []
    for user in users:
        found.append(seen[user])
        seen[user] += 1
    return np.array(found, np.int64)
