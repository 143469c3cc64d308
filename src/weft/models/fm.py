"""Factorisation machine: every pair of features interacts through the dot product of their vectors.

logit = b + Σ_j w_j x_j + Σ_{i<j} <v_i, v_j> x_i x_j

Paper: Rendle, ICDM 2010, https://doi.org/10.1109/ICDM.2010.127, equation (1).
Differs: a set is one feature, pooled, so that values of one set do not interact with each other.
"""

from typing import final

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import pairwise
from weft.models._contract import FieldMap
from weft.models._inputs import FirstOrder, InputConfig, Slots, one_output
from weft.models._parts import (
    ITEM,
    USER,
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
    "fm",
    kinds=("ranker",),
    phases=("ranking",),
    paper="Rendle, ICDM 2010, Factorization Machines",
    url="https://doi.org/10.1109/ICDM.2010.127",
    year=2010,
    strengths="Finds every second-order cross, also of values that never met in training; linear time.",
    weaknesses="Nothing above the second order.",
    choose="As the first model with crosses, when data are few and sparse.",
)
@final
class FM(nn.Module):
    """Factorisation machine of the second order."""

    class Config(InputConfig, frozen=True):
        """Options."""

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "fm")
        self._fields = fields
        self.wide = FirstOrder(fields, config)
        self.slots = Slots(fields, config)
        self.bias = nn.Parameter(torch.zeros(1))
        self._sides = SplitInputs(fields, self.slots)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        first_B1: Tensor = self.wide(batch)
        return self.bias + first_B1[:, 0] + pairwise(self.slots(batch))

    def user_part(self, batch: Batch) -> Part:
        """The sums of the user's weights and vectors, and the products of the user's own fields."""
        return self._part(batch, USER)

    def item_part(self, batch: Batch) -> Part:
        """The sums of the item's weights and vectors, and the products of the item's own fields."""
        return self._part(batch, ITEM)

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N]: the dot product of the two sums, and what each side gives."""
        first_N1 = first_order(self.wide, self._fields, user, item, pair)
        return self.bias + first_N1[:, 0] + pairwise_join(user, item, self._sides.pair_slots(user, item, pair))

    def _part(self, batch: Batch, sides: Sides) -> Part:
        whole = batch.whole(self._fields, *sides)
        slots = pairwise_part(self._sides.slots(whole))
        return {"wide": self.wide(whole)} | slots | self._sides.more(whole, sides)

    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """What each pair adds to the logit of each row: <v_i, v_j> x_i x_j."""
        return [dot_map(names_of(self.slots), self.slots(batch))]
