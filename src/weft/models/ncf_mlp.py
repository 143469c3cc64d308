"""The tower of NCF: a multi-layer perceptron over a user's and an item's vector side by side.

logit = h · MLP([p_u, q_i]) + b

Paper: He et al., WWW 2017, https://arxiv.org/abs/1708.05031, equation (10). `layers` is that of the published code: the
first width is both vectors together, so each is half as long; the others are hidden layers; the last one is the number
of "predictive factors". The paper's MLP-0 to MLP-4 with 8 factors are [8], [16, 8], ... [128, 64, 32, 16, 8]. Starting
values are the code's: vectors N(0, 0.01²), hidden layers Glorot-uniform, h LeCun-uniform, biases zero.
Differs: users and items that training has not seen have zero vectors.
"""

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.models._inputs import Positive, squeezed
from weft.models._registry import register
from weft.models._roles import (
    LAYERS,
    LAYERS_SPACE,
    NCF_PRESET,
    RoleConfig,
    check_layers,
    look_up,
    ncf_head,
    ncf_tower,
    role_ids,
    role_tables,
)
from weft.models._search import Space


@register(
    "ncf_mlp",
    kinds=("ranker",),
    phases=("ranking",),
    paper="He et al., WWW 2017, Neural Collaborative Filtering",
    url="https://arxiv.org/abs/1708.05031",
    year=2017,
    strengths="Learns how users and items meet instead of being told; the classic deep collaborative filter.",
    weaknesses="Knows ids only, and learns a dot product slowly; a tuned mf is better and far cheaper to serve.",
    choose="As the deep half of neumf, and to see what depth gives over ids.",
    presets={"paper": NCF_PRESET},
)
@final
class NCFMLP(nn.Module):
    """A multi-layer perceptron over a user's and an item's vector."""

    roles_only: ClassVar[bool] = True

    class Config(RoleConfig, frozen=True):
        """Options.

        Attributes:
            layers: Width of both vectors together, then of the hidden layers; one number means no hidden layer.
        """

        SPACE: ClassVar[Space] = LAYERS_SPACE

        layers: tuple[Positive, ...] = LAYERS

        def __post_init__(self) -> None:
            check_layers(self.layers)

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self.embedding = role_tables(fields, config.layers[0] // 2, config, "ncf_mlp")
        self.tower = ncf_tower(config.layers)
        self.head = ncf_head([config.layers[-1]], fields.outputs)

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads, [B, H]."""
        vectors = look_up(self.embedding, *role_ids(batch, "ncf_mlp"))
        return (self.tower(torch.cat(vectors, dim=1)),)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))
