"""Sampling: negative items for rows that are all positive, as rows or alone, and fewer negative rows where they abound.

Dimension key: B rows of a batch, n negatives a row, N items for a whole batch, I items.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.batch import FIRST_ID
from weft.data.store import Store
from weft.errors import ConfigError, DataError
from weft.transforms.columns import Ints
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, concat

ROUNDS = 8  # of redrawing at random, before the rest is drawn from lists of what is left


class NegativeSampler:
    """Adds rows with items that the user does not have in the train rows, drawn uniformly, with label 0.

    A new draw every step: it depends on (seed, epoch, step) only. Row b of a batch is followed, after all B rows, by
    its negatives B + b * n to B + (b + 1) * n - 1. They keep the row's user, context, time, position and propensity.
    Rows without features (`Rows.bare`, for models that read the roles alone) get negatives without features.

    A user's validation and test items may be drawn, as any item that training does not know the user to have: to avoid
    them would tell training which they are. The published code of NCF draws them too.

    Args:
        store: A prepared data set with user and item roles.
        negatives: Rows to add for each row.
        seed: Of the draws.

    Raises:
        ConfigError: The schema has no user or no item role.
        DataError: A user has every item of the catalogue, so that nothing can be drawn.
    """

    def __init__(self, store: Store, negatives: int, *, seed: int = 0) -> None:
        if store.transforms.user_ids is None or store.transforms.item_ids is None:
            raise ConfigError(
                "negatives are items that the user does not have: set `user` and `item` in [roles], or `negatives` to 0"
            )
        self._transforms, self._items = store.transforms, store.items
        self._negatives, self._seed = negatives, seed
        seen = store.catalogue.seen
        pairs = _pairs(store, np.asarray(seen.split) == 0)
        self._draw = _Draw(pairs, np.arange(FIRST_ID, len(store.items)), len(store.items))

    def __call__(self, rows: Rows, *, epoch: int, step: int) -> Rows:
        """The rows and, after them, their negatives."""
        if not len(rows):
            return rows
        assert rows.user is not None
        asked = rows.take(np.repeat(np.arange(len(rows)), self._negatives))
        assert asked.user is not None
        generator = np.random.default_rng([self._seed, epoch, step])
        drawn = self.draw(asked.user.astype(np.int64), generator)
        joined = self._with_items(asked, drawn)
        label = None if asked.label is None else np.zeros_like(asked.label)
        made = replace(joined, label=label, position=asked.position, propensity=asked.propensity)
        return concat([rows, made])

    def _with_items(self, asked: Rows, drawn: Ints) -> Rows:
        if asked.is_bare:
            return replace(asked, item=drawn.astype(np.int32))
        return self._transforms.join(asked, self._items.take(drawn), time=asked.time)

    def draw(self, users: Ints, generator: np.random.Generator) -> Ints:
        """An item id for each user id [n], none of the user's own."""
        return self._draw(users, generator)


class OtherItems:
    """For each row n items that its user does not have among the relevant train rows, drawn uniformly: [B * n] rows.

    Row b owns b * n to (b + 1) * n. They are rows of the item's side alone, as of the row's time; bare where the rows
    are. Drawn are items that the train rows have, since training must not know of others; a new draw every step, which
    depends on (seed, epoch, step) only.

    Args:
        store: A prepared data set with user and item roles.
        negatives: n.
        seed: Of the draws.

    Raises:
        DataError: A user has every item, so that nothing can be drawn.
    """

    def __init__(self, store: Store, negatives: int, *, seed: int = 0) -> None:
        self._transforms, self._items = store.transforms, store.items
        self._negatives, self._seed = negatives, seed
        seen = store.catalogue.seen
        pairs = _pairs(store, (np.asarray(seen.split) == 0) & np.asarray(seen.relevant))
        self._draw = _Draw(pairs, met_items(store), len(store.items))

    def __call__(self, rows: Rows, *, epoch: int, step: int) -> Rows:
        """The items drawn for these rows."""
        asked = np.repeat(np.arange(len(rows)), self._negatives)
        assert rows.user is not None
        drawn = self._draw(rows.user[asked].astype(np.int64), np.random.default_rng([self._seed, epoch, step]))
        return _item_rows(self._transforms, self._items, drawn, None if rows.time is None else rows.time[asked], rows)


class UniformItems:
    """Different items for a whole batch, drawn uniformly from those that the train rows have: [N] rows, N at most all.

    They are rows of the item's side alone, each as of the time of one of the batch's rows; bare where the rows are. A
    new draw every step, which depends on (seed, epoch, step) only.

    Args:
        store: A prepared data set with an item role.
        count: N.
        seed: Of the draws.
    """

    def __init__(self, store: Store, count: int, *, seed: int = 0) -> None:
        self._transforms, self._items, self._seed = store.transforms, store.items, seed
        self._met = met_items(store)
        self._count = min(count, len(self._met))

    def __call__(self, rows: Rows, *, epoch: int, step: int) -> Rows:
        """The items drawn for these rows."""
        generator = np.random.default_rng([self._seed, epoch, step])
        drawn = generator.choice(self._met, self._count, replace=False)
        time = None if rows.time is None else generator.choice(rows.time, self._count)
        return _item_rows(self._transforms, self._items, drawn, time, rows)


