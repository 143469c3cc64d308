"""DCN V2: explicit crosses of bounded degree beside or before a deep network.

x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, with W_l = U_l V_l^T where a rank is given, then
parallel: logit = w · [CrossNet(x_0), MLP(x_0)] + b;  stacked: logit = w · MLP(CrossNet(x_0)) + b.

Paper: Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535, equations (1) and (2); equation (3) is in
dcn_mix.py.
Differs: batch norm by default and Xavier weights, as in the common recipe; numbers are embedded as value x vector, the
paper appends them as they are. Without hidden layers the deep part is left out: logit = w · CrossNet(x_0) + b.
"""

from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import Cross, CrossNet, Head, LowRankCrossNet
from weft.models._contract import FieldMap
from weft.models._flat_maps import pair_maps
from weft.models._inputs import DeepConfig, Inputs, Positive, deep_part, squeezed
from weft.models._parts import ITEM, USER, Block, FlatHalves, Part
from weft.models._registry import register
from weft.models._search import Choice, Range, Space


@register(
    "dcn_v2",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Wang et al., WWW 2021, DCN V2: Improved Deep & Cross Network",
    url="https://arxiv.org/abs/2008.13535",
    year=2021,
    strengths="Crosses of every order up to the number of layers plus one, by construction; fields of any width.",
    weaknesses="Full-rank crosses cost the square of the input width; a rank makes that a multiple of the width.",
    choose="As the default final ranker.",
)
@final
class DCNV2(nn.Module):
    """Deep & Cross Network V2, parallel or stacked."""

    class Config(DeepConfig, frozen=True):
        """Options.

        Attributes:
            num_cross: Cross layers; products of up to `num_cross + 1` features.
            structure: The deep part beside the crosses, or after them.
            rank: Of the weights of a cross layer; None is full rank.
        """

        SPACE: ClassVar[Space] = {"num_cross": Range(1, 5), "structure": Choice(("parallel", "stacked"))}

        num_cross: Annotated[int, Meta(ge=1)] = 3
        structure: Literal["parallel", "stacked"] = "parallel"
        rank: Positive | None = None

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self.inputs = Inputs(fields, config)
        self.cross = _crosses(self.inputs.width, config)
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
        """Strength of each pair of fields in each layer, the same for all rows."""
        if isinstance(self.cross, LowRankCrossNet):
            return pair_maps(self.inputs, self.cross.matrices(), "U V^T")
        weights = [layer.linear.weight for layer in self.cross.layers if isinstance(layer, Cross)]
        return pair_maps(self.inputs, torch.stack(weights), "W")


def _crosses(width: int, config: DCNV2.Config) -> CrossNet | LowRankCrossNet:
    if config.rank is None:
        return CrossNet(width, config.num_cross)
    return LowRankCrossNet(width, config.num_cross, config.rank)
