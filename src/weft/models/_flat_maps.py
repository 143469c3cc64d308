"""Pictures of what flat models do with their fields.

Dimension key: B rows, L layers, D width, N fields.
"""

from torch import Tensor

from weft.layers.blocks import block_norms, field_means
from weft.models._contract import FieldMap
from weft.models._inputs import Inputs


def pair_maps(inputs: Inputs, weight_LDD: Tensor, what: str) -> list[FieldMap]:
    """How strongly each layer multiplies the field of a row with that of a column, one map a layer for all rows.

    Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535: the Frobenius norm of block (i, j) of the matrix that makes
    x_0 * (W x) stands for the strength of the cross of fields i and j.
    """
    names = tuple(slot.name for slot in inputs.slots)
    norms_LNN = block_norms(weight_LDD.detach(), [slot.width for slot in inputs.slots])
    return [
        FieldMap(f"layer {layer}: Frobenius norm of the blocks of {what}", names, names, norms_NN[None])
        for layer, norms_NN in enumerate(norms_LNN, 1)
    ]


def gate_map(inputs: Inputs, gate_BLD: Tensor) -> FieldMap:
    """How far the gates of each layer are open for each field, one map a row of the batch."""
    open_BLN = field_means(gate_BLD, [slot.width for slot in inputs.slots])
    layers = tuple(f"layer {layer}" for layer in range(1, gate_BLD.shape[1] + 1))
    names = tuple(slot.name for slot in inputs.slots)
    return FieldMap("openness of the gate, mean over the coordinates of a field", layers, names, open_BLN)