def met(store: Store) -> dict[str, Tensor]:
    """For `user` and `item`, whether the train rows have each id of the catalogue [U], [I]."""
    seen = store.catalogue.seen
    before = np.append(0, np.cumsum(np.asarray(seen.split) == 0))[np.asarray(seen.offsets)]
    return {"user": torch.from_numpy(np.diff(before) > 0), "item": torch.from_numpy(store.catalogue.counts > 0)}


class EveryItem:
    """All items that the train rows have, the same at every step, by their ids alone.

    Args:
        store: A prepared data set with an item role.
    """

    def __init__(self, store: Store) -> None:
        self._rows = store.items.take(met_items(store)).bare()

    def __call__(self, rows: Rows, *, epoch: int, step: int) -> Rows:
        """The same rows every time."""
        return self._rows


def met_items(store: Store) -> Ints:
    """The ids of the items that the train rows have."""
    return np.flatnonzero(store.catalogue.counts[FIRST_ID:]) + FIRST_ID


def _item_rows(transforms: Transforms, items: Rows, drawn: Ints, time: Ints | None, like: Rows) -> Rows:
    rows = items.take(drawn)
    return rows.bare() if like.is_bare else transforms.as_of(rows, time=time)


class _Draw:
    """Draws items for users, none of the user's own.

    Args:
        pairs: user * items + item of what each user has, sorted.
        choice: The items to draw from, sorted.
        items: Rows of the catalogue.
    """

    def __init__(self, pairs: Ints, choice: Ints, items: int) -> None:
        self._pairs, self._choice, self._count = pairs, choice, items
        _refuse_full(pairs, choice, items)

    def __call__(self, users: Ints, generator: np.random.Generator) -> Ints:
        """An item id for each user id [n]."""
        items = self._any(len(users), generator)
        own = np.flatnonzero(self._has(users, items))
        for _ in range(ROUNDS):
            items[own] = self._any(len(own), generator)
            own = own[self._has(users[own], items[own])]
        for row in own:
            items[row] = generator.choice(self._left(int(users[row])))
        return items

    def _any(self, n: int, generator: np.random.Generator) -> Ints:
        return self._choice[generator.integers(0, len(self._choice), n)]

    def _has(self, users: Ints, items: Ints) -> NDArray[np.bool_]:
        pairs = users * self._count + items
        at = np.minimum(np.searchsorted(self._pairs, pairs), max(len(self._pairs) - 1, 0))
        return self._pairs[at] == pairs if len(self._pairs) else np.zeros(len(pairs), np.bool_)

    def _left(self, user: int) -> Ints:
        start, stop = np.searchsorted(self._pairs, [user * self._count, (user + 1) * self._count])
        return np.setdiff1d(self._choice, self._pairs[start:stop] - user * self._count)


def _pairs(store: Store, kept: NDArray[np.bool_]) -> Ints:
    """Sorted user * items + item of some of the seen events, without repetition."""
    seen = store.catalogue.seen
    users = np.repeat(np.arange(len(seen.offsets) - 1), np.diff(seen.offsets))
    return np.unique(users[kept] * len(store.items) + np.asarray(seen.item)[kept])


def _refuse_full(pairs: Ints, choice: Ints, items: int) -> None:
    users, counts = np.unique(pairs // items, return_counts=True)
    full = users[counts >= len(choice)]
    if len(full) or not len(choice):
        raise DataError(
            f"{len(full):,} users have all {len(choice):,} items of the catalogue in the train rows, so that no "
            "negative can be drawn for them; set `negatives` to 0 or add items"
        )


def keep_negatives(labels: NDArray[np.floating], share: float, seed: int) -> Ints:
    """Rows to train on when negatives abound: all with a label above 0, and each other one with probability `share`.

    A model trained on them is right after log(share) is added to its logits: `intercept`.

    >>> keep_negatives(np.array([0.0, 1.0, 0.0, 1.0]), 1e-9, 0).tolist()
    [1, 3]
    """
    if not 0 < share <= 1:
        raise ConfigError(f"`keep_negatives` must lie above 0 and be at most 1, got {share}; give a share of rows")
    drawn = np.random.default_rng(seed).random(len(labels))
    return np.flatnonzero((labels > 0) | (drawn < share))


def intercept(share: float) -> float:
    """What is added to the logits of a model that was trained on a share of the negative rows.

    King and Zeng, Political Analysis 9(2), 2001, section 4.1: sampling changes the odds by the factor 1 / share.
    """
    return float(np.log(share))
