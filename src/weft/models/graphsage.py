"""GraphSAGE: vectors from features and from the features of neighbours, so that new users and items get one too.

h^0_v = W_side x_v + b, h^k_v = norm(g(W_k [h^(k-1)_v, Σ_u α_vu h^(k-1)_u] + b_k)), score = <h^K_u, h^K_i> / temperature

Paper: Hamilton, Ying and Leskovec, NeurIPS 2017, https://arxiv.org/abs/1706.02216, algorithm 1 with the mean of the
neighbours. With `neighbours = "walks"` they are those of PinSage: Ying et al., KDD 2018,
https://arxiv.org/abs/1806.01973, section 3.2: the nodes that random walks visit most, α their shares of the visits.
Differs: all neighbours count, where the paper draws some of them anew for each batch; the walks are made once. The
last layer has no ReLU (g), so that vectors can point anywhere. Features of users and of items have a linear map each
into one space; from there on all nodes share the weights. PinSage transforms neighbours by a layer of their own and
trains with a margin and hard negatives; here the aggregation is GraphSAGE's and the loss is the recipe's.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self, final

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from weft.batch import FIRST_ID, UNKNOWN, Batch, Fields, Graph
from weft.errors import Unsupported
from weft.layers import Propagation, SAGELayer, linear, mean_weights, visited
from weft.models._graph import Final, check_fields, with_graph
from weft.models._inputs import InputConfig, Inputs, Positive, Share, of_side
from weft.models._registry import register
from weft.models._search import Choice, Range, Space

Side = Literal["user", "item"]
SIDES: tuple[Side, ...] = ("user", "item")


@register(
    "graphsage",
    kinds=("retriever",),
    phases=("candidate generation", "ranking"),
    paper="Hamilton, Ying and Leskovec, NeurIPS 2017, Inductive Representation Learning on Large Graphs",
    url="https://arxiv.org/abs/1706.02216",
    year=2017,
    strengths="Features and neighbours together; users and items that training never saw get vectors too.",
    weaknesses="Each step computes every node; features of the moment (context) have no place in it.",
    choose="As a source of candidates where items have features, and new ones keep coming.",
    loss="bpr",
)
@final
class GraphSAGE(nn.Module):
    """Features of nodes, joined with the mean of their neighbours layer by layer."""

    reads_graph: ClassVar[bool] = True

    class Config(InputConfig, frozen=True):
        """Options.

        Attributes:
            width: Of the vectors, in every layer.
            layers: How often neighbours are joined.
            friends: Users who know each other are linked, where the data has such pairs.
            temperature: Divides the cosine of user and item.
            unknown_share: Share of the nodes whose features are read without their id at a training step (Volkovs, Yu
                and Poutanen, NeurIPS 2017, DropoutNet), half of them without neighbours too, so that a stranger's are
                known ground.
            neighbours: The linked nodes alike (`links`), or those that random walks visit most by their shares
                (`walks`).
            walks: Walks from each node.
            steps: Steps of each walk.
            restart: Probability that a step begins anew at the walk's start.
            top: How many of the visited nodes are neighbours.
            embedding_std: Larger than elsewhere: rows that start close to zero leave all nodes alike after the norm.
        """

        SPACE: ClassVar[Space] = {
            "width": Choice((32, 64, 128)),
            "layers": Choice((1, 2, 3)),
            "temperature": Range(0.05, 0.5, log=True),
        }

        width: Positive = 64
        layers: Positive = 2
        friends: bool = True
        temperature: Annotated[float, Meta(gt=0.0)] = 0.1
        unknown_share: Share = 0.1
        neighbours: Literal["links", "walks"] = "links"
        walks: Positive = 100
        steps: Positive = 4
        restart: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.3
        top: Positive = 20
        embedding_std: Annotated[float, Meta(ge=0.0)] = 0.1

    def __init__(self, fields: Fields, config: Config, graph: Graph | None = None) -> None:
        super().__init__()
        check_fields(fields, "graphsage")
        self._config, self._fields = config, fields
        inputs = {side: _inputs(fields, side, config) for side in SIDES}
        self.inputs = nn.ModuleDict({side: inputs[side] for side in SIDES})
        self.start = nn.ModuleDict({side: linear(inputs[side].width, config.width) for side in SIDES})
        last = config.layers - 1
        self.layers = nn.ModuleList(SAGELayer(config.width, config.width, last=k == last) for k in range(config.layers))
        self.final = Final(fields, config.width)
        self._graph, self._propagation = graph, None if graph is None else _neighbours(graph, config)

    def train(self, mode: bool = True) -> Self:
        """Going over to evaluation, keep the vectors of all nodes."""
        finished = self.training and not mode
        super().train(mode)
        if finished and self._graph is not None:
            self._keep()
        return self

    def renew(self, graph: Graph) -> None:
        """Serve the nodes of another graph with the same weights, such as users and items that came since with edges.

        Args:
            graph: Its rows are encoded by the same transforms; ids that were there keep their place.
        """
        self._graph, self._propagation = graph, _neighbours(graph, self._config).to(self.final.user.device)
        self.eval()
        self._keep()

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [B, E]."""
        user_BE, item_BE, _ = self.vectors_with_negatives(replace(batch, negatives=None))
        return user_BE, item_BE

    def user_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of rows of the user's side; from the features alone where the model does not know the user's id."""
        return self._of("user", batch, self._nodes() if self.training else None)

    def item_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of rows of the item's side; from the features alone where the model does not know the item's id."""
        return self._of("item", batch, self._nodes() if self.training else None)

    def vectors_with_negatives(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Users [B, E], items [B, E] and the items of the batch's negatives, from one pass over the graph."""
        nodes = self._nodes() if self.training else None
        drawn = None if batch.negatives is None else self._of("item", batch.negatives, nodes)
        return self._of("user", batch, nodes), self._of("item", batch, nodes), drawn

    def _of(self, side: Side, batch: Batch, nodes: tuple[Tensor, Tensor] | None) -> Tensor:
        """One side's vectors: known ids out of `nodes`, or else out of what is kept; strangers from their features."""
        if nodes is None:
            nodes = self.final.user, self.final.item
        known_NE, id_B = nodes[side == "item"], batch.user if side == "user" else batch.item
        if id_B is None:
            return self._alone(side, batch)
        stranger_B = (id_B < FIRST_ID) | (id_B >= len(known_NE))
        found_BE = F.embedding(id_B.masked_fill(stranger_B, 0), known_NE)
        if not stranger_B.any():
            return found_BE
        return torch.where(stranger_B[:, None], self._alone(side, batch), found_BE)

    def _alone(self, side: Side, batch: Batch) -> Tensor:
        """Vectors from the features, as of nodes without neighbours."""
        h_BE = self._first(side, _one_side(batch, self._fields, side))
        for layer in self.layers:
            h_BE = layer(h_BE, torch.zeros_like(h_BE))
        return self._scored(side, h_BE)

    def _nodes(self) -> tuple[Tensor, Tensor]:
        """Users [U, E] and items [I, E] of the graph."""
        propagation, (users, items) = with_graph(self._propagation, "graphsage"), self._rows()
        users, lonely_U = self._veiled("user", users)
        items, lonely_I = self._veiled("item", items)
        h_NE = torch.cat([self._first("user", users), self._first("item", items)])
        lonely_N = torch.cat([lonely_U, lonely_I])[:, None]
        for layer in self.layers:
            h_NE = layer(h_NE, propagation(h_NE).masked_fill(lonely_N, 0))
        user_UE, item_IE = torch.split(h_NE, [len(users), len(items)])
        return self._scored("user", user_UE), self._scored("item", item_IE)

    @torch.no_grad()
    def _keep(self) -> None:
        self.final.keep(self._nodes())

    def _first(self, side: Side, batch: Batch) -> Tensor:
        h_BE: Tensor = self.start[side](self.inputs[side](batch))
        return h_BE

    def _veiled(self, side: Side, batch: Batch) -> tuple[Batch, Tensor]:
        """In training, some nodes without their id, and which of them are without neighbours too."""
        fields = self._fields.of(side)
        name = fields.user if side == "user" else fields.item
        if name is None or not (self.training and self._config.unknown_share):
            return batch, torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.ids.device)
        ids_NF = batch.ids.clone()
        drawn_N = torch.rand(len(ids_NF), device=ids_NF.device)
        ids_NF[drawn_N < self._config.unknown_share, fields.column(name)] = UNKNOWN
        return replace(batch, ids=ids_NF), drawn_N < self._config.unknown_share / 2

    def _scored(self, side: Side, h_BE: Tensor) -> Tensor:
        return h_BE / self._config.temperature if side == "user" else h_BE

    def _rows(self) -> tuple[Batch, Batch]:
        """The features of all users and items, on the model's device."""
        graph, device = self._graph, self.final.user.device
        assert graph is not None
        if graph.user_rows is None or graph.item_rows is None:
            raise Unsupported(
                "model 'graphsage' starts from the features of every user and item, and this graph has not both; "
                "give it `user_rows` and `item_rows`"
            )
        if graph.user_rows.ids.device != device:
            users, items = graph.user_rows.to(device), graph.item_rows.to(device)
            self._graph = graph = replace(graph, user_rows=users, item_rows=items)
        assert graph.user_rows is not None
        assert graph.item_rows is not None
        return graph.user_rows, graph.item_rows


