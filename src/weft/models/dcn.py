"""DCN: crosses with one weight vector a layer beside or before a deep network.

x_{l+1} = x_0 (x_l · w_l) + b_l + x_l, then
parallel: logit = w · [CrossNet(x_0), MLP(x_0)] + b;  stacked: logit = w · MLP(CrossNet(x_0)) + b.

Paper: Wang et al., ADKDD 2017, https://arxiv.org/abs/1708.05123, equation (3) and the parallel structure; the stacked
one is that of DCN V2.
Differs: every field has the width `embedding_dim` unless `widths` says otherwise, the paper takes 6 times the fourth
root of the number of values; numbers are embedded as value x vector, the paper appends them as they are. Without hidden
layers the deep part is left out: logit = w · CrossNet(x_0) + b.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, final

from msgspec import Meta
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import Head, VectorCrossNet
from weft.models._inputs import DeepConfig, Inputs, deep_part, squeezed
from weft.models._parts import ITEM, USER, Block, FlatHalves, Part
from weft.models._registry import register
from weft.models._search import Choice, Range, Space

PAPER: Mapping[str, Any] = {"train": {"optimizer": "adam", "batch_size": 512, "clip": 100.0}}


@register(
    "dcn",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Wang et al., ADKDD 2017, Deep & Cross Network for Ad Click Predictions",
    url="https://arxiv.org/abs/1708.05123",
    year=2017,
    strengths="Crosses of every order up to the number of layers plus one, for two vectors a layer.",
    weaknesses="The crosses of a row are its input times one number, and a vector that all rows share.",
    choose="When crosses must be nearly free; else dcn_v2.",
    presets={"paper": PAPER},
)
@final
class DCN(nn.Module):
    """Deep & Cross Network, parallel or stacked."""

    class Config(DeepConfig, frozen=True):
        """Options.

        Attributes:
            num_cross: Cross layers; products of up to `num_cross + 1` features.
            structure: The deep part beside the crosses, or after them.
        """

        SPACE: ClassVar[Space] = {"num_cross": Range(1, 6), "structure": Choice(("parallel", "stacked"))}

        num_cross: Annotated[int, Meta(ge=1)] = 3
        structure: Literal["parallel", "stacked"] = "parallel"

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self.inputs = Inputs(fields, config)
        self.cross = VectorCrossNet(self.inputs.width, config.num_cross)
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
