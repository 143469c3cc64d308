"""The way into every model: a batch becomes one block of vectors, numbers, ids, sets and sequences alike.

Dimension key: B rows, N slots (fields), E width, D all widths added up, T outputs, V values of a set or sequence field.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeVar, final

import torch
from msgspec import Meta, Struct
from msgspec.structs import replace
from torch import Tensor, nn

from weft.batch import PADDING, Batch, Fields, Ragged
from weft.errors import ConfigError, Unsupported, near
from weft.layers import MLP, Embedding, Gathered, Numeric, TargetAttention, linear, lowered, pool
from weft.layers.embedding import Update
from weft.layers.mlp import Activation
from weft.layers.pooling import Pooling, filled
from weft.models._registry import representing
from weft.models._search import Choice, Range, Space

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, lt=1.0)]
V = TypeVar("V")


class TableConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every model with tables.

    Attributes:
        pooling: How a set or sequence becomes one vector; `target` weighs each value of a sequence of the item's ids by
            the candidate (see TargetAttention) and takes the mean of all others and of first-order weights.
        embedding_update: Gradients of whole tables, or of touched rows only; `auto` goes by the number of rows.
        updates: The same of single tables.
        spare_rows: Rows that single tables own beyond those of the vocabulary, for values that come later.
        embedding_std: Tables start from N(0, std**2).
    """

    SPACE: ClassVar[Space] = {
        "train.learning_rate": Range(3e-4, 5e-3, log=True),
        "train.l2": Range(1e-7, 0.1, log=True),
    }

    pooling: Pooling | Literal["target"] = "mean"
    embedding_update: Update = "auto"
    updates: dict[str, Update] = {}
    spare_rows: dict[str, Positive] = {}
    embedding_std: Annotated[float, Meta(ge=0.0)] = 0.01


class InputConfig(TableConfig, frozen=True):
    """Options of a model that embeds its fields.

    Attributes:
        embedding_dim: Width of every field that `widths` does not name, and of the slots.
        widths: The width of single tables.
    """

    SPACE: ClassVar[Space] = {"embedding_dim": Choice((8, 10, 16, 32, 64))}

    embedding_dim: Positive = 16
    widths: dict[str, Positive] = {}


C = TypeVar("C", bound=InputConfig)


class DeepConfig(InputConfig, frozen=True):
    """Options of a model with a multi-layer perceptron.

    Attributes:
        hidden: Widths of the hidden layers.
        activation: The non-linearity.
        batch_norm: Normalise before the activation.
        dropout: Share of the activations set to zero in training.
    """

    SPACE: ClassVar[Space] = {
        "hidden": Choice(((200, 200), (400, 400, 400), (800, 800), (1024, 512, 256))),
        "dropout": Range(0.0, 0.6),
        "batch_norm": Choice((True, False)),
    }

    hidden: tuple[Positive, ...] = (400, 400, 400)
    activation: Activation = "relu"
    batch_norm: bool = True
    dropout: Share = 0.0


class Slot(NamedTuple):
    """A field of the input block and its width."""

    name: str
    width: int


