"""What models of a graph of train interactions share: their options, and how a batch finds its vectors in one pass.

A graph model is made from `(fields, config, graph)` and says `reads_graph = True`. While it trains, every step passes
messages over the whole graph once, whatever the batch: its cost is M E a layer and direction for M links of width E, so
batches should be large. When it goes over to evaluation it keeps the vectors of all users and items, which are what it
serves, saves and loads; a loaded model has no graph and needs none.

Dimension key: B rows, N rows of a batch's items and negatives, U users, I items, E width.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import UNKNOWN, Batch, Fields, Graph
from weft.errors import Unsupported
from weft.layers import Embedding, Propagation, symmetric_weights
from weft.models._inputs import Positive, one_output
from weft.models._roles import role_id, role_ids
from weft.models._search import Choice, Range, Space

LookUp = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ScoreConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of how vectors make a score.

    Attributes:
        similarity: The dot product of the vectors as they are, or of unit length.
        temperature: Divides the score.
    """

    SPACE: ClassVar[Space] = {
        "temperature": Range(0.05, 0.5, log=True),
        "train.learning_rate": Range(3e-4, 3e-2, log=True),
    }

    similarity: Literal["dot", "cosine"] = "dot"
    temperature: Annotated[float, Meta(gt=0.0)] = 1.0


class TableConfig(ScoreConfig, frozen=True):
    """Options of a graph model with a table of users and one of items.

    Attributes:
        embedding_dim: Width of the tables.
        layers: How often messages pass.
        friends: Users who know each other are linked, where the data has such pairs.
        embedding_std: Tables start from N(0, std**2).
    """

    SPACE: ClassVar[Space] = {"embedding_dim": Choice((32, 64, 128)), "layers": Choice((1, 2, 3, 4))}

    embedding_dim: Positive = 64
    layers: Positive = 3
    friends: bool = True
    embedding_std: Annotated[float, Meta(ge=0.0)] = 0.1


@final
class Final(nn.Module):
    """The vectors that a model serves, of all users and items; zero until it has been evaluated once.

    Args:
        fields: For the numbers of users and items.
        width: E.
    """

    def __init__(self, fields: Fields, width: int) -> None:
        super().__init__()
        self.user: Tensor
        self.item: Tensor
        self.register_buffer("user", torch.zeros(fields.users, width))
        self.register_buffer("item", torch.zeros(fields.items, width))

    def keep(self, vectors: tuple[Tensor, Tensor]) -> None:
        """Take over users [U, E] and items [I, E]."""
        self.user, self.item = (vector.detach().clone() for vector in vectors)

    def of(self, user_B: Tensor, item_N: Tensor) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [N, E]."""
        return self.user[user_B], self.item[item_N]


@final
class Nodes(nn.Module):
    """A table of users and one of items that lie one after the other, as the nodes of a graph do.

    Those that training has not seen (unknown) have zero vectors. Rows are always updated as whole tables, since a step
    reaches every node.

    Args:
        fields: For the numbers of users and items.
        config: Width and starting scale.
    """

    def __init__(self, fields: Fields, config: TableConfig) -> None:
        super().__init__()
        self._users = fields.users
        self.tables = Embedding(
            {"user": fields.users, "item": fields.items},
            config.embedding_dim,
            flat=["user", "item"],
            update="dense",
            std=config.embedding_std,
        )
        for name in ("user", "item"):
            self.tables.table(name)[UNKNOWN] = 0

    @property
    def all(self) -> Tensor:
        """Every node, [U + I, E]."""
        return self.tables.slices["user"].weight

    def forward(self, user_B: Tensor, item_N: Tensor) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [N, E]: the rows that an L2 of looked-up rows holds back."""
        none_B0 = user_B.new_zeros(len(user_B), 0)
        user_BE, item_NE = self.tables(none_B0, [user_B, item_N]).flat
        return user_BE, item_NE

    def halves(self, node_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Something of every node as users [U, E] and items [I, E]."""
        user_UE, item_IE = torch.split(node_NE, [self._users, len(node_NE) - self._users])
        return user_UE, item_IE

    def rows_of(self, node_NE: Tensor, user_B: Tensor, item_N: Tensor) -> tuple[Tensor, Tensor]:
        """Something of every node [U + I, E] for users [B, E] and items [N, E]."""
        return F.embedding(user_B, node_NE), F.embedding(item_N + self._users, node_NE)


def adjacency(graph: Graph | None, *, friends: bool) -> Propagation | None:
    """D^-1/2 A D^-1/2 of the links of a graph, those of friends or not; None without a graph."""
    if graph is None:
        return None
    row_L, column_L = graph.links(friends=friends)
    return Propagation(row_L, column_L, symmetric_weights(row_L, column_L, graph.nodes), graph.nodes)


def check_fields(fields: Fields, model: str) -> None:
    """Unsupported where there is no user or item role, or more than one output."""
    one_output(fields, model)
    if not (fields.users and fields.items):
        raise Unsupported(
            f"model {model!r} needs a user and an item role; add `user` and `item` to [roles] of the schema"
        )


def with_graph(propagation: Propagation | None, model: str) -> Propagation:
    """The propagation; Unsupported where a model without a graph is to train."""
    if propagation is None:
        raise Unsupported(
            f"model {model!r} passes messages over a graph while it trains and was made without one; "
            "train it with `weft.train`, give `create` a `graph`, or call `eval()` to use what was loaded"
        )
    return propagation


def scored(user_BE: Tensor, item_NE: Tensor, config: ScoreConfig) -> tuple[Tensor, Tensor]:
    """The vectors whose dot product is the score that the options ask for."""
    if config.similarity == "cosine":
        user_BE, item_NE = F.normalize(user_BE), F.normalize(item_NE)
    return user_BE / config.temperature, item_NE


def of_rows(look_up: LookUp, batch: Batch, model: str) -> tuple[Tensor, Tensor]:
    """Users [B, E] and items [B, E] of full rows."""
    return look_up(*role_ids(batch, model))


def of_users(look_up: LookUp, batch: Batch, model: str) -> Tensor:
    """[B, E] of the batch's users."""
    user_B = role_id(batch.user, "user", model)
    return look_up(user_B, user_B[:0])[0]


def of_items(look_up: LookUp, batch: Batch, model: str) -> Tensor:
    """[B, E] of the batch's items."""
    item_B = role_id(batch.item, "item", model)
    return look_up(item_B[:0], item_B)[1]


def with_negatives(look_up: LookUp, batch: Batch, model: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Users [B, E], items [B, E] and the items of the negatives, from one pass."""
    user_B, item_B = role_ids(batch, model)
    if batch.negatives is None:
        return (*look_up(user_B, item_B), None)
    drawn = role_id(batch.negatives.item, "item", model)
    user_BE, item_NE = look_up(user_B, torch.cat([item_B, drawn]))
    return user_BE, item_NE[: len(item_B)], item_NE[len(item_B) :]
