"""Gated cross layers, of GDCN (flat family: [B, D] -> [B, D]).

Dimension key: B rows, D width, L layers.
"""

from typing import final

import torch
from torch import Tensor, nn

from weft.layers.precision import lowered


@final
class GatedCross(nn.Module):
    """One gated step: c' = c_0 * (W c + b) * sigmoid(G c) + c.

    Wang et al., CIKM 2023, https://arxiv.org/abs/2311.04635, equation (2). The gate reads c, has no bias, and weakens
    the new crosses only, not what is carried along. As in the authors' code W and G start as torch's linear maps do and
    b from U(0, 1).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross = nn.Linear(width, width)
        self.gate = nn.Linear(width, width, bias=False)
        nn.init.uniform_(self.cross.bias)

    def forward(self, c0_BD: Tensor, c_BD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D], [B, D] -> c' [B, D] and the open share of its gate [B, D]."""
        open_BD = self.gate(c_BD).sigmoid()
        return torch.addcmul(c_BD, c0_BD, self.cross(c_BD) * open_BD), open_BD


@final
class GatedCrossNet(nn.Module):
    """Gated steps one after the other: `depth` of them reach products of `depth` + 1 features, and more by the gates.

    Args:
        width: D.
        depth: L.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GatedCross(width) for _ in range(depth))

    def forward(self, c0_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        c0_BD = c_BD = lowered(c0_BD)
        for layer in self.layers:
            c_BD, _ = layer(c0_BD, c_BD)
        return c_BD

    def matrices(self) -> Tensor:
        """W of each layer, [L, D, D]."""
        return torch.stack([layer.cross.weight for layer in self.layers if isinstance(layer, GatedCross)])

    @torch.no_grad()
    def gates(self, c0_BD: Tensor) -> Tensor:
        """How far the gates are open for these rows, [B, L, D]."""
        c_BD, found = c0_BD, []
        for layer in self.layers:
            c_BD, open_BD = layer(c0_BD, c_BD)
            found.append(open_BD)
        return torch.stack(found, dim=1)