@final
class Inputs(nn.Module):
    """All fields of a batch as vectors: numbers scale the vector of their column, ids are looked up, sets are pooled.

    Order of the block: dense columns, id columns, sets and sequences; id columns of different width stand narrow to
    wide. Each field keeps its own width; `slots` names them in order.

    Args:
        fields: What there is.
        config: Widths, pooling, update and starting scale.
    """

    def __init__(self, fields: Fields, config: InputConfig) -> None:
        super().__init__()
        if not (fields.ids or fields.dense or fields.ragged):
            raise Unsupported("the model has no feature to read; add features to the schema")
        widths = _of_tables(fields, config.embedding_dim, config.widths, "widths")
        spare = _of_tables(fields, 0, config.spare_rows, "spare_rows")
        self._pooling: Pooling = "mean" if config.pooling == "target" else config.pooling
        self._attended = _histories(fields) if config.pooling == "target" else ()
        self._ragged = tuple(f.name for f in fields.ragged)
        self.numeric = Numeric(len(fields.dense), config.embedding_dim) if fields.dense else None
        self.embedding = Embedding(
            fields.tables(),
            widths,
            columns=[f.table for f in fields.ids],
            flat=[f.table for f in fields.ragged],
            update=_of_tables(fields, config.embedding_update, config.updates, "updates"),
            spare=spare,
            std=config.embedding_std,
        )
        self._item = _place_of_item(fields, self.embedding) if self._attended else None
        self.attention = nn.ModuleList(TargetAttention(widths[fields.ragged[i].table]) for i in self._attended)
        self.slots = _slots(fields, config.embedding_dim, widths, self.embedding)
        self.width = sum(slot.width for slot in self.slots)

    def forward(self, batch: Batch) -> Tensor:
        """The fields side by side, [B, D]."""
        return _joined([block.flatten(1) for block in self.blocks(batch)])

    def blocks(self, batch: Batch) -> list[Tensor]:
        """The block in pieces [B, N_i, E_i] of one width each, in order."""
        found = self._look_up(batch)
        blocks = [] if self.numeric is None else [self.numeric(batch.dense)]
        blocks += [block for block in found.columns if block.shape[1]]
        for i, (name, rows_VE) in enumerate(zip(self._ragged, found.flat, strict=True)):
            r = batch.ragged[name]
            if i in self._attended:
                unit = self.attention[self._attended.index(i)]
                pooled_BE = unit(rows_VE, r.offsets, _counted(r, rows_VE.dtype), self._target(found))
            else:
                pooled_BE = pool(rows_VE, r.offsets, _counted(r, rows_VE.dtype), self._pooling)
            blocks.append(pooled_BE[:, None])
        return blocks

    @torch.no_grad()
    def history_weights(self, batch: Batch) -> dict[str, Ragged]:
        """What each value of the attended sequences weighs for its row's candidate; padding weighs nothing."""
        found = self._look_up(batch)
        weighed: dict[str, Ragged] = {}
        for i, unit in zip(self._attended, self.attention, strict=True):
            assert isinstance(unit, TargetAttention)
            r = batch.ragged[self._ragged[i]]
            weights_V = unit.weights(found.flat[i], r.offsets, self._target(found))
            weighed[self._ragged[i]] = r._replace(weights=weights_V * _counted(r, weights_V.dtype))
        return weighed

    @property
    def attended(self) -> tuple[str, ...]:
        """The sequences whose values weigh as the candidate says."""
        return tuple(self._ragged[i] for i in self._attended)

    def pasts(self, batch: Batch) -> dict[str, Tensor]:
        """What the attended sequences need of the user, filled up to one length: vectors [B, L, E], counts [B, L]."""
        found, pasts = self._look_up(batch), {}
        for i in self._attended:
            name, r = self._ragged[i], batch.ragged[self._ragged[i]]
            pasts[f"past.{name}"] = filled(found.flat[i], r.offsets)
            pasts[f"count.{name}"] = filled(_counted(r, found.flat[i].dtype), r.offsets)
        return pasts

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """What the attended sequences need of the candidates: their vectors [B, E]."""
        return {"target": self._target(self._look_up(batch))} if self._attended else {}

    def attend(self, user: Mapping[str, Tensor], item: Mapping[str, Tensor]) -> list[Tensor]:
        """The slots of the attended sequences [N, E], from `pasts` of N users or one, and `targets` of N items."""
        units = (unit for unit in self.attention if isinstance(unit, TargetAttention))
        return [
            unit.over(user[f"past.{name}"], user[f"count.{name}"], item["target"])
            for name, unit in zip(self.attended, units, strict=True)
        ]

    def _look_up(self, batch: Batch) -> Gathered:
        found: Gathered = self.embedding(batch.ids, [batch.ragged[name].values for name in self._ragged])
        return found

    def _target(self, found: Gathered) -> Tensor:
        """The vectors of the candidates [B, E]."""
        assert self._item is not None
        block, column = self._item
        return found.columns[block][:, column]


@final
class Slots(nn.Module):
    """All fields of a batch as slots of one width; a field of another width gets a linear map without bias.

    Args:
        fields: What there is.
        config: Widths, pooling, update and starting scale.
    """

    def __init__(self, fields: Fields, config: InputConfig) -> None:
        super().__init__()
        self.inputs = Inputs(fields, config)
        width = config.embedding_dim
        self.width = width * len(self.inputs.slots)
        self.align = nn.ModuleList(
            nn.Identity() if slot.width == width else linear(slot.width, width, bias=False)
            for slot in self.inputs.slots
        )
        self._aligned = any(slot.width != width for slot in self.inputs.slots)

    def forward(self, batch: Batch) -> Tensor:
        """The slots [B, N, E]."""
        blocks = self.inputs.blocks(batch)
        if self._aligned:
            fields = [field_BE for block in blocks for field_BE in block.unbind(1)]
            blocks = [to_width(field_BE)[:, None] for to_width, field_BE in zip(self.align, fields, strict=True)]
        return _joined(blocks)

    def attend(self, user: Mapping[str, Tensor], item: Mapping[str, Tensor]) -> list[Tensor]:
        """The slots of the attended sequences [N, E]; see `Inputs.attend`."""
        names = [slot.name for slot in self.inputs.slots]
        found = zip(self.inputs.attended, self.inputs.attend(user, item), strict=True)
        return [self.align[names.index(name)](slot_NE) for name, slot_NE in found]


