"""Multi-layer perceptron over the embedded features: the deep part of the others, alone.

logit = w · MLP([e_1, ..., e_N]) + b

Paper: Covington et al., RecSys 2016, https://doi.org/10.1145/2959100.2959190, the ranking network.
Differs: no first-order part, and the layers of the common recipe: linear, batch norm, activation, dropout.
"""

from typing import final

from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import Head
from weft.models._inputs import DeepConfig, Inputs, deep_part, squeezed
from weft.models._parts import ITEM, USER, Block, FlatHalves, Part
from weft.models._registry import register


@register(
    "mlp",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Covington et al., RecSys 2016, Deep Neural Networks for YouTube Recommendations",
    url="https://doi.org/10.1145/2959100.2959190",
    year=2016,
    strengths="Strong and simple; on memorisation benchmarks as good as models with explicit crosses.",
    weaknesses="Learns products of features slowly and only approximately.",
    choose="As the baseline that an architecture with crosses must beat.",
)
@final
class DeepRanker(nn.Module):
    """Multi-layer perceptron over embeddings of any width."""

    class Config(DeepConfig, frozen=True):
        """Options."""

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self.inputs = Inputs(fields, config)
        self.deep = deep_part(self.inputs.width, config)
        self.head = Head([self.deep.width], fields.outputs)
        self._halves = FlatHalves(fields, self.inputs, self.deep)

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads, [B, H]."""
        return self._above(Block(self.inputs(batch)))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))

    def user_part(self, batch: Batch) -> Part:
        """The user's share of the first hidden layer."""
        return self._halves.part(batch, USER)

    def item_part(self, batch: Batch) -> Part:
        """The item's share of the first hidden layer."""
        return self._halves.part(batch, ITEM)

    def represent_join(self, user: Part, item: Part, pair: Batch | None = None) -> tuple[Tensor, ...]:
        """What the head reads of pairs."""
        return self._above(self._halves.join(user, item, pair))

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T]."""
        return squeezed(self.head(*self.represent_join(user, item, pair)))

    def _above(self, block: Block) -> tuple[Tensor, ...]:
        return (block.through(self.deep),)
