"""The way into DLRM and DHEN: the numbers of a row through one network to one slot, a slot for each other field.

Dimension key: B rows, N slots (or pairs), S slots of pairs, E width, H of a first map.
"""

from typing import final

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import MLP
from weft.models._inputs import DeepConfig, Positive, Slots
from weft.models._parts import ITEM, PAIR, USER, Part, Sides, SplitInputs, whole_pair
from weft.models._slot_maps import names_of

DENSE = "(dense)"


class BottomConfig(DeepConfig, frozen=True):
    """Options of a model whose numbers pass a network of their own.

    Attributes:
        hidden: Widths of the top network.
        bottom: Hidden widths of the network of the numbers; a layer of the slots' width follows them.
        batch_norm: Normalise before the activation, in both networks.
    """

    bottom: tuple[Positive, ...] = (512, 256, 64)
    batch_norm: bool = False


@final
class BottomSlots(nn.Module):
    """[x_bottom, e_1, ..., e_F] with x_bottom = MLP(dense); without dense columns [e_1, ..., e_F].

    Args:
        fields: What there is.
        config: Of the tables and of the network of the numbers.
    """

    def __init__(self, fields: Fields, config: BottomConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.bottom = _bottom(len(fields.dense), config) if fields.dense else None
        self.slots = None
        if fields.ids or fields.ragged or self.bottom is None:
            self.slots = Slots(replace(fields, dense=()), config)
        self.names = (*[DENSE] * (self.bottom is not None), *(names_of(self.slots) if self.slots else ()))
        self.width = width

    def forward(self, batch: Batch) -> Tensor:
        """The slots [B, N, E]."""
        parts = [] if self.bottom is None else [self.bottom(batch.dense)[:, None]]
        parts += [] if self.slots is None else [self.slots(batch)]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


@final
class SplitBottom:
    """The slots of each side; that of the numbers belongs to the side that has them all, else to the pair."""

    def __init__(self, fields: Fields, slots: BottomSlots) -> None:
        self._fields, self._bottom = fields, slots.bottom
        self._shape = (len(slots.names), slots.width)
        self._slots = None if slots.slots is None else SplitInputs(replace(fields, dense=()), slots.slots)
        owners = {side for side in (USER, ITEM, PAIR) for field in fields.dense if field.side in side}
        self._owner = (owners.pop() if len(owners) == 1 else PAIR) if owners else None

    @property
    def bottom_is_of_pairs(self) -> bool:
        """Whether the slot of the numbers is known for a pair only."""
        return self._owner == PAIR

    def places(self, sides: Sides) -> tuple[int, ...]:
        """Which slots are of one side; those of pairs in the order of `pair_slots`."""
        first = [0] if self._owner == sides else []
        others = () if self._slots is None else self._slots.places(sides)
        return (*first, *(place + (self._bottom is not None) for place in others))

    def slots(self, whole: Batch, sides: Sides) -> Tensor:
        """The slots [B, N, E] of rows of one side, zero where the others stand."""
        x_BNE = whole.dense.new_zeros(len(whole), *self._shape)
        if self._bottom is not None and self._owner == sides:
            x_BNE[:, 0] = self._bottom(whole.dense)
        if self._slots is not None:
            x_BNE[:, int(self._bottom is not None) :] = self._slots.slots(whole)
        return x_BNE

    def more(self, whole: Batch, sides: Sides) -> Part:
        """What the slots of pairs need of the user or of the item, beside the slots."""
        numbers = {"numbers": self._bottom.first(whole.dense)} if self._bottom and self.bottom_is_of_pairs else {}
        return numbers if self._slots is None else numbers | self._slots.more(whole, sides)

    def pair_slots(self, user: Part, item: Part, pair: Batch | None) -> Tensor | None:
        """The slots [N, S, E] of pairs; None where there are none."""
        found = [self._pair_bottom(self._bottom, user, item, pair)] if self._bottom and self.bottom_is_of_pairs else []
        others = None if self._slots is None else self._slots.pair_slots(user, item, pair)
        found += [] if others is None else [others]
        return torch.cat(found, dim=1) if found else None

    def _pair_bottom(self, bottom: MLP, user: Part, item: Part, pair: Batch | None) -> Tensor:
        numbers_NH = user["numbers"] + item["numbers"]
        if any(field.side in PAIR for field in self._fields.dense):
            numbers_NH = numbers_NH + bottom.first(whole_pair(self._fields, pair).dense)
        return bottom.after(numbers_NH)[:, None]


def _bottom(columns: int, config: BottomConfig) -> MLP:
    return MLP(
        columns,
        (*config.bottom, config.embedding_dim),
        activation=config.activation,
        batch_norm=config.batch_norm,
        dropout=config.dropout,
    )
