"""DeepFM: a factorisation machine and a deep network on the same embeddings, their logits added.

logit = Σ_j w_j x_j + Σ_{i<j} <e_i, e_j> + w · MLP([e_1, ..., e_N]) + b

Paper: Guo et al., IJCAI 2017, https://arxiv.org/abs/1703.04247, equations (1) to (4). One embedding table serves both
parts, the first-order weights are in, and nothing is concatenated with the deep part's output.
Differs: batch norm by default, as in the common recipe.
"""

from typing import final

from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import Head, pairwise
from weft.models._contract import FieldMap
from weft.models._inputs import DeepConfig, FirstOrder, Slots, deep_part, one_output
from weft.models._parts import (
    ITEM,
    USER,
    Halves,
    Part,
    Sides,
    SplitInputs,
    first_order,
    pairwise_join,
    pairwise_part,
)
from weft.models._registry import register
from weft.models._slot_maps import dot_map, names_of


@register(
    "deepfm",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Guo et al., IJCAI 2017, DeepFM: A Factorization-Machine based Neural Network for CTR Prediction",
    url="https://arxiv.org/abs/1703.04247",
    year=2017,
    strengths="Second-order crosses exactly, higher ones through the deep part, without crosses by hand.",
    weaknesses="All fields need one width; third-order crosses are left to the deep part.",
    choose="When pairs of features carry the signal and one robust model is wanted.",
)
@final
class DeepFM(nn.Module):
    """Factorisation machine and deep network with shared embeddings."""

    class Config(DeepConfig, frozen=True):
        """Options."""

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "deepfm")
        self._fields = fields
        self.wide = FirstOrder(fields, config)
        self.slots = Slots(fields, config)
        self.deep = deep_part(self.slots.width, config)
        self.head = Head([self.deep.width], 1)
        self._sides, self._halves = SplitInputs(fields, self.slots), Halves(self.deep)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        e_BNE = self.slots(batch)
        linear_B1: Tensor = self.wide(batch) + self.head(self.deep(e_BNE.flatten(1)))
        return linear_B1[:, 0] + pairwise(e_BNE)

    def user_part(self, batch: Batch) -> Part:
        """The user's half of both parts: sums and products of its fields, and its share of the first hidden layer."""
        return self._part(batch, USER)

    def item_part(self, batch: Batch) -> Part:
        """The item's half of both parts."""
        return self._part(batch, ITEM)

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N]."""
        pair_NSE = self._sides.pair_slots(user, item, pair)
        block = self._halves.join(user, item, pair_NSE, self._sides.columns)
        deep_N1: Tensor = self.head(block.through(self.deep))
        linear_N1 = first_order(self.wide, self._fields, user, item, pair) + deep_N1
        return linear_N1[:, 0] + pairwise_join(user, item, pair_NSE)

    def _part(self, batch: Batch, sides: Sides) -> Part:
        whole = batch.whole(self._fields, *sides)
        e_BSE = self._sides.slots(whole)
        halves = pairwise_part(e_BSE) | self._halves.part(e_BSE.flatten(1))
        return {"wide": self.wide(whole)} | halves | self._sides.more(whole, sides)

    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """What each pair adds to the logit of each row beside the deep part: <e_i, e_j>."""
        return [dot_map(names_of(self.slots), self.slots(batch))]
