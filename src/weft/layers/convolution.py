"""Convolution over the picture that slots side by side make.

Dimension key: B rows, N slots, E width, C channels.
"""

from typing import final

from torch import Tensor, nn


@final
class SlotConvolution(nn.Module):
    """Each channel is a 3 x 3 filter over [N, E] with zeros around it; the C pictures stand one below the other.

    Neighbours are slots that stand side by side in the schema, so the order of the features counts.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, channels, kernel_size=3, padding=1)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, C N, E]."""
        pictures_BCNE: Tensor = self.filters(x_BNE[:, None])
        return pictures_BCNE.flatten(1, 2)
