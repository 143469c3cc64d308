"""DLRM: dot products of all pairs of fields, and the numbers, feed one network.

X = [x_bottom, e_1, ..., e_F] with x_bottom = MLP(dense);  logit = w · MLP([x_bottom, {<X_i, X_j> : i > j}]) + b

Paper: Naumov et al., 2019, https://arxiv.org/abs/1906.00091, and its code github.com/facebookresearch/dlrm. The lower
triangle without the diagonal, so the top network reads (F + 1) F / 2 + d numbers; the embeddings go no further.
Numbers come as the schema's transform scales them: `log_standardize` is the counterpart of the paper's log(x + 1).
Without dense columns X = [e_1, ..., e_F], and the top network reads the F (F - 1) / 2 products only.
Differs: sets are means unless `pooling` says sum, as in the paper; `initialisation` can be the common recipe's.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import Unsupported
from weft.layers import Dots, Head
from weft.models._bottom import BottomConfig, BottomSlots, SplitBottom
from weft.models._contract import FieldMap, embeddings
from weft.models._inputs import Positive, deep_part, squeezed
from weft.models._parts import ITEM, PAIR, USER, Block, Halves, Part, Sides
from weft.models._registry import register
from weft.models._search import Choice, Space
from weft.models._slot_maps import dot_map

PAPER: Mapping[str, Any] = {
    "embedding_dim": 16,
    "bottom": [512, 256, 64],
    "hidden": [512, 256],
    "pooling": "sum",
    "train": {"batch_size": 128, "optimizer": "sgd", "learning_rate": 0.1, "clip": math.inf, "epochs": 1},
}
BARS: Mapping[str, Any] = {"bottom": [400, 400, 400], "initialisation": "recipe"}


@register(
    "dlrm",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Naumov et al., 2019, Deep Learning Recommendation Model for Personalization and Recommendation Systems",
    url="https://arxiv.org/abs/1906.00091",
    year=2019,
    strengths="Every pair of fields enters as one number; a small top network, made for huge tables.",
    weaknesses="The top network sees similarities only, never what a value is by itself.",
    choose="When tables are huge, numbers are many and the cost of a row must be small.",
    presets={"paper": PAPER, "bars": BARS},
)
@final
class DLRM(nn.Module):
    """Bottom network, dot products of pairs, top network."""

    class Config(BottomConfig, frozen=True):
        """Options.

        Attributes:
            initialisation: `paper`: tables start from U(-r, r), r = sqrt(1 / rows), whatever `embedding_std` says, and
                biases from N(0, 1 / outputs); `recipe`: N(0, embedding_std**2) and zeros.
        """

        SPACE: ClassVar[Space] = {"bottom": Choice(((64,), (400, 400), (512, 256, 64)))}

        hidden: tuple[Positive, ...] = (512, 256)
        initialisation: Literal["paper", "recipe"] = "paper"

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self.slots = BottomSlots(fields, config)
        self.dots = Dots(len(self.slots.names))
        bottom = 0 if self.slots.bottom is None else self.slots.width
        if not bottom + self.dots.width:
            raise Unsupported(
                f"model 'dlrm' multiplies pairs of fields and the schema gives only {self.slots.names[0]!r}; "
                "add features, or choose lr or mlp"
            )
        self.top = deep_part(bottom + self.dots.width, config)
        self.head = Head([self.top.width], fields.outputs)
        self._fields, self._halves = fields, Halves(self.top)
        self._sides = SplitBottom(fields, self.slots)
        self._within, self._crossed = Dots(len(self._sides.places(PAIR))), self._places_of_products()
        if config.initialisation == "paper":
            _start_as_published(self)

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads: MLP([x_bottom, dot products])."""
        return self._above(Block(self._read(self.slots(batch))))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))

    def user_part(self, batch: Batch) -> Part:
        """The user's slots, and what their products with each other add to the first layer of the top network."""
        return self._part(batch, USER)

    def item_part(self, batch: Batch) -> Part:
        """The item's slots, and what their products with each other add to the first layer of the top network."""
        return self._part(batch, ITEM)

    def represent_join(self, user: Part, item: Part, pair: Batch | None = None) -> tuple[Tensor, ...]:
        """What the head reads of pairs; products of a slot of the one and a slot of the other are all that is new."""
        pair_NSE = self._sides.pair_slots(user, item, pair)
        new = [_products(item["slots"], user["slots"])]
        if pair_NSE is not None:
            new += [_products(pair_NSE, user["slots"]), _products(pair_NSE, item["slots"]), self._within(pair_NSE)]
            new += [pair_NSE[:, 0]] if self._sides.bottom_is_of_pairs else []
        return self._above(self._halves.join(user, item, torch.cat(new, dim=1), self._crossed))

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T]."""
        return squeezed(self.head(*self.represent_join(user, item, pair)))

    def _part(self, batch: Batch, sides: Sides) -> Part:
        whole = batch.whole(self._fields, *sides)
        x_BNE = self._sides.slots(whole, sides)
        mine_BSE = x_BNE[:, list(self._sides.places(sides))]
        return {"slots": mine_BSE} | self._halves.part(self._read(x_BNE)) | self._sides.more(whole, sides)

    def _read(self, x_BNE: Tensor) -> Tensor:
        """What the top network reads: [x_bottom, dot products]."""
        dots_BP: Tensor = self.dots(x_BNE)
        return dots_BP if self.slots.bottom is None else torch.cat([x_BNE[:, 0], dots_BP], dim=1)

    def _above(self, block: Block) -> tuple[Tensor, ...]:
        return (block.through(self.top),)

    def _places_of_products(self) -> Tensor:
        """Where what `represent_join` finds for pairs stands in what the top network reads."""
        user, item, pair = (self._sides.places(sides) for sides in (USER, ITEM, PAIR))
        crossed = [(a, b) for left, right in ((item, user), (pair, user), (pair, item)) for a in left for b in right]
        crossed += [(a, b) for place, a in enumerate(pair) for b in pair[:place]]
        bottom = 0 if self.slots.bottom is None else self.slots.width
        places = [bottom + max(ab) * (max(ab) - 1) // 2 + min(ab) for ab in crossed]
        places += range(bottom) if self._sides.bottom_is_of_pairs else ()
        return torch.tensor(places, dtype=torch.int64)

    @torch.no_grad()
    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """What each pair brings to the top network: its dot product, times the length of the weights that read it."""
        above = nn.ModuleList(part for name, part in self.named_children() if name in ("top", "head"))
        readers = [m.weight[:, m.in_features - self.dots.width :] for m in above.modules() if isinstance(m, nn.Linear)]
        return [dot_map(self.slots.names, self.slots(batch), readers[0] if readers else None)]


def _products(left_NSE: Tensor, right_NUE: Tensor) -> Tensor:
    """The dot products of all slots of the one with all of the other [N, S U]; the other may have one row."""
    one = len(right_NUE) == 1
    return (left_NSE @ (right_NUE[0].T if one else right_NUE.mT)).flatten(1)


@torch.no_grad()
def _start_as_published(model: nn.Module) -> None:
    """Tables and biases; weights of linear maps have their published N(0, 2 / (inputs + outputs)) already."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.normal_(std=math.sqrt(1 / module.out_features))
    for layer in embeddings(model):
        for name in layer.slices:
            table = layer.table(name)
            bound = math.sqrt(1 / len(table))
            table[1:].uniform_(-bound, bound)
