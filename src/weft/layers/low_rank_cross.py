"""Cross layers of DCN-V2 through few dimensions, alone and as a mixture of experts (flat family: [B, D] -> [B, D]).

Weights of all layers and experts are stacked, one tensor of a kind.

Dimension key: B rows, D width, C of its columns, R rank, K experts, N experts times rank, L layers.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.layers.mlp import ALL, Columns
from weft.layers.precision import lowered

Gate = Literal["softmax", "sigmoid", "constant"]
RankActivation = Literal["tanh", "hardtanh", "relu", "gelu", "silu", "identity"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "identity": lambda x: x,
}


def stacked_maps(*shape: int) -> nn.Parameter:
    """Linear maps [..., outputs, inputs], each with Xavier-normal weights of its own two fans.

    Of a tensor with more than two axes `xavier_normal_` takes all but the first two for the size of a convolution.
    """
    weight = torch.empty(*shape)
    for matrix in weight.view(-1, *shape[-2:]):
        nn.init.xavier_normal_(matrix)
    return nn.Parameter(weight)


@final
class LowRankCrossNet(nn.Module):
    """Cross steps x_{l+1} = x_0 * (U_l (V_l^T x_l) + b_l) + x_l with U_l, V_l of D times R.

    Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535, equation (2). 2 D R weights a layer stand for D^2.

    Args:
        width: D.
        depth: L; products of up to L + 1 features.
        rank: R.
    """

    def __init__(self, width: int, depth: int, rank: int) -> None:
        super().__init__()
        self.down = stacked_maps(depth, rank, width)
        self.up = stacked_maps(depth, width, rank)
        self.bias = nn.Parameter(torch.zeros(depth, width))

    def forward(self, x0_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        x0_BD = lowered(x0_BD)
        return self.after(self.first(x0_BD), x0_BD)

    def first(self, x_BC: Tensor, columns: Columns = ALL) -> Tensor:
        """V_0^T x of some columns of the block, [B, C] -> [B, R]; the sum over all columns is what `after` takes."""
        return F.linear(x_BC, self.down[0][:, columns])

    def after(self, z_BR: Tensor, x0_BD: Tensor) -> Tensor:
        """V_0^T x_0 [B, R] and x_0 [B, D] -> [B, D]."""
        down, up, bias = (lowered(weight).unbind() for weight in (self.down, self.up, self.bias))
        x_BD = torch.addcmul(x0_BD, x0_BD, F.linear(z_BR, up[0], bias[0]))
        for down_RD, up_DR, bias_D in zip(down[1:], up[1:], bias[1:], strict=True):
            x_BD = torch.addcmul(x_BD, x0_BD, F.linear(F.linear(x_BD, down_RD), up_DR, bias_D))
        return x_BD

    def matrices(self) -> Tensor:
        """What stands for W of each layer: U V^T, [L, D, D]."""
        return self.up @ self.down


@final
class MixCrossNet(nn.Module):
    r"""Cross steps by K experts of rank R that gates mix.

    .. math::
        x_{l+1} = \sum_i G_i(x_l) E_i(x_l) + x_l, \quad
        E_i(x_l) = x_0 * \big(U_i\, g(C_i\, g(V_i^T x_l)) + b_l\big)

    Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535, equations (3) and (4). U, V, C and G belong to a layer and
    an expert, b to a layer. With C = 1, g the identity and one expert of gate 1 this is `LowRankCrossNet`.

    Computed as x_0 * (Σ_i U_i (G_i h_i) + (Σ_i G_i) b_l) + x_l: the experts of a layer are one product on the way down,
    together with the gates, and one on the way up; nothing of B times K times D is made.

    Args:
        width: D.
        depth: L; products of up to L + 1 features, and more through g.
        experts: K.
        rank: R.
        activation: g; twice in the R dimensions of an expert, never in D.
        gate: G over the experts: `softmax` or `sigmoid` of w_i · x_l, or `constant`, each 1.
        shared_gates: One set of K gate vectors for all layers, as public code has it; the paper writes G_i without
            saying.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        experts: int,
        rank: int,
        activation: RankActivation = "tanh",
        gate: Gate = "softmax",
        shared_gates: bool = False,
    ) -> None:
        super().__init__()
        self.down = stacked_maps(depth, experts, rank, width)
        self.core = stacked_maps(depth, experts, rank, rank)
        self.up = stacked_maps(depth, experts, rank, width)
        self.bias = nn.Parameter(torch.zeros(depth, width))
        learned = gate == "sigmoid" or (gate == "softmax" and experts > 1)
        self.gate = stacked_maps(1 if shared_gates else depth, experts, 1, width) if learned else None
        self._softmax = gate == "softmax"
        self._activation = _ACTIVATIONS[activation]

    def forward(self, x0_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        x0_BD = x_BD = lowered(x0_BD)
        for layer in self._layers():
            x_BD, _ = self._step(layer, x0_BD, x_BD, layer.inside(x_BD))
        return x_BD

    def first(self, x_BC: Tensor, columns: Columns = ALL) -> Tensor:
        """[V^T x, the gates' w · x] of the first layer and some columns of the block, [B, C] -> [B, N + K].

        The sum over all columns is what `after` takes.
        """
        return next(self._layers()).inside(x_BC, columns)

    def after(self, z_BH: Tensor, x0_BD: Tensor) -> Tensor:
        """What `first` gives of x_0 [B, N + K] and x_0 [B, D] -> [B, D]."""
        x_BD = x0_BD
        for place, layer in enumerate(self._layers()):
            x_BD, _ = self._step(layer, x0_BD, x_BD, layer.inside(x_BD) if place else z_BH)
        return x_BD

    @torch.no_grad()
    def matrices(self, x0_BD: Tensor) -> Tensor:
        """What stands for W of each layer at the mean gates of these rows, were g the identity: Σ G U C V^T."""
        matrices: list[Tensor] = []
        x_BD = x0_BD
        for layer in self._layers():
            x_BD, gate_BK = self._step(layer, x0_BD, x_BD, layer.inside(x_BD))
            through_KDD = layer.up_KRD.transpose(1, 2) @ layer.core_KRR @ layer.down_KRD
            matrices.append(torch.einsum("k,kij->ij", gate_BK.mean(0).to(through_KDD.dtype), through_KDD))
        return torch.stack(matrices)

    def _layers(self) -> Iterator["_Layer"]:
        gates: Iterable[Tensor | None] = repeat(None, len(self.bias))
        if self.gate is not None:
            gates = lowered(self.gate)[:, :, 0].expand(len(self.bias), -1, -1).unbind()
        weights = (lowered(weight).unbind() for weight in (self.down, self.core, self.up, self.bias))
        for down, core, up, bias, gate in zip(*weights, gates, strict=True):
            yield _Layer(down, core, up, bias, gate)

    def _step(self, layer: "_Layer", x0_BD: Tensor, x_BD: Tensor, inside_BN: Tensor) -> tuple[Tensor, Tensor]:
        """x_{l+1} and the gates, [B, K] or the same for all rows [1, K]."""
        experts, rank, _ = layer.down_KRD.shape
        first_BN, gate_BK = inside_BN[:, : experts * rank], self._gates(inside_BN[:, experts * rank :], experts)
        first_KBR = self._activation(first_BN).view(-1, experts, rank).transpose(0, 1)
        second_BKR = self._activation(torch.bmm(first_KBR, layer.core_KRR.transpose(1, 2))).transpose(0, 1)
        gated_BN = (second_BKR * gate_BK[..., None]).flatten(1)
        bias = layer.bias_D if self._softmax else gate_BK.sum(1, keepdim=True) * layer.bias_D
        u_BD = torch.addmm(bias, gated_BN, layer.up_KRD.flatten(0, 1))
        return torch.addcmul(x_BD, x0_BD, u_BD), gate_BK

    def _gates(self, logit_BK: Tensor, experts: int) -> Tensor:
        if self.gate is None:
            return logit_BK.new_ones(1, experts)
        return (logit_BK.softmax(1) if self._softmax else logit_BK.sigmoid()).to(logit_BK.dtype)


class _Layer(NamedTuple):
    """The weights of one layer."""

    down_KRD: Tensor
    core_KRR: Tensor
    up_KRD: Tensor
    bias_D: Tensor
    gate_KD: Tensor | None

    def inside(self, x_BC: Tensor, columns: Columns = ALL) -> Tensor:
        """What the way down and the gates make of some columns [B, C] of x_l, [B, N + K]."""
        down_ND = self.down_KRD.flatten(0, 1)
        weight_ND = down_ND if self.gate_KD is None else torch.cat([down_ND, self.gate_KD])
        return F.linear(x_BC, weight_ND[:, columns])
