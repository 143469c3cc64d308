"""Popularity: an item scores by how many relevant train rows it has, whoever asks.

score = a + c log(1 + n_i), n_i the number of train rows of item i whose label is relevant; a and c are the maximum
likelihood line under the task's loss, so that scores are logits, ratings or log rates like any other model's. c is at
least 0.001: the more popular item always stands first, also where the labels say nothing about it.

With `window` only the rows of the newest time count, with `half_life` a row counts 0.5 to the power of its age in half
lives, age being measured from the newest train row. With `segment`, a categorical feature of the user such as a
country, n_i is counted within the user's segment; where a segment is unknown, or has no relevant row, all rows count.

Paper: none; the baseline that every comparison shows.

Dimension key: B rows, S segments, I items, U users, K candidates, M relevant rows.
"""

import math
from collections.abc import Iterable
from typing import Annotated, final

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import FIRST_ID, UNKNOWN, Batch, Fields
from weft.errors import ConfigError, NotFitted, Unsupported, near
from weft.models._inputs import one_output
from weft.models._line import fit_line
from weft.models._registry import register


@register(
    "popularity",
    kinds=("ranker", "fitted", "source"),
    phases=("candidate generation", "ranking"),
    paper="none",
    url="",
    year=0,
    strengths="Needs no training, never fails, serves users without a past.",
    weaknesses="The same list for everybody.",
    choose="As the baseline of every comparison and the answer for unknown users.",
)
@final
class Popularity(nn.Module):
    """Items by the number of their relevant train rows."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Options.

        Attributes:
            window: Only rows so much older than the newest one count, in the unit of the schema's time.
            half_life: The age, in the same unit, at which a row counts half.
            segment: A categorical feature of the user's side; popularity is counted for each of its values.
            ridge: Holds the line level where the counts say nothing about it.
        """

        window: Annotated[float, Meta(gt=0.0)] | None = None
        half_life: Annotated[float, Meta(gt=0.0)] | None = None
        segment: str | None = None
        ridge: Annotated[float, Meta(gt=0.0)] = 1e-3

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "popularity")
        if not fields.items:
            raise Unsupported("model 'popularity' needs an item role; add `item` to [roles] of the schema")
        self._config, self._task, self._relevant = config, fields.task, fields.relevant
        self._items = fields.items
        self._column = None if config.segment is None else _segment(fields, config.segment)
        self.roles_only = self._column is None
        shape = [fields.items] if self._column is None else [fields.ids[self._column].rows, fields.items]
        self.count: Tensor
        self.line: Tensor
        self.segment_of: Tensor
        self.register_buffer("count", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("line", torch.full((2,), torch.nan, dtype=torch.float64))
        if self._column is not None:
            self.register_buffer("segment_of", torch.full((fields.users,), UNKNOWN))

    def fit(self, batches: Iterable[Batch]) -> None:
        """Count the relevant rows of each item and fit the line, in one pass; row weights weigh."""
        cells = self.count.numel()
        rows, label = (torch.zeros(cells, dtype=torch.float64) for _ in range(2))
        counter = _Counter(cells, self._config)
        for batch in batches:
            on_cpu = batch.to("cpu")
            y, weight = _columns(on_cpu)
            cell = self._cell(on_cpu)
            counter.add(cell, on_cpu.time, y >= self._relevant)
            rows += torch.bincount(cell, weight, cells)
            label += torch.bincount(cell, weight * y, cells)
            self._learn_segments(on_cpu)
        count = counter.result().view_as(self.count)
        self.count.copy_(count if self._column is None else _with_fallback(count))
        x = self.count.flatten().cpu().log1p()
        self.line.copy_(fit_line(x, rows, label, self._task, self._config.ridge))

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B]."""
        self._check_fitted()
        return self._on_line(self.count.flatten()[self._cell(batch)])

    def scores(self, user_U: Tensor) -> Tensor:
        """The scores [U, I] of all items of the catalogue for users by their ids."""
        self._check_fitted()
        if self._column is None:
            return self._on_line(self.count).expand(len(user_U), -1)
        return self._on_line(self.count[self.segment_of[user_U]])

    def candidates(self, user_U: Tensor, k: int) -> Tensor:
        """The `k` most popular items [U, K] of each user's segment; equal counts in the order of their ids."""
        self._check_fitted()
        if self._column is None:
            return self._order(self.count, k).expand(len(user_U), -1)
        segments, place_U = torch.unique(self.segment_of[user_U], return_inverse=True)
        return self._order(self.count[segments], k)[place_U]

    def _order(self, count: Tensor, k: int) -> Tensor:
        return count[..., FIRST_ID:].argsort(dim=-1, descending=True, stable=True)[..., :k] + FIRST_ID

    def _cell(self, batch: Batch) -> Tensor:
        """Where each row's count lies in the flat counts [B]."""
        if batch.item is None:
            raise Unsupported("model 'popularity' reads the item role and this batch has no `item`; encode item rows")
        item_B = batch.item.long()
        return item_B if self._column is None else batch.ids[:, self._column].long() * self._items + item_B

    def _learn_segments(self, batch: Batch) -> None:
        """The segment of each user is that of the user's last row."""
        if self._column is not None and batch.user is not None:
            segment_of = self.segment_of.cpu().numpy()
            segment_of[batch.user.numpy()] = batch.ids[:, self._column].numpy()
            segment_of[:FIRST_ID] = UNKNOWN
            self.segment_of.copy_(torch.from_numpy(segment_of))

    def _on_line(self, count: Tensor) -> Tensor:
        return (self.line[0] + self.line[1] * count.log1p()).float()

    def _check_fitted(self) -> None:
        if self.line.isnan().any():
            raise NotFitted("model 'popularity' has counted nothing yet; call `fit` with the train batches first")


