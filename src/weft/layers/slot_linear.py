"""A linear map of slots to slots (slots family: [B, N, E] -> [B, M, E]).

Dimension key: B rows, N slots in, M slots out, E width.
"""

from typing import final

import torch
from torch import Tensor, nn


@final
class SlotLinear(nn.Module):
    """u = W X with W [M, N]: each new slot is a weighted sum of the old ones, coordinate by coordinate.

    Args:
        inputs: N.
        outputs: M.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, M, E]."""
        return self.weight @ x_BNE
