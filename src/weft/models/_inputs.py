"""The way into every model: a batch becomes one block of vectors, numbers, ids, sets and sequences alike.

Dimension key: B rows, N slots (fields), E width, D all widths added up, T outputs.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple, final

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import PADDING, Batch, Fields
from weft.errors import ConfigError, Unsupported, near
from weft.layers import MLP, Embedding, Numeric, linear, lowered, pool
from weft.layers.embedding import Update
from weft.layers.mlp import Activation
from weft.layers.pooling import Pooling

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, lt=1.0)]


class TableConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every model with tables.

    Attributes:
        pooling: How a set or sequence becomes one vector.
        embedding_update: Gradients of whole tables, or of touched rows only; `auto` goes by the number of rows.
        embedding_std: Tables start from N(0, std**2).
    """

    pooling: Pooling = "mean"
    embedding_update: Update = "auto"
    embedding_std: Annotated[float, Meta(ge=0.0)] = 0.01


class InputConfig(TableConfig, frozen=True):
    """Options of a model that embeds its fields.

    Attributes:
        embedding_dim: Width of every field that `widths` does not name, and of the slots.
        widths: The width of single tables.
    """

    embedding_dim: Positive = 16
    widths: dict[str, Positive] = {}


class DeepConfig(InputConfig, frozen=True):
    """Options of a model with a multi-layer perceptron.

    Attributes:
        hidden: Widths of the hidden layers.
        activation: The non-linearity.
        batch_norm: Normalise before the activation.
        dropout: Share of the activations set to zero in training.
    """

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
        widths = _widths(fields, config.embedding_dim, config.widths)
        self._pooling: Pooling = config.pooling
        self._ragged = tuple(f.name for f in fields.ragged)
        self.numeric = Numeric(len(fields.dense), config.embedding_dim) if fields.dense else None
        self.embedding = Embedding(
            fields.tables(),
            widths,
            columns=[f.table for f in fields.ids],
            flat=[f.table for f in fields.ragged],
            update=config.embedding_update,
            std=config.embedding_std,
        )
        self.slots = _slots(fields, config.embedding_dim, widths, self.embedding)
        self.width = sum(slot.width for slot in self.slots)

    def forward(self, batch: Batch) -> Tensor:
        """The fields side by side, [B, D]."""
        return _joined([block.flatten(1) for block in self.blocks(batch)])

    def blocks(self, batch: Batch) -> list[Tensor]:
        """The block in pieces [B, N_i, E_i] of one width each, in order."""
        ragged = [batch.ragged[name] for name in self._ragged]
        found = self.embedding(batch.ids, [r.values for r in ragged])
        blocks = [] if self.numeric is None else [self.numeric(batch.dense)]
        blocks += [block for block in found.columns if block.shape[1]]
        for rows_VE, r in zip(found.flat, ragged, strict=True):
            known_V = (r.values != PADDING).to(rows_VE.dtype)
            weights_V = known_V if r.weights is None else known_V * r.weights
            blocks.append(pool(rows_VE, r.offsets, weights_V, self._pooling)[:, None])
        return blocks


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
                pooling=config.pooling,
                embedding_update=config.embedding_update,
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
            "keep one label that is not multiclass, or choose lr, mlp or dcn_v2"
        )


def _widths(fields: Fields, width: int, widths: Mapping[str, int]) -> dict[str, int]:
    tables = fields.tables()
    for name in widths:
        if name not in tables:
            raise ConfigError(f"`widths` names the table {name!r}, which does not exist; {near(name, tables)}")
    return {name: widths.get(name, width) for name in tables}


def _slots(fields: Fields, width: int, widths: Mapping[str, int], embedding: Embedding) -> tuple[Slot, ...]:
    numbers = [Slot(f.name, width) for f in fields.dense]
    ids = [Slot(fields.ids[i].name, w) for w in embedding.widths for i in embedding.columns(w)]
    return (*numbers, *ids, *(Slot(f.name, widths[f.table]) for f in fields.ragged))


def _joined(blocks: list[Tensor]) -> Tensor:
    """The pieces side by side, lowered first: what is joined is half as many bytes."""
    return lowered(blocks[0]) if len(blocks) == 1 else torch.cat([lowered(block) for block in blocks], dim=1)
