"""Layers of a deep hierarchical ensemble network: interactions side by side, each with its projection to slots.

An interaction maps slots [B, N, E] to M slots of the same width: [B, M, E]. A new one is a class with that signature.

Zhang et al., 2022, https://arxiv.org/abs/2203.11014, section 3.

Dimension key: B rows, N slots in, M slots out of an interaction, S slots out of a layer, K interactions, E width.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from weft.layers.attention import Encoder
from weft.layers.convolution import SlotConvolution
from weft.layers.dot import Dots
from weft.layers.mlp import linear
from weft.layers.slot_linear import SlotLinear

Ensemble = Literal["concat", "sum", "weighted_sum"]


@final
class DotSlots(nn.Module):
    """The dot products of all pairs of slots, mapped to M slots at once (the paper's AdvancedDLRM): W dots + b.

    Args:
        inputs: N; at least two, one slot has no pair.
        outputs: M.
        width: E.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.dots = Dots(inputs)
        self.linear = linear(self.dots.width, outputs * width)
        self.outputs, self.width = outputs, width

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, M, E]."""
        flat_BD: Tensor = self.linear(self.dots(x_BNE))
        return flat_BD.view(len(x_BNE), self.outputs, self.width)


@final
class AttentionSlots(nn.Module):
    """W Encoder(X), with W [M, N] over the slots.

    Args:
        inputs: N.
        outputs: M.
        width: E; a multiple of `heads`.
        heads: Of the encoder layer, whose hidden layer is four times E.
    """

    def __init__(self, inputs: int, outputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.encoder = Encoder(width, heads, 4 * width)
        self.slots = SlotLinear(inputs, outputs)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, M, E]."""
        u_BME: Tensor = self.slots(self.encoder(x_BNE))
        return u_BME


@final
class ConvolutionSlots(nn.Module):
    """W Conv(X), with W [M, C N] over the slots of all C channels.

    Args:
        inputs: N.
        outputs: M.
        channels: C.
    """

    def __init__(self, inputs: int, outputs: int, channels: int) -> None:
        super().__init__()
        self.convolution = SlotConvolution(channels)
        self.slots = SlotLinear(channels * inputs, outputs)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, M, E]."""
        u_BME: Tensor = self.slots(self.convolution(x_BNE))
        return u_BME


@final
class CrossSlots(nn.Module):
    """(X X^T) W + b in the paper's letters, where X is [E, N] and W and b are [E, M]: a cross without a skip.

    With slots as rows, u_m = sum over n of <x_n, w_m> x_n, plus b_m: the new slots are sums of the old ones, each
    weighed by what it has in common with a direction.

    Args:
        outputs: M.
        width: E.
    """

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs, width))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, M, E]."""
        products_BEE = x_BNE.mT @ x_BNE
        return self.weight @ products_BEE + self.bias


@final
class DHENLayer(nn.Module):
    r"""One layer of the hierarchy.

    .. math:: Y = \mathrm{LayerNorm}\big( \mathrm{Ensemble}_i\, \mathrm{Interaction}_i(X) + \mathrm{ShortCut}(X) \big)

    Equations (1) and (2) of the paper. The shortcut is X where the number of slots stays, and W X with W over the slots
    where it changes; the norm is over each slot.

    Args:
        inputs: N.
        outputs: M, of each interaction.
        width: E.
        interactions: K modules [B, N, E] -> [B, M, E].
        ensemble: Their results one below the other (S = K M), added up (S = M), or added up with a learned weight each.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, interactions: Sequence[nn.Module], ensemble: Ensemble
    ) -> None:
        super().__init__()
        self.interactions = nn.ModuleList(interactions)
        self.slots = outputs * len(interactions) if ensemble == "concat" else outputs
        self.concat = ensemble == "concat"
        self.weight = nn.Parameter(torch.ones(len(interactions))) if ensemble == "weighted_sum" else None
        self.shortcut = nn.Identity() if self.slots == inputs else SlotLinear(inputs, self.slots)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, S, E]."""
        found = [interaction(x_BNE) for interaction in self.interactions]
        y_BSE: Tensor = self.norm(self._together(found) + self.shortcut(x_BNE))
        return y_BSE

    def _together(self, found: list[Tensor]) -> Tensor:
        if self.concat:
            return torch.cat(found, dim=1)
        weights = [1.0] * len(found) if self.weight is None else self.weight
        return torch.stack([w * u_BME for w, u_BME in zip(weights, found, strict=True)]).sum(0)
