"""Two towers: the formula, what each tower reads, temperatures, and strangers."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

import weft
from formulas_for_tests import assert_same_in_value_and_gradient
from weft.batch import PADDING, UNKNOWN, Batch, Field, Fields
from weft.data.store import Store, prepare
from weft.errors import Unsupported
from weft.models import create, entry, score, search_space
from weft.models._contract import advice
from weft.models.two_tower import TwoTower
from weft.schema import Categorical, ColumnSplit, Dense, Label, MultiHot, Protocol, Roles, Schema
from weft.testing import make_lopsided, tiny

SMALL = {"embedding_dim": 3, "hidden": (5,), "width": 4, "unknown_share": 0.0}


def doubled(batch: Batch) -> Batch:
    ragged = {n: r._replace(weights=None if r.weights is None else r.weights.double()) for n, r in batch.ragged.items()}
    return replace(batch, dense=batch.dense.double(), ragged=ragged)


def pooled(table: Tensor, batch: Batch, name: str, b: int) -> Tensor:
    """The weighed mean of a set; a set of nothing, or of padding alone, is zero."""
    r = batch.ragged[name]
    total, weight = torch.zeros(table.shape[1]).double(), 0.0
    for v in range(int(r.offsets[b]), int(r.offsets[b + 1])):
        w = 1.0 if r.weights is None else float(r.weights[v])
        total, weight = total + w * table[int(r.values[v])], weight + w
    return total / weight if weight else total


def slow_vectors(model: TwoTower, batch: Batch, b: int, *, cosine: bool) -> tuple[Tensor, Tensor]:
    """The vectors of one row, column by column of `tiny`: hour | user, hour.bucket | recent; tempo | item | genres."""
    tables = model.user_inputs.embedding.slices
    user_table = {name: weight[start:stop] for name, (weight, start, stop) in tables.items()}
    tables = model.item_inputs.embedding.slices
    item_table = {name: weight[start:stop] for name, (weight, start, stop) in tables.items()}
    hour, tempo = model.user_inputs.numeric, model.item_inputs.numeric
    assert hour is not None
    assert tempo is not None
    user = torch.cat(
        [
            hour.weight[0] * batch.dense[b, 0],
            user_table["user"][int(batch.ids[b, 0])],
            user_table["hour.bucket"][int(batch.ids[b, 2])] * (batch.ids[b, 2] != PADDING),
            pooled(user_table["item"], batch, "recent", b),
        ]
    )
    item = torch.cat(
        [
            tempo.weight[0] * batch.dense[b, 1],
            item_table["item"][int(batch.ids[b, 1])],
            pooled(item_table["genres"], batch, "genres", b),
        ]
    )
    found = []
    for x, tower in ((user, model.user_tower), (item, model.item_tower)):
        first = tower.mlp.layers[0]
        h = torch.stack([torch.relu(w @ x + c) for w, c in zip(first.weight, first.bias, strict=True)])
        v = torch.stack([w @ h + c for w, c in zip(tower.last.weight, tower.last.bias, strict=True)])
        found.append(v / v.square().sum().sqrt() if cosine else v)
    return found[0], found[1]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_score_is_its_formula(similarity: str) -> None:
    fields, batch = tiny()
    batch = doubled(batch)
    model = make_lopsided(create("two_tower", fields, {**SMALL, "similarity": similarity, "temperature": 0.2}))
    assert isinstance(model, TwoTower)
    for inputs in (model.user_inputs, model.item_inputs):
        for name in inputs.embedding.slices:
            assert not inputs.embedding.table(name)[0].any()
    slow = []
    for b in range(len(batch)):
        u, v = slow_vectors(model, batch, b, cosine=similarity == "cosine")
        slow.append(u @ v / 0.2)
    assert_same_in_value_and_gradient(score(model, batch), torch.stack(slow), model.parameters())


def test_cosines_lie_within_one_over_the_temperature() -> None:
    fields, batch = tiny()
    model = create("two_tower", fields, {**SMALL, "temperature": 0.25}, seed=2).eval()
    user, item = model.vectors(batch)
    torch.testing.assert_close(user.norm(dim=1), torch.full((8,), 4.0))
    torch.testing.assert_close(item.norm(dim=1), torch.ones(8))


def test_a_learned_temperature_starts_where_it_is_told_and_has_a_floor() -> None:
    fields, batch = tiny()
    fixed, learned = (
        create("two_tower", fields, {**SMALL, "temperature": 0.25, "learn_temperature": learn}, seed=2)
        for learn in (False, True)
    )
    torch.testing.assert_close(score(learned, batch), score(fixed, batch))
    assert "log_scale" in dict(learned.named_parameters())
    with torch.no_grad():
        learned.log_scale.fill_(50.0)
    assert learned.user_vectors(batch).norm(dim=1).max().item() == pytest.approx(100.0)


def test_rows_of_all_sides_of_two_and_of_one_are_read() -> None:
    fields, batch = tiny()
    model = create("two_tower", fields, SMALL, seed=2).eval()
    whole = model.user_vectors(batch)
    torch.testing.assert_close(model.user_vectors(batch.of(fields, "user", "context")), whole)
    alone = model.user_vectors(batch.of(fields, "user"))
    missing = batch.of(fields, "user").whole(fields.of("user", "context"), "user")
    torch.testing.assert_close(alone, model.user_vectors(missing))
    assert not torch.allclose(alone, whole)
    torch.testing.assert_close(model.item_vectors(batch.of(fields, "item")), model.item_vectors(batch))
    with pytest.raises(Unsupported, match=r"the tower of item reads 1 id columns, 1 numbers and \['genres'\]"):
        model.item_vectors(batch.of(fields, "user"))


def test_a_side_without_a_feature_is_said_and_pairs_are_left_to_rankers() -> None:
    fields, _ = tiny()
    with pytest.raises(Unsupported, match="the schema has none of item; add one"):
        create("two_tower", fields.of("user", "context"))
    pair = Fields(
        ids=(*fields.ids, Field(name="user_x_item", side="pair", rows=9, cross=True)), user="user", item="item"
    )
    assert "does not read what is of user and item at once: user_x_item" in advice(create("two_tower", pair))[0]
    assert not advice(create("two_tower", fields))


def test_some_rows_of_training_are_read_without_their_id() -> None:
    fields, batch = tiny()
    model = create("two_tower", fields, {**SMALL, "unknown_share": 0.5, "embedding_std": 1.0}, seed=2)
    strange = batch.ids.clone()
    strange[:, 0] = UNKNOWN
    known, unknown = (model.eval().user_vectors(replace(batch, ids=ids)) for ids in (batch.ids, strange))
    torch.manual_seed(0)
    found = model.train().user_vectors(batch)
    as_known, as_unknown = ((found - v).abs().amax(1) < 1e-6 for v in (known, unknown))
    assert (as_known ^ as_unknown).all()
    assert as_known.any()
    assert as_unknown.any()
    assert torch.equal(batch.ids, tiny()[1].ids)


# Strangers


def shop(tmp_path: Path) -> Store:
    """Users of two tastes and items of two colours; who likes what is in the features, and some are never in train."""
    rng = np.random.default_rng(0)
    users = pl.DataFrame({"user": np.arange(60), "taste": np.arange(60) % 2, "age": rng.normal(30, 5, 60)})
    items = pl.DataFrame({"item": np.arange(40), "colours": [[i % 2, 2 + i % 3] for i in range(40)]})
    rows = []
    for user in range(60):
        liked = rng.permutation(np.arange(user % 2, 40, 2))
        old, new = [i for i in liked if i < 30], [i for i in liked if i >= 30]
        rows += [(user, int(i), 1, "train" if user < 50 else "test") for i in old[:6]]
        rows += [(user, int(old[6]), 1, "valid")] * (user < 50) + [(user, int(i), 1, "test") for i in new[:2]]
    table = pl.DataFrame(rows, schema=["user", "item", "likes", "split"], orient="row")
    schema = Schema(
        features=(
            Categorical(name="user", side="user"),
            Categorical(name="taste", side="user"),
            Dense(name="age", side="user"),
            Categorical(name="item", side="item"),
            MultiHot(name="colours", side="item"),
        ),
        roles=Roles(user="user", item="item", label=(Label(name="likes"),)),
        split=ColumnSplit(column="split"),
        protocol=Protocol(kind="full", k=(5,)),
    )
    return prepare(schema, tmp_path / "store", interactions=table, users=users, items=items)


def test_new_users_and_new_items_are_scored_from_their_features(tmp_path: Path) -> None:
    store = shop(tmp_path)
    sets = ["embedding_dim=8", "hidden=[16]", "width=8", "train.batch_size=64", "train.learning_rate=0.01"]
    sets += ["train.epochs=30", "train.patience=30", "unknown_share=0.3"]
    towers = weft.train(store, "two_tower", out=tmp_path / "towers", sets=sets, seed=1)
    ids = weft.train(store, "mf", out=tmp_path / "ids", sets=["train.loss=bpr", "train.epochs=20"], seed=1)
    for run in (towers, ids):
        assert {"new.recall@5", "new.ndcg@5", "seen.recall@5", "seen.ndcg@5"} <= set(weft.evaluate(run).metrics)
    model = towers.load_model()
    with torch.no_grad():
        user, item = model.user_vectors(store.users.batch()), model.item_vectors(store.items.batch())
    right = agreement(store, user @ item.T)
    assert right[:, :50].mean() > 0.95
    assert right[:, 50:].mean() > 0.9, "users that training never saw"
    note = weft.evaluate(ids).notes[0]
    assert "120 relevant items are new to training: those of the catalogue are ranked all with the score of" in note
    assert "by their features" in weft.evaluate(towers).notes[0]


def agreement(store: Store, score_UI: Tensor) -> Tensor:
    """For each new item and each user, in the order of their names, whether its score says what the colours say."""
    assert store.transforms.user_ids is not None
    assert store.transforms.item_ids is not None
    users = np.argsort(store.transforms.user_ids.values.astype(int)) + 2
    items = np.argsort(store.transforms.item_ids.values.astype(int)) + 2
    by_name_UI = score_UI[torch.from_numpy(users)][:, torch.from_numpy(items)]
    middle_U1 = by_name_UI.median(1, keepdim=True).values
    likes_UI = torch.arange(60)[:, None] % 2 == torch.arange(40) % 2
    return ((by_name_UI > middle_U1) == likes_UI)[:, 30:].float().T


def test_it_is_registered_with_its_loss_and_phases() -> None:
    found = entry("two_tower")
    assert (found.kinds, found.loss) == (("retriever",), "softmax")
    assert found.phases == ("candidate generation", "ranking")
    assert {"temperature", "width", "unknown_share"} <= set(search_space(found.config))
    assert math.isclose(found.config().temperature, 0.1)
