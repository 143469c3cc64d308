"""GDCN-P: gated crosses beside a deep network.

c_{l+1} = c_0 * (W_l c_l + b_l) * sigmoid(G_l c_l) + c_l, then logit = w · [c_L, MLP(c_0)] + b.

Paper: Wang et al., CIKM 2023, https://arxiv.org/abs/2311.04635, equation (2) and the parallel structure. The gate reads
c_l, has no bias, and weakens the new crosses only; fields may differ in width.
Differs: numbers are embedded as value x vector. Without hidden layers the deep part is left out: logit = w · c_L + b.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import GatedCrossNet, Head
from weft.models._contract import FieldMap
from weft.models._flat_maps import gate_map, pair_maps
from weft.models._inputs import DeepConfig, Inputs, deep_part, squeezed
from weft.models._parts import ITEM, USER, Block, FlatHalves, Part
from weft.models._registry import register
from weft.models._search import Range, Space

PAPER: Mapping[str, Any] = {"embedding_dim": 16, "hidden": [400, 400, 400], "dropout": 0.5, "num_cross": 3}


@register(
    "gdcn_p",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Wang et al., CIKM 2023, Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction",
    url="https://arxiv.org/abs/2311.04635",
    year=2023,
    strengths="Gates let each row choose its crosses; the deep part beside them sees the plain input.",
    weaknesses="Twice the weights and time of a full-rank cross of DCN V2.",
    choose="As the first thing to try beside dcn_v2 when three or more cross layers help.",
    presets={"paper": PAPER},
)
@final
class GDCNP(nn.Module):
    """Gated Deep & Cross Network, parallel."""

    class Config(DeepConfig, frozen=True):
        """Options.

        Attributes:
            num_cross: Gated cross layers; products of up to `num_cross + 1` features, and more through the gates.
        """

        SPACE: ClassVar[Space] = {"num_cross": Range(1, 8)}

        num_cross: Annotated[int, Meta(ge=1)] = 3

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self.inputs = Inputs(fields, config)
        self.cross = GatedCrossNet(self.inputs.width, config.num_cross)
        self.deep = deep_part(self.inputs.width, config)
        self.parallel = bool(config.hidden)
        self.head = Head([self.inputs.width, self.deep.width] if self.parallel else [self.inputs.width], fields.outputs)
        self._halves = FlatHalves(fields, self.inputs, self.cross, *([self.deep] if self.parallel else []))

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads: [c_L, MLP(c_0)]."""
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
        return (cross_BD, block.through(self.deep)) if self.parallel else (cross_BD,)

    @torch.no_grad()
    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """How far the gates are open for each row, and the strength of each pair of fields in each layer."""
        gates = gate_map(self.inputs, self.cross.gates(self.inputs(batch)))
        return [gates, *pair_maps(self.inputs, self.cross.matrices(), "W, before the gate")]
