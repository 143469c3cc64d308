"""Position bias: a shallow tower beside any model, which takes what the place on the page adds out of the score.

pal:         P(click) = P(seen | position) * P(click | seen, x) = σ(t(position)) * σ(main(x)), one loss on the product;
             serving scores by main(x) alone.
watch_next:  logit = main(x) + t(position, other bias features); in a share of the train rows the tower is told nothing
             ("missing"), as it is in serving.

main is any model of the registry that learns by gradients, retrievers included; t is a small network that reads the
position and the bias features only. Popular drawings mix the two: PAL multiplies probabilities, Watch Next adds logits.

Paper: Guo et al., RecSys 2019, PAL: a Position-bias Aware Learning Framework for CTR Prediction in Live Recommender
Systems, https://doi.org/10.1145/3298689.3347033; Zhao et al., RecSys 2019, Recommending What Video to Watch Next: A
Multitask Ranking System, https://doi.org/10.1145/3298689.3346997, section 4.3.
Differs: the product is one logit (see `both` in weft.layers.position), so any loss on logits takes it. PAL may read
bias features too, and may be given P(seen | position) as `curve` instead of learning it. Several labels share PAL's
P(seen); in Watch Next each has an output of the tower. A dropped row loses its bias features with its position, because
serving tells the tower nothing. The tower is in the parameter group `dense`, so `train.l2` does not flatten it.
Not here: crossing position and device by hand; the tower's hidden layer does it.

PAL finds P(seen) only as far as position and relevance vary apart: what main cannot explain of an order that knows more
than main does is taken for position. Rows that were shown in random order tell the two apart: learn the curve from
them (`weft.metrics.examination`) and give it as `curve`.

Dimension key: B rows, F ids of the tower (the position first), P positions, T outputs.
"""

from typing import Annotated, Literal, cast, final

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import ConfigError, Unsupported, near
from weft.layers.position import KnownCurve, ShallowTower, both
from weft.models._contract import Fitted, output_bias, score
from weft.models._inputs import Positive, Share
from weft.models._parts import Part, Splits
from weft.models._predict import device_of
from weft.models._registry import name_of, register_wrapper

DROPOUT = 0.1  # of Watch Next, in the paper
SURE = 2.0  # the logit that PAL's P(seen) starts from: what is shown is mostly seen
Probability = Annotated[float, Meta(gt=0.0, le=1.0)]


