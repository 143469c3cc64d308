"""Pictures of pairs of slots that several models draw alike.

Dimension key: B rows, N slots, P pairs of slots, H width out, E width.
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
def dot_map(names: Sequence[str], x_BNE: Tensor, weight_HP: Tensor | None = None) -> FieldMap:
    """The dot product of each pair of slots in each row, times the length of the weights that read it.

    Args:
        names: Of the slots.
        x_BNE: The slots.
        weight_HP: Of the linear map that reads the products, pairs in the order of the layer `Dots`; None where the
            products are added up as they are.
    """
    read_NN = x_BNE.new_zeros(len(names), len(names))
    left_P, right_P = torch.tril_indices(len(names), len(names), offset=-1)
    read_NN[left_P, right_P] = 1.0 if weight_HP is None else weight_HP.norm(dim=0).to(read_NN)
    strength_BNN = (x_BNE @ x_BNE.mT) * (read_NN + read_NN.T)
    title = "dot products of pairs" + ("" if weight_HP is None else ", times the length of the weights that read them")
    return FieldMap(title, tuple(names), tuple(names), strength_BNN.float(), signed=True)
