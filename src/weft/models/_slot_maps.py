"""Pictures of pairs of slots that several models draw alike.

Dimension key: B rows, N slots, E width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.models._contract import FieldMap
from weft.models._inputs import Slots


def names_of(slots: Slots) -> tuple[str, ...]:
    """The names of the slots, in order."""
    return tuple(slot.name for slot in slots.inputs.slots)


@torch.no_grad()
def dot_map(names: Sequence[str], x_BNE: Tensor) -> FieldMap:
    """The dot products <x_m, x_k> of all pairs of slots in each row, with zeros on the diagonal."""
    products_BNN = (x_BNE @ x_BNE.mT).float()
    products_BNN.diagonal(dim1=1, dim2=2).zero_()
    return FieldMap("dot products of pairs", tuple(names), tuple(names), products_BNN, signed=True)
