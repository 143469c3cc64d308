"""The whole catalogue ranked for each user of a split: what is relevant, what is hidden, who is shown what.

A user's features are those of the user's first row in the split, and history is read strictly before that row, so
nothing of the split is seen. Relevant are the items of the user's rows in the split whose label is at least
`protocol.relevant`. Items that the user had in earlier splits are hidden, allowed, or hidden for a window; a relevant
item that is hidden cannot be found by anybody and is left out. A relevant item that the catalogue does not know counts
as missed. Equal scores stand in random order: the catalogue's own order, by popularity, would help a model that cannot
tell items apart.

Dimension key: U users, I items, K list length.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from weft import metrics
from weft.batch import FIRST_ID
from weft.errors import ConfigError
from weft.schema import UNITS_PER_SECOND, Protocol, Schema
from weft.scoring import Scorer, best
from weft.transforms.catalogue import Catalogue
from weft.transforms.rows import Rows, rows_of

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

SCORES_AT_ONCE = 1 << 22


class Held(NamedTuple):
    """The users of a split who have something relevant.

    Attributes:
        first: [U] place of each user's first row in the split.
        user: [U] ids of the user catalogue.
        offsets: [U + 1] into `items`.
        items: Relevant item ids, distinct for each user; 1 where the catalogue does not know the item.
    """

    first: Ints
    user: Ints
    offsets: Ints
    items: Ints

    def relevant(self, place: int) -> Ints:
        """The relevant items of one of the users."""
        return self.items[self.offsets[place] : self.offsets[place + 1]]

    def pairs(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Some of the users, counted from the first of these, and the relevant items of each."""
        offsets = self.offsets[start : stop + 1]
        return rows_of(offsets - offsets[0]), self.items[offsets[0] : offsets[-1]]


def held_out(rows: Rows, protocol: Protocol) -> Held:
    """The relevant items of each user of a split; users that the catalogue does not know are left out.

    Items that the catalogue does not know share an id: each of their rows stands for an item of its own.
    """
    assert rows.user is not None
    assert rows.item is not None
    assert rows.label is not None
    user, first = first_rows(rows)
    relevant = (rows.label[:, 0] >= protocol.relevant) & (rows.user >= FIRST_ID)
    unknown = np.where(rows.item < FIRST_ID, np.arange(len(rows)), 0)
    columns = np.stack([rows.user, rows.item, unknown], axis=1).astype(np.int64)
    pairs = np.unique(columns[relevant], axis=0)
    users, start = np.unique(pairs[:, 0], return_index=True)
    return Held(first[np.searchsorted(user, users)], users, np.append(start, len(pairs)), pairs[:, 1])


def something_held_out(rows: Rows, protocol: Protocol, split: str) -> Held:
    """The relevant items of each user of a split, given by its rows and its name; ConfigError when there are none."""
    held = held_out(rows, protocol)
    if not len(held.user):
        raise ConfigError(
            f"no user of the split {split!r} that training knows has a row with a label of {protocol.relevant:g} or "
            "more; lower `relevant` in [protocol] or evaluate another split"
        )
    return held


def first_rows(rows: Rows) -> tuple[Ints, Ints]:
    """The users [U] of a split, ascending, and the place of each one's first row in time."""
    assert rows.user is not None
    order = np.lexsort((rows.user,) if rows.time is None else (rows.time, rows.user))
    user, first = np.unique(rows.user[order], return_index=True)
    return user, order[first]


class Ranked(NamedTuple):
    """What the users of a split were shown.

    Attributes:
        lists: [U, K] item ids, best first; -1 where nothing is left.
        hits: [U, K] whether each is relevant.
        relevant: [U] how many relevant items could be found.
        new: [U] how many of them training has never seen.
    """

    lists: Ints
    hits: NDArray[np.bool_]
    relevant: Ints
    new: Ints

    def of_items(self, counts: Ints, *, new: bool) -> "Ranked":
        """The same lists where only new items are relevant, or only seen ones: by the train rows [I] of each item."""
        mine = (counts[self.lists] == 0) == new
        relevant = self.new if new else self.relevant - self.new
        return self._replace(hits=self.hits & mine, relevant=relevant, new=np.minimum(self.new, relevant))


