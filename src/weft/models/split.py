"""Split network: a network of the user, a network of the item, and a small network over both outputs.

logit = w · MLP([u, v]) + b,   u = MLP_user([e_i of the user and the context]),   v = MLP_item([e_j of the item])

Paper: none, a design of this project. It lies between two towers, whose outputs meet in a dot product, and `mlp`, whose
layers see all fields at once: v and its share of the joint network's first layer are the same for every user, so they
are computed once for a catalogue, and a pair costs the joint network alone. With no `joint` layer it is additive: no
user changes the order of items.
The context goes with the user. Fields of user and item together (crosses, counters) belong to neither and are not read.

Dimension key: B rows, N pairs, D width of u and v together.
"""

from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import Unsupported
from weft.layers import MLP, Head
from weft.models._inputs import DeepConfig, Inputs, Positive, deep_part, of_side, squeezed
from weft.models._parts import ITEM, PAIR, USER, Block, Halves, Part, side_of_fields
from weft.models._registry import register
from weft.models._search import Choice, Space


@register(
    "split",
    kinds=("ranker",),
    phases=("ranking",),
    paper="a design of this project, between two towers and one network",
    url="",
    year=0,
    strengths="Items are computed once for all users, and still more than a dot product decides.",
    weaknesses="A feature of the user and one of the item meet late, after each side has been squeezed into a vector.",
    choose="As the first ranker, over thousands of candidates, before one that sees all fields at once.",
)
@final
class Split(nn.Module):
    """A network of the user's side and the context, one of the item's side, one over both outputs."""

    class Config(DeepConfig, frozen=True):
        """Options.

        Attributes:
            hidden: Widths of the hidden layers of the user's and of the item's network.
            joint: Widths of the hidden layers of the network over both outputs.
        """

        SPACE: ClassVar[Space] = {
            "hidden": Choice(((128,), (256, 128), (400, 400), (512, 256))),
            "joint": Choice(((32,), (64,), (128,), (128, 64))),
        }

        hidden: tuple[Positive, ...] = (256, 128)
        joint: tuple[Positive, ...] = (64,)

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self._fields = fields
        self.user_inputs, self.user_net = _side(fields, config, *USER)
        self.item_inputs, self.item_net = _side(fields, config, *ITEM)
        self.joint = MLP(
            self.user_net.width + self.item_net.width,
            config.joint,
            activation=config.activation,
            batch_norm=config.batch_norm,
            dropout=config.dropout,
        )
        self.head = Head([self.joint.width], fields.outputs)
        self._halves = Halves(self.joint)

    def advice(self) -> list[str]:
        """What neither network reads."""
        pairs = [name for name, side in side_of_fields(self._fields).items() if side in PAIR]
        if not pairs:
            return []
        return [f"split does not read what is of user and item at once: {', '.join(pairs)}; mlp and others do"]

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads, [B, H]."""
        u_BE, v_BE = self._user(batch.of(self._fields, *USER)), self._item(batch.of(self._fields, *ITEM))
        return self._above(Block(torch.cat([u_BE, v_BE], dim=1)))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))

    def user_part(self, batch: Batch) -> Part:
        """The user's share of the joint network's first layer."""
        return self._halves.part(F.pad(self._user(batch), (0, self.item_net.width)))

    def item_part(self, batch: Batch) -> Part:
        """The item's share of the joint network's first layer."""
        return self._halves.part(F.pad(self._item(batch), (self.user_net.width, 0)))

    def represent_join(self, user: Part, item: Part, pair: Batch | None = None) -> tuple[Tensor, ...]:
        """What the head reads of pairs."""
        return self._above(self._halves.join(user, item, None, torch.zeros(0, dtype=torch.int64)))

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T]."""
        return squeezed(self.head(*self.represent_join(user, item, pair)))

    def _user(self, mine: Batch) -> Tensor:
        u_BE: Tensor = self.user_net(self.user_inputs(mine))
        return u_BE

    def _item(self, mine: Batch) -> Tensor:
        v_BE: Tensor = self.item_net(self.item_inputs(mine))
        return v_BE

    def _above(self, block: Block) -> tuple[Tensor, ...]:
        return (block.through(self.joint),)


def _side(fields: Fields, config: Split.Config, *sides: str) -> tuple[Inputs, MLP]:
    mine = fields.of(*sides)
    if not (mine.ids or mine.dense or mine.ragged):
        raise Unsupported(
            f"model 'split' needs a feature on each side, and the schema has none of {' or '.join(sides)}; add one, "
            "such as the id as a categorical feature"
        )
    inputs = Inputs(mine, of_side(config, mine, fields))
    return inputs, deep_part(inputs.width, config)
