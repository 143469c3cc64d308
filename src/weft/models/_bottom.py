"""The way into DLRM and DHEN: the numbers of a row through one network to one slot, a slot for each other field.

Dimension key: B rows, N slots, E width.
"""

from typing import final

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import MLP
from weft.models._inputs import DeepConfig, Positive, Slots
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


def _bottom(columns: int, config: BottomConfig) -> MLP:
    return MLP(
        columns,
        (*config.bottom, config.embedding_dim),
        activation=config.activation,
        batch_norm=config.batch_norm,
        dropout=config.dropout,
    )