def full_ranking(
    rows: Rows,
    scorer: Scorer,
    catalogue: Catalogue,
    schema: Schema,
    protocol: Protocol,
    *,
    split: str,
    seed: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Ranked:
    """Rank the whole catalogue for each user of a split that has something relevant.

    Args:
        rows: The split.
        scorer: A model over the catalogue.
        catalogue: For what each user has seen.
        schema: For the unit of times.
        protocol: What is relevant and what is hidden, and the list lengths.
        split: Its name; events of earlier ones are what a user has seen.
        seed: Orders equal scores.
        progress: Goes through the numbers of the users and may tell somebody.
    """
    held = something_held_out(rows, protocol, split)
    order = np.random.default_rng(seed).permutation(len(scorer.items))
    at_once = max(1, SCORES_AT_ONCE // len(scorer.items))
    parts: list[Ranked] = []
    for start in progress(range(0, len(held.user), at_once)):
        users = rows.take(held.first[start : start + at_once])
        scores = scorer.catalogue(users, users.time)
        hide(scores, users, catalogue, schema, protocol, split)
        lists = shown(scores, max(protocol.k), order)
        user, item = held.pairs(start, start + len(users))
        findable = (item < FIRST_ID) | np.isfinite(scores[user, item])
        parts.append(found(lists, user[findable], item[findable], catalogue.counts))
    return Ranked(*map(np.concatenate, zip(*parts, strict=True)))


def found(lists: Ints, user: Ints, item: Ints, counts: Ints) -> Ranked:
    """What lists [U, K], padded by -1, hold of the pairs of a user's place and a relevant item that could be found.

    Args:
        lists: Item ids, best first.
        user: [P] place of the user among the lists.
        item: [P] relevant item.
        counts: [I] train rows of each item.
    """
    users, items = len(lists), len(counts)
    known = item >= FIRST_ID
    hits = np.isin(lists + items * np.arange(users)[:, None], item[known] + items * user[known]) & (lists >= 0)
    return Ranked(
        lists, hits, np.bincount(user, minlength=users), np.bincount(user[counts[item] == 0], minlength=users)
    )


def shown(scores: Floats, k: int, order: Ints) -> Ints:
    """The k best items [U, K] of scores [U, I], equal scores in the order of `order`; -1 where nothing is left."""
    more = torch.from_numpy(scores).topk(min(k + 1, scores.shape[1]), dim=1)
    values, places = more.values.numpy(), more.indices.numpy()
    tied = np.flatnonzero(((values[:, 1:] == values[:, :-1]) & np.isfinite(values[:, 1:])).any(axis=1))
    values, places = values[:, :k], places[:, :k]
    if len(tied):
        among, values[tied] = best(scores[tied][:, order], k)
        places[tied] = order[among]
    lists = np.where(np.isfinite(values), places, -1)
    return np.pad(lists, ((0, 0), (0, k - lists.shape[1])), constant_values=-1)


def hide(scores: Floats, users: Rows, catalogue: Catalogue, schema: Schema, protocol: Protocol, split: str) -> None:
    """Give -inf to the reserved ids and to what each user has seen before the split."""
    scores[:, :FIRST_ID] = -np.inf
    unit = UNITS_PER_SECOND[schema.roles.time_unit]
    assert users.user is not None
    place, item = catalogue.seen.hidden_from(users.user, protocol, before=split, times=users.time, unit=unit)
    scores[place, item] = -np.inf


def list_values(ranked: Ranked, popularity: Ints, protocol: Protocol) -> dict[str, Floats]:
    """The metrics of each user [U]; nan where a user has nothing relevant that could be found."""
    lists, hits, relevant, _ = ranked
    found: dict[str, Floats] = {}
    for k in protocol.k:
        found |= {
            f"recall@{k}": metrics.ranking.recall(hits, relevant, k),
            f"ndcg@{k}": metrics.ndcg(hits, relevant, k),
            f"hr@{k}": metrics.hit_rate(hits, relevant, k),
            f"precision@{k}": metrics.ranking.precision(hits, relevant, k),
            f"map@{k}": metrics.average_precision(hits, relevant, k),
            f"mrr@{k}": metrics.reciprocal_rank(hits, relevant, k),
            f"novelty@{k}": metrics.novelty(lists[:, :k], popularity),
        }
    return found
