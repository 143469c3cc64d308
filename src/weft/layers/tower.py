"""A tower: everything about one side becomes one vector.

Dimension key: B rows, D width in, E width out.
"""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.layers.mlp import MLP, Activation, linear


@final
class Tower(nn.Module):
    """A multi-layer perceptron and a linear map; of length one where `unit` says so.

    The last map is computed in full precision: in bf16 the coordinates of a vector have eight bits.

    Args:
        inputs: D.
        hidden: Widths of the hidden layers; without any the tower is one linear map.
        width: E.
        unit: Divide by the Euclidean length; a vector of zeros stays zero.
        activation: Name of the non-linearity.
        batch_norm: Normalise before the activation.
        dropout: Share of the activations set to zero in training.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        width: int,
        *,
        unit: bool,
        activation: Activation = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.mlp = MLP(inputs, hidden, activation=activation, batch_norm=batch_norm, dropout=dropout)
        self.last = linear(self.mlp.width, width)
        self._unit = unit

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, E]."""
        h_BH = self.mlp(x_BD)
        with torch.autocast(h_BH.device.type, enabled=False):
            v_BE: Tensor = self.last(h_BH.to(self.last.weight.dtype))
            return F.normalize(v_BE) if self._unit else v_BE
