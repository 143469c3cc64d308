"""Embedding tables: all tables of one width lie in one stacked weight, so a step costs one gather per width.

Outside this file everything is keyed per table: `state_dict` has `TABLE.weight` [rows, width], and `slices` says where
a table lies, for an optimizer that keeps its state per table. Ids are local to their table; row 0 is padding and stays
zero. A table may own spare rows, which `grow` takes into use.

Two ways to learn, with the same gradient, for each table its own:
    dense: the stacked weight is a trained parameter, its gradient has the shape of the whole table (exact Adam and L2).
    sparse: the weight is no autograd leaf; `touched` gives the gradient of the rows that the batch used, and nothing
        in a step grows with the table.

Dimension key: B rows, F id columns, V values of a ragged field, T tables, N rows looked up, U distinct ones, E width,
R stacked rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Update = Literal["auto", "dense", "sparse"]

DENSE_ROWS = 1_000_000


class Slice(NamedTuple):
    """Where a table lies: rows start to stop of a stacked weight."""

    weight: nn.Parameter
    start: int
    stop: int


class Touched(NamedTuple):
    """What a backward pass left for the rows that it used.

    Attributes:
        weight: The stacked weight [R, E].
        ids: [U] int64, its rows, each once, rising; never a padding row.
        grad: [U, E], duplicates summed.
    """

    weight: nn.Parameter
    ids: Tensor
    grad: Tensor


class Gathered(NamedTuple):
    """Rows looked up: one [B, F_i, E_i] per block (as `Embedding.blocks` says), one [V, E] per flat field."""

    columns: list[Tensor]
    flat: list[Tensor]


class Block(NamedTuple):
    """Id columns that are looked up together: their width and their places in the matrix of ids."""

    width: int
    columns: tuple[int, ...]


class _Group(NamedTuple):
    """The tables of one stacked weight, the id columns that read them, and the flat fields with their tables' start.

    Attributes:
        width: Of the rows.
        sparse: Updated by touched rows.
        spans: First row of each table and the row after those that it uses.
        ends: The row after those that each table owns.
        columns: Places in the matrix of ids.
        flat: Number of a flat field to the start of its table.
    """

    width: int
    sparse: bool
    spans: dict[str, tuple[int, int]]
    ends: dict[str, int]
    columns: tuple[int, ...]
    flat: dict[int, int]

    @property
    def name(self) -> str:
        return f"stacked_{self.width}{'_touched' if self.sparse else ''}"

    @property
    def rows(self) -> int:
        return max(self.ends.values())


def rows_of(weight_RE: Tensor, ids_N: Tensor) -> Tensor:
    """Rows of a weight [R, E] or [R] by their places: `weight[ids]`.

    On a CPU as sums over bags of one id each: that kernel fetches rows ahead and `index_select` does not; narrow
    rows that are not in the cache come in two thirds of the time.

    >>> rows_of(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0])).tolist()
    [[3.0], [1.0]]
    """
    if weight_RE.is_cuda or weight_RE.dim() == 1:
        return weight_RE.index_select(0, ids_N)
    ids_N = ids_N.to(_index_type(len(weight_RE)))
    bag_N = torch.arange(len(ids_N), dtype=ids_N.dtype)
    return F.embedding_bag(ids_N, weight_RE, bag_N, mode="sum")


def sum_duplicates(ids_N: Tensor, grad_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids, rising, and the sum of the gradients of each, added in the order of appearance.

    >>> ids, grad = sum_duplicates(torch.tensor([4, 2, 4]), torch.tensor([[1.0], [2.0], [3.0]]))
    >>> ids.tolist(), grad.tolist()
    ([2, 4], [[2.0], [4.0]])
    """
    sorted_N, order_N = ids_N.sort(stable=True)
    ids_U, count_U = torch.unique_consecutive(sorted_N, return_counts=True)
    start_U = count_U.cumsum(0) - count_U
    return ids_U.long(), F.embedding_bag(order_N, grad_NE.contiguous(), start_U, mode="sum")


class _Gather(torch.autograd.Function):
    """Rows of a weight; the gradient sums duplicates in a fixed order and leaves padding rows at zero."""

    @staticmethod
    def forward(ctx: Any, weight_RE: Tensor, ids_N: Tensor, padding_T: Tensor) -> Tensor:
        ctx.save_for_backward(ids_N, padding_T)
        ctx.rows = len(weight_RE)
        return rows_of(weight_RE, ids_N)

    @staticmethod
    def backward(ctx: Any, grad_NE: Tensor) -> tuple[Tensor, None, None]:
        ids_N, padding_T = ctx.saved_tensors
        grad_RE = grad_NE.new_zeros(ctx.rows, grad_NE.shape[1])
        if len(ids_N):
            grad_RE.index_copy_(0, *sum_duplicates(ids_N, grad_NE)).index_fill_(0, padding_T, 0)
        return grad_RE, None, None


