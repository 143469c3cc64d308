"""Cross layers with one weight vector each, of DCN (flat family: [B, D] -> [B, D]).

Dimension key: B rows, D width, C of its columns, L layers.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.layers.mlp import ALL, Columns
from weft.layers.precision import lowered


@final
class VectorCrossNet(nn.Module):
    r"""Cross steps x_{l+1} = x_0 (x_l · w_l) + b_l + x_l, all in one pass over x_0.

    Wang et al., ADKDD 2017, https://arxiv.org/abs/1708.05123, equation (3): the bias is outside the product, where
    DCN-V2 has it inside.

    x_l · w_l is one number a row, so that by induction x_l is a multiple of x_0 and a vector that all rows share:

    .. math:: x_l = a_l x_0 + s_l, \quad a_{l+1} = a_l (1 + x_0 \cdot w_l) + s_l \cdot w_l, \quad s_{l+1} = s_l + b_l

    with a_0 = 1 and s_0 = 0. All products x_0 · w_l are one matrix product, and what is left are L numbers a row, kept
    in single precision at least.

    Args:
        width: D.
        depth: L; products of up to L + 1 features.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(depth, width).normal_(std=(2 / (width + 1)) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(depth, width))

    def forward(self, x0_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        x0_BD = lowered(x0_BD)
        return self.after(self.first(x0_BD), x0_BD)

    def first(self, x_BC: Tensor, columns: Columns = ALL) -> Tensor:
        """All x · w_l of some columns of the block, [B, C] -> [B, L]; the sum over all is what `after` takes."""
        return F.linear(x_BC, self.weight[:, columns])

    def after(self, product_BL: Tensor, x0_BD: Tensor) -> Tensor:
        """x_0 · w_l [B, L] and x_0 [B, D] -> [B, D]."""
        product_BL = product_BL.to(self.weight.dtype)
        shared_LD = self.bias.cumsum(0)
        shift_L = ((shared_LD - self.bias) * self.weight).sum(1)
        multiple_B = torch.ones_like(product_BL[:, 0])
        for product_B, shift in zip(product_BL.unbind(1), shift_L.unbind(), strict=True):
            multiple_B = torch.addcmul(multiple_B + shift, multiple_B, product_B)
        return torch.addcmul(shared_LD[-1].to(x0_BD.dtype), multiple_B[:, None].to(x0_BD.dtype), x0_BD)