@register_wrapper("position")
@final
class Position(nn.Module):
    """Any model, and a shallow tower for how its rows were shown."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Options, in a table of their own: `--set position.kind=pal`.

        Attributes:
            kind: A product of two probabilities, or a sum of two logits.
            features: Other columns that say how a row was shown, such as the device.
            hidden: Widths of the tower's hidden layers; without any it has a weight for each position, which takes many
                more steps to move.
            max_position: Positions beyond it count as this one, those beyond the end of a `curve` as its last.
            dropout: Share of the train rows whose position and bias features are missing; 0.1 for `watch_next`, and no
                option of `pal`, which serves without its tower. Served scores are scores of such rows: with a small
                share their level is learned from few rows, and with 0 from none (their order is the ranker's own).
            curve: P(seen | position) of positions 1, 2 and so on where it is known, for `pal`; it is not learned then.
        """

        kind: Literal["pal", "watch_next"]
        features: tuple[str, ...] = ()
        hidden: tuple[Positive, ...] = (64,)
        max_position: Positive = 100
        dropout: Share | None = None
        curve: tuple[Probability, ...] = ()

        def __post_init__(self) -> None:
            if self.kind == "pal" and self.dropout is not None:
                raise ValueError("`dropout` is of watch_next: pal serves without its tower; leave it out")
            if self.curve and (self.kind != "pal" or self.features):
                raise ValueError("`curve` is the whole tower of pal; leave out `features`, and set kind=pal")

    def __init__(self, model: nn.Module, fields: Fields, config: Config) -> None:
        super().__init__()
        _refuse(model, fields, config)
        self.model = model
        self.pal = config.kind == "pal"
        self._columns = [_column(fields, name) for name in config.features]
        self.roles_only = not config.features
        self._last = len(config.curve) or config.max_position
        self._dropout = 0.0 if self.pal else DROPOUT if config.dropout is None else config.dropout
        rows = [self._last + 1, *(fields.ids[column].rows for column in self._columns)]
        self.tower: nn.Module
        if config.curve:
            self.tower = KnownCurve(config.curve)
        elif self.pal:
            self.tower = ShallowTower(rows, config.hidden, 1, start=SURE)
        else:
            self.tower = ShallowTower(rows, config.hidden, fields.outputs)

    @property
    def bias(self) -> Tensor | None:
        """The output bias of the model inside."""
        return output_bias(self.model)

    def inner(self) -> nn.Module:
        """The model inside."""
        return self.model

    def served(self) -> nn.Module:
        """What scores when the position is not known: of PAL the model inside alone."""
        return self.model if self.pal else self

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]: of a click at the batch's positions, or without them of what the row is worth."""
        logit = score(self.model, batch)
        if batch.position is None and self.training:
            raise Unsupported(
                "`position` learns where rows were shown and this batch does not tell; set `position` in [roles] of "
                "the schema, or leave out the option `position`"
            )
        if batch.position is None and self.pal:
            return logit
        shown_BT: Tensor = self.tower(self._ids(batch))
        shown = shown_BT[:, 0] if logit.ndim == 1 else shown_BT
        return both(logit, shown) if self.pal else logit + shown

    def user_part(self, batch: Batch) -> Part:
        """The user's part of the model inside."""
        return cast(Splits, self.model).user_part(batch)

    def item_part(self, batch: Batch) -> Part:
        """The item's part of the model inside."""
        return cast(Splits, self.model).item_part(batch)

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N] or [N, T] of rows whose position is not known."""
        logit = cast(Splits, self.model).join(user, item, pair)
        if self.pal:
            return logit
        missing_1F = torch.zeros(1, 1 + len(self._columns), dtype=torch.int64, device=logit.device)
        shown_1T: Tensor = self.tower(missing_1F)
        return logit + (shown_1T[:, 0] if logit.ndim == 1 else shown_1T)

    @torch.no_grad()
    def position_curve(self, last: int, batch: Batch | None = None) -> Tensor:
        """What each position counts for, relative to the first: [P].

        Of PAL P(seen | position) / P(seen | 1); of Watch Next the ratio of the odds, of its first output.

        Args:
            last: P.
            batch: Rows whose bias features are averaged over; needed where the tower reads any.
        """
        if self._columns and batch is None:
            raise ConfigError("the curve depends on the bias features; give `batch`, rows to average over")
        device = device_of(self)
        features = torch.zeros(1, 0) if batch is None else batch.ids[:, self._columns]
        counts = torch.empty(last)
        for position in range(1, last + 1):
            position_B1 = torch.full((len(features), 1), min(position, self._last))
            shown_B: Tensor = self.tower(torch.cat([position_B1, features], dim=1).long().to(device))[:, 0]
            counts[position - 1] = (shown_B.sigmoid() if self.pal else shown_B.exp()).mean()
        return counts / counts[0]

    def _ids(self, batch: Batch) -> Tensor:
        """What the tower reads [B, F]; zeros stand for missing."""
        if batch.position is None:
            return batch.ids.new_zeros(len(batch), 1 + len(self._columns)).long()
        position_B = batch.position.clamp(0, self._last).long()
        ids_BF = torch.cat([position_B[:, None], batch.ids[:, self._columns].long()], dim=1)
        if self.training and self._dropout:
            ids_BF = ids_BF * (torch.rand(len(batch), 1, device=ids_BF.device) >= self._dropout)
        return ids_BF


def _refuse(model: nn.Module, fields: Fields, config: Position.Config) -> None:
    if isinstance(model, Fitted):
        raise Unsupported(
            f"`position` goes around models that learn by gradients, and {name_of(model)!r} does not; leave out the "
            "option `position`, or choose another model"
        )
    if fields.task == "multiclass":
        raise Unsupported("`position` does not know which class a place on the page favours; leave out the option")
    if config.kind == "pal" and fields.task != "binary":
        raise Unsupported(
            f"position.kind = pal multiplies probabilities of a yes, and the label's task is {fields.task}; set "
            "position.kind=watch_next"
        )


def _column(fields: Fields, name: str) -> int:
    names = [field.name for field in fields.ids]
    if name not in names:
        raise ConfigError(f"`position.features` names no column of single ids: {name!r}; {near(name, names)}")
    return names.index(name)