def _inputs(fields: Fields, side: Side, config: GraphSAGE.Config) -> Inputs:
    mine = fields.of(side)
    if not (mine.ids or mine.dense or mine.ragged):
        raise Unsupported(
            f"model 'graphsage' starts from the features of users and items, and the schema has none of side {side!r}; "
            "add one (the id as a categorical feature will do), or choose lightgcn"
        )
    return Inputs(mine, of_side(config, mine, fields))


def _neighbours(graph: Graph, config: GraphSAGE.Config) -> Propagation:
    row_L, column_L = graph.links(friends=config.friends)
    if config.neighbours == "links":
        return Propagation(row_L, column_L, mean_weights(row_L, graph.nodes), graph.nodes)
    found = visited(
        row_L,
        column_L,
        graph.nodes,
        walks=config.walks,
        steps=config.steps,
        restart=config.restart,
        top=config.top,
    )
    return Propagation(*found, graph.nodes)


def _one_side(batch: Batch, fields: Fields, side: Side) -> Batch:
    """The columns of one side, of rows that have this side alone, with the context, or all."""
    for sides in ((side,), (side, "context")):
        there = fields.of(*sides)
        if _shape(there) == (batch.ids.shape[1], batch.dense.shape[1], len(batch.ragged)):
            return batch.of(there, side)
    return batch.of(fields, side)


def _shape(fields: Fields) -> tuple[int, int, int]:
    return len(fields.ids), len(fields.dense), len(fields.ragged)
