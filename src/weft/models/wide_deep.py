"""Wide & Deep: a linear model over features and crosses that people wrote, beside a deep network, trained together.

logit = Σ_j w_j x_j + Σ_k w_k φ_k(x) + w · MLP([e_1, ..., e_N]) + b
φ_k is the AND of some features: a `Cross` of the schema.

Paper: Cheng et al., DLRS 2016, https://arxiv.org/abs/1606.07792, equation (3). The two logits are added and share one
bias, both parts learn from one loss, and the deep part does not read the crosses.
Differs: batch norm by default, as in the common recipe (not in the preset `paper`); the wide part reads numbers too.
The wide weights start from zero, so that a cross which training never met adds nothing. The paper gives no rates and no
strength of L1: those of the preset `paper` are ours.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import msgspec
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import Unsupported
from weft.layers import Head
from weft.models._inputs import DeepConfig, FirstOrder, Inputs, deep_part, squeezed
from weft.models._parts import ITEM, PAIR, USER, FlatHalves, Part, Sides, first_order
from weft.models._registry import register

PAPER: Mapping[str, Any] = {
    "embedding_dim": 32,
    "hidden": [1024, 512, 256],
    "batch_norm": False,
    "train": {
        "optimizer": "adagrad",
        "learning_rate": 0.01,
        "wide_optimizer": "ftrl",
        "wide_learning_rate": 1.0,
        "ftrl_l1": 1e-3,
    },
}


@register(
    "wide_deep",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Cheng et al., DLRS 2016, Wide & Deep Learning for Recommender Systems",
    url="https://arxiv.org/abs/1606.07792",
    year=2016,
    strengths="Remembers the crosses that the schema names, exactly and readably, and generalises by its deep part.",
    weaknesses="Its wide part sees no cross that nobody named.",
    choose="When you know which features belong together and want to read the weight of each combination.",
    presets={"paper": PAPER},
)
@final
class WideDeep(nn.Module):
    """A linear part over features and crosses, a deep part over the features."""

    class Config(DeepConfig, frozen=True):
        """Options."""

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self._fields = fields
        self.wide = FirstOrder(fields, msgspec.structs.replace(config, embedding_std=0.0))
        self._raw = _without_crosses(fields)
        self._columns = [fields.column(f.name) for f in self._raw.ids]
        self._has_cross = any(f.cross for f in (*fields.ids, *fields.ragged))
        self.inputs = Inputs(self._raw, config)
        self.deep = deep_part(self.inputs.width, config)
        self.head = Head([self.deep.width], fields.outputs)
        self._halves = FlatHalves(self._raw, self.inputs, self.deep)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        deep = replace(batch, ids=batch.ids[:, self._columns]) if len(self._columns) < batch.ids.shape[1] else batch
        return squeezed(self.wide(batch) + self.head(self.deep(self.inputs(deep))))

    def user_part(self, batch: Batch) -> Part:
        """The sum of the user's weights, and the user's share of the first hidden layer."""
        return self._part(batch, USER)

    def item_part(self, batch: Batch) -> Part:
        """The sum of the item's weights, and the item's share of the first hidden layer."""
        return self._part(batch, ITEM)

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T]."""
        deep = self._halves.join(user, item, None if pair is None else self._without_crosses(pair, PAIR))
        wide_NT = first_order(self.wide, self._fields, user, item, pair)
        return squeezed(wide_NT + self.head(deep.through(self.deep)))

    def _part(self, batch: Batch, sides: Sides) -> Part:
        wide_BT = self.wide(batch.whole(self._fields, *sides))
        return {"wide": wide_BT} | self._halves.part(self._without_crosses(batch, sides), sides)

    def _without_crosses(self, batch: Batch, sides: Sides) -> Batch:
        """What the deep part reads of rows of one side."""
        whole = batch.whole(self._fields, *sides)
        return replace(whole, ids=whole.ids[:, self._columns]).of(self._raw, *sides)

    def advice(self) -> list[str]:
        """What to do for the wide part where the schema has no cross."""
        if self._has_cross:
            return []
        return [
            "wide_deep: the schema has no cross, so the wide part is only logistic regression; "
            'add crosses, such as [[features]] kind = "cross", name = "a_b", of = ["a", "b"], and prepare again'
        ]


def _without_crosses(fields: Fields) -> Fields:
    """What the deep part reads."""
    raw = msgspec.structs.replace(
        fields,
        ids=tuple(f for f in fields.ids if not f.cross),
        ragged=tuple(f for f in fields.ragged if not f.cross),
    )
    if not (raw.ids or raw.ragged or raw.dense):
        raise Unsupported(
            "the deep part of model 'wide_deep' reads features that are no crosses, and there are only crosses; "
            "add the features that they are made of, or choose lr"
        )
    return raw
