"""Attention of slots to slots (slots family: [B, N, E] -> [B, N, A]): AutoInt's layer, a transformer's encoder layer.

The products are written out: slots are few and heads are narrow, where torch's fused attention gains nothing on a CPU,
and in bf16 is several times slower.

Dimension key: B rows, N slots, E width in, A width of all heads together, H heads, h width of a head.
"""

from typing import final

import torch
from torch import Tensor, nn

from weft.layers.dropout import Dropout
from weft.layers.mlp import linear


def attention_weights(query_BNA: Tensor, key_BNA: Tensor, heads: int, scale: float = 1.0) -> Tensor:
    r"""How much each slot looks at each other one, head by head.

    .. math:: \alpha^h_{mk} = \mathrm{softmax}_k \big( s \langle q^h_m, k^h_k \rangle \big)

    Args:
        query_BNA: Heads side by side.
        key_BNA: Heads side by side.
        heads: H.
        scale: s.

    Returns:
        [B, H, N, N]; the last axis sums to one.
    """
    score_BHNN = _apart(query_BNA, heads) @ _apart(key_BNA, heads).mT
    return (score_BHNN if scale == 1.0 else scale * score_BHNN).softmax(-1)


def attended(weights_BHNN: Tensor, value_BNA: Tensor) -> Tensor:
    """The values weighted, sum over k of alpha^h_mk v^h_k, heads side by side again: [B, N, A]."""
    mixed_BHNh = weights_BHNN.to(value_BNA.dtype) @ _apart(value_BNA, weights_BHNN.shape[1])
    return mixed_BHNh.transpose(1, 2).flatten(2)


def _apart(x_BNA: Tensor, heads: int) -> Tensor:
    """[B, N, A] -> [B, H, N, h]."""
    return x_BNA.view(*x_BNA.shape[:2], heads, x_BNA.shape[2] // heads).transpose(1, 2)


@final
class FieldAttention(nn.Module):
    r"""One interacting layer of AutoInt.

    .. math:: e'_m = \mathrm{ReLU}\big( \tilde e_m + W_{Res} e_m \big), \quad
              \tilde e_m = \Vert_h \sum_k \alpha^h_{mk} W^h_V e_k

    with alpha of the queries W_Q e and the keys W_K e. Song et al., CIKM 2019, https://arxiv.org/abs/1810.11921,
    equations (5) to (8). The options are what the authors' code adds to that.

    Args:
        width: E.
        outputs: A; a multiple of `heads`.
        heads: H.
        scaled: Divide the scores by the square root of a head's width.
        activated: ReLU on queries, keys, values and the residual's projection.
        layer_norm: Normalise each slot after the last ReLU.
        dropout: Share of the attention weights set to zero in training.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        heads: int,
        *,
        scaled: bool = False,
        activated: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (outputs // heads) ** -0.5 if scaled else 1.0
        self.activated = activated
        self.projection = _stacked(width, outputs, 4)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(outputs) if layer_norm else nn.Identity()

    def weights(self, x_BNE: Tensor) -> Tensor:
        """The attention weights [B, H, N, N]."""
        query_BNA, key_BNA, _, _ = self._projected(x_BNE)
        return attention_weights(query_BNA, key_BNA, self.heads, self.scale)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, N, A]."""
        query_BNA, key_BNA, value_BNA, residual_BNA = self._projected(x_BNE)
        weights_BHNN = self.dropout(attention_weights(query_BNA, key_BNA, self.heads, self.scale))
        mixed_BNA: Tensor = self.norm(torch.relu(attended(weights_BHNN, value_BNA) + residual_BNA))
        return mixed_BNA

    def _projected(self, x_BNE: Tensor) -> tuple[Tensor, ...]:
        together: Tensor = self.projection(x_BNE)
        return (together.relu() if self.activated else together).chunk(4, dim=-1)


@final
class Encoder(nn.Module):
    """The encoder layer of a transformer, normalised after each sum.

    y = Norm(x + W_O Attention(x)),  z = Norm(y + W_2 ReLU(W_1 y + b_1) + b_2)

    Vaswani et al., NeurIPS 2017, https://arxiv.org/abs/1706.03762, sections 3.1 to 3.3, without dropout.

    Args:
        width: E; a multiple of `heads`.
        heads: H.
        hidden: Width of the layer between W_1 and W_2.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.projection = _stacked(width, width, 3)
        self.out = linear(width, width, bias=False)
        self.first, self.second = linear(width, hidden), linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x_BNE: Tensor) -> Tensor:
        """[B, N, E] -> [B, N, E]."""
        query_BNE, key_BNE, value_BNE = self.projection(x_BNE).chunk(3, dim=-1)
        weights_BHNN = attention_weights(query_BNE, key_BNE, self.heads, self.scale)
        y_BNE = self.norms[0](x_BNE + self.out(attended(weights_BHNN, value_BNE)))
        z_BNE: Tensor = self.norms[1](y_BNE + self.second(torch.relu(self.first(y_BNE))))
        return z_BNE


def _stacked(inputs: int, outputs: int, count: int) -> nn.Linear:
    """Several linear maps of one input in one product, each with the Xavier-normal weights of its own size."""
    layer = nn.Linear(inputs, count * outputs, bias=False)
    for weight_AE in layer.weight.detach().chunk(count):
        nn.init.xavier_normal_(weight_AE)
    return layer
