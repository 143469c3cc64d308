"""Full-rank cross layers of DCN-V2 (flat family: [B, D] -> [B, D]).

Dimension key: B rows, D width.
"""

from typing import final

import torch
from torch import Tensor, nn

from weft.layers.mlp import linear


@final
class Cross(nn.Module):
    """One cross step: x' = x0 * (W x + b) + x.

    Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535, equation (1): the bias is inside the product, where DCN of
    2017 has it outside.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = linear(width, width)

    def forward(self, x0_BD: Tensor, x_BD: Tensor) -> Tensor:
        """[B, D], [B, D] -> [B, D]."""
        return torch.addcmul(x_BD, x0_BD, self.linear(x_BD))


@final
class CrossNet(nn.Module):
    """Cross steps one after the other: `depth` of them reach products of `depth` + 1 features."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Cross(width) for _ in range(depth))

    def forward(self, x0_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        x_BD = x0_BD
        for layer in self.layers:
            x_BD = layer(x0_BD, x_BD)
        return x_BD
