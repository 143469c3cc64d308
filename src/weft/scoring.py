"""Scores of user rows against item rows: the one place that ranking, recommending and serving share.

Dimension key: U users, I items of the catalogue, C candidates of a user, E width.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.batch import Batch
from weft.errors import Diverged
from weft.models import Retriever, ScoresAll, served
from weft.models._contract import roles_only
from weft.models._predict import predict
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, concat

Scores = NDArray[np.float32]
Ids = NDArray[np.integer[Any]]
Times = NDArray[np.int64]

ROWS_AT_ONCE = 65_536


class Scorer:
    """A model over a catalogue of items.

    Args:
        model: In evaluation mode.
        transforms: Those that the model was trained with.
        items: The item catalogue; row i is the item with id i.
        intercept: Added to every score.
    """

    def __init__(
        self,
        model: nn.Module,
        transforms: Transforms,
        items: Rows,
        *,
        intercept: float = 0.0,
        parts: dict[str, Tensor] | None = None,
    ) -> None:
        self.model, self.transforms, self.items, self.intercept = served(model), transforms, items, intercept
        self.parts = parts

    def with_transforms(self, transforms: Transforms) -> "Scorer":
        """The same with newer history."""
        return Scorer(self.model, transforms, self.items, intercept=self.intercept)

    def with_items(self, items: Rows, order: Ids) -> "Scorer":
        """The same over another catalogue, whose row i is the old row order[i] where there is one, else new."""
        return Scorer(self.model, self.transforms, items, intercept=self.intercept)

    def user_vectors(self, users: Rows, times: Times | None = None) -> Scores:
        """A retriever's vectors [U, E] of user rows, as of each row's time (None: now)."""
        assert isinstance(self.model, Retriever)
        return self._finite(self._vectors(self.model.user_vectors, self.transforms.as_of(users, time=times)))

    def item_vectors(self) -> Scores:
        """A retriever's vectors [I, E] of the catalogue, as of now."""
        return self._items_now

    def one(self, user: Rows, items: Ids, *, time: int | None = None) -> Scores:
        """Score some items for one user row: ids [C] to scores [C]."""
        times = None if time is None else np.array([time])
        scores: Scores = self.candidates(user, items[None], times)[0]
        return scores

    def catalogue(self, users: Rows, times: Times | None = None) -> Scores:
        """Score every item of the catalogue for each user row: [U, I], as of each row's time (None: now).

        A retriever whose item vectors do not depend on history is searched by one matrix product; a model that scores
        all items for the id of a user is asked for these.
        """
        if isinstance(self.model, ScoresAll) and roles_only(self.model) and users.user is not None:
            with torch.inference_mode():
                scores = self.model.scores(torch.from_numpy(users.user.astype(np.int64))).numpy()
            return self._finite(scores + np.float32(self.intercept))
        if isinstance(self.model, Retriever) and (times is None or self._items_have_no_history):
            users = self.transforms.as_of(users, time=times)
            scores = self._vectors(self.model.user_vectors, users) @ self._items_now.T
            return self._finite(scores + np.float32(self.intercept))
        every = np.arange(len(self.items))
        return self.candidates(users, np.broadcast_to(every, (len(users), len(every))), times)

    def candidates(self, users: Rows, items: Ids, times: Times | None = None) -> Scores:
        """Score some items for each user row, by the first label: item ids [U, C] to scores [U, C]."""
        count, width = items.shape
        if not items.size:
            return np.zeros((count, width), np.float32)
        step = max(1, ROWS_AT_ONCE // width)
        found = [self._some(users, items, times, start, min(start + step, count)) for start in range(0, count, step)]
        return np.concatenate(found)

    def rows(self, rows: Rows) -> Scores:
        """Score full rows: [n], or [n, T] of several outputs."""
        batches = (rows.batch(part) for part in _parts(rows))
        return self._finite(predict(self.model, batches) + np.float32(self.intercept))

    def _some(self, users: Rows, items: Ids, times: Times | None, start: int, stop: int) -> Scores:
        pairs = [
            self.transforms.join(
                users.take(slice(u, u + 1)), self._take(items[u]), time=None if times is None else int(times[u])
            )
            for u in range(start, stop)
        ]
        scores = self.rows(concat(pairs))
        first = scores if scores.ndim == 1 else scores[:, 0]
        return first.reshape(stop - start, items.shape[1])

    def _take(self, ids: Ids) -> Rows:
        whole = len(ids) == len(self.items)
        return self.items if whole and bool((ids == np.arange(len(ids))).all()) else self.items.take(ids)

    @cached_property
    def _items_now(self) -> Scores:
        assert isinstance(self.model, Retriever)
        return self._vectors(self.model.item_vectors, self.transforms.as_of(self.items))

    @cached_property
    def _items_have_no_history(self) -> bool:
        """Whether the catalogue's vectors are the same before all events, which is how its rows are kept, and after."""
        assert isinstance(self.model, Retriever)
        return np.array_equal(self._vectors(self.model.item_vectors, self.items), self._items_now)

    def _vectors(self, tower: Callable[[Batch], Tensor], rows: Rows) -> Scores:
        with torch.inference_mode():
            return np.concatenate([tower(rows.batch(part)).float().numpy() for part in _parts(rows)])

    def _finite(self, scores: Scores) -> Scores:
        if not np.isfinite(scores).all():
            raise Diverged(
                "the model gives scores that are not finite; look for extreme values in the rows, or train again with "
                "a lower train.learning_rate"
            )
        return scores


def _parts(rows: Rows) -> list[slice]:
    starts = range(0, max(1, len(rows)), ROWS_AT_ONCE)
    return [slice(start, min(start + ROWS_AT_ONCE, len(rows))) for start in starts]


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
