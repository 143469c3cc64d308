"""Dot products of all pairs of slots.

Dimension key: B rows, N slots, P pairs of slots, E width.
"""

from typing import final

import torch
from torch import Tensor, nn


@final
class Dots(nn.Module):
    """Z = X X^T, its strictly lower triangle row by row: <x_1, x_0>, <x_2, x_0>, <x_2, x_1>, <x_3, x_0>, ...

    Naumov et al., 2019, https://arxiv.org/abs/1906.00091, section 2.1.4: no pair twice, no slot with itself.

    Args:
        slots: N.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        left_P, right_P = torch.tril_indices(slots, slots, offset=-1)
        self.register_buffer("_place_P", left_P * slots + right_P, persistent=False)
        self.width = len(left_P)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, P]."""
        products_BNN = x_BNE @ x_BNE.mT
        return products_BNN.flatten(1).gather(1, self.get_buffer("_place_P").expand(len(x_BNE), -1))
