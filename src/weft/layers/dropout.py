"""Dropout, with random bits that a CPU draws fast."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DRAWS = 1 << 16  # each value is kept or dropped by 16 random bits


@final
class Dropout(nn.Module):
    """In training, zero for a share of the values and 1 / (1 - share) times the others.

    torch draws a float for each value from a serial generator, which on a CPU takes several times as long as the matrix
    product before it; here one 64-bit draw decides four values. The share is rounded to a multiple of 2**-16, and the
    others are scaled by what that makes of them.

    Srivastava et al., JMLR 2014, https://jmlr.org/papers/v15/srivastava14a.html; section 10 scales in training.

    Args:
        share: Of the values set to zero, 0 to below 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._kept = max(1, round((1 - share) * DRAWS))

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]."""
        if not self.training or self._kept == DRAWS:
            return x
        return x * self._mask(x) if x.device.type == "cpu" else F.dropout(x, self.share)

    def extra_repr(self) -> str:
        """The share."""
        return f"share={self.share}"

    def _mask(self, x: Tensor) -> Tensor:
        """Zero where a value is dropped, else the scale, as x."""
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = draws[: x.numel()].lt_(self._kept - DRAWS // 2)
        return kept.view(x.shape).to(x.dtype).mul_(DRAWS / self._kept)
