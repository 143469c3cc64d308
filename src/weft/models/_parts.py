"""The user's side once: what a ranker computes for a user, for an item, and for the two together.

The block that a model reads has the user's fields (context included), the item's and those of the pair: crosses of user
and item, counters by both, sequences that are attended by the candidate. The block of one side has zeros where the
others stand, so the whole block is the sum of three, and so is every linear map of it. A `Part` keeps what is known of
a user or an item; `join` adds up, and looks at what only the pair has.

Dimension key: B rows, N pairs, D width of a block, C of its columns, S slots, E width of a slot, H of a first map,
T outputs.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import MLP, CrossNet, GatedCrossNet, LowRankCrossNet, MixCrossNet, VectorCrossNet, pairwise
from weft.models._contract import Wraps
from weft.models._inputs import FirstOrder, Inputs, Slots

Part = dict[str, Tensor]
Sides = tuple[str, ...]
Crosses = CrossNet | GatedCrossNet | LowRankCrossNet | MixCrossNet | VectorCrossNet

USER, ITEM, PAIR = ("user", "context"), ("item",), ("pair",)


@runtime_checkable
class Splits(Protocol):
    """A ranker whose work is done apart for users and items: `join` of the parts is `forward` of the full rows.

    Each tensor of a part has one row a row of the batch, so that a catalogue's part is cut like a table. Ask `splits`
    whether a model is one, since a wrapper is only if the model inside is.
    """

    def user_part(self, batch: Batch) -> Part:
        """Of rows with the columns of user and context."""
        ...

    def item_part(self, batch: Batch) -> Part:
        """Of rows with the columns of the item."""
        ...

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T].

        Args:
            user: N rows, or one that goes with every item.
            item: N rows.
            pair: N rows with the columns of the pair; None where the schema has none.
        """
        ...


@runtime_checkable
class SplitsRepresentation(Splits, Protocol):
    """A ranker that splits and whose head others may replace (see `Represents`)."""

    def represent_join(self, user: Part, item: Part, pair: Batch | None = None) -> tuple[Tensor, ...]:
        """What the head reads, as `represent` gives it for full rows."""
        ...


def splits(model: nn.Module) -> bool:
    """Whether a model's work can be split between users and items; of a wrapper, whether that of the model inside."""
    return isinstance(model, Splits) and (not isinstance(model, Wraps) or splits(model.inner()))


def rows_of(part: Part, rows: Tensor) -> Part:
    """Some rows of a part, in this order."""
    return {name: tensor.index_select(0, rows) for name, tensor in part.items()}


class Block(NamedTuple):
    """The block of some rows, and what is known of the layers that read it.

    Attributes:
        x_BD: The block; None where nobody reads more of it than `first`.
        first: What layers' first linear maps make of it, without bias.
    """

    x_BD: Tensor | None
    first: Mapping[nn.Module, Tensor] = {}

    def through(self, layer: MLP | Crosses) -> Tensor:
        """What a layer makes of the block."""
        z_BH = self.first.get(layer)
        if z_BH is not None and isinstance(layer, MLP):
            return layer.after(z_BH)
        assert self.x_BD is not None
        if z_BH is None or isinstance(layer, MLP):
            whole: Tensor = layer(self.x_BD)
            return whole
        return layer.after(z_BH, self.x_BD)


@final
class Halves:
    """A block in pieces, and the first linear maps of the layers that read it.

    Args:
        layers: They read the block, and nothing else does.
    """

    def __init__(self, *layers: MLP | Crosses) -> None:
        self._begin = [layer for layer in layers if not isinstance(layer, MLP) or len(layer.layers)]
        self._keeps = len(self._begin) < len(layers) or not all(isinstance(layer, MLP) for layer in layers)

    def part(self, x_BD: Tensor) -> Part:
        """What to keep of a block with zeros where the other pieces stand."""
        kept = {"x": x_BD} if self._keeps else {}
        return kept | {f"first.{i}": layer.first(x_BD) for i, layer in enumerate(self._begin)}

    def join(self, user: Part, item: Part, pair_NC: Tensor | None, columns_C: Tensor) -> Block:
        """The whole block: the pieces of users and items, and the columns or slots of pairs, which are zero in both."""
        x_ND = user["x"] + item["x"] if self._keeps else None
        first: dict[nn.Module, Tensor] = {
            layer: user[f"first.{i}"] + item[f"first.{i}"] for i, layer in enumerate(self._begin)
        }
        if pair_NC is None:
            return Block(x_ND, first)
        pair_NC = pair_NC.flatten(1)
        if x_ND is not None:
            x_ND[:, columns_C] = pair_NC
        return Block(x_ND, {layer: first[layer] + layer.first(pair_NC, columns_C) for layer in self._begin})


