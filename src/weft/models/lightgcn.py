"""LightGCN: users and items as the smoothed vectors of their neighbours, without weights or non-linearities.

E^(k+1) = D^-1/2 A D^-1/2 E^(k), e = mean of E^(0) to E^(K), score = <e_u, e_i>

Paper: He et al., SIGIR 2020, https://arxiv.org/abs/2002.02126, equations (3), (4) and (7); no self loops. Its L2 is on
E^(0) of the batch's users, positives and negatives alone: `train.l2_rows`.
Differs: tables start from N(0, 0.1²), as in the authors' code for PyTorch (the paper says Xavier, their code for
TensorFlow N(0, 0.01²)). Friends, where the data has them, are links of A like any other. The score can be the cosine,
divided by a temperature, which a softmax over many items needs.
"""

from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields, Graph
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
from weft.models._registry import register


@register(
    "lightgcn",
    kinds=("retriever",),
    phases=("candidate generation", "ranking"),
    paper="He et al., SIGIR 2020, LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation",
    url="https://arxiv.org/abs/2002.02126",
    year=2020,
    strengths="Reaches what friends of friends like; as many weights as matrix factorisation, and much better lists.",
    weaknesses="Knows ids only, and each step passes over the whole graph: nothing for users or items without a past.",
    choose="As a source of candidates where interactions are many and features are few.",
    loss="bpr",
    presets={
        "paper": {"train": {"batch_size": 2048, "epochs": 1000, "learning_rate": 1e-3, "l2_rows": 1e-4, "negatives": 1}}
    },
)
@final
class LightGCN(nn.Module):
    """Propagated vectors on the user and item roles."""

    roles_only: ClassVar[bool] = True
    reads_graph: ClassVar[bool] = True

    class Config(TableConfig, frozen=True):
        """Options."""

    def __init__(self, fields: Fields, config: Config, graph: Graph | None = None) -> None:
        super().__init__()
        check_fields(fields, "lightgcn")
        self._config, self._propagation = config, adjacency(graph, friends=config.friends)
        self.embedding = Nodes(fields, config)
        self.final = Final(fields, config.embedding_dim)

    def train(self, mode: bool = True) -> Self:
        """Going over to evaluation, keep the vectors of all nodes."""
        finished = self.training and not mode
        super().train(mode)
        if finished and self._propagation is not None:
            self.final.keep(self._all())
        return self

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [B, E]."""
        return of_rows(self._look_up, batch, "lightgcn")

    def user_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's users."""
        return of_users(self._look_up, batch, "lightgcn")

    def item_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's items."""
        return of_items(self._look_up, batch, "lightgcn")

    def vectors_with_negatives(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Users [B, E], items [B, E] and the items of the batch's negatives, from one propagation."""
        return with_negatives(self._look_up, batch, "lightgcn")

    def _look_up(self, user_B: Tensor, item_N: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.final.of(user_B, item_N)
        own, reached = self.embedding(user_B, item_N), self.embedding.rows_of(self._reached(), user_B, item_N)
        user_BE, item_NE = (self._mean(e_0, e_k) for e_0, e_k in zip(own, reached, strict=True))
        return scored(user_BE, item_NE, self._config)

    @torch.no_grad()
    def _all(self) -> tuple[Tensor, Tensor]:
        user_UE, item_IE = self.embedding.halves(self._mean(self.embedding.all, self._reached()))
        return scored(user_UE, item_IE, self._config)

    def _mean(self, own: Tensor, reached: Tensor) -> Tensor:
        return (own + reached) / (self._config.layers + 1)

    def _reached(self) -> Tensor:
        """E^(1) + ... + E^(K) of all nodes."""
        propagation = with_graph(self._propagation, "lightgcn")
        layer_NE: Tensor = propagation(self.embedding.all)
        sum_NE = layer_NE
        for _ in range(self._config.layers - 1):
            layer_NE = propagation(layer_NE)
            sum_NE = sum_NE + layer_NE
        return sum_NE
