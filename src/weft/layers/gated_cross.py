"""Gated cross layers, of GDCN (flat family: [B, D] -> [B, D]).

Dimension key: B rows, D width, C of its columns, L layers.
"""

from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.layers.mlp import ALL, Columns
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
        return self.step(c0_BD, c_BD, self.cross(c_BD), self.gate(c_BD))

    def step(self, c0_BD: Tensor, c_BD: Tensor, u_BD: Tensor, gate_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The same from what both maps make of c: u = W c + b and G c."""
        open_BD = gate_BD.sigmoid()
        return torch.addcmul(c_BD, c0_BD, u_BD * open_BD), open_BD


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

    def first(self, x_BC: Tensor, columns: Columns = ALL) -> Tensor:
        """[W_0 x, G_0 x] of some columns of the block, [B, C] -> [B, 2 D]; the sum over all is what `after` takes."""
        layer = self._layer(0)
        maps = (F.linear(x_BC, weight_DD[:, columns]) for weight_DD in (layer.cross.weight, layer.gate.weight))
        return torch.cat(list(maps), dim=1)

    def after(self, z_BH: Tensor, c0_BD: Tensor) -> Tensor:
        """[W_0 c_0, G_0 c_0] [B, 2 D] and c_0 [B, D] -> [B, D]."""
        u_BD, gate_BD = z_BH.chunk(2, dim=1)
        layer = self._layer(0)
        c_BD, _ = layer.step(c0_BD, c0_BD, u_BD + layer.cross.bias, gate_BD)
        for place in range(1, len(self.layers)):
            c_BD, _ = self._layer(place)(c0_BD, c_BD)
        return c_BD

    def _layer(self, place: int) -> GatedCross:
        return cast(GatedCross, self.layers[place])

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
