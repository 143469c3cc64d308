"""Scores of user rows against item rows: the one place that ranking, recommending and serving share.

Dimension key: U users, I items of the catalogue, C candidates of a user, E width.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weft.models import Retriever
from weft.models._predict import predict
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, concat

Scores = NDArray[np.float32]
Ids = NDArray[np.integer[Any]]

ROWS_AT_ONCE = 65_536


class Scorer:
    """A model over a catalogue of items.

    Args:
        model: In evaluation mode.
        transforms: Those that the model was trained with.
        items: The item catalogue; row i is the item with id i.
        intercept: Added to every score.
    """

    def __init__(self, model: nn.Module, transforms: Transforms, items: Rows, *, intercept: float = 0.0) -> None:
        self.model, self.transforms, self.items, self.intercept = model, transforms, items, intercept

    def catalogue(self, users: Rows, times: Ids | None = None) -> Scores:
        """Score every item of the catalogue for each user row: [U, I], as of each row's time (None: now)."""
        if isinstance(self.model, Retriever):
            return self._user_vectors(users) @ self._item_vectors.T + np.float32(self.intercept)
        every = np.arange(len(self.items))
        return self.candidates(users, np.broadcast_to(every, (len(users), len(every))), times)

    def candidates(self, users: Rows, items: Ids, times: Ids | None = None) -> Scores:
        """Score some items for each user row: item ids [U, C] to scores [U, C]."""
        count, width = items.shape
        step = max(1, ROWS_AT_ONCE // max(1, width))
        found = [self._some(users, items, times, start, min(start + step, count)) for start in range(0, count, step)]
        return np.concatenate(found) if found else np.zeros((0, width), np.float32)

    def rows(self, rows: Rows) -> Scores:
        """Score full rows: [n], or [n, T] of several outputs."""
        starts = range(0, len(rows), ROWS_AT_ONCE)
        batches = (rows.batch(slice(start, start + ROWS_AT_ONCE)) for start in starts)
        return predict(self.model, batches) + np.float32(self.intercept)

    def _some(self, users: Rows, items: Ids, times: Ids | None, start: int, stop: int) -> Scores:
        pairs = [
            self.transforms.join(
                users.take(slice(u, u + 1)), self._take(items[u]), time=None if times is None else int(times[u])
            )
            for u in range(start, stop)
        ]
        return self.rows(concat(pairs)).reshape(stop - start, -1)

    def _take(self, ids: Ids) -> Rows:
        whole = len(ids) == len(self.items)
        return self.items if whole and bool((ids == np.arange(len(ids))).all()) else self.items.take(ids)

    @cached_property
    def _item_vectors(self) -> Scores:
        assert isinstance(self.model, Retriever)
        with torch.inference_mode():
            rows = self.transforms.as_of(self.items)
            return np.concatenate(
                [
                    self.model.item_vectors(rows.batch(slice(start, start + ROWS_AT_ONCE))).float().numpy()
                    for start in range(0, len(rows), ROWS_AT_ONCE)
                ]
            )

    def _user_vectors(self, users: Rows) -> Scores:
        assert isinstance(self.model, Retriever)
        with torch.inference_mode():
            found: Scores = self.model.user_vectors(users.batch()).float().numpy()
        return found


def best(scores: Scores, k: int) -> tuple[NDArray[np.int64], Scores]:
    """Positions and scores [U, K] of the k largest scores of each row, best first; equal scores by position."""
    k = min(k, scores.shape[1])
    values, places = torch.from_numpy(np.ascontiguousarray(scores)).topk(k, dim=1)
    order = np.lexsort((places.numpy(), -values.numpy()), axis=1)
    return np.take_along_axis(places.numpy(), order, 1), np.take_along_axis(values.numpy(), order, 1)
