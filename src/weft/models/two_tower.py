"""Two towers: a network of the user and the moment, a network of the item, and the score is a dot product.

s(x, y) = <u(x), v(y)> / temperature, with u and v of length one where `similarity` is cosine

Paper: Yi et al., RecSys 2019, https://doi.org/10.1145/3298689.3346996, section 3; trained by the softmax over the items
of a batch and its correction (`train.loss = softmax`, `train.log_q`).
Each tower reads all features of its side, ids, numbers, sets and sequences, and looks them up in tables of its own: the
context goes with the user, crosses of user and item (side `pair`) have no tower.
Differs: `similarity = dot` leaves the vectors as long as they are; the temperature can be learned, and stands in the
user's vector; the paper's towers share the table of items between the watched ones and the candidate. A share of the
rows can be read without the user's or the item's id (Volkovs, Yu and Poutanen, NeurIPS 2017, DropoutNet), so that the
features stand for those whom training never saw.
That has a price. On Last.fm (linear towers of 64, one seed) a tenth of the rows took recall@20 from .025 to .143 where
all artists of the test are new, and from .263 to .244 where few are. A `min_count` of 4 for the artist's id, whose rare
values then share the unknown row, took the latter to .269, and its new artists from .029 to .049.
"""

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from weft.batch import UNKNOWN, Batch, Fields
from weft.errors import Unsupported
from weft.layers import Tower
from weft.models._inputs import DeepConfig, Inputs, Positive, Share, of_side, one_output
from weft.models._parts import side_of_fields
from weft.models._registry import register
from weft.models._search import Choice, Range, Space

USER, ITEM = ("user", "context"), ("item",)
EVERY = ("user", "item", "context", "pair")
LARGEST_SCALE = 100.0  # of a learned 1 / temperature


@register(
    "two_tower",
    kinds=("retriever",),
    phases=("candidate generation", "ranking"),
    paper="Yi et al., RecSys 2019, Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
    url="https://doi.org/10.1145/3298689.3346996",
    year=2019,
    strengths="Any features on both sides, new users and items too; millions of items are searched by an index.",
    weaknesses="User and item meet in one dot product: no feature of one can change the weight of one of the other.",
    choose="As the first source of candidates where there are features, or items keep coming.",
    loss="softmax",
)
@final
class TwoTower(nn.Module):
    """A tower of the user's side and the context, a tower of the item's side."""

    class Config(DeepConfig, frozen=True):
        """Options.

        Attributes:
            hidden: Widths of the hidden layers of each tower.
            batch_norm: Normalise before the activation; drawn items and those of the batch by statistics of their own.
            width: Of the vectors.
            similarity: Vectors of length one (`cosine`), or as they are (`dot`).
            temperature: Divides the dot product; where it is learned, its start.
            learn_temperature: Learn it, down to 0.01.
            unknown_share: Share of the train rows whose user, and of those whose item, is read without its id, on a
                side that has other features too.
        """

        SPACE: ClassVar[Space] = {
            "hidden": Choice(((), (128,), (256, 128), (512, 256))),
            "width": Choice((32, 64, 128)),
            "temperature": Range(0.03, 0.3, log=True),
            "unknown_share": Range(0.0, 0.5),
        }

        hidden: tuple[Positive, ...] = (256, 128)
        batch_norm: bool = False
        width: Positive = 64
        similarity: Literal["cosine", "dot"] = "cosine"
        temperature: Annotated[float, Meta(gt=0.0)] = 0.1
        learn_temperature: bool = False
        unknown_share: Share = 0.0

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "two_tower")
        self._config, self._fields = config, fields
        self.user_inputs, self.user_tower = _side(fields, config, *USER)
        self.item_inputs, self.item_tower = _side(fields, config, *ITEM)
        start = torch.tensor(-math.log(config.temperature))
        self.log_scale = nn.Parameter(start) if config.learn_temperature else None

    def advice(self) -> list[str]:
        """What no tower reads."""
        pairs = [name for name, side in side_of_fields(self._fields).items() if side == "pair"]
        if not pairs:
            return []
        return [f"two_tower does not read what is of user and item at once: {', '.join(pairs)}; a ranker can"]

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [B, E]."""
        return self.user_vectors(batch), self.item_vectors(batch)

    def user_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of full rows, rows of user and context, or rows of the user alone, whose context is missing."""
        mine = self._without_ids(_columns(batch, self._fields, *USER), self._fields.of(*USER), self._fields.user)
        vector_BE: Tensor = self.user_tower(self.user_inputs(mine))
        return vector_BE * self._scale()

    def item_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of full rows or of rows of the item's side."""
        mine = self._without_ids(_columns(batch, self._fields, *ITEM), self._fields.of(*ITEM), self._fields.item)
        vector_BE: Tensor = self.item_tower(self.item_inputs(mine))
        return vector_BE

    def _scale(self) -> Tensor | float:
        """1 / temperature."""
        if self.log_scale is None:
            return 1 / self._config.temperature
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def _without_ids(self, batch: Batch, fields: Fields, id_feature: str | None) -> Batch:
        """In training, some rows with an unknown user or item; none where nothing else is known of it."""
        others = len(fields.ids) + len(fields.dense) + len(fields.ragged) > 1
        if not (self.training and self._config.unknown_share and others and id_feature is not None):
            return batch
        ids_BF = batch.ids.clone()
        hidden_B = torch.rand(len(ids_BF), device=ids_BF.device) < self._config.unknown_share
        ids_BF[hidden_B, fields.column(id_feature)] = UNKNOWN
        return replace(batch, ids=ids_BF)


def _side(fields: Fields, config: TwoTower.Config, *sides: str) -> tuple[Inputs, Tower]:
    mine = fields.of(*sides)
    if not (mine.ids or mine.dense or mine.ragged):
        raise Unsupported(
            f"model 'two_tower' needs a feature on each side, and the schema has none of {' or '.join(sides)}; "
            "add one, such as the id as a categorical feature"
        )
    inputs = Inputs(mine, of_side(config, mine, fields))
    tower = Tower(
        inputs.width,
        config.hidden,
        config.width,
        unit=config.similarity == "cosine",
        activation=config.activation,
        batch_norm=config.batch_norm,
        dropout=config.dropout,
    )
    return inputs, tower


def _columns(batch: Batch, fields: Fields, *sides: str) -> Batch:
    """The columns of some sides, out of rows of these, of all, or of the first alone, where the others are missing."""
    if _has(batch, fields, *sides):
        return batch
    if _has(batch, fields, *EVERY):
        return batch.of(fields, *sides)
    if _has(batch, fields, sides[0]):
        return batch.whole(fields.of(*sides), sides[0])
    raise Unsupported(
        f"the tower of {' and '.join(sides)} reads {_layout(fields.of(*sides))} and this batch has "
        f"{batch.ids.shape[1]} id columns, {batch.dense.shape[1]} numbers and {list(batch.ragged)}; give full rows or "
        "rows of these sides"
    )


def _has(batch: Batch, fields: Fields, *sides: str) -> bool:
    mine = fields.of(*sides)
    shape = (batch.ids.shape[1], batch.dense.shape[1], set(batch.ragged))
    return shape == (len(mine.ids), len(mine.dense), {f.name for f in mine.ragged})


def _layout(fields: Fields) -> str:
    return f"{len(fields.ids)} id columns, {len(fields.dense)} numbers and {[f.name for f in fields.ragged]}"
