"""The machine of a pipeline: sources, merging, rankers, last steps, for a batch of users or for one request.

A stage that fails, or that is late where it has a budget, is skipped, and the walk says why. Filters are never skipped:
nothing that they hide is shown.

Dimension key: U users, N items of a user (0 where there is none, behind the others), Q a source's quota, I items.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weft.batch import FIRST_ID, PADDING
from weft.models import Source as ProposesItems
from weft.recommend.budget import Budget, Workers
from weft.recommend.final import Listed, Step, Wish
from weft.recommend.index import Filters, Index
from weft.scoring import Scorer, best
from weft.transforms.rows import Rows

Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Scores = NDArray[np.float32]
T = TypeVar("T")

RRF = 60  # Cormack, Clarke and Buettcher, SIGIR 2009, https://doi.org/10.1145/1571941.1572114

log = logging.getLogger("weft")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Users that ask together.

    Attributes:
        rows: [U] of the user's side, with the context where it is known.
        user: [U] ids of the user catalogue.
        k: Length of the lists.
        hidden: For each user, the items that must not be shown.
        available: [I] the items that may be shown to anybody; None is all.
        times: [U] the moments for history; None is after all events.
        had: For each user, what the user has had.
        random: Where chance comes from.
        hurried: Whether budgets hold.
        start: When the request came, by the clock of performance.
    """

    rows: Rows
    user: Ints
    k: int
    hidden: Sequence[Ints]
    available: Mask | None
    times: NDArray[np.int64] | None
    had: Callable[[int], Ints]
    random: np.random.Generator
    hurried: bool = False
    start: float = 0.0

    def __len__(self) -> int:
        return len(self.user)

    def allows(self, place: int, ids: Ints) -> Mask:
        """Which of some items one of the users may be shown."""
        fine: Mask = (ids >= FIRST_ID) & ~np.isin(ids, self.hidden[place])
        return fine if self.available is None else fine & self.available[ids]

    def take(self, places: NDArray[np.int64]) -> "Asked":
        """Some of the users."""
        if len(places) == len(self):
            return self
        had = self.had
        return replace(
            self,
            rows=self.rows.take(places),
            user=self.user[places],
            hidden=[self.hidden[place] for place in places.tolist()],
            times=None if self.times is None else self.times[places],
            had=lambda place: had(int(places[place])),
        )


class Proposed(NamedTuple):
    """Items of users, best first.

    Attributes:
        ids: [U, N] int64, 0 behind the last.
        scores: [U, N], -inf there.
    """

    ids: NDArray[np.int64]
    scores: Scores


class Proposes(Protocol):
    """Where candidates come from."""

    def __call__(self, asked: Asked, quota: int) -> Proposed:
        """At most `quota` items a user, none that the filters hide; nothing for users that it knows nothing of."""
        ...


class Stage(NamedTuple):
    """A stage of any kind.

    Attributes:
        name: Such as `sources.two_tower`.
        run: What it does.
        budget: How long it may take.
        size: A source's quota; how many a ranker keeps, None being all.
    """

    name: str
    run: Any
    budget: Budget
    size: int | None = None


class Passed(NamedTuple):
    """What a stage did.

    Attributes:
        name: Such as `ranking.dcn_v2`.
        kind: Of stage.
        ids: [U, N] the items that came out, in their order; 0 behind the last.
        seconds: How long it took.
        skipped: Why it did nothing; None when it did its part.
    """

    name: str
    kind: Literal["source", "merge", "ranking", "final"]
    ids: NDArray[np.int64]
    seconds: float
    skipped: str | None = None


class Walk(NamedTuple):
    """The way from the catalogue to the lists.

    Attributes:
        lists: One a user, at most k long.
        stages: In order.
        scored_by: Index of the ranker whose scores the items have; -1 where merging made them.
    """

    lists: tuple[Listed, ...]
    stages: tuple[Passed, ...]
    scored_by: int

    @property
    def degraded(self) -> tuple[str, ...]:
        """Which stages were skipped, and why."""
        return tuple(f"{stage.name}: {stage.skipped}" for stage in self.stages if stage.skipped is not None)


