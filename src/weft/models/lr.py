"""Logistic regression: a weight for each value of each feature, and nothing that crosses them.

logit = b + Σ_j w_j x_j. With another task than binary the same sum is the prediction or the log rate.

Paper: McMahan et al., KDD 2013, https://doi.org/10.1145/2487575.2488200 (on its use in advertising).
Differs: no FTRL in here; the optimizer of the group `wide` is the recipe's.
"""

from typing import final

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers.pooling import Pooling
from weft.models._inputs import FirstOrder, TableConfig, squeezed
from weft.models._parts import ITEM, USER, Part, first_order
from weft.models._registry import register


@register(
    "lr",
    kinds=("ranker",),
    phases=("ranking",),
    paper="McMahan et al., KDD 2013, Ad Click Prediction: a View from the Trenches",
    url="https://doi.org/10.1145/2487575.2488200",
    year=2013,
    strengths="Fast, small, each weight can be read; hard to beat when the schema's crosses are good.",
    weaknesses="Sees no interaction that the schema does not name.",
    choose="As the floor of every comparison, or when each decision must be explained.",
)
@final
class LR(nn.Module):
    """Logistic regression over all features."""

    class Config(TableConfig, frozen=True):
        """Options.

        Attributes:
            pooling: How the weights of a set become one.
        """

        pooling: Pooling = "mean"

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self._fields = fields
        self.wide = FirstOrder(fields, config)
        self.bias = nn.Parameter(torch.zeros(fields.outputs))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.wide(batch) + self.bias)

    def user_part(self, batch: Batch) -> Part:
        """The sum of the user's weights."""
        return {"wide": self.wide(batch.whole(self._fields, *USER))}

    def item_part(self, batch: Batch) -> Part:
        """The sum of the item's weights."""
        return {"wide": self.wide(batch.whole(self._fields, *ITEM))}

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T]."""
        return squeezed(first_order(self.wide, self._fields, user, item, pair) + self.bias)
