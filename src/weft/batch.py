"""What crosses from data to models: `Batch`, `Ragged`, `Graph` (tensors), `Fields` (what a model must know of a store).

Dimension key: B rows, F id fields, D dense columns, T labels, V values of a ragged field, M edges, S friends, L links.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import torch
from msgspec import Struct
from msgspec.structs import force_setattr
from torch import Tensor

from weft.errors import Unsupported

PADDING, UNKNOWN, FIRST_ID = 0, 1, 2


class Field(Struct, frozen=True, kw_only=True):
    """A field of ids: 0 padding, 1 unknown, values from 2.

    Attributes:
        name: The feature's name.
        side: user, item, context, or pair (made of user and item parts).
        rows: Number of ids, the two reserved ones included.
        kind: One id a row, a set, or a sequence (oldest first).
        table: Name of the field whose embedding table this field uses; its own name unless it shares.
        max_length: Of a sequence.
        cross: The AND of other fields, written by hand in the schema.
    """

    name: str
    side: str
    rows: int
    kind: Literal["id", "set", "sequence"] = "id"
    table: str = ""
    max_length: int | None = None
    cross: bool = False

    def __post_init__(self) -> None:
        if not self.table:
            force_setattr(self, "table", self.name)


class DenseField(Struct, frozen=True, kw_only=True):
    """A dense column of a batch."""

    name: str
    side: str


class Fields(Struct, frozen=True, kw_only=True):
    """What a model must know of a store, and nothing else.

    Attributes:
        ids: The columns of `Batch.ids`, in order.
        dense: The columns of `Batch.dense`, in order.
        ragged: The keys of `Batch.ragged`.
        outputs: Numbers a model gives a row: one a label, or one a class.
        task: The task of the first label.
        relevant: A row is relevant when its first label is at least this.
        user: The id field of the user role, where the schema has it as a feature.
        item: The id field of the item role, where the schema has it as a feature.
        users: Number of ids of `Batch.user`.
        items: Number of ids of `Batch.item`.
    """

    ids: tuple[Field, ...] = ()
    dense: tuple[DenseField, ...] = ()
    ragged: tuple[Field, ...] = ()
    outputs: int = 1
    task: str = "binary"
    relevant: float = 0.5
    user: str | None = None
    item: str | None = None
    users: int = 0
    items: int = 0

    def tables(self) -> dict[str, int]:
        """Rows of each embedding table, in order of first use."""
        return {f.table: f.rows for f in (*self.ids, *self.ragged)}

    def column(self, name: str) -> int:
        """The column of an id field in `Batch.ids`."""
        return [f.name for f in self.ids].index(name)

    def of(self, *sides: str) -> "Fields":
        """The fields of some sides only; `Batch.of` gives the batch that goes with them."""
        return Fields(
            ids=tuple(f for f in self.ids if f.side in sides),
            dense=tuple(f for f in self.dense if f.side in sides),
            ragged=tuple(f for f in self.ragged if f.side in sides),
            outputs=self.outputs,
            task=self.task,
            relevant=self.relevant,
            user=self.user if "user" in sides else None,
            item=self.item if "item" in sides else None,
            users=self.users,
            items=self.items,
        )

    def id_of(self, role: Literal["user", "item"], model: str) -> int:
        """The column of the user's or item's id; Unsupported where the schema does not have it as a feature."""
        name = self.user if role == "user" else self.item
        if name is None:
            raise Unsupported(
                f"{model} learns from the {role}'s id, and the schema has no categorical feature for the {role} role; "
                "add one or choose another model"
            )
        return self.column(name)


class Ragged(NamedTuple):
    """A set or sequence a row: row b owns values[offsets[b]:offsets[b + 1]].

    Attributes:
        values: [V] integer, field-local ids.
        offsets: [B + 1] int64.
        weights: [V] float, or None for ones.
    """

    values: Tensor
    offsets: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device | str) -> "Ragged":
        """The values on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Ragged(self.values.to(device), self.offsets.to(device), weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows as tensors; columns in schema order. What is absent is None or has no columns.

    Attributes:
        ids: [B, F] int32 or int64, field-local.
        dense: [B, D] float32, scaled.
        ragged: One `Ragged` a set or sequence field.
        label: [B, T] float32.
        position: [B] int64, from 1; None is "unknown".
        propensity: [B] float32.
        weight: [B] float32.
        user: [B] int64, ids of the user catalogue (0 padding, 1 unknown).
        item: [B] int64, ids of the item catalogue (0 padding, 1 unknown).
        group: [B] int64.
        time: [B] int64, in the schema's unit.
        negatives: Rows of the item's side alone that were drawn for this batch: [N], for all of its rows, or [B * n],
            of which row b owns b * n to (b + 1) * n.
    """

    ids: Tensor
    dense: Tensor
    ragged: dict[str, Ragged]
    label: Tensor | None = None
    position: Tensor | None = None
    propensity: Tensor | None = None
    weight: Tensor | None = None
    user: Tensor | None = None
    item: Tensor | None = None
    group: Tensor | None = None
    time: Tensor | None = None
    negatives: "Batch | None" = None

    def __post_init__(self) -> None:
        if self.ids.is_floating_point():
            raise TypeError(f"`ids` must be integers, got {self.ids.dtype}; float ids collide above 2**24")
        lengths = {name: len(value) for name, value in self._rows() if value is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all columns of a batch need one length, got {lengths}")

    def _rows(self) -> list[tuple[str, Tensor | None]]:
        plain = [(name, getattr(self, name)) for name in _COLUMNS]
        return plain + [(name, ragged.offsets[1:]) for name, ragged in self.ragged.items()]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        columns = {name: getattr(self, name) for name in (*_COLUMNS, "negatives")}
        moved = {name: tensor.to(device) for name, tensor in columns.items() if tensor is not None}
        return replace(self, ragged={name: ragged.to(device) for name, ragged in self.ragged.items()}, **moved)

    def of(self, all_fields: Fields, *sides: str) -> "Batch":
        """The columns of some sides only, to go with `all_fields.of(*sides)`."""
        ids = [i for i, f in enumerate(all_fields.ids) if f.side in sides]
        dense = [i for i, f in enumerate(all_fields.dense) if f.side in sides]
        names = {f.name for f in all_fields.ragged if f.side in sides}
        return replace(
            self,
            ids=self.ids[:, ids],
            dense=self.dense[:, dense],
            ragged={name: value for name, value in self.ragged.items() if name in names},
        )

    def whole(self, all_fields: Fields, *sides: str) -> "Batch":
        """Rows of some sides as rows of all fields, what `of` takes away being missing: padding, zero, empty."""
        n, names = len(self), {f.name for f in all_fields.ragged if f.side in sides}
        ids = self.ids.new_zeros(n, len(all_fields.ids))
        ids[:, [i for i, f in enumerate(all_fields.ids) if f.side in sides]] = self.ids
        dense = self.dense.new_zeros(n, len(all_fields.dense))
        dense[:, [i for i, f in enumerate(all_fields.dense) if f.side in sides]] = self.dense
        empty = Ragged(self.ids.new_zeros(0), torch.zeros(n + 1, dtype=torch.int64, device=self.ids.device))
        ragged = {f.name: self.ragged[f.name] if f.name in names else empty for f in all_fields.ragged}
        return replace(self, ids=ids, dense=dense, ragged=ragged)


_COLUMNS = tuple(f.name for f in fields(Batch) if f.name not in ("ragged", "negatives"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Who had what in the train rows, and who knows whom: ids of the catalogues, padding and unknown left out.

    Its nodes are the users, then the items: user u is node u, item i is node `users + i`.

    Attributes:
        users: Number of ids of the user catalogue.
        items: Number of ids of the item catalogue.
        edges: [2, M] int64, users and items of the relevant train rows, each pair once.
        friends: [2, S] int64, pairs of users in either order; None where nothing is known of them.
        user_rows: The user's side of every user, row i being id i.
        item_rows: The item's side of every item, row i being id i.
    """

    users: int
    items: int
    edges: Tensor
    friends: Tensor | None = None
    user_rows: Batch | None = None
    item_rows: Batch | None = None

    def __post_init__(self) -> None:
        _check_pairs("edges", self.edges, self.users, self.items)
        if self.friends is not None:
            _check_pairs("friends", self.friends, self.users, self.users)

    @property
    def nodes(self) -> int:
        """Users and items together."""
        return self.users + self.items

    def links(self, *, friends: bool = True) -> tuple[Tensor, Tensor]:
        """Rows [L] and columns [L] of the symmetric matrix of ones over the nodes, sorted, each place once.

        Args:
            friends: Users who know each other are linked too.

        >>> links = Graph(users=3, items=3, edges=torch.tensor([[2], [2]])).links()
        >>> [part.tolist() for part in links]
        [[2, 5], [5, 2]]
        """
        user_M, item_M = self.edges
        pairs = [torch.stack([user_M, item_M + self.users])]
        pairs += [self.friends] if friends and self.friends is not None else []
        one_2L = torch.cat(pairs, dim=1)
        row_L, column_L = torch.cat([one_2L, one_2L.flip(0)], dim=1)
        place_L = torch.unique(row_L * self.nodes + column_L)
        return place_L // self.nodes, place_L % self.nodes


def _check_pairs(name: str, pairs: Tensor, first: int, second: int) -> None:
    if pairs.dtype != torch.int64 or pairs.dim() != 2 or len(pairs) != 2:
        raise ValueError(f"`{name}` must be [2, M] int64, got {list(pairs.shape)} {pairs.dtype}")
    for ids_M, count in zip(pairs, (first, second), strict=True):
        if len(ids_M) and not FIRST_ID <= int(ids_M.min()) <= int(ids_M.max()) < count:
            raise ValueError(
                f"`{name}` must hold ids from {FIRST_ID} to {count - 1}, got {int(ids_M.min())} to {int(ids_M.max())}"
            )
