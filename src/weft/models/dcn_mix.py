"""DCN-Mix: the crosses of DCN V2 as a gated mixture of low-rank experts, beside or before a deep network.

x_{l+1} = Σ_i G_i(x_l) x_0 * (U_i g(C_i g(V_i^T x_l)) + b_l) + x_l, then
parallel: logit = w · [CrossNet(x_0), MLP(x_0)] + b;  stacked: logit = w · MLP(CrossNet(x_0)) + b.

Paper: Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535, equations (3) and (4). The bias of a layer is shared by
its experts, the residual is added once.
Differs: softmax gates and tanh by default, as in public code; the paper found constant gates and hard tanh best, which
the preset `paper` takes. Each layer has gates of its own; with `shared_gates` the layers share them, as in public code.
Batch norm by default and Xavier weights, as in the common recipe; numbers are embedded as value x vector, the paper
appends them as they are. Without hidden layers the deep part is left out: logit = w · CrossNet(x_0) + b.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import ConfigError
from weft.layers import Head, MixCrossNet
from weft.layers.low_rank_cross import Gate, RankActivation
from weft.models._contract import FieldMap
from weft.models._flat_maps import pair_maps
from weft.models._inputs import DeepConfig, Inputs, Positive, deep_part, squeezed
from weft.models._parts import ITEM, USER, Block, FlatHalves, Part
from weft.models._registry import register
from weft.models._search import Choice, Range, Space

PAPER: Mapping[str, Any] = {"gate": "constant", "cross_activation": "hardtanh", "train": {"clip": 10.0}}


@register(
    "dcn_mix",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Wang et al., WWW 2021, DCN V2: Improved Deep & Cross Network",
    url="https://arxiv.org/abs/2008.13535",
    year=2021,
    strengths="Crosses as rich as those of dcn_v2 at a cost that grows with the width of the input, not its square.",
    weaknesses="Experts, rank, gate and activation want tuning; on a narrow input full-rank crosses are as cheap.",
    choose="When the input is wide, some hundred coordinates or more, and dcn_v2 is too slow.",
    presets={"paper": PAPER},
)
@final
class DCNMix(nn.Module):
    """Deep & Cross Network V2 with a mixture of low-rank experts, parallel or stacked."""

    class Config(DeepConfig, frozen=True):
        """Options.

        Attributes:
            num_cross: Cross layers; products of up to `num_cross + 1` features, and more through `cross_activation`.
            structure: The deep part beside the crosses, or after them.
            experts: Low-rank experts a layer.
            rank: Dimensions in which an expert works.
            cross_activation: The non-linearity inside an expert, used twice.
            gate: Weights of the experts: softmax or sigmoid of a linear map each, or constant, each 1.
            shared_gates: One set of gate vectors for all layers.
        """

        SPACE: ClassVar[Space] = {
            "num_cross": Range(1, 5),
            "structure": Choice(("parallel", "stacked")),
            "experts": Choice((1, 2, 4, 8)),
            "rank": Choice((8, 16, 32, 64)),
            "cross_activation": Choice(("tanh", "hardtanh", "relu", "identity")),
            "gate": Choice(("softmax", "sigmoid", "constant")),
        }

        num_cross: Annotated[int, Meta(ge=1)] = 3
        structure: Literal["parallel", "stacked"] = "parallel"
        experts: Positive = 4
        rank: Positive = 32
        cross_activation: RankActivation = "tanh"
        gate: Gate = "softmax"
        shared_gates: bool = False

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        if config.shared_gates and config.gate == "constant":
            raise ConfigError(
                "`shared_gates` shares the gate vectors of the layers, and gate = 'constant' has none; "
                "choose gate = 'softmax' or 'sigmoid', or leave out `shared_gates`"
            )
        self.inputs = Inputs(fields, config)
        self.cross = MixCrossNet(
            self.inputs.width,
            config.num_cross,
            experts=config.experts,
            rank=config.rank,
            activation=config.cross_activation,
            gate=config.gate,
            shared_gates=config.shared_gates,
        )
        self.deep = deep_part(self.inputs.width, config)
        self.parallel = config.structure == "parallel" and bool(config.hidden)
        self.head = Head([self.inputs.width, self.deep.width] if self.parallel else [self.deep.width], fields.outputs)
        self._halves = FlatHalves(fields, self.inputs, self.cross, *([self.deep] if self.parallel else []))

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads: [CrossNet(x_0), MLP(x_0)] or MLP(CrossNet(x_0))."""
        return self._above(Block(self.inputs(batch)))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))

    def user_part(self, batch: Batch) -> Part:
        """The user's fields in the block, and their share of the first maps of crosses and deep part."""
        return self._halves.part(batch, USER)

    def item_part(self, batch: Batch) -> Part:
        """The item's fields in the block, and their share of the first maps of crosses and deep part."""
        return self._halves.part(batch, ITEM)

    def represent_join(self, user: Part, item: Part, pair: Batch | None = None) -> tuple[Tensor, ...]:
        """What the head reads of pairs."""
        return self._above(self._halves.join(user, item, pair))

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T]."""
        return squeezed(self.head(*self.represent_join(user, item, pair)))

    def _above(self, block: Block) -> tuple[Tensor, ...]:
        cross_BD = block.through(self.cross)
        return (cross_BD, block.through(self.deep)) if self.parallel else (self.deep(cross_BD),)

    @torch.no_grad()
    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """Strength of each pair of fields in each layer, at the mean gates of these rows."""
        what = "Σ G U C V^T at the mean gates, activations taken as linear"
        return pair_maps(self.inputs, self.cross.matrices(self.inputs(batch)), what)
