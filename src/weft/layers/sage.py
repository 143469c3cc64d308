"""A layer of GraphSAGE: each node joins its own vector and the mean of its neighbours'.

Dimension key: N nodes, E width in, H width out.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@final
class SAGELayer(nn.Module):
    """h' = g(W [h, mean] + b), divided by its length; g is ReLU, or nothing in the last layer.

    Hamilton et al., NeurIPS 2017, https://arxiv.org/abs/1706.02216, algorithm 1, lines 4 to 7, with the mean of the
    neighbours beside the node's own vector. A node without neighbours has a mean of zero.

    Args:
        inputs: E.
        outputs: H.
        last: Leave out the ReLU, so that vectors can point anywhere.
    """

    def __init__(self, inputs: int, outputs: int, *, last: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * inputs, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self._last = last

    def forward(self, h_NE: Tensor, mean_NE: Tensor) -> Tensor:
        """The nodes and the means of their neighbours to [N, H]."""
        h_NH: Tensor = self.linear(torch.cat([h_NE, mean_NE], dim=1)).to(self.linear.weight.dtype)
        return F.normalize(h_NH if self._last else h_NH.relu())
