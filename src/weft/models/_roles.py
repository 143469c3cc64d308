"""What models of user and item ids alone share: tables by the roles, and the tower and head of NCF.

Their classes say `roles_only = True`, so that training need not read the features of the rows.

Dimension key: B rows, E width.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import UNKNOWN, Batch, Fields
from weft.errors import ConfigError, Unsupported
from weft.layers import MLP, Embedding, Head
from weft.layers.embedding import Update
from weft.models._contract import embeddings
from weft.models._search import Choice, Range, Space

# Of the published code of NCF: a batch of 256 rows is 51 and their negatives.
LAYERS = (64, 32, 16, 8)
NCF_PRESET = {"train": {"batch_size": 51, "epochs": 20, "optimizer": "adam", "learning_rate": 1e-3, "negatives": 4}}
LAYERS_SPACE: Space = {"layers": Choice(((64, 32, 16), (64, 32, 16, 8), (128, 64, 32, 16), (256, 128, 64, 32)))}


class RoleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every model of user and item ids alone.

    Attributes:
        embedding_update: Gradients of whole tables, or of touched rows only; `auto` goes by the number of rows.
        embedding_std: Vectors start from N(0, std**2).
    """

    SPACE: ClassVar[Space] = {
        "embedding_std": Range(0.003, 0.3, log=True),
        "train.learning_rate": Range(3e-4, 1e-2, log=True),
        "train.l2": Range(1e-8, 1e-3, log=True),
    }

    embedding_update: Update = "auto"
    embedding_std: Annotated[float, Meta(ge=0.0)] = 0.01


def role_tables(fields: Fields, width: int, config: RoleConfig, model: str) -> Embedding:
    """A table of users and one of items; those that training has not seen (unknown) have zero vectors."""
    if not (fields.users and fields.items):
        raise Unsupported(
            f"model {model!r} needs a user and an item role; add `user` and `item` to [roles] of the schema"
        )
    tables = Embedding(
        {"user": fields.users, "item": fields.items},
        width,
        columns=["user", "item"],
        update=config.embedding_update,
        std=config.embedding_std,
    )
    for name in ("user", "item"):
        tables.table(name)[UNKNOWN] = 0
    return tables


@torch.no_grad()
def forget_unmet(model: nn.Module, met: Mapping[str, Tensor]) -> None:
    """Zero vectors for those of the catalogue that the train rows do not have: a model of ids knows nothing of them.

    Args:
        model: One that says `roles_only`, before training.
        met: For `user` and `item`, whether the train rows have each id.
    """
    for layer in embeddings(model):
        for name in met.keys() & layer.slices.keys():
            table = layer.table(name)
            table[~met[name].to(table.device)] = 0


def role_ids(batch: Batch, model: str) -> tuple[Tensor, Tensor]:
    """The users [B] and items [B] of a batch."""
    return role_id(batch.user, "user", model), role_id(batch.item, "item", model)


def role_id(ids_B: Tensor | None, role: str, model: str) -> Tensor:
    """The ids of one role; Unsupported where the batch has none."""
    if ids_B is None:
        raise Unsupported(
            f"model {model!r} reads the {role} role and this batch has no `{role}`; encode rows of that side"
        )
    return ids_B


def look_up(tables: Embedding, user_B: Tensor, item_B: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of users [B, E] and of items [B, E]."""
    user_BE, item_BE = tables(torch.stack([user_B, item_B], dim=1)).columns[0].unbind(1)
    return user_BE, item_BE


def ncf_tower(layers: Sequence[int]) -> MLP:
    """Linear maps with bias and ReLU between the widths of `layers`; Glorot-uniform weights, as in the published code.

    The first width is that of both embeddings side by side; a single one means that there is no hidden layer.
    """
    tower = MLP(layers[0], layers[1:])
    for layer in tower.layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return tower


def ncf_head(widths: Sequence[int], outputs: int) -> Head:
    """The output with bias; its weights of n inputs are LeCun-uniform, U(-√(3/n), √(3/n)), as in the published code."""
    head = Head(widths, outputs)
    edge = math.sqrt(3 / sum(widths))
    nn.init.uniform_(head.linear.weight, -edge, edge)
    return head


def check_layers(layers: Sequence[int]) -> None:
    """ConfigError where the first width does not divide into two embeddings."""
    if not layers or layers[0] % 2:
        raise ConfigError(
            "`layers` begins with the width of the user's and the item's embedding side by side, an even number, "
            f"got {list(layers)}; give for example {list(LAYERS)}"
        )