@final
class Embedding(nn.Module):
    """Embedding tables, looked up together.

    Args:
        rows: Rows of each table, padding and unknown included.
        width: Of all tables, or of each.
        columns: The table of each column of `ids`.
        flat: The table of each flat vector of ids.
        update: Of all tables, or of each (`auto` where it names none): `dense`, `sparse`, or `auto`, which is dense up
            to 1,000,000 rows of all tables, sparse above.
        spare: Rows that a table owns beyond those it uses.
        std: Rows start from N(0, std**2), padding rows from zero.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        width: int | Mapping[str, int],
        *,
        columns: Sequence[str] = (),
        flat: Sequence[str] = (),
        update: Update | Mapping[str, Update] = "auto",
        spare: Mapping[str, int] | None = None,
        std: float = 0.01,
    ) -> None:
        super().__init__()
        owned = {name: count + (spare or {}).get(name, 0) for name, count in rows.items()}
        sparse = _sparse(owned, update)
        kinds = {name: (width if isinstance(width, int) else width[name], sparse[name]) for name in rows}
        self._groups = tuple(
            _group({name: rows[name] for name in rows if kinds[name] == kind}, owned, kind, columns, flat)
            for kind in sorted(set(kinds.values()))
        )
        self._flat, self._std = len(flat), std
        self._pending: list[tuple[str, Tensor, Tensor]] = []
        for group in self._groups:
            self._add(group, columns)

    def _add(self, group: _Group, columns: Sequence[str]) -> None:
        padding_T = torch.tensor([start for start, _ in group.spans.values()])
        offset_F = torch.tensor([group.spans[columns[i]][0] for i in group.columns], dtype=_index_type(group.rows))
        weight_RE = torch.empty(group.rows, group.width).normal_(std=self._std).index_fill_(0, padding_T, 0)
        self.register_parameter(group.name, nn.Parameter(weight_RE, requires_grad=not group.sparse))
        self.register_buffer(f"_padding_{group.name}", padding_T, persistent=False)
        self.register_buffer(f"_offset_{group.name}", offset_F, persistent=False)

    @property
    def slices(self) -> dict[str, Slice]:
        """Where each table lies in the stacked weights."""
        return {name: Slice(self._weight(g), *span) for g in self._groups for name, span in g.spans.items()}

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What stands in `Gathered.columns`, in order: narrow to wide, dense before sparse."""
        return tuple(Block(group.width, group.columns) for group in self._groups)

    def table(self, name: str) -> Tensor:
        """A table [rows, width] as a view without gradient: writing to it changes the layer."""
        weight, start, stop = self.slices[name]
        return weight.detach()[start:stop]

    def grow(self, name: str, rows: int, generator: torch.Generator | None = None) -> None:
        """Take spare rows into use, so that a table has `rows` in all; the new ones start as all rows do.

        Raises:
            ValueError: The table owns fewer rows, or uses more.
        """
        group = self._group_of(name)
        (start, stop), end = group.spans[name], group.ends[name]
        if not stop <= start + rows <= end:
            raise ValueError(
                f"table {name!r} uses {stop - start} rows and owns {end - start}, so it cannot have {rows}; give it "
                "more spare rows"
            )
        self._weight(group).detach()[stop : start + rows].normal_(std=self._std, generator=generator)
        group.spans[name] = (start, start + rows)

    def renew(self, name: str, ids: Tensor, generator: torch.Generator | None = None) -> None:
        """Start some rows of a table [n] afresh, for values that take the place of others."""
        fresh_NE = self.table(name).new_empty(len(ids), self.table(name).shape[1])
        self.table(name)[ids] = fresh_NE.normal_(std=self._std, generator=generator)

    def forward(self, ids_BF: Tensor, flat: Sequence[Tensor] = ()) -> Gathered:
        """Look up a matrix of ids and any number of flat vectors [V], integers local to their tables."""
        assert len(flat) == self._flat, f"{self._flat} flat fields were promised, {len(flat)} came"
        blocks: list[Tensor] = []
        found: dict[int, Tensor] = {}
        for group in self._groups:
            parts = [self._stacked(group, ids_BF), *self._stacked_flat(group, flat)]
            rows_NE = self._gather(group, torch.cat(parts) if len(parts) > 1 else parts[0])
            block, *values = torch.split(rows_NE, [len(part) for part in parts])
            blocks.append(block.view(len(ids_BF), len(group.columns), group.width))
            found |= dict(zip(group.flat, values, strict=True))
        return Gathered(blocks, [found[i] for i in range(len(flat))])

    def touched(self) -> list[Touched]:
        """The rows that backward passes reached since the last call; forgets them. Always empty for dense tables."""
        pending, self._pending = self._pending, []
        return [
            self._touched(group, [(ids, grad) for name, ids, grad in pending if name == group.name])
            for group in self._groups
            if any(name == group.name for name, _, _ in pending)
        ]

    def _touched(self, group: _Group, pending: list[tuple[Tensor, Tensor]]) -> Touched:
        ids_N, grad_NE = pending[0] if len(pending) == 1 else (torch.cat(part) for part in zip(*pending, strict=True))
        ids_U, grad_UE = sum_duplicates(ids_N, grad_NE)
        padding_T = self.get_buffer(f"_padding_{group.name}")
        place_T = torch.searchsorted(ids_U, padding_T).clamp_(max=len(ids_U) - 1)
        place_T = place_T[ids_U[place_T] == padding_T]
        if len(place_T):
            keep_U = torch.ones_like(ids_U, dtype=torch.bool).index_fill_(0, place_T, False)
            ids_U, grad_UE = ids_U[keep_U], grad_UE[keep_U]
        return Touched(self._weight(group), ids_U, grad_UE)

    def _group_of(self, table: str) -> _Group:
        return next(group for group in self._groups if table in group.spans)

    def _weight(self, group: _Group) -> nn.Parameter:
        return cast(nn.Parameter, getattr(self, group.name))

    def _stacked(self, group: _Group, ids_BF: Tensor) -> Tensor:
        mine_BF = ids_BF if len(group.columns) == ids_BF.shape[1] else ids_BF[:, list(group.columns)]
        offset_F = self.get_buffer(f"_offset_{group.name}")
        return (mine_BF + offset_F).to(offset_F.dtype).flatten()

    def _stacked_flat(self, group: _Group, flat: Sequence[Tensor]) -> Iterator[Tensor]:
        for i, start in group.flat.items():
            yield flat[i].to(_index_type(group.rows)) + start

    def _gather(self, group: _Group, ids_N: Tensor) -> Tensor:
        weight_RE = self._weight(group)
        if not group.sparse:
            padding_T = self.get_buffer(f"_padding_{group.name}")
            return cast(Tensor, _Gather.apply(weight_RE, ids_N, padding_T))  # type: ignore[no-untyped-call]
        rows_NE = rows_of(weight_RE, ids_N)
        if self.training and torch.is_grad_enabled() and len(ids_N):
            rows_NE.requires_grad_()
            remember = partial(self._remember, group.name, ids_N)
            rows_NE.register_post_accumulate_grad_hook(remember)  # type: ignore[no-untyped-call]
        return rows_NE

    def _remember(self, name: str, ids_N: Tensor, rows_NE: Tensor) -> None:
        assert rows_NE.grad is not None
        self._pending.append((name, ids_N, rows_NE.grad))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in self.slices:
            destination[f"{prefix}{name}.weight"] = self.table(name)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        keys = {f"{prefix}{name}.weight": name for name in self.slices}
        missing_keys += [key for key in keys if key not in state_dict]
        unexpected_keys += [key for key in state_dict if strict and key.startswith(prefix) and key not in keys]
        for key in keys.keys() & state_dict.keys():
            given = state_dict[key]
            self._make_room(keys[key], len(given))
            table = self.table(keys[key])
            if given.shape == table.shape:
                table.copy_(given)
            else:
                error_msgs.append(
                    f"table {key!r} is {list(table.shape)} here and {list(given.shape)} in what is loaded"
                )

    def _make_room(self, name: str, rows: int) -> None:
        """Grow a table for what is loaded where its spare rows are enough."""
        group = self._group_of(name)
        (start, stop), end = group.spans[name], group.ends[name]
        if stop < start + rows <= end:
            self.grow(name, rows)


def _sparse(owned: Mapping[str, int], update: Update | Mapping[str, Update]) -> dict[str, bool]:
    """Which tables are updated by touched rows."""
    wanted = {name: update if isinstance(update, str) else update.get(name, "auto") for name in owned}
    large = sum(owned.values()) > DENSE_ROWS
    return {name: how == "sparse" or (how == "auto" and large) for name, how in wanted.items()}


def _index_type(rows: int) -> torch.dtype:
    """Of places in a stacked weight: 32 bits where they are enough, which are sorted in two thirds of the time."""
    return torch.int32 if rows < 2**31 else torch.int64


def _group(
    rows: Mapping[str, int],
    owned: Mapping[str, int],
    kind: tuple[int, bool],
    columns: Sequence[str],
    flat: Sequence[str],
) -> _Group:
    spans: dict[str, tuple[int, int]] = {}
    ends: dict[str, int] = {}
    start = 0
    for name, count in rows.items():
        spans[name] = (start, start + count)
        ends[name] = start = start + owned[name]
    mine = tuple(i for i, name in enumerate(columns) if name in spans)
    return _Group(*kind, spans, ends, mine, {i: spans[name][0] for i, name in enumerate(flat) if name in spans})
