"""NGCF: messages between users and items that carry their products too, a weight matrix and a non-linearity a layer.

E^(k+1) = LeakyReLU((L + I) E^(k) W1 + (L E^(k) ⊙ E^(k)) W2), L = D^-1/2 A D^-1/2,
e = [E^(0), E^(1) / |E^(1)|, ..., E^(K) / |E^(K)|], score = <e_u, e_i>

Paper: Wang et al., SIGIR 2019, https://arxiv.org/abs/1905.08108, equations (7) to (10).
Differs: as in the authors' code each layer is divided by its length before it is put beside the others, layer 0 is
not, and what is propagated is the undivided one; messages are dropped after the LeakyReLU, whose slope is 0.2; no
dropout of nodes. Their code has L = D^-1 (A + I) by default, a bias for each matrix and one LeakyReLU for each of the
two terms; here these are the paper's. The L2 (`train.l2_rows`) is on E^(0) of the batch's rows, theirs on all of e.
Friends, where the data has them, are links of A like any other.
"""

from typing import ClassVar, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.batch import Batch, Fields, Graph
from weft.layers import Dropout, NGCFLayer
from weft.models._graph import (
    Final,
    Nodes,
    TableConfig,
    adjacency,
    check_fields,
    of_items,
    of_rows,
    of_users,
    scored,
    with_graph,
    with_negatives,
)
from weft.models._inputs import Share
from weft.models._registry import register
from weft.models._search import Range, Space


@register(
    "ngcf",
    kinds=("retriever",),
    phases=("candidate generation", "ranking"),
    paper="Wang et al., SIGIR 2019, Neural Graph Collaborative Filtering",
    url="https://arxiv.org/abs/1905.08108",
    year=2019,
    strengths="Neighbours count by how they agree with the node; layers of their own weights.",
    weaknesses="Slower than lightgcn and, in its paper and since, behind it: the weights mostly hinder.",
    choose="To compare with lightgcn.",
    loss="bpr",
    presets={
        "paper": {
            "dropout": 0.1,
            "train": {"batch_size": 1024, "epochs": 400, "learning_rate": 1e-4, "l2_rows": 1e-5, "negatives": 1},
        }
    },
)
@final
class NGCF(nn.Module):
    """Propagated vectors with products and weights, on the user and item roles."""

    roles_only: ClassVar[bool] = True
    reads_graph: ClassVar[bool] = True

    class Config(TableConfig, frozen=True):
        """Options.

        Attributes:
            dropout: Share of a layer's messages set to zero in training.
        """

        SPACE: ClassVar[Space] = {"dropout": Range(0.0, 0.5)}

        dropout: Share = 0.0

    def __init__(self, fields: Fields, config: Config, graph: Graph | None = None) -> None:
        super().__init__()
        check_fields(fields, "ngcf")
        self._config, self._propagation = config, adjacency(graph, friends=config.friends)
        width, depth = config.embedding_dim, config.layers
        self.embedding = Nodes(fields, config)
        self.layers = nn.ModuleList(NGCFLayer(width, width) for _ in range(depth))
        self.dropout = Dropout(config.dropout)
        self.final = Final(fields, width * (depth + 1))

    def train(self, mode: bool = True) -> Self:
        """Going over to evaluation, keep the vectors of all nodes."""
        finished = self.training and not mode
        super().train(mode)
        if finished and self._propagation is not None:
            self.final.keep(self._all())
        return self

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [B, E]."""
        return of_rows(self._look_up, batch, "ngcf")

    def user_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's users."""
        return of_users(self._look_up, batch, "ngcf")

    def item_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's items."""
        return of_items(self._look_up, batch, "ngcf")

    def vectors_with_negatives(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Users [B, E], items [B, E] and the items of the batch's negatives, from one propagation."""
        return with_negatives(self._look_up, batch, "ngcf")

    def _look_up(self, user_B: Tensor, item_N: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.final.of(user_B, item_N)
        own, reached = self.embedding(user_B, item_N), self.embedding.rows_of(self._reached(), user_B, item_N)
        user_BE, item_NE = (torch.cat(parts, dim=1) for parts in zip(own, reached, strict=True))
        return scored(user_BE, item_NE, self._config)

    @torch.no_grad()
    def _all(self) -> tuple[Tensor, Tensor]:
        node_NE = torch.cat([self.embedding.all, self._reached()], dim=1)
        return scored(*self.embedding.halves(node_NE), self._config)

    def _reached(self) -> Tensor:
        """The layers from the first on, each divided by its length, side by side."""
        propagation, e_NE = with_graph(self._propagation, "ngcf"), self.embedding.all
        kept = []
        for layer in self.layers:
            e_NE = self.dropout(layer(e_NE, propagation(e_NE)))
            kept.append(F.normalize(e_NE.to(self.embedding.all.dtype)))
        return torch.cat(kept, dim=1)
