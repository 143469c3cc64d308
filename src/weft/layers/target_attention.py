"""Target attention: what a history weighs depends on the candidate it is read for.

Paper: Zhou et al., KDD 2018, Deep Interest Network, https://arxiv.org/abs/1706.06978, equation (3): a weighted sum
whose weights are not normalised, so that their sum says how much of the history speaks for the candidate.
Differs: the unit reads [e, v, e * v], as the authors' code does (which adds e - v, that a linear map makes from e and
v), not the outer product of the text. PReLU, not Dice, whose value hangs on the other rows of the batch. The output
bias starts at one, so that training starts from the plain sum: at zero, small vectors would hardly move.

Dimension key: B rows of a batch, V values of a history field, E width, H width of the hidden layer, L longest history,
N candidates.
"""

from typing import final

import torch
from torch import Tensor, nn

from weft.layers.mlp import linear
from weft.layers.pooling import pool, set_of


@final
class TargetAttention(nn.Module):
    """The activation unit: a(e, v) = w · PReLU(W [e, v, e * v] + b) + c, and the sum Σ_i a(e_i, v) e_i of each history.

    A PReLU of slope s is s z + (1 - s) max(z, 0). It is mixed after w, where a value has one number, not H: the same
    function in half of the time.

    Args:
        width: E, of a value's vector and of the candidate's.
        hidden: H; 36 as in the paper's figure 2.
    """

    def __init__(self, width: int, hidden: int = 36) -> None:
        super().__init__()
        self.hidden = linear(3 * width, hidden)
        self.slope = nn.Parameter(torch.full((1,), 0.25))
        self.out = linear(hidden, 1)
        nn.init.ones_(self.out.bias)

    def weights(self, rows_VE: Tensor, offsets: Tensor, target_BE: Tensor) -> Tensor:
        """a(e_i, v) of each value [V]."""
        target_VE = target_BE.index_select(0, set_of(offsets))
        z_VH = self.hidden(torch.cat([rows_VE, target_VE, rows_VE * target_VE], dim=1))
        weight_V1: Tensor = self.slope * self.out(z_VH) + (1 - self.slope) * self.out(z_VH.relu())
        return weight_V1[:, 0]

    def forward(self, rows_VE: Tensor, offsets: Tensor, known_V: Tensor, target_BE: Tensor) -> Tensor:
        """The weighted sums [B, E]; an empty history gives zero.

        Args:
            rows_VE: The vectors of all histories, one after the other.
            offsets: [B + 1] int64; history b owns rows offsets[b] to offsets[b + 1].
            known_V: What a value counts beside its attention; zero leaves it out.
            target_BE: The vector of each row's candidate.
        """
        return pool(rows_VE, offsets, known_V * self.weights(rows_VE, offsets, target_BE), "sum")

    def over(self, past_BLE: Tensor, known_BL: Tensor, target_NE: Tensor) -> Tensor:
        """The weighted sums [N, E] of histories filled up to one length, and of one history (B = 1) for N candidates.

        W e, W v and W (e * v) are added up, so that what one history gives is not computed for each candidate.
        """
        own_EH, target_EH, both_EH = self.hidden.weight.T.chunk(3)
        past_BLH = past_BLE @ own_EH + self.hidden.bias
        z_NLH = (past_BLE * target_NE[:, None]) @ both_EH + past_BLH + (target_NE @ target_EH)[:, None]
        weight_NL1: Tensor = self.slope * self.out(z_NLH) + (1 - self.slope) * self.out(z_NLH.relu())
        return ((known_BL * weight_NL1[..., 0])[:, None] @ past_BLE)[:, 0]
