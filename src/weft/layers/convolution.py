"""Convolution over the picture that slots side by side make.

Dimension key: B rows, N slots, E width, C channels, I and O coordinates in and out (E each).
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 3


@final
class SlotConvolution(nn.Module):
    """Each channel is a 3 x 3 filter over [N, E] with zeros around it; the C pictures stand one below the other.

    Neighbours are slots that stand side by side in the schema, so the order of the features counts.

    The filters are applied as one product with a banded matrix: each slot beside the one above and the one below it,
    [B, N, 3 E], times [3 E, C E]. Of so few channels and pixels that is many times faster than a convolution.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, channels, kernel_size=SIZE, padding=1)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, C N, E]."""
        slots, width = x_BNE.shape[1:]
        padded = F.pad(x_BNE, (0, 0, 1, 1))
        three = torch.cat([padded[:, start : start + slots] for start in range(SIZE)], dim=-1)
        bias = self.filters.bias
        assert bias is not None
        pictures = F.linear(three, self._banded(width), bias.repeat_interleave(width))
        return pictures.view(len(x_BNE), slots, len(bias), width).transpose(1, 2).flatten(1, 2)

    def _banded(self, width: int) -> Tensor:
        """What each coordinate of three slots is worth for each one of each channel: [C O, 3 I]."""
        weight = F.pad(self.filters.weight[:, 0], (0, 1))  # the last column stands for all that is no neighbour
        place = torch.arange(width, device=weight.device)
        column_OI = place - place[:, None] + 1
        column_OI = torch.where((column_OI < 0) | (column_OI >= SIZE), SIZE, column_OI)
        return weight[:, :, column_OI].transpose(1, 2).reshape(-1, SIZE * width)
