"""Scores of user rows against item rows: the one place that ranking, recommending and serving share.

A ranker that splits (see `weft.models.Splits`) computes a user's side once and keeps the items' side of the catalogue,
so that a pair costs only what nobody but the pair has. A retriever keeps the items' vectors.

Dimension key: U users, I items of the catalogue, C candidates of a user, E width, N pairs.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.batch import Batch
from weft.errors import Diverged
from weft.models import Part, Retriever, ScoresAll, Splits, served, splits
from weft.models._contract import roles_only
from weft.models._parts import ITEM, has_pairs, rows_of
from weft.models._predict import device_of, predict
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, concat

Scores = NDArray[np.float32]
Ids = NDArray[np.integer[Any]]
Times = NDArray[np.int64]

ROWS_AT_ONCE = 65_536
PAIRS_AT_ONCE = 4_096  # what a pair needs between the layers then stays in the cache
MOST_KEPT = 2**30  # bytes of the parts of a catalogue's items; above it they are computed for the candidates alone


class Scorer:
    """A model over a catalogue of items.

    Args:
        model: In evaluation mode; its weights do not change any more.
        transforms: Those that the model was trained with.
        items: The item catalogue; row i is the item with id i.
        intercept: Added to every score.
        parts: What another Scorer of the same model found as its `parts`.
    """

    def __init__(
        self,
        model: nn.Module,
        transforms: Transforms,
        items: Rows,
        *,
        intercept: float = 0.0,
        parts: Part | None = None,
    ) -> None:
        self.model, self.transforms, self.items, self.intercept = served(model), transforms, items, intercept
        self._retrieves, self._splits = isinstance(self.model, Retriever), splits(self.model)
        self._side = _ItemSide(self.model, transforms, items)
        if parts is not None:
            self._side.parts = parts

    @property
    def parts(self) -> Part | None:
        """What a ranker that splits keeps of each item of the catalogue, as of now: tensors [I, ...].

        None where the model does not split, or where it would take more than `MOST_KEPT` bytes.
        """
        return self._side.parts

    def with_transforms(self, transforms: Transforms) -> "Scorer":
        """The same with newer history; what is known of the items stays where they have none."""
        found = Scorer(self.model, transforms, self.items, intercept=self.intercept)
        if not self._side.has_history:
            found._side = self._side
        return found

    def with_items(self, items: Rows, order: Ids) -> "Scorer":
        """The same over another catalogue, whose row i is row order[i] of this one, or a new one where there is none.

        What is known of the items stays where they have no history; new ones are computed.
        """
        found = Scorer(self.model, self.transforms, items, intercept=self.intercept)
        if not self._side.has_history:
            found._side.take_over(self._side, order)
        return found

    def user_vectors(self, users: Rows, times: Times | None = None, *, context: Rows | None = None) -> Scores:
        """A retriever's vectors [U, E] of user rows, as of each row's time (None: now)."""
        assert isinstance(self.model, Retriever)
        if context is not None:
            users = self.transforms.user_side(users, context=context, time=times)
        rows = self.transforms.as_of(users, time=times)
        return self._finite(_vectors(self.model, self.model.user_vectors, rows))

    def item_vectors(self) -> Scores:
        """A retriever's vectors [I, E] of the catalogue, as of now."""
        return self._side.vectors

    def catalogue(self, users: Rows, times: Times | None = None) -> Scores:
        """Score every item of the catalogue for each user row: [U, I], as of each row's time (None: now).

        A retriever whose item vectors do not depend on history is searched by one matrix product; a model that scores
        all items for the id of a user is asked for these.
        """
        if isinstance(self.model, ScoresAll) and roles_only(self.model) and users.user is not None:
            with torch.inference_mode():
                scores = self.model.scores(torch.from_numpy(users.user.astype(np.int64))).numpy()
            return self._finite(scores + np.float32(self.intercept))
        if self._has_vectors(times):
            scores = self.user_vectors(users, times) @ self.item_vectors().T
            return self._finite(scores + np.float32(self.intercept))
        every = np.arange(len(self.items))
        return self.candidates(users, np.broadcast_to(every, (len(users), len(every))), times)

    def candidates(self, users: Rows, items: Ids, times: Times | None = None, *, context: Rows | None = None) -> Scores:
        """Score some items for each user row, by the first label: item ids [U, C] to scores [U, C].

        Args:
            users: Rows of the user's side, and of the context where they have it.
            items: Ids of the catalogue.
            times: History is read as of these; None is now.
            context: A row of the context for each user, instead of the users' own.
        """
        if not items.size:
            return np.zeros(items.shape, np.float32)
        found = [
            self._some(
                users.take(part),
                items[part],
                None if times is None else times[part],
                None if context is None else context.take(part),
            )
            for part in _slices(len(users), max(1, ROWS_AT_ONCE // items.shape[1]))
        ]
        return np.concatenate(found)

    def one(self, user: Rows, items: Ids, *, context: Rows | None = None, time: int | None = None) -> Scores:
        """Score some items for one user row: ids [C] to scores [C]; see `candidates`."""
        times = None if time is None else np.array([time])
        return cast(Scores, self.candidates(user, items[None], times, context=context)[0])

    def rows(self, rows: Rows) -> Scores:
        """Score full rows: [n], or [n, T] of several outputs."""
        batches = (rows.batch(part) for part in _slices(len(rows), ROWS_AT_ONCE))
        return self._finite(predict(self.model, batches) + np.float32(self.intercept))

    def _some(self, users: Rows, items: Ids, times: Times | None, context: Rows | None) -> Scores:
        """Candidates of few users."""
        if self._has_vectors(times):
            user_U1E = self.user_vectors(users, times, context=context)[:, None]
            scores: Scores = (user_U1E @ self.item_vectors()[items].swapaxes(1, 2))[:, 0]
            return self._finite(scores + np.float32(self.intercept))
        if self._splits:
            return self._joined(users, items, times, context)
        return _of_first_label(self.rows(self._full_rows(users, items, times, context))).reshape(items.shape)

    def _has_vectors(self, times: Times | None) -> bool:
        """Whether the scores are products of vectors, those of the items being known."""
        return self._retrieves and (times is None or self._side.vectors_stay)

    def _full_rows(self, users: Rows, items: Ids, times: Times | None, context: Rows | None) -> Rows:
        """Full rows of users, each with all of its candidates."""
        return _one_after_another(
            self.transforms.join(
                users.take(slice(u, u + 1)),
                self._side.rows_of(ids),
                context=None if context is None else context.take(slice(u, u + 1)),
                time=None if times is None else int(times[u]),
            )
            for u, ids in enumerate(items)
        )

    # Rankers that split

    def _joined(self, users: Rows, items: Ids, times: Times | None, context: Rows | None) -> Scores:
        """Users in groups of about `PAIRS_AT_ONCE` pairs; one who has more candidates has them in pieces."""
        width = items.shape[1]
        users = self.transforms.user_side(users, context=context, time=times)
        with torch.inference_mode():
            user = cast(Splits, self.model).user_part(_beside(self.model, users.batch()))
            found = [
                self._of_pairs(user, users, items[:, columns], part, times)
                for part in _slices(len(users), max(1, PAIRS_AT_ONCE // width))
                for columns in _slices(width, PAIRS_AT_ONCE)
            ]
        return self._finite(np.concatenate(found).reshape(items.shape) + np.float32(self.intercept))

    def _of_pairs(self, user: Part, users: Rows, items: Ids, part: slice, times: Times | None) -> Scores:
        """Scores [N] of some users with all of their candidates, one user after the other."""
        ids = items[part]
        count, width = ids.shape
        moments = None if times is None else np.repeat(times[part], width)
        item = self._side.part_of(ids.ravel(), moments)
        mine = {name: tensor[part] for name, tensor in user.items()}
        if count > 1:
            mine = {name: tensor.repeat_interleave(width, 0) for name, tensor in mine.items()}
        pair = self._pair_columns(users, items, part, times) if self._has_pairs else None
        return _of_first_label(cast(Splits, self.model).join(mine, item, pair).float().cpu().numpy())

    def _pair_columns(self, users: Rows, items: Ids, part: slice, times: Times | None) -> Batch:
        """The columns of some users and all of their candidates; `users` are as of their times."""
        rows = _one_after_another(
            self.transforms.pairs(
                users.take(slice(u, u + 1)), self._side.rows_of(items[u]), time=None if times is None else int(times[u])
            )
            for u in range(part.start, part.stop)
        )
        return _beside(self.model, rows.batch())

    @cached_property
    def _has_pairs(self) -> bool:
        return has_pairs(self.transforms.fields)

    def _finite(self, scores: Scores) -> Scores:
        if not np.isfinite(scores).all():
            raise Diverged(
                "the model gives scores that are not finite; look for extreme values in the rows, or train again with "
                "a lower train.learning_rate"
            )
        return scores


class _ItemSide:
    """What a model makes of the items of a catalogue without any user, as of now; computed when it is first asked for.

    Args:
        model: In evaluation mode.
        transforms: They know the history.
        rows: The catalogue.
    """

    def __init__(self, model: nn.Module, transforms: Transforms, rows: Rows) -> None:
        self._model, self._transforms, self._rows = model, transforms, rows

    @cached_property
    def _now(self) -> Rows:
        return self._transforms.as_of(self._rows)

    @property
    def has_history(self) -> bool:
        """Whether an item's features change with events."""
        return self._now is not self._rows

    @cached_property
    def vectors(self) -> Scores:
        """A retriever's vectors [I, E]."""
        return self._vectors_of(self._now)

    @cached_property
    def vectors_stay(self) -> bool:
        """Whether a retriever's vectors are the same before all events, which is how the catalogue is kept, and now."""
        return not self.has_history or np.array_equal(self._vectors_of(self._rows), self.vectors)

    @cached_property
    def parts(self) -> Part | None:
        """The parts of a ranker that splits; None where it does not, or where they need too much memory."""
        if not splits(self._model):
            return None
        one = self._part(self._now.take(slice(0, 1)))
        if len(self._rows) * sum(tensor.nbytes for tensor in one.values()) > MOST_KEPT:
            return None
        pieces = [self._part(self._now.take(part)) for part in _slices(len(self._rows), PAIRS_AT_ONCE)]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in one}

    def rows_of(self, ids: Ids) -> Rows:
        """Rows of the catalogue."""
        return self._rows if len(ids) == len(self._rows) and _is_range(ids) else self._rows.take(ids)

    def part_of(self, ids: Ids, times: Times | None) -> Part:
        """The parts of some items, as of a time each (None: now)."""
        if self.parts is None or (times is not None and self.has_history):
            return self._part(self._transforms.as_of(self._rows.take(ids), time=times))
        if _is_range(ids):
            return {name: tensor[int(ids[0]) : int(ids[0]) + len(ids)] for name, tensor in self.parts.items()}
        return rows_of(self.parts, torch.from_numpy(ids.astype(np.int64)).to(device_of(self._model)))

    def take_over(self, other: "_ItemSide", order: Ids) -> None:
        """What another side knows of the rows that this one has too: row i is its row order[i], or a new one."""
        old = len(other._rows)
        new = self._now.take(order >= old)
        place = np.where(order < old, order, old + np.cumsum(order >= old) - 1)
        if "vectors" in vars(other):
            self.vectors = np.concatenate([other.vectors, self._vectors_of(new)])[place]
        if vars(other).get("parts") is not None:
            fresh, at = self._part(new), torch.from_numpy(place.astype(np.int64))
            self.parts = rows_of({k: torch.cat([tensor, fresh[k]]) for k, tensor in vars(other)["parts"].items()}, at)

    def _part(self, rows: Rows) -> Part:
        with torch.inference_mode():
            batch = rows.batch().of(self._transforms.fields.of(*rows.sides), *ITEM)
            return cast(Splits, self._model).item_part(_beside(self._model, batch))

    def _vectors_of(self, rows: Rows) -> Scores:
        assert isinstance(self._model, Retriever)
        return _vectors(self._model, self._model.item_vectors, rows)


def _vectors(model: nn.Module, tower: Callable[[Batch], Tensor], rows: Rows) -> Scores:
    parts = _slices(len(rows), ROWS_AT_ONCE)
    with torch.inference_mode():
        found = [tower(_beside(model, rows.batch(part))).float().cpu().numpy() for part in parts]
    return np.concatenate(found)


def _beside(model: nn.Module, batch: Batch) -> Batch:
    """The batch on the model's device."""
    device = device_of(model)
    return batch if device == batch.ids.device else batch.to(device)


def _one_after_another(parts: Iterable[Rows]) -> Rows:
    found = list(parts)
    return concat(found) if len(found) > 1 else found[0]


def _of_first_label(scores: Scores) -> Scores:
    """[N] of [N], or of [N, T] of several outputs."""
    return scores if scores.ndim == 1 else scores[:, 0]


def _is_range(ids: Ids) -> bool:
    """Whether the ids follow one another without a gap."""
    return bool(ids[-1] - ids[0] + 1 == len(ids) and (np.diff(ids) == 1).all())


def _slices(count: int, step: int) -> list[slice]:
    """The rows from 0 to `count` in pieces of at most `step`; one piece where there is no row."""
    return [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]


def best(scores: Scores, k: int) -> tuple[NDArray[np.int64], Scores]:
    """Positions and scores [U, K] of the k largest scores of each row, best first; equal scores by position.

    >>> best(np.array([[1, 3, 3, 3]], np.float32), 2)[0].tolist()
    [[1, 2]]
    """
    k = min(k, scores.shape[1])
    table = torch.from_numpy(np.ascontiguousarray(scores))
    values, places = (part.numpy() for part in table.topk(k, dim=1))
    order = np.lexsort((places, -values), axis=1)
    values, places = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
    last = values[:, -1:]
    cut = np.flatnonzero((scores == last).sum(1) > (values == last).sum(1))  # equal scores on both sides of the end
    if len(cut):
        places[cut] = table[torch.from_numpy(cut)].sort(dim=1, descending=True, stable=True).indices[:, :k].numpy()
    return places, values
