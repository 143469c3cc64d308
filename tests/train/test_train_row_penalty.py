"""L2 of looked-up rows: the formula, each value as often as it occurs, the same on touched rows."""

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.data.store import prepare
from weft.models import create
from weft.models._contract import embeddings
from weft.schema import Categorical, Label, RandomSplit, Roles, Schema
from weft.testing import make_lopsided, tiny
from weft.train.objective import objective
from weft.train.recipe import Recipe, resolve
from weft.train.row_penalty import looked_up, with_row_penalty
from weft.train.run import train

PLAIN = objective([Label(name="y")], "fp32", {})


def double() -> tuple[Fields, Batch]:
    fields, batch = tiny()
    columns = {name: getattr(batch, name) for name in batch.__slots__}
    return fields, Batch(**columns | {"dense": batch.dense.double(), "label": batch.label.double()})


def table_gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    found = {}
    for path, layer in ((path, m) for path, m in model.named_modules() if m in embeddings(model)):
        whole = {id(s.weight): s.weight.grad for s in layer.slices.values()}
        for touched in layer.touched():
            whole[id(touched.weight)] = torch.zeros_like(touched.weight).index_copy_(0, touched.ids, touched.grad)
        found |= {f"{path}.{n}": whole[id(s.weight)][s.start : s.stop].clone() for n, s in layer.slices.items()}
    return found


def counts(fields: Fields, batch: Batch) -> dict[str, Tensor]:
    """How often each row of a table of `fm` is looked up; padding does not count."""
    seen = {name: torch.zeros(rows).double() for name, rows in fields.tables().items()}
    for column, field in enumerate(fields.ids):
        seen[field.table] += torch.bincount(batch.ids[:, column], minlength=field.rows)
    for field in fields.ragged:
        seen[field.table] += torch.bincount(batch.ragged[field.name].values, minlength=field.rows)
    for seen_R in seen.values():
        seen_R[0] = 0
    return seen


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_each_value_is_held_back_as_often_as_it_occurs(update: str) -> None:
    fields, batch = double()
    options = {"embedding_dim": 3, "embedding_update": update}
    plain, held = (make_lopsided(create("fm", fields, options)) for _ in range(2))
    before, after = PLAIN(plain, batch), with_row_penalty(PLAIN, 0.3)(held, batch)
    seen = counts(fields, batch)
    tables = {
        f"{p}.{n}": layer.table(n)
        for p, layer in plain.named_modules()
        if layer in embeddings(plain)
        for n in layer.slices
    }
    penalty = sum((seen[name.rpartition("embedding.")[2]][:, None] * t.square()).sum() for name, t in tables.items())
    torch.testing.assert_close(after - before, 0.15 * penalty / 8)
    found, base = table_gradients(held, after), table_gradients(plain, before)
    assert found.keys() == tables.keys()
    for name, table in tables.items():
        want = base[name] + 0.3 * seen[name.rpartition("embedding.")[2]][:, None] * table / 8
        torch.testing.assert_close(found[name], want, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", ["mf", "neumf"])
def test_models_of_ids_alone_hold_back_users_and_items(name: str) -> None:
    fields, batch = double()
    model = make_lopsided(create(name, fields))
    tables = [(layer.table("user"), layer.table("item")) for layer in embeddings(model)]
    rows = torch.cat([torch.cat([user[batch.user], item[batch.item]], 1) for user, item in tables], 1)
    found = with_row_penalty(PLAIN, 2.0)(model, batch) - PLAIN(model, batch)
    torch.testing.assert_close(found, rows.square().sum(1).mean())


def test_nothing_is_left_on_the_model() -> None:
    fields, batch = tiny()
    model = create("deepfm", fields)
    with pytest.raises(RuntimeError, match="in between"), looked_up(model):
        raise RuntimeError("in between")
    with_row_penalty(PLAIN, 0.1)(model, batch)
    assert not any(layer._forward_hooks for layer in embeddings(model))


def test_it_is_off_unless_asked_for() -> None:
    assert Recipe().l2_rows == 0
    assert resolve("mf", sets=["train.l2_rows=0.005"]).recipe.l2_rows == 0.005


def test_training_keeps_the_vectors_short(tmp_path: Path) -> None:
    schema = Schema(
        features=(Categorical(name="u", side="user"), Categorical(name="i", side="item")),
        roles=Roles(user="u", item="i", label=(Label(name="y"),)),
        split=RandomSplit(valid=0.2, test=0),
    )
    pairs = [(u, i, (u + i) % 2) for u in range(12) for i in range(12)]
    store = prepare(schema, tmp_path / "store", interactions=pl.DataFrame(pairs, schema=["u", "i", "y"], orient="row"))
    lengths: list[float] = []
    for l2 in (0.0, 0.5):
        sets = [
            f"train.l2_rows={l2}",
            "train.epochs=20",
            "train.patience=20",
            "train.batch_size=16",
            "train.learning_rate=0.02",
        ]
        run = train(
            store, "mf", out=tmp_path / f"{l2}", sets=[*sets, "train.monitor=logloss", "embedding_update=sparse"]
        )
        lengths.append(run.load_model().embedding.table("user")[:, :-1].square().mean().item())
    assert lengths[1] < 0.3 * lengths[0]