@final
class FirstOrder(nn.Module):
    """The linear part: a weight for each number and each id, Σ_j w_j x_j; sets are pooled as the model's others are.

    Args:
        fields: What there is.
        config: Pooling, update and starting scale.
    """

    def __init__(self, fields: Fields, config: TableConfig) -> None:
        super().__init__()
        self.inputs = Inputs(
            fields,
            InputConfig(
                embedding_dim=fields.outputs,
                pooling="mean" if config.pooling == "target" else config.pooling,
                embedding_update=config.embedding_update,
                updates=config.updates,
                spare_rows=config.spare_rows,
                embedding_std=config.embedding_std,
            ),
        )
        if self.inputs.numeric is not None:
            nn.init.normal_(self.inputs.numeric.weight, std=config.embedding_std)

    def forward(self, batch: Batch) -> Tensor:
        """[B, T]."""
        parts = [block.sum(1) for block in self.inputs.blocks(batch)]
        return torch.stack(parts).sum(0)


def deep_part(inputs: int, config: DeepConfig) -> MLP:
    """The multi-layer perceptron that the options ask for, on inputs [B, D]."""
    return MLP(
        inputs,
        config.hidden,
        activation=config.activation,
        batch_norm=config.batch_norm,
        dropout=config.dropout,
    )


def squeezed(logit_BT: Tensor) -> Tensor:
    """[B, 1] -> [B]; several outputs stay [B, T]."""
    return logit_BT[:, 0] if logit_BT.shape[1] == 1 else logit_BT


def one_output(fields: Fields, model: str) -> None:
    """Raise Unsupported where the labels need more than one number a row."""
    if fields.outputs > 1:
        raise Unsupported(
            f"model {model!r} gives one number a row and the labels need {fields.outputs}; "
            f"keep one label that is not multiclass, or choose one of {', '.join(representing())}"
        )


def of_side(config: C, mine: Fields, fields: Fields) -> C:
    """The options for inputs of some sides alone: without what they say of tables that only other sides have.

    Args:
        config: For all tables of `fields`.
        mine: The fields of the sides.
        fields: All of them.
    """
    others = fields.tables().keys() - mine.tables().keys()
    kept = {
        option: {table: value for table, value in getattr(config, option).items() if table not in others}
        for option in ("widths", "updates", "spare_rows")
    }
    return replace(config, **kept)


def history_weights(model: nn.Module, batch: Batch) -> dict[str, Ragged]:
    """What a model with target attention makes each value of a row's history weigh, by the name of the sequence.

    Args:
        model: Any model; without target attention there is nothing to tell.
        batch: The rows.
    """
    parts = (module.history_weights(batch) for module in model.modules() if isinstance(module, Inputs))
    return {name: weighed for part in parts for name, weighed in part.items()}


def _counted(r: Ragged, dtype: torch.dtype) -> Tensor:
    """What each value counts [V]: its weight, one where it has none; padding counts nothing."""
    known_V = (r.values != PADDING).to(dtype)
    return known_V if r.weights is None else known_V * r.weights


def _histories(fields: Fields) -> tuple[int, ...]:
    """The sequences, by their place in `fields.ragged`, that hold ids of the candidate's own table."""
    table = None if fields.item is None else fields.ids[fields.column(fields.item)].table
    found = tuple(i for i, f in enumerate(fields.ragged) if f.kind == "sequence" and f.table == table)
    if not found:
        raise Unsupported(
            "`pooling` = 'target' weighs a sequence of item ids by the item that is scored, and these fields have not "
            "both, as one tower of a retriever never has; add a sequence `of` the item's id, or choose mean, sum or max"
        )
    return found


def _place_of_item(fields: Fields, embedding: Embedding) -> tuple[int, int]:
    """Where the item's vector stands among the blocks of `Gathered.columns`: which block, and which column of it."""
    assert fields.item is not None
    column = fields.column(fields.item)
    places = enumerate(block.columns for block in embedding.blocks)
    return next((block, columns.index(column)) for block, columns in places if column in columns)


def _of_tables(fields: Fields, usual: V, single: Mapping[str, V], option: str) -> dict[str, V]:
    """What an option says of each table: of single ones by name, else the usual."""
    tables = fields.tables()
    for name in single:
        if name not in tables:
            raise ConfigError(f"`{option}` names the table {name!r}, which does not exist; {near(name, tables)}")
    return {name: single.get(name, usual) for name in tables}


def _slots(fields: Fields, width: int, widths: Mapping[str, int], embedding: Embedding) -> tuple[Slot, ...]:
    numbers = [Slot(f.name, width) for f in fields.dense]
    ids = [Slot(fields.ids[i].name, w) for w, columns in embedding.blocks for i in columns]
    return (*numbers, *ids, *(Slot(f.name, widths[f.table]) for f in fields.ragged))


def _joined(blocks: list[Tensor]) -> Tensor:
    """The pieces side by side, lowered first: what is joined is half as many bytes."""
    return lowered(blocks[0]) if len(blocks) == 1 else torch.cat([lowered(block) for block in blocks], dim=1)
