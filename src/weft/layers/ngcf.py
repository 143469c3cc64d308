"""A layer of NGCF: each node gathers its neighbours' vectors and their products with its own.

Dimension key: N nodes, E width in, H width out.
"""

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the authors' LeakyReLU; the paper names none


@final
class NGCFLayer(nn.Module):
    """E' = LeakyReLU((L E + E) W1 + (L E ⊙ E) W2) for a normalised adjacency L; W1, W2 without bias, Xavier-uniform.

    Wang et al., SIGIR 2019, https://arxiv.org/abs/1905.08108, equation (7).

    Args:
        inputs: E.
        outputs: H.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.sum = _weights(inputs, outputs)
        self.product = _weights(inputs, outputs)

    def forward(self, e_NE: Tensor, gathered_NE: Tensor) -> Tensor:
        """The nodes E and what they gathered, L E, to [N, H]."""
        message_NH: Tensor = self.sum(gathered_NE + e_NE) + self.product(gathered_NE * e_NE)
        return F.leaky_relu(message_NH, SLOPE)


def _weights(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer
