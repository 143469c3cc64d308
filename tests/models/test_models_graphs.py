"""Graph models against their equations with dense matrices, and what they find in the world of two camps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from formulas_for_tests import assert_same_in_value_and_gradient
from weft.batch import FIRST_ID, UNKNOWN, Batch, Fields, Graph
from weft.errors import Unsupported
from weft.models import create, names, reads_graph, score
from weft.testing import make_lopsided, tiny, tiny_graph, two_camps
from weft.train.row_penalty import looked_up

GRAPHS = [name for name in names("retriever") if reads_graph(name)]
TABLES = ["lightgcn", "ngcf"]

FIELDS = Fields(users=5, items=6)
EDGES = [(2, 2), (2, 5), (3, 5), (4, 3), (4, 5), (4, 2)]
FRIENDS = [(2, 4), (4, 2)]
USERS, ITEMS, DRAWN = torch.tensor([4, 2, 2, 3]), torch.tensor([5, 2, 5, 3]), torch.tensor([4, 3, 5])


def graph(friends: bool = False) -> Graph:
    known = torch.tensor(FRIENDS).T if friends else None
    return Graph(users=FIELDS.users, items=FIELDS.items, edges=torch.tensor(EDGES).T, friends=known)


def dense(friends: bool = False) -> Tensor:
    """A, with users before items."""
    matrix = torch.zeros(11, 11).double()
    for user, item in EDGES:
        matrix[user, FIELDS.users + item] = matrix[FIELDS.users + item, user] = 1
    for one, other in FRIENDS if friends else ():
        matrix[one, other] = matrix[other, one] = 1
    return matrix


def normalised(a: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2; a model keeps its entries in single precision."""
    degree = a.sum(1)
    result = torch.zeros_like(a)
    for r, c in a.nonzero().tolist():
        result[r, c] = 1 / (degree[r] * degree[c]).sqrt()
    return result.float().double()


def rows(user: Tensor, item: Tensor, negatives: Tensor | None = None) -> Batch:
    none = torch.zeros(len(item), 0)
    drawn = None if negatives is None else rows(negatives[:0], negatives)
    return Batch(ids=none.long(), dense=none, ragged={}, user=user if len(user) else None, item=item, negatives=drawn)


def lopsided(name: str, options: dict[str, Any], friends: bool = False) -> nn.Module:
    return make_lopsided(create(name, FIELDS, {"embedding_dim": 3, "layers": 2, **options}, graph=graph(friends)))


def unit(x: Tensor) -> Tensor:
    return torch.stack([row / torch.linalg.vector_norm(row).clamp(min=1e-12) for row in x])


def lightgcn_by_hand(model: nn.Module, a: Tensor) -> Tensor:
    first = model.embedding.all
    second = a @ first
    return (first + second + a @ second) / 3


def ngcf_by_hand(model: nn.Module, a: Tensor) -> Tensor:
    layer, kept = model.embedding.all, [model.embedding.all]
    for part in model.layers:
        side = a @ layer
        x = (side + layer) @ part.sum.weight.T + (side * layer) @ part.product.weight.T
        layer = torch.where(x > 0, x, 0.2 * x)
        kept.append(unit(layer))
    return torch.cat(kept, dim=1)


BY_HAND = {"lightgcn": lightgcn_by_hand, "ngcf": ngcf_by_hand}


@pytest.mark.parametrize("friends", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_a_model_is_its_paper_with_dense_matrices(name: str, friends: bool) -> None:
    model = lopsided(name, {}, friends)
    node = BY_HAND[name](model, normalised(dense(friends)))
    user, item, negative = model.vectors_with_negatives(rows(USERS, ITEMS, DRAWN))
    fast = torch.cat([user, item, negative])
    slow = torch.cat([node[USERS], node[ITEMS + FIELDS.users], node[DRAWN + FIELDS.users]])
    assert_same_in_value_and_gradient(fast, slow, model.parameters())


@pytest.mark.parametrize("name", TABLES)
def test_cosine_and_temperature_make_the_score(name: str) -> None:
    model = lopsided(name, {"similarity": "cosine", "temperature": 0.2})
    node = unit(BY_HAND[name](model, normalised(dense())))
    wanted = (node[USERS] * node[ITEMS + FIELDS.users]).sum(1) / 0.2
    torch.testing.assert_close(score(model, rows(USERS, ITEMS)), wanted)


def test_ngcf_drops_messages_in_training_only() -> None:
    model = create("ngcf", FIELDS, {"embedding_dim": 64, "dropout": 0.5}, graph=graph(), seed=0)
    batch = rows(USERS, ITEMS)
    torch.manual_seed(0)
    one, other = model.vectors(batch)[0], model.vectors(batch)[0]
    assert torch.equal(one[:, :64], other[:, :64]), "layer 0 is no message"
    dropped = (one[:, 64:] == 0).double().mean().item()
    assert 0.35 < dropped < 0.65
    assert not (model.eval().vectors(batch)[0] == 0).any()


@pytest.mark.parametrize("name", GRAPHS)
def test_evaluation_serves_what_training_computes(name: str) -> None:
    fields, batch = tiny()
    options = {"unknown_share": 0.0} if name == "graphsage" else {}
    model = create(name, fields, options, graph=tiny_graph(), seed=0)
    model.train()
    with torch.no_grad():
        trained = model.vectors(batch)
        for got, wanted in zip(model.eval().vectors(batch), trained, strict=True):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_loaded_model_needs_no_graph_and_holds_no_edge(name: str) -> None:
    fields, batch = tiny()
    model = create(name, fields, graph=tiny_graph(), seed=0).eval()
    loaded = create(name, fields)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(score(loaded.eval(), batch), score(model, batch))
    assert {"final.user", "final.item"} <= model.state_dict().keys()
    assert not any(value.dtype == torch.int64 for value in model.state_dict().values()), "an edge is an integer"


@pytest.mark.parametrize("name", GRAPHS)
def test_training_without_a_graph_is_refused(name: str) -> None:
    fields, batch = tiny()
    with pytest.raises(Unsupported, match=f"model '{name}' passes messages over a graph .* made without one"):
        create(name, fields).vectors(batch)


@pytest.mark.parametrize("name", GRAPHS)
def test_one_propagation_serves_a_batch_and_its_negatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, batch = tiny()
    batch = replace(batch, negatives=batch.of(fields, "item"))
    options = {"unknown_share": 0.0} if name == "graphsage" else {}
    model = create(name, fields, {"layers": 2, **options}, graph=tiny_graph(), seed=0)
    calls: list[None] = []
    model._propagation.register_forward_hook(lambda *_: calls.append(None))
    user, item, negative = model.vectors_with_negatives(batch)
    assert len(calls) == 2, "one pass of two layers"
    torch.testing.assert_close(negative, item)
    torch.testing.assert_close(user, model.vectors(batch)[0])


def test_the_l2_of_looked_up_rows_is_that_of_layer_0_of_the_batch() -> None:
    """Trap 23: neither propagated vectors nor rows that the batch has not, and each as often as it occurs."""
    model = lopsided("lightgcn", {})
    with looked_up(model) as found:
        model.vectors_with_negatives(rows(USERS, ITEMS, DRAWN))
    wanted = [model.embedding.all[i] for i in [*USERS, *(ITEMS + FIELDS.users), *(DRAWN + FIELDS.users)]]
    torch.testing.assert_close(sum(part.square().sum() for part in found), sum(part.square().sum() for part in wanted))


# GraphSAGE


def sage(options: dict[str, Any] | None = None) -> nn.Module:
    fields, _ = tiny()
    return make_lopsided(
        create(
            "graphsage",
            fields,
            {"embedding_dim": 2, "width": 3, "unknown_share": 0.0, **(options or {})},
            graph=double(),
        )
    )


def double() -> Graph:
    found = tiny_graph()
    users, items = (replace(part, dense=part.dense.double()) for part in (found.user_rows, found.item_rows))
    return replace(found, user_rows=users, item_rows=items)


def sage_layer(layer: nn.Module, own: Tensor, mean: Tensor) -> Tensor:
    x = torch.cat([own, mean], dim=1) @ layer.linear.weight.T + layer.linear.bias
    return unit(x if layer._last else x.relu())


def test_graphsage_is_the_paper_with_dense_matrices() -> None:
    model, found = sage(), double()
    a = torch.zeros(13, 13).double()
    for user, item in found.edges.T.tolist():
        a[user, 6 + item] = a[6 + item, user] = 1
    mean = (a / a.sum(1, keepdim=True).clamp(min=1)).float().double()
    h = torch.cat(
        [
            model.start["user"](model.inputs["user"](found.user_rows)),
            model.start["item"](model.inputs["item"](found.item_rows)),
        ]
    )
    for layer in model.layers:
        h = sage_layer(layer, h, mean @ h)
    _, batch = tiny()
    user, item = model.vectors(batch)
    slow = torch.cat([h[batch.user] / 0.1, h[6 + batch.item]])
    assert_same_in_value_and_gradient(torch.cat([user, item]), slow, model.parameters())


def test_strangers_get_the_vectors_of_their_features() -> None:
    fields, batch = tiny()
    model = sage().eval()
    batch = replace(batch, dense=batch.dense.double())
    strangers = replace(batch, user=torch.tensor([1, 0, 99, 2, 2, 2, 2, 2]), item=None)
    user, item = model.user_vectors(strangers), model.item_vectors(strangers)
    for side, got, kept in (("user", user, [0, 1, 2]), ("item", item, range(8))):
        h = model.start[side](model.inputs[side](batch.of(fields, side)))
        for layer in model.layers:
            h = sage_layer(layer, h, torch.zeros_like(h))
        h = h / 0.1 if side == "user" else h
        torch.testing.assert_close(got[list(kept)], h[list(kept)])
    assert torch.equal(user[3:], model.final.user[torch.full((5,), 2)])


@pytest.mark.parametrize("sides", [("user",), ("user", "context"), ("user", "item", "context", "pair")])
def test_a_stranger_may_come_with_any_of_the_sides(sides: tuple[str, ...]) -> None:
    fields, batch = tiny()
    model = create("graphsage", fields, graph=tiny_graph(), seed=0).eval()
    strangers = replace(batch, user=torch.ones(8, dtype=torch.int64))
    wanted = model.user_vectors(strangers.of(fields, "user"))
    torch.testing.assert_close(model.user_vectors(strangers.of(fields, *sides)), wanted)


def test_some_nodes_are_read_without_their_id_in_training_only() -> None:
    fields, _ = tiny()
    model = create("graphsage", fields, {"unknown_share": 0.5}, graph=tiny_graph(), seed=0)
    found = tiny_graph().user_rows
    torch.manual_seed(1)
    veiled = [model._veiled("user", found) for _ in range(50)]
    nameless = torch.stack([rows.ids[:, 0] == UNKNOWN for rows, _ in veiled])
    lonely = torch.stack([lonely for _, lonely in veiled])
    assert ((nameless.double().mean(0)[2:] > 0.25) & (nameless.double().mean(0)[2:] < 0.75)).all()
    assert ((lonely.double().mean(0) > 0.05) & (lonely.double().mean(0) < 0.5)).all()
    assert not (lonely & ~nameless).any(), "those without neighbours have no id either"
    rows, none = model.eval()._veiled("user", found)
    assert rows is found
    assert not none.any()


def test_a_lonely_node_is_trained_as_strangers_are_served() -> None:
    """With every node veiled and lonely, the vectors in training are those of the features alone."""
    fields, _ = tiny()
    model = create("graphsage", fields, {"unknown_share": 0.999999}, graph=tiny_graph(), seed=0)
    torch.manual_seed(0)
    drawn = torch.rand  # every draw below half of the share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **more: 0.1 * drawn(*size, **more))
        users, _ = model._nodes()
    strangers = replace(tiny_graph().user_rows, user=torch.ones(len(users), dtype=torch.int64))
    nameless = strangers.ids.clone()
    nameless[:, fields.of("user").column("user")] = UNKNOWN
    wanted = model.eval().user_vectors(replace(strangers, ids=nameless))
    torch.testing.assert_close(users, wanted)


@pytest.mark.parametrize("name", GRAPHS)
def test_friends_can_be_left_out(name: str) -> None:
    fields, _ = tiny()
    known = replace(tiny_graph(), friends=torch.tensor([[2], [4]]))
    with_friends, without, plain = (
        create(name, fields, {"friends": friends}, graph=found, seed=0).eval().state_dict()["final.user"]
        for friends, found in ((True, known), (False, known), (True, tiny_graph()))
    )
    assert torch.equal(without, plain)
    assert not torch.equal(with_friends, plain)


def test_graphsage_needs_features_of_both_sides() -> None:
    with pytest.raises(Unsupported, match="the schema has none of side 'user'"):
        create("graphsage", FIELDS)


# The world of two camps


def two_camps_graph(likes_UI: Tensor, fields: Fields) -> Graph:
    size = len(likes_UI)
    table = torch.arange(size + FIRST_ID)[:, None]
    side = Batch(ids=table, dense=torch.zeros(len(table), 0), ragged={})
    edges = likes_UI.nonzero().T + FIRST_ID
    return Graph(users=fields.users, items=fields.items, edges=edges, user_rows=side, item_rows=side)


def everyone(size: int) -> Batch:
    ids = torch.arange(size) + FIRST_ID
    return Batch(ids=ids[:, None].repeat(1, 2), dense=torch.zeros(size, 0), ragged={}, user=ids, item=ids)


def learn(model: nn.Module, edges: Tensor, *, steps: int = 60) -> None:
    """BPR with negatives drawn from all items: a liked one among them is drawn for everybody alike."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        negative = torch.randint(FIRST_ID, 22, edges[1].shape, generator=draw)
        batch = rows(edges[0], edges[1], negative)
        user, item, drawn = model.train().vectors_with_negatives(batch)
        loss = nn.functional.softplus((user * (drawn - item)).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lightgcn", {}),
        ("ngcf", {"layers": 2}),
        ("graphsage", {}),
        ("graphsage", {"neighbours": "walks", "walks": 30, "top": 8}),
    ],
)
def test_the_withheld_item_of_two_camps_is_found(name: str, options: dict[str, Any]) -> None:
    camps = two_camps()
    found = two_camps_graph(camps.likes_UI, camps.fields)
    model = create(name, camps.fields, {"embedding_dim": 8, **options}, graph=found, seed=0)
    learn(model, found.edges)
    with torch.no_grad():
        score_UI = model.user_vectors(everyone(20)) @ model.item_vectors(everyone(20)).T
    assert torch.equal(score_UI.masked_fill(camps.likes_UI, -torch.inf).argmax(1), camps.answer_U)


def test_edges_alone_place_a_new_item() -> None:
    """An item that training never saw, without features, is linked to three even users: even users get it."""
    camps = two_camps()
    found = two_camps_graph(camps.likes_UI, camps.fields)
    model = create("graphsage", camps.fields, {"embedding_dim": 8}, graph=found, seed=0)
    learn(model, found.edges)
    new = camps.fields.items
    item_rows = replace(
        found.item_rows, ids=torch.cat([found.item_rows.ids, torch.tensor([[1]])]), dense=torch.zeros(new + 1, 0)
    )
    later = torch.tensor([[2, 4, 6], [new, new, new]])
    model.renew(replace(found, items=new + 1, edges=torch.cat([found.edges, later], dim=1), item_rows=item_rows))
    asked = rows(torch.arange(20) + FIRST_ID, torch.full((20,), new))
    with torch.no_grad():
        score_U = score(model, asked)
    assert score_U[0::2].min() > score_U[1::2].max()


@pytest.mark.parametrize("friend", [2, 3])
def test_friends_say_what_a_user_without_likes_may_like(friend: int) -> None:
    """User 0 has liked nothing: what comes first is what the camp of the only friend likes."""
    camps = two_camps()
    edges = two_camps_graph(camps.likes_UI, camps.fields).edges
    edges = edges[:, edges[0] != FIRST_ID]
    known = Graph(users=22, items=22, edges=edges, friends=torch.tensor([[FIRST_ID], [FIRST_ID + friend]]))
    model = create("lightgcn", camps.fields, {"embedding_dim": 8}, graph=known, seed=0)
    learn(model, edges)
    with torch.no_grad():
        score_I = model.user_vectors(everyone(1))[0] @ model.item_vectors(everyone(20)).T
    assert score_I[friend % 2 :: 2].min() > score_I[1 - friend % 2 :: 2].max()