class Stages:
    """A compiled pipeline.

    Args:
        sources: `run` is a `Proposes`, `size` the quota.
        ranking: `run` is a `Scorer`, `size` how many stay.
        final: `run` is a `Step`.
    """

    def __init__(self, sources: Sequence[Stage], ranking: Sequence[Stage], final: Sequence[Stage]) -> None:
        self._sources, self._ranking, self._final = sources, ranking, final

    def walk(self, asked: Asked) -> Walk:
        """Everything for some users."""
        passed: list[Passed] = []
        merged = self._candidates(asked, passed)
        merged, scorer, scored_by = self._ranked(asked, merged, passed)
        counts = (merged.ids != PADDING).sum(1).tolist()
        lists = [Listed.of(merged.ids[u, :n], merged.scores[u, :n]) for u, n in enumerate(counts)]
        return Walk(self._finished(asked, lists, scorer, passed), tuple(passed), scored_by)

    def finish(self, asked: Asked, lists: Sequence[Listed], first: Passed) -> Walk:
        """The last steps alone, on lists that come from elsewhere; `first` says whence."""
        passed = [first]
        return Walk(self._finished(asked, lists, None, passed), tuple(passed), -1)

    def _candidates(self, asked: Asked, passed: list[Passed]) -> Proposed:
        nothing = Proposed(np.zeros((len(asked), 0), np.int64), np.zeros((len(asked), 0), np.float32))
        found = []
        for stage in self._sources:
            quota = max(stage.size or 0, asked.k)
            proposed, seconds, skipped = _try(stage, asked, partial(stage.run, asked, quota), nothing)
            passed.append(Passed(stage.name, "source", proposed.ids, seconds, skipped))
            found.append(proposed)
        if len(found) == 1:
            return found[0]
        start = time.perf_counter()
        merged = merge(found)
        passed.append(Passed("merge", "merge", merged.ids, time.perf_counter() - start))
        return merged

    def _ranked(self, asked: Asked, items: Proposed, passed: list[Passed]) -> tuple[Proposed, Scorer | None, int]:
        scored_by, scorer = -1, None
        for place, stage in enumerate(self._ranking):
            keep = None if stage.size is None else max(stage.size, asked.k)
            ranked, seconds, skipped = _try(stage, asked, partial(rank, stage.run, asked, items, keep), items)
            passed.append(Passed(stage.name, "ranking", ranked.ids, seconds, skipped))
            if skipped is None:
                items, scorer, scored_by = ranked, stage.run, place
        return items, scorer, scored_by

    def _finished(
        self, asked: Asked, lists: Sequence[Listed], scorer: Scorer | None, passed: list[Passed]
    ) -> tuple[Listed, ...]:
        wishes = [_wish(asked, place, scorer) for place in range(len(asked))]
        for stage in self._final:
            lists, seconds, skipped = _try(stage, asked, partial(_each, stage.run, lists, wishes), lists)
            passed.append(Passed(stage.name, "final", padded([one.ids for one in lists]), seconds, skipped))
        return tuple(one.take(slice(0, asked.k)) for one in lists)


def _try(stage: Stage, asked: Asked, function: Callable[[], T], otherwise: T) -> tuple[T, float, str | None]:
    """What a stage gives, how long it took and why it gave nothing."""
    start = time.perf_counter()
    try:
        found = stage.budget.call(function) if asked.hurried else function()
    except Exception as error:
        reason = str(error) or type(error).__name__
        log.warning("the stage %s is skipped: %s: %s", stage.name, type(error).__name__, reason)
        return otherwise, time.perf_counter() - start, reason
    return found, time.perf_counter() - start, None


def _each(step: Step, lists: Sequence[Listed], wishes: Sequence[Wish]) -> list[Listed]:
    return [step(one, wish) for one, wish in zip(lists, wishes, strict=True)]


def _wish(asked: Asked, place: int, scorer: Scorer | None) -> Wish:
    def score(ids: NDArray[np.int64]) -> Scores:
        if scorer is None:
            return np.zeros(len(ids), np.float32)
        row = asked.rows.take(slice(place, place + 1))
        return scorer.one(row, ids, time=None if asked.times is None else int(asked.times[place]))

    return Wish(
        k=asked.k,
        random=asked.random,
        had=lambda: asked.had(place),
        allowed=lambda ids: asked.allows(place, ids),
        score=score,
    )