@final
class SplitInputs:
    """The input block of each side.

    Args:
        fields: What `inputs` reads.
        inputs: Its module, which stays the model's own.
    """

    def __init__(self, fields: Fields, inputs: Inputs | Slots) -> None:
        self._fields, self._block = fields, inputs
        self._inputs = inputs.inputs if isinstance(inputs, Slots) else inputs
        names = [slot.name for slot in self._inputs.slots]
        self._width = inputs.width // len(names)
        widths = [self._width if isinstance(inputs, Slots) else slot.width for slot in self._inputs.slots]
        side = side_of_fields(fields)
        attended = tuple(i for i, name in enumerate(names) if name in self._inputs.attended)
        user, item, pair = (
            tuple(i for i, name in enumerate(names) if side[name] in sides and i not in attended)
            for sides in (USER, ITEM, PAIR)
        )
        self._places: dict[Sides, tuple[int, ...]] = {USER: user, ITEM: item, PAIR: pair + attended}
        self._pair, self._attended = _columns(widths, pair), _columns(widths, attended)
        self.columns = torch.cat([self._pair, self._attended])

    def block(self, whole: Batch) -> Tensor:
        """The block [B, D] of rows of one side, as rows of all fields."""
        x_BD: Tensor = self._block(whole).flatten(1)
        return x_BD.index_fill(1, self._attended.to(x_BD.device), 0) if len(self._attended) else x_BD

    def places(self, sides: Sides) -> tuple[int, ...]:
        """Which slots are of one side; those of pairs in the order of `pair_slots`."""
        return self._places[sides]

    def slots(self, whole: Batch) -> Tensor:
        """The slots [B, S, E] of rows of one side, where all have one width."""
        return self.block(whole).reshape(len(whole), len(self._inputs.slots), self._width)

    def more(self, whole: Batch, sides: Sides) -> Part:
        """What the slots of pairs need of the user or of the item, beside the block."""
        return self._inputs.pasts(whole) if sides == USER else self._inputs.targets(whole) if sides == ITEM else {}

    def pairs(self, user: Part, item: Part, pair: Batch | None) -> Tensor | None:
        """The columns `columns` of the block of pairs [N, C]; None where there are none."""
        if not len(self.columns):
            return None
        found = [self.block(whole_pair(self._fields, pair))[:, self._pair]] if len(self._pair) else []
        return torch.cat([*found, *self._block.attend(user, item)], dim=1)

    def pair_slots(self, user: Part, item: Part, pair: Batch | None) -> Tensor | None:
        """The slots [N, S, E] of pairs, those at `places`, where all have one width; None where there are none."""
        pair_NC = self.pairs(user, item, pair)
        return None if pair_NC is None else pair_NC.reshape(len(pair_NC), len(self.places(PAIR)), self._width)


@final
class FlatHalves:
    """A flat input block, and the layers that read it.

    Args:
        fields: What `inputs` reads.
        inputs: The module of the block.
        layers: They read the block, and nothing else does.
    """

    def __init__(self, fields: Fields, inputs: Inputs, *layers: MLP | Crosses) -> None:
        self._fields, self._sides, self._halves = fields, SplitInputs(fields, inputs), Halves(*layers)

    def part(self, batch: Batch, sides: Sides) -> Part:
        """Of rows of one side."""
        whole = batch.whole(self._fields, *sides)
        return self._halves.part(self._sides.block(whole)) | self._sides.more(whole, sides)

    def join(self, user: Part, item: Part, pair: Batch | None) -> Block:
        """The block of pairs."""
        return self._halves.join(user, item, self._sides.pairs(user, item, pair), self._sides.columns)


def whole_pair(fields: Fields, pair: Batch | None) -> Batch:
    """The columns of pairs as rows of all fields."""
    assert pair is not None, "the schema has features of user and item together; give their columns as `pair`"
    return pair.whole(fields, *PAIR)


def side_of_fields(fields: Fields) -> dict[str, str]:
    """The side of each dense column, id field, set and sequence."""
    return {f.name: f.side for f in fields.dense} | {f.name: f.side for f in (*fields.ids, *fields.ragged)}


def has_pairs(fields: Fields) -> bool:
    """Whether a field belongs to user and item together."""
    return any(side in PAIR for side in side_of_fields(fields).values())


def first_order(wide: FirstOrder, fields: Fields, user: Part, item: Part, pair: Batch | None) -> Tensor:
    """The linear part [N, T] from the sums `wide` of each side."""
    sum_NT = user["wide"] + item["wide"]
    return sum_NT + wide(whole_pair(fields, pair)) if has_pairs(fields) else sum_NT


def pairwise_part(e_BSE: Tensor) -> Part:
    """What `pairwise_join` needs of the slots of one side: their products among themselves, and their sum."""
    return {"products": pairwise(e_BSE), "sum": e_BSE.sum(1)}


def pairwise_join(user: Part, item: Part, pair_NSE: Tensor | None) -> Tensor:
    """The sum of the dot products of all pairs of slots [N]: <Σ a, Σ b> of two sides, and the products within each."""
    sum_NE = user["sum"] + item["sum"]
    product_N = user["products"] + item["products"] + (user["sum"] * item["sum"]).sum(1)
    if pair_NSE is None:
        return product_N
    return product_N + pairwise(pair_NSE) + (pair_NSE.sum(1) * sum_NE).sum(1)


def _columns(widths: Sequence[int], slots: Sequence[int]) -> Tensor:
    """The columns of some slots in a block of all."""
    ends = list(accumulate(widths))
    spans = [torch.arange(ends[i] - widths[i], ends[i]) for i in slots]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *spans])
