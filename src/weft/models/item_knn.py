"""Item-based nearest neighbours: an item scores by how alike it is to what the user has had.

    s(u, i) = Σ_j∈N(i)∩I(u) s_ij,   s_ij = c_ij / (√(n_i n_j) + h),   c_ij = Σ_u has both |I(u)|^-p

I(u) are the items of the user's relevant train rows, n_i the number of users who have i, N(i) the items most alike to
i, i itself left out. The score of a row is a + c log(1 + s(u, i)), the most likely line as for `popularity`; where the
labels do not vary it is log(1 + s(u, i)).

Paper: Sarwar et al., WWW 2001, https://doi.org/10.1145/371920.372071, sections 3.1.1 (cosine) and 3.2.1 (weighted sum);
`similarity = cooccurrence` is s_ij = c_ij. That users with many items say less of each pair (p) is from Deshpande and
Karypis, TOIS 2004, https://doi.org/10.1145/963770.963776, whose rows of unit length are p = 1; the shrink h, by which
neighbours with few users in common count less, from Ferrari Dacrema, Cremonesi and Jannach, RecSys 2019,
https://doi.org/10.1145/3298689.3347058.
Differs: pairs are counted as there or not, whatever the label; p has no part in n_i; the sum is not divided by the
similarities. Neighbours are kept for the item that is scored, not, as in the second paper, for the item that the user
has, which finds no more on Gowalla. There p is worth .189 to .206 of recall@20 on the validation rows.

Dimension key: B rows, U users, I items, K neighbours or candidates, M (user, item) pairs, V values.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from msgspec import Meta, Struct
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.batch import FIRST_ID, PADDING, Batch, Fields
from weft.errors import NotFitted, Unsupported
from weft.models._inputs import Positive, one_output
from weft.models._line import fit_line
from weft.models._registry import register
from weft.models._roles import role_ids
from weft.models._search import Choice, Range, Space

Ints = NDArray[np.int64]
Similarity = Literal["cosine", "cooccurrence"]

AT_ONCE = 4_000_000  # pairs of items, or keys to look up, that are held at a time


@register(
    "item_knn",
    kinds=("ranker", "fitted", "source"),
    phases=("candidate generation", "ranking"),
    paper="Sarwar et al., WWW 2001, Item-based Collaborative Filtering Recommendation Algorithms",
    url="https://doi.org/10.1145/371920.372071",
    year=2001,
    strengths="One pass and no weights to learn; follows each taste of a user; hard to beat where items are few.",
    weaknesses="Knows nothing of items that nobody had with another, of new users, and of any feature.",
    choose="As a second source beside a model with vectors, and as the baseline that it must beat.",
)
@final
class ItemKNN(nn.Module):
    """Items by their likeness to the user's items."""

    roles_only: ClassVar[bool] = True

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Options.

        Attributes:
            neighbours: n, the items most alike to an item that are kept.
            shrink: h, of the cosine.
            similarity: The shrunk cosine, or the sum over the users who have both.
            damping: p, by which a user with many items says less of each pair of them; 0 counts users.
            ridge: Holds the line level where the scores say nothing about the label.
        """

        SPACE: ClassVar[Space] = {
            "neighbours": Choice((20, 50, 100, 200, 500)),
            "shrink": Range(1.0, 500.0, log=True),
            "damping": Range(0.0, 1.0),
        }

        neighbours: Positive = 100
        shrink: Annotated[float, Meta(ge=0.0)] = 10.0
        similarity: Similarity = "cosine"
        damping: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
        ridge: Annotated[float, Meta(gt=0.0)] = 1e-3

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "item_knn")
        if not (fields.users and fields.items):
            raise Unsupported(
                "model 'item_knn' needs a user and an item role; add `user` and `item` to [roles] of the schema"
            )
        self._config, self._task, self._relevant = config, fields.task, fields.relevant
        self._users, self._items = fields.users, fields.items
        self._lists: Lists | None = None
        self.neighbour: Tensor
        self.similarity: Tensor
        self.owned: Tensor
        self.line: Tensor
        self.register_buffer("neighbour", torch.zeros(fields.items, 0, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(fields.items, 0))
        self.register_buffer("owned", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("line", torch.full((2,), torch.nan, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def fit(self, batches: Iterable[Batch]) -> None:
        """Gather the rows in one pass, count pairs, keep the neighbours, fit the line, where row weights weigh."""
        rows = _gathered(batches)
        known = (rows.label >= self._relevant) & (rows.user >= FIRST_ID) & (rows.item >= FIRST_ID)
        owned = np.unique(rows.user[known] * self._items + rows.item[known])
        config = self._config
        lists = neighbours(owned, self._items, config)
        self.neighbour, self.similarity, self.owned = (
            torch.from_numpy(part).to(self.line.device) for part in (*lists, owned)
        )
        self._lists = None
        x = self._likeness(torch.from_numpy(rows.user), torch.from_numpy(rows.item)).log1p().double()
        weight, label = torch.from_numpy(rows.weight), torch.from_numpy(rows.label)
        varies = len(rows.label) > 0 and rows.label.min() < rows.label.max()
        line = fit_line(x, weight, weight * label, self._task, config.ridge) if varies else torch.tensor([0.0, 1.0])
        self.line.copy_(line)

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B]."""
        self._check_fitted()
        user_B, item_B = role_ids(batch, "item_knn")
        return self._on_line(self._likeness(user_B.long(), item_B.long()))

    def scores(self, user_U: Tensor) -> Tensor:
        """The scores [U, I] of all items of the catalogue for users by their ids."""
        self._check_fitted()
        if self._lists is None:
            self._lists = _by_neighbour(self.neighbour, self.similarity)
        lists, items = self._lists, self._items
        user_U = user_U.long()
        start, stop = (torch.searchsorted(self.owned, edge * items) for edge in (user_U, user_U + 1))
        row_M, place_M = _spans(start, stop)
        had_M = self.owned[place_M] - user_U[row_M] * items
        pair_V, place_V = _spans(lists.offsets[had_M], lists.offsets[had_M + 1])
        total = torch.zeros(len(user_U) * items, device=self.owned.device)
        total.index_add_(0, row_M[pair_V] * items + lists.item[place_V], lists.similarity[place_V])
        return self._on_line(total.view(len(user_U), items))

    def candidates(self, user_U: Tensor, k: int) -> Tensor:
        """The `k` best items [U, K], also those that the user has had; equal scores in the order of their ids."""
        score_UI = self.scores(user_U)[:, FIRST_ID:]
        return score_UI.sort(dim=1, descending=True, stable=True).indices[:, :k] + FIRST_ID

    def _likeness(self, user_B: Tensor, item_B: Tensor) -> Tensor:
        """Σ_j s_ij over the neighbours j of each row's item that its user has [B]."""
        found = torch.zeros(len(user_B), device=self.owned.device)
        width = self.neighbour.shape[1]
        if not (width and len(self.owned)):
            return found
        for rows in torch.split(torch.arange(len(user_B), device=self.owned.device), max(1, AT_ONCE // width)):
            key_BK = user_B[rows, None] * self._items + self.neighbour[item_B[rows]]
            place_BK = torch.searchsorted(self.owned, key_BK).clamp(max=len(self.owned) - 1)
            has_BK = self.owned[place_BK] == key_BK
            found[rows] = (self.similarity[item_B[rows]] * has_BK).sum(1)
        return found

    def _on_line(self, likeness: Tensor) -> Tensor:
        return (self.line[0] + self.line[1] * likeness.log1p().double()).float()

    def _check_fitted(self) -> None:
        if self.line.isnan().any():
            raise NotFitted("model 'item_knn' has counted nothing yet; call `fit` with the train batches first")


class Rows(NamedTuple):
    """Train rows: ids, first labels and weights [B]."""

    user: Ints
    item: Ints
    label: NDArray[np.float64]
    weight: NDArray[np.float64]


class Lists(NamedTuple):
    """Of each item j the items that have it among their neighbours: j owns offsets[j] on."""

    offsets: Tensor
    item: Tensor
    similarity: Tensor


def _gathered(batches: Iterable[Batch]) -> Rows:
    parts = [_columns(batch.to("cpu")) for batch in batches]
    if not parts:
        raise NotFitted("model 'item_knn' was given no row; fit it on train batches that have rows")
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _columns(batch: Batch) -> Rows:
    if batch.user is None or batch.item is None or batch.label is None:
        raise Unsupported("model 'item_knn' counts pairs; fit it on rows that have `user`, `item` and `label`")
    label = batch.label[:, 0].double().numpy()
    weight = np.ones_like(label) if batch.weight is None else batch.weight.double().numpy()
    return Rows(batch.user.long().numpy(), batch.item.long().numpy(), label, weight)


def neighbours(owned: Ints, items: int, config: ItemKNN.Config) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The items [I, K] most alike to each item and their similarities, best first, equal ones by their ids.

    Where an item has fewer, padding with similarity 0 follows; K is as large as any item needs.

    Args:
        owned: [M] the pairs as user * items + item, sorted, each once.
        items: Number of ids.
        config: The options of the model.
    """
    user, item = np.divmod(owned, items)
    _, user = np.unique(user, return_inverse=True)
    users_of = np.bincount(item, minlength=items).astype(np.float64)
    found: list[tuple[Ints, NDArray[np.int32], NDArray[np.float32]]] = []
    for some, place, other, both in _cooccurrences(user, item, items, config.damping):
        below = np.sqrt(users_of[some[place]] * users_of[other]) + config.shrink
        alike = both / below if config.similarity == "cosine" else both
        found.append((some, *_best(place, other, alike, len(some), config.neighbours)))
    width = max((ids.shape[1] for _, ids, _ in found), default=0)
    neighbour, value = np.full((items, width), PADDING, np.int32), np.zeros((items, width), np.float32)
    for some, ids, values in found:
        neighbour[some, : ids.shape[1]], value[some, : ids.shape[1]] = ids, values
    return neighbour, value


def _cooccurrences(
    user: Ints, item: Ints, items: int, damping: float
) -> Iterator[tuple[Ints, Ints, Ints, NDArray[np.float64]]]:
    """Some items at a time: these items, and as (place among them, other item, c_ij), in that order.

    Args:
        user: [M] users counted from 0, sorted.
        item: [M] their items.
        items: Number of ids.
        damping: p.
    """
    start = np.concatenate([[0], np.cumsum(np.bincount(user))]).astype(np.int64)
    by_item = np.argsort(item, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(item, minlength=items))])
    size = np.diff(start)
    share = size.astype(np.float64) ** -damping
    work = np.bincount(item, size[user], items)
    order = np.argsort(-work, kind="stable")[: int((work > 0).sum())]
    for some in np.split(order, _cuts(work[order])):
        place, event = _ranges(first[some], first[some + 1])
        owner = user[by_item[event]]
        pair, partner = _ranges(start[owner], start[owner + 1])
        keys, cell = np.unique(place[pair] * items + item[partner], return_inverse=True)
        both = np.bincount(cell, share[owner[pair]], len(keys))
        at, other = np.divmod(keys, items)
        kept = other != some[at]
        yield some, at[kept], other[kept], both[kept]


def _cuts(work: NDArray[Any]) -> Ints:
    """Where to cut items so that the work of a part stays about below `AT_ONCE`."""
    return np.flatnonzero(np.diff((np.cumsum(work) // AT_ONCE).astype(np.int64))) + 1


def _best(
    place: Ints, other: Ints, value: NDArray[np.float64], rows: int, most: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `most` largest values of each place [rows, K]; entries come by place, then by other."""
    count = np.bincount(place, minlength=rows)
    column = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
    table = np.full((rows, int(count.max(initial=0))), -np.inf, np.float32)
    ids = np.full(table.shape, PADDING, np.int32)
    table[place, column], ids[place, column] = value, other
    order = torch.from_numpy(table).sort(dim=1, descending=True, stable=True).indices[:, :most].numpy()
    values = np.take_along_axis(table, order, 1)
    return np.take_along_axis(ids, order, 1), np.where(np.isfinite(values), values, 0).astype(np.float32)


def _ranges(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """All integers of ranges, one range after the other, and the place of the range that each is of."""
    owner, value = _spans(torch.from_numpy(start), torch.from_numpy(stop))
    return owner.numpy(), value.numpy()


def _spans(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """As `_ranges`."""
    size = stop - start
    owner = torch.repeat_interleave(size)
    return owner, torch.arange(len(owner), device=start.device) + (start - (size.cumsum(0) - size))[owner]


def _by_neighbour(neighbour_IK: Tensor, similarity_IK: Tensor) -> Lists:
    flat_V = neighbour_IK.flatten().long()
    order_V = flat_V.argsort(stable=True)
    order_V = order_V[flat_V[order_V] != PADDING]
    items, width = neighbour_IK.shape
    offsets = torch.searchsorted(flat_V[order_V], torch.arange(items + 1, device=flat_V.device))
    return Lists(offsets, order_V // max(1, width), similarity_IK.flatten()[order_V])


def _make_room(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state is loaded: the buffers take the sizes of what comes."""
    assert isinstance(model, ItemKNN)
    for name in ("neighbour", "similarity", "owned"):
        if prefix + name in state:
            setattr(model, name, torch.zeros_like(state[prefix + name], device=model.line.device))
    model._lists = None