def padded(ids: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Ids of users as a table [U, N], 0 behind the last of each."""
    width = max(map(len, ids), default=0)
    table = np.zeros((len(ids), width), np.int64)
    for place, mine in enumerate(ids):
        table[place, : len(mine)] = mine
    return table


# Sources


def from_index(index: Index, scorer: Scorer, *, needs_id: bool) -> Proposes:
    """The nearest items of an index to the user's vector; with `needs_id`, for users whom training has met."""

    def propose(asked: Asked, quota: int) -> Proposed:
        filters = Filters(available=asked.available, hidden=asked.hidden)
        found = index.search(scorer.user_vectors(asked.rows, asked.times), quota, filters)
        scores = np.where(found.ids < 0, -np.inf, found.scores + np.float32(scorer.intercept)).astype(np.float32)
        return _of_known(np.where(found.ids < 0, PADDING, found.ids), scores, asked, needs_id)

    return propose


def exactly(scorer: Scorer, *, needs_id: bool) -> Proposes:
    """The best items of the whole catalogue, every one of them scored; `needs_id` as for `from_index`."""

    def propose(asked: Asked, quota: int) -> Proposed:
        scores = scorer.catalogue(asked.rows, asked.times)
        scores[:, :FIRST_ID] = -np.inf
        if asked.available is not None:
            scores[:, ~asked.available] = -np.inf
        for place, hidden in enumerate(asked.hidden):
            scores[place, hidden] = -np.inf
        places, values = best(scores, quota)
        return _of_known(np.where(values > -np.inf, places, PADDING), values, asked, needs_id)

    return propose


def from_lists(model: nn.Module, scorer: Scorer, *, needs_id: bool, scored: bool) -> Proposes:
    """The items that a `Source` proposes; where the filters take too many, more are asked for.

    Args:
        model: The source.
        scorer: Of the same model.
        needs_id: As for `from_index`.
        scored: Whether anybody needs the scores; otherwise they only keep the order.
    """
    assert isinstance(model, ProposesItems)

    def propose(asked: Asked, quota: int) -> Proposed:
        user_U = torch.from_numpy(np.asarray(asked.rows.user).astype(np.int64))
        wanted, most = quota + max(map(len, asked.hidden), default=0), len(scorer.items)
        while True:
            with torch.inference_mode():
                ids = model.candidates(user_U, min(wanted, most)).numpy().astype(np.int64)
            kept = np.stack([asked.allows(place, mine) for place, mine in enumerate(ids)])
            if wanted >= most or (kept.sum(1) >= quota).all():
                break
            wanted *= 4
        ids = _packed(np.where(kept, ids, PADDING))[:, :quota]
        scores = _by_place(ids) if not scored else _scored(scorer, asked, ids)
        return _of_known(ids, scores, asked, needs_id)

    return propose


def _of_known(ids: NDArray[np.int64], scores: Scores, asked: Asked, needs_id: bool) -> Proposed:
    """Items for those users alone whom the source knows."""
    if not needs_id:
        return Proposed(ids, scores)
    known = np.asarray(asked.rows.user) >= FIRST_ID
    return Proposed(np.where(known[:, None], ids, PADDING), np.where(known[:, None], scores, np.float32(-np.inf)))


def _packed(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Empty places moved behind the others."""
    return np.take_along_axis(ids, np.argsort(ids == PADDING, axis=1, kind="stable"), 1)


def _by_place(ids: NDArray[np.int64]) -> Scores:
    return np.where(ids != PADDING, 1 / (RRF + 1 + np.arange(ids.shape[1])), -np.inf).astype(np.float32)


# Merging and ranking


def merge(found: Sequence[Proposed]) -> Proposed:
    """The items of several sources, each once, by reciprocal rank fusion: sum over sources of 1 / (60 + place).

    Equal sums stand in the order of the sources, then of places.
    """
    ids = np.concatenate([proposed.ids for proposed in found], axis=1)
    worth = np.concatenate([_by_place(proposed.ids) for proposed in found], axis=1)
    user, column = np.nonzero(ids != PADDING)
    stride = 1 + int(ids.max(initial=0))
    _, first, item = np.unique(user * stride + ids[user, column], return_index=True, return_inverse=True)
    total = np.bincount(item, worth[user, column].astype(np.float64), len(first))
    order = np.lexsort((first, -total, user[first]))
    first, total = first[order], total[order]
    counts = np.bincount(user[first], minlength=len(ids))
    place = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    merged = Proposed(
        np.zeros((len(ids), counts.max(initial=0)), np.int64),
        np.full((len(ids), counts.max(initial=0)), -np.inf, np.float32),
    )
    merged.ids[user[first], place] = ids[user[first], column[first]]
    merged.scores[user[first], place] = total
    return merged


def rank(scorer: Scorer, asked: Asked, items: Proposed, keep: int | None) -> Proposed:
    """The items by a ranker's scores, equal scores as they stood."""
    scores = _scored(scorer, asked, items.ids)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :keep]
    return Proposed(np.take_along_axis(items.ids, order, 1), np.take_along_axis(scores, order, 1))


def _scored(scorer: Scorer, asked: Asked, ids: NDArray[np.int64]) -> Scores:
    if len(asked) == 1:
        count = int((ids != PADDING).sum())
        time = None if asked.times is None else int(asked.times[0])
        scores = np.full(ids.shape, -np.inf, np.float32)
        if count:
            scores[0, :count] = scorer.one(asked.rows, ids[0, :count], time=time)
        return scores
    return np.where(ids != PADDING, scorer.candidates(asked.rows, ids, asked.times), np.float32(-np.inf))


def stage(name: str, run: Any, workers: Workers, *, budget_ms: float | None, size: int | None = None) -> Stage:
    """A stage with its budget."""
    return Stage(name, run, Budget(budget_ms, workers), size)
