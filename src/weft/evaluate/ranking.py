"""Ranking metrics: the whole catalogue for each user, or a given list of candidates.

Full ranking. A user's features are those of the user's first row in the split, and history is read strictly before that
row, so nothing of the split is seen. Relevant are the items of the user's rows in the split whose label is at least
`protocol.relevant`. Items that the user had in earlier splits are hidden, allowed, or hidden for a window; a relevant
item that is hidden cannot be found by anybody and is left out. A relevant item that the catalogue does not know counts
as missed. Equal scores stand in random order: the catalogue's own order, by popularity, would help a model that cannot
tell items apart.

Candidates. The first candidate is the user's held-out item, the others are negatives; rank metrics are expectations
over a random order of equal scores.

Dimension key: U users, I items, C candidates, K list length.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from weft import metrics
from weft.batch import FIRST_ID
from weft.errors import ConfigError
from weft.evaluate.report import Value, from_interval
from weft.schema import UNITS_PER_SECOND, Protocol, Schema
from weft.scoring import Scorer, best
from weft.transforms.catalogue import Catalogue
from weft.transforms.rows import Rows

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

USERS_AT_ONCE = 64


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


def first_rows(rows: Rows) -> tuple[Ints, Ints]:
    """The users [U] of a split, ascending, and the place of each one's first row in time."""
    assert rows.user is not None
    order = np.lexsort((rows.user,) if rows.time is None else (rows.time, rows.user))
    user, first = np.unique(rows.user[order], return_index=True)
    return user, order[first]


def left_out(rows: Rows, protocol: Protocol) -> tuple[str, ...]:
    """What a reader must know of a full ranking of a split."""
    assert rows.user is not None
    assert rows.label is not None
    strangers = int(((rows.label[:, 0] >= protocol.relevant) & (rows.user < FIRST_ID)).sum())
    return (f"{strangers:,} relevant rows of users that training does not know are left out",) if strangers else ()


class Ranked(NamedTuple):
    """What the users of a split were shown.

    Attributes:
        lists: [U, K] item ids, best first; -1 where nothing is left.
        hits: [U, K] whether each is relevant.
        relevant: [U] how many relevant items could be found.
    """

    lists: Ints
    hits: NDArray[np.bool_]
    relevant: Ints


def full_ranking(
    rows: Rows, scorer: Scorer, catalogue: Catalogue, schema: Schema, protocol: Protocol, *, split: str, seed: int
) -> Ranked:
    """Rank the whole catalogue for each user of a split that has something relevant; `seed` orders equal scores."""
    held = held_out(rows, protocol)
    if not len(held.user):
        raise ConfigError(
            f"no user of the split {split!r} that training knows has a row with a label of {protocol.relevant:g} or "
            "more; lower `relevant` in [protocol] or evaluate another split"
        )
    order = np.random.default_rng(seed).permutation(len(scorer.items))
    lists: list[Ints] = []
    hits: list[NDArray[np.bool_]] = []
    relevant: list[int] = []
    for start in _progress(range(0, len(held.user), USERS_AT_ONCE)):
        users = rows.take(held.first[start : start + USERS_AT_ONCE])
        scores = scorer.catalogue(users, users.time)
        hide(scores, users, catalogue, schema, protocol, split)
        lists.append(shown(scores, max(protocol.k), order))
        for place in range(len(users)):
            wanted = held.relevant(start + place)
            findable = wanted[(wanted < FIRST_ID) | np.isfinite(scores[place, wanted])]
            hits.append(np.isin(lists[-1][place], findable[findable >= FIRST_ID]))
            relevant.append(len(findable))
    return Ranked(np.concatenate(lists), np.stack(hits), np.array(relevant))


def _progress(starts: range) -> Iterable[int]:
    return track(starts, description="ranking", transient=True, console=Console(stderr=True))


def shown(scores: Floats, k: int, order: Ints) -> Ints:
    """The k best items [U, K] of scores [U, I], equal scores in the order of `order`; -1 where nothing is left."""
    places, values = best(scores[:, order], k)
    lists = np.where(np.isfinite(values), order[places], -1)
    return np.pad(lists, ((0, 0), (0, k - lists.shape[1])), constant_values=-1)


def hide(scores: Floats, users: Rows, catalogue: Catalogue, schema: Schema, protocol: Protocol, split: str) -> None:
    """Give -inf to the reserved ids and to what each user has seen before the split."""
    scores[:, :FIRST_ID] = -np.inf
    unit = UNITS_PER_SECOND[schema.roles.time_unit]
    assert users.user is not None
    for place, user in enumerate(users.user):
        time = None if users.time is None else int(users.time[place])
        scores[place, catalogue.seen.hidden(int(user), protocol, before=split, time=time, unit=unit)] = -np.inf


def list_values(ranked: Ranked, popularity: Ints, protocol: Protocol) -> dict[str, Floats]:
    """The metrics of each user [U]; nan where a user has nothing relevant that could be found."""
    lists, hits, relevant = ranked
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


def coverage(ranked: Ranked, items: int, protocol: Protocol) -> dict[str, Value]:
    """The share of the catalogue that somebody was shown."""
    lists = ranked.lists
    shares = {k: metrics.coverage(lists[:, :k] - FIRST_ID, items - FIRST_ID) for k in protocol.k}
    return {f"coverage@{k}": Value(value=v, low=None, high=None, count=len(lists)) for k, v in shares.items()}


def candidate_values(
    rows: Rows, scorer: Scorer, users: Ints, candidates: Ints, protocol: Protocol
) -> dict[str, Floats]:
    """Rank each user's given candidates [U, C]; the first is the relevant one, -1 is no candidate.

    Args:
        rows: The split that holds a row of each user.
        scorer: The model.
        users: [U] ids of the user catalogue.
        candidates: [U, C] ids of the item catalogue.
        protocol: For the list lengths.

    Returns:
        The metrics of each user [U].
    """
    known, first = first_rows(rows)
    place = np.searchsorted(known, users).clip(max=len(known) - 1)
    if not (known[place] == users).all():
        raise ConfigError(
            "some users of the candidate lists have no row in this split; evaluate the split they are for"
        )
    if (candidates[:, :1] < 0).any():
        raise ConfigError("a list of candidates has no first item, which is the relevant one; mend the table of lists")
    asked = rows.take(first[place])
    scores = scorer.candidates(asked, candidates.clip(min=0), asked.time)
    scores = np.where(candidates >= 0, scores, -np.inf)
    found: dict[str, Floats] = {}
    for k in protocol.k:
        found |= {f"hr@{k}": metrics.sampled_hit_rate(scores, k), f"ndcg@{k}": metrics.sampled_ndcg(scores, k)}
    return found


def mean_of_users(values: Mapping[str, Floats], *, seed: int) -> dict[str, Value]:
    """The mean of each metric over the users, with its interval."""
    return {name: from_interval(metrics.bootstrap_mean(of_user, seed=seed)) for name, of_user in values.items()}
