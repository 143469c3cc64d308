"""Numeric fields as slots: each column owns a vector that its value scales.

Dimension key: B rows, D dense columns, E width.
"""

import math
from typing import final

import torch
from torch import Tensor, nn


@final
class Numeric(nn.Module):
    """e_d = x_d * v_d: a number becomes a multiple of its column's vector.

    Args:
        columns: D.
        width: E.
        std: The vectors start from N(0, std**2); without it as a linear map of one number does (Xavier).
    """

    def __init__(self, columns: int, width: int, *, std: float | None = None) -> None:
        super().__init__()
        std = math.sqrt(2 / (1 + width)) if std is None else std
        self.weight = nn.Parameter(torch.empty(columns, width).normal_(std=std))

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D, E]."""
        return x_BD[..., None] * self.weight
