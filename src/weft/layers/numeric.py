"""Numeric fields as slots: each column owns a vector that its value scales.

Dimension key: B rows, D dense columns, E width.
"""

import math
from typing import final

import torch
from torch import Tensor, nn


@final
class Numeric(nn.Module):
    """e_d = x_d * v_d: a number becomes a multiple of its column's vector, which starts as a linear map of one number.

    Args:
        columns: D.
        width: E.
    """

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, width).normal_(std=math.sqrt(2 / (1 + width))))

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D, E]."""
        return x_BD[..., None] * self.weight
