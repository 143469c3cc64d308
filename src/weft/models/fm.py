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
        self.wide = FirstOrder(fields, config)
        self.slots = Slots(fields, config)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        first_B1: Tensor = self.wide(batch)
        return self.bias + first_B1[:, 0] + pairwise(self.slots(batch))

    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """What each pair adds to the logit of each row: <v_i, v_j> x_i x_j."""
        return [dot_map(names_of(self.slots), self.slots(batch))]