class _Counter:
    """Counts relevant rows by cell; with a window or a half life their times are kept until the newest is known."""

    def __init__(self, cells: int, config: Popularity.Config) -> None:
        self._count = torch.zeros(cells, dtype=torch.float64)
        self._config = config
        self._timed = config.window is not None or config.half_life is not None
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._newest = -math.inf

    def add(self, cell: Tensor, time: Tensor | None, relevant: Tensor) -> None:
        """Add the rows of a batch."""
        if not self._timed:
            self._count += torch.bincount(cell, relevant.double(), len(self._count))
        elif time is None:
            raise Unsupported(
                "`window` and `half_life` of model 'popularity' need the time of the rows; set `time` in [roles]"
            )
        elif len(time):
            self._newest = max(self._newest, int(time.max()))
            self._kept.append((cell[relevant], time[relevant]))

    def result(self) -> Tensor:
        """The counts of all cells."""
        if self._kept:
            cell_M, time_M = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
            age_M = self._newest - time_M.double()
            half_life, window = self._config.half_life, self._config.window
            weight_M = torch.ones_like(age_M) if half_life is None else 0.5 ** (age_M / half_life)
            if window is not None:
                weight_M = weight_M * (age_M <= window)
            self._count += torch.bincount(cell_M, weight_M, len(self._count))
        return self._count


def _segment(fields: Fields, name: str) -> int:
    """The column of the feature that says a user's segment; ConfigError where it is none of the user's side."""
    users = [f.name for f in fields.ids if f.side == "user"]
    if name not in users:
        raise ConfigError(
            f"`segment` must name a categorical feature of the user's side, got {name!r}; {near(name, users)}"
        )
    return fields.column(name)


def _with_fallback(count_SI: Tensor) -> Tensor:
    """Counts where padding, unknown and segments that have none get those of all rows."""
    nothing_S = count_SI.sum(1) == 0
    nothing_S[:FIRST_ID] = True
    return torch.where(nothing_S[:, None], count_SI.sum(0), count_SI)


def _columns(batch: Batch) -> tuple[Tensor, Tensor]:
    """First labels and weights of a train batch."""
    if batch.item is None or batch.label is None:
        raise Unsupported("model 'popularity' counts items with a label; fit it on rows that have `item` and `label`")
    y = batch.label[:, 0].double()
    return y, torch.ones_like(y) if batch.weight is None else batch.weight.double()
