"""Losses over vectors in whole runs: which rows, against which items, what is measured, what cannot work."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from msgspec.structs import replace as changed
from torch import Tensor, nn

import weft
from formulas_for_tests import assert_same_in_value_and_gradient, numbers
from weft.batch import Batch
from weft.data.load import Loader
from weft.data.sample import OtherItems, UniformItems
from weft.data.store import Store, prepare
from weft.errors import ConfigError, Unsupported, WeftError
from weft.models import create
from weft.runs import SavedRun
from weft.schema import Categorical, ColumnSplit, Label, Protocol, Roles, Schema
from weft.testing import two_camps
from weft.train import retrieval
from weft.train.recipe import Recipe
from weft.train.row_penalty import with_row_penalty

ITEMS, USERS = 12, 12
QUICK = ("embedding_dim=8", "train.batch_size=32", "train.epochs=40", "train.patience=40", "train.learning_rate=0.03")
LOSSES: dict[str, tuple[str, ...]] = {
    "softmax": ("train.loss=softmax",),
    "uncorrected": ("train.loss=softmax", "train.log_q=none"),
    "refined": ("train.loss=softmax", "train.log_q=refined"),
    "streaming": ("train.loss=softmax", "train.frequencies=streaming"),
    "mixed": ("train.loss=softmax", "train.uniform_negatives=6"),
    "sampled": ("train.loss=sampled_softmax", "train.uniform_negatives=8"),
    "hard": ("train.loss=sampled_softmax", "train.uniform_negatives=10", "train.hard_negatives=3"),
    "full": ("train.loss=full_softmax", "train.shuffle=users"),
    "bpr": ("train.loss=bpr",),
    "hardest of several pairs": ("train.loss=bpr", "train.negatives=4", "train.hard_negatives=2"),
}


def camps_schema(**roles: Any) -> Schema:
    return Schema(
        features=(Categorical(name="user", side="user"), Categorical(name="item", side="item")),
        roles=Roles(user="user", item="item", label=(Label(name="likes"),), **roles),
        split=ColumnSplit(column="split"),
        protocol=Protocol(kind="full", k=(1, 3), seen_from="relevant"),
    )


def camps_table() -> pl.DataFrame:
    """Two camps of users; the item with the user's own number is the answer, in the validation rows."""
    likes_UI, answer_U = two_camps(USERS)[2:]
    rows = [(u, i, int(likes_UI[u, i]), "train") for u in range(USERS) for i in range(ITEMS) if u != i]
    rows += [(u, int(answer_U[u]), 1, "valid") for u in range(USERS)]
    return pl.DataFrame(rows, schema=["user", "item", "likes", "split"], orient="row")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(camps_schema(), tmp_path_factory.mktemp("camps") / "store", interactions=camps_table())


@pytest.mark.parametrize("sets", LOSSES.values(), ids=LOSSES)
def test_every_loss_finds_the_withheld_item(store: Store, tmp_path: Path, sets: tuple[str, ...]) -> None:
    run = weft.train(store, "mf", out=tmp_path / "run", sets=[*QUICK, *sets], seed=1)
    assert run.validation["recall@1"] == 1.0


def test_validation_is_the_full_ranking_of_the_validation_rows(store: Store, tmp_path: Path) -> None:
    run = weft.train(store, "mf", out=tmp_path / "run", sets=[*QUICK, *LOSSES["bpr"], "train.epochs=3"], seed=1)
    report = weft.evaluate(run, split="valid", protocol="full")
    assert list(run.validation) == ["ndcg@3", "recall@3", "ndcg@1", "recall@1"]
    for name, value in run.validation.items():
        assert report.metrics[name].value == pytest.approx(value)
    assert run.report.protocol == retrieval.PROTOCOL


def test_only_relevant_rows_are_trained_on(store: Store) -> None:
    rows = retrieval.relevant_rows(store.split("train"), store.fields)
    assert rows.label is not None
    assert len(rows) == USERS * (ITEMS // 2 - 1)
    assert (rows.label == 1).all()


def test_a_recipe_with_the_models_own_loss_says_auto() -> None:
    assert retrieval.loss_name("two_tower", Recipe(), {}) == "softmax"
    assert retrieval.loss_name("lightgcn", Recipe(), {}) == "bpr"
    assert retrieval.loss_name("dcn_v2", Recipe(), {}) == "task"
    assert retrieval.loss_name("two_tower", Recipe(loss="task"), {}) == "task"
    assert retrieval.loss_name("two_tower", Recipe(), {"position": {"kind": "pal"}}) == "task"


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Users who all draw items by one law, the most frequent thirty times as often as the least."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 31)
    rows = [(u, int(i), 1, "train") for u in range(80) for i in rng.choice(30, 40, p=share / share.sum())]
    table = pl.DataFrame(rows, schema=["user", "item", "likes", "split"], orient="row")
    return prepare(camps_schema(), tmp_path_factory.mktemp("fashion") / "store", interactions=table)


@pytest.mark.parametrize(
    ("sets", "slope"),
    [
        (("train.log_q=paper",), 1.0),
        (("train.log_q=refined",), 1.0),
        (("train.log_q=paper", "train.frequencies=streaming"), 1.0),
        (("train.log_q=paper", "train.uniform_negatives=10"), 1.0),
        (("train.log_q=none",), 0.0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_scores_are_log_frequencies_if_they_are_corrected(
    fashion: Store, tmp_path: Path, sets: tuple[str, ...], slope: float
) -> None:
    """P(item | user) is the item's share for everybody; in a batch of 64 the first item nearly always stands."""
    quick = ("embedding_dim=2", "train.batch_size=64", "train.learning_rate=0.01", "train.epochs=20")
    run = weft.train(
        fashion, "mf", out=tmp_path / "run", sets=[*quick, "train.patience=99", "train.loss=softmax", *sets]
    )
    counts = fashion.catalogue.positives[2:]
    with torch.no_grad():
        model = run.load_model()
        scores = model.user_vectors(fashion.users.batch())[2:] @ model.item_vectors(fashion.items.batch())[2:].T
    found = np.polyfit(np.log(counts), scores.mean(0).numpy(), 1)[0]
    assert found == pytest.approx(slope, abs=0.15)


# The formulas, on a batch of the store


class Lopsided(nn.Module):
    """Free vectors without symmetry."""

    def __init__(self, rows: int = 20) -> None:
        super().__init__()
        self.user_table, self.item_table = (nn.Parameter(numbers(rows, 3, shift=s)) for s in (0.2, 0.9))

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.user_vectors(batch), self.item_vectors(batch)

    def user_vectors(self, batch: Batch) -> Tensor:
        return self.user_table[batch.user]

    def item_vectors(self, batch: Batch) -> Tensor:
        return self.item_table[batch.item]


@pytest.fixture
def batch(store: Store) -> Batch:
    """Six rows, two of them with the same item, with weights and five drawn items, one of which is a row's own."""
    rows = retrieval.relevant_rows(store.split("train"), store.fields)
    made = rows.batch(np.array([0, 1, 5, 6, 11, 25]))
    assert made.item is not None
    assert len(made.item.unique()) < 6
    drawn = store.items.take(np.array([int(made.item[0]), 3, 9, 13, 4])).batch()
    return replace(made, negatives=drawn, weight=torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 1.5]).double())


def q_of(store: Store, item: int, *, batch: int, drawn: int) -> float:
    """The probability to stand among the batch's items or the drawn ones."""
    n = store.catalogue.positives
    return 1 - (1 - n[item] / n.sum()) ** batch * (1 - drawn / ITEMS)


def slow_softmax(store: Store, model: Lopsided, batch: Batch, *, paper: bool, in_batch: bool, drawn: int) -> Tensor:
    assert batch.user is not None
    assert batch.item is not None
    assert batch.weight is not None
    assert batch.negatives is not None
    assert batch.negatives.item is not None
    columns = batch.item.tolist() * in_batch + batch.negatives.item.tolist()[:drawn]
    q = {i: q_of(store, i, batch=6 * in_batch, drawn=drawn) for i in {*columns, *batch.item.tolist()}}
    total, loss = 0.0, torch.zeros(()).double()
    for user, own, w in zip(batch.user.tolist(), batch.item.tolist(), batch.weight.tolist(), strict=True):
        score = lambda i, user=user: model.user_table[user] @ model.item_table[i]  # noqa: E731
        z = sum(torch.exp(score(i)) / q[i] / columns.count(i) for i in columns if i != own)
        positive = torch.exp(score(own)) / (q[own] if paper else 1)
        if paper:
            loss = loss - w * torch.log(positive / (positive + z))
        else:
            loss = loss - w * (z / (positive + z)).detach() * torch.log(positive / z)
        total += w
    return loss / total


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize(("in_batch", "drawn"), [(True, 0), (True, 5), (False, 5)])
def test_the_softmax_is_its_formula(store: Store, batch: Batch, paper: bool, in_batch: bool, drawn: int) -> None:
    model = Lopsided()
    name = "softmax" if in_batch else "sampled_softmax"
    recipe = Recipe(log_q="paper" if paper else "refined", uniform_negatives=drawn)
    loss = retrieval.RetrievalLoss(name, recipe, store, "fp32")
    found = loss(model, batch if drawn else replace(batch, negatives=None))
    wanted = slow_softmax(store, model, batch, paper=paper, in_batch=in_batch, drawn=drawn)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    got, want = (torch.autograd.grad(f, list(model.parameters())) for f in (found, wanted))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_the_full_softmax_is_its_formula(store: Store, batch: Batch) -> None:
    """Two rows of one user, against all items that the train rows have."""
    assert batch.user is not None
    model = Lopsided()
    batch = replace(batch, user=batch.user[[0, 1, 0, 3, 1, 5]])
    assert batch.user is not None
    assert batch.item is not None
    assert batch.weight is not None
    sampler = retrieval.item_sampler("full_softmax", store, Recipe(), 0)
    assert sampler is not None
    every = sampler(store.split("train"), epoch=0, step=0).batch()
    assert every.item is not None
    assert every.item.tolist() == list(range(2, 14))
    found = retrieval.RetrievalLoss("full_softmax", Recipe(), store, "fp32")(model, replace(batch, negatives=every))
    rows = []
    for user, own in zip(batch.user.tolist(), batch.item.tolist(), strict=True):
        scores = {i: torch.exp(model.user_table[user] @ model.item_table[i]) for i in range(2, 14)}
        rows.append(-torch.log(scores[own] / sum(scores.values())))
    slow = (torch.stack(rows) * batch.weight).sum() / batch.weight.sum()
    torch.testing.assert_close(found.double(), slow, rtol=1e-6, atol=1e-6)
    got, want = (torch.autograd.grad(f, list(model.parameters())) for f in (found, slow))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_pairs_are_their_formula(store: Store, batch: Batch) -> None:
    model = Lopsided()
    assert batch.user is not None
    assert batch.item is not None
    assert batch.weight is not None
    drawn = store.items.take(np.arange(2, 14)).batch()
    found = retrieval.RetrievalLoss("bpr", Recipe(negatives=2), store, "fp32")(model, replace(batch, negatives=drawn))
    rows = []
    for b, (user, own) in enumerate(zip(batch.user.tolist(), batch.item.tolist(), strict=True)):
        u, v = model.user_table[user], model.item_table
        pairs = [-torch.log(torch.sigmoid(u @ (v[own] - v[2 + 2 * b + j]))) for j in (0, 1)]
        rows.append(sum(pairs) / 2)
    slow = (torch.stack(rows) * batch.weight).sum() / batch.weight.sum()
    assert_same_in_value_and_gradient(found, slow, model.parameters())


def test_hard_negatives_are_never_the_users_own(store: Store) -> None:
    had = retrieval.Had.of(store)
    likes_UI = two_camps(USERS).likes_UI
    users, items = torch.tensor([2, 5, 13, 2]), torch.tensor([13, 4, 2, 7, 9])
    # Ids are by frequency, then by value, and all items are liked equally often.
    assert store.transforms.item_ids is not None
    assert store.transforms.user_ids is not None
    user_of, item_of = store.transforms.user_ids.values, store.transforms.item_ids.values
    slow = [[bool(likes_UI[int(user_of[u - 2]), int(item_of[i - 2])]) for i in items.tolist()] for u in users.tolist()]
    assert had.among(users, items).tolist() == slow


def test_drawn_items_come_with_each_batch_and_depend_on_the_step(store: Store) -> None:
    rows = retrieval.relevant_rows(store.split("train"), store.fields)
    for sampler, wanted in ((UniformItems(store, 5, seed=3), 5), (OtherItems(store, 2, seed=3), 14)):
        loader = Loader(rows, 7, items=sampler)
        first, again = (list(loader.batches(1)) for _ in range(2))
        drawn = [b.negatives.item.tolist() for b in first if b.negatives is not None and b.negatives.item is not None]
        assert len(drawn) == len(loader)
        assert len(drawn[0]) == wanted
        assert drawn == [b.negatives.item.tolist() for b in again if b.negatives and b.negatives.item is not None]
        assert drawn[0] != drawn[1]
        skipped = next(iter(loader.batches(1, 2))).negatives
        assert skipped is not None
        assert skipped.item is not None
        assert skipped.item.tolist() == drawn[2]


# Runs that are cut short, and what cannot work


class Killed(BaseException):
    """Stands for a kill within this process."""


@pytest.mark.parametrize("name", ["streaming", "hard", "bpr"])
def test_a_run_that_is_cut_short_ends_with_the_same_bits(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("weft.train.checkpoint.SHARE_OF_TIME", float("inf"))
    sets = [*QUICK, *LOSSES[name], "train.epochs=3", "train.batch_size=13", "train.checkpoint_seconds=0"]
    whole = weft.train(store, "two_tower", out=tmp_path / "whole", sets=sets, seed=4)
    for cut, step in enumerate((3, 6)):
        with monkeypatch.context() as patch:
            patch.setattr("weft.train.run.Log.hear", killed_at(step))
            with pytest.raises(Killed):
                weft.train(store, "two_tower", out=tmp_path / "cut", sets=sets, seed=4, resume=cut > 0)
    again = weft.train(store, "two_tower", out=tmp_path / "cut", resume=True, seed=4)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (again.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert again.validation == whole.validation


def killed_at(step: int) -> Callable[..., None]:
    """Dies when it is called so many times."""
    calls = iter(range(1, step + 1))

    def hear(*_: Any) -> None:
        if next(calls) == step:
            raise Killed

    return hear


@pytest.mark.parametrize(
    ("model", "sets", "error", "words"),
    [
        ("dcn_v2", ["train.loss=softmax"], Unsupported, "gives scores of rows; set train.loss=task, or choose one of"),
        ("popularity", ["train.loss=bpr"], Unsupported, "'bpr' sets items against each other"),
        ("mf", ["train.loss=sampled_softmax"], ConfigError, "set train.uniform_negatives=1000"),
        ("mf", ["train.loss=softmax", "train.hard_negatives=3"], ConfigError, "`train.hard_negatives` = 3 are chosen"),
        ("mf", ["train.loss=bpr", "train.keep_negatives=0.5"], ConfigError, "leave out `train.keep_negatives`"),
        ("mf", ["train.loss=bpr", "train.monitor=auc"], ConfigError, "names no validation metric: 'auc'"),
        (
            "two_tower",
            ["train.loss=full_softmax"],
            Unsupported,
            "vectors of all items at every step, and TwoTower makes",
        ),
        ("mf", ["train.loss=hinge"], ConfigError, "train.loss"),
        ("mf", ["train.loss=softmax", "train.log_q=on"], ConfigError, "train.log_q"),
    ],
)
def test_what_cannot_work_is_said(
    store: Store, tmp_path: Path, model: str, sets: list[str], error: type[WeftError], words: str
) -> None:
    with pytest.raises(error, match=words):
        weft.train(store, model, out=tmp_path / "run", sets=sets)
    assert not (tmp_path / "run").exists()


def test_roles_are_needed(tmp_path: Path) -> None:
    plain = replace_roles(camps_schema(), user=None)
    store = prepare(plain, tmp_path / "store", interactions=camps_table())
    with pytest.raises(Unsupported, match="needs `user` and `item` in"):
        weft.train(store, "two_tower", out=tmp_path / "run")


def replace_roles(schema: Schema, **changes: Any) -> Schema:
    return changed(schema, roles=changed(schema.roles, **changes), protocol=Protocol())


def test_a_store_without_a_relevant_train_row_is_said(tmp_path: Path) -> None:
    schema = changed(camps_schema(), protocol=Protocol(kind="full", relevant=2.0))
    store = prepare(schema, tmp_path / "store", interactions=camps_table())
    with pytest.raises(ConfigError, match="no train row with a label of 2 or more"):
        weft.train(store, "mf", out=tmp_path / "run", sets=["train.loss=bpr"])


def test_the_loss_goes_by_row_weights(tmp_path: Path) -> None:
    """Rows that weigh nothing teach nothing: the users of the second half stay where they began, the others move."""
    table = camps_table().with_columns(w=(pl.col("user") < USERS // 2).cast(pl.Float64))
    store = prepare(camps_schema(weight="w"), tmp_path / "store", interactions=table)
    run = weft.train(store, "mf", out=tmp_path / "run", sets=[*QUICK, "train.loss=softmax"], seed=1)
    start = create("mf", store.fields, run.config.options, seed=1)
    before, after = (m.user_vectors(store.users.batch())[2:, :8] for m in (start, run.load_model()))
    assert store.transforms.user_ids is not None
    taught = torch.from_numpy(store.transforms.user_ids.values < USERS // 2)
    assert torch.equal(after[~taught], before[~taught])
    assert (after[taught] != before[taught]).any(1).all()


def test_models_of_ids_know_nothing_of_items_without_a_train_row(tmp_path: Path) -> None:
    items = pl.DataFrame({"item": [*range(ITEMS), 50, 51]})
    store = prepare(camps_schema(), tmp_path / "store", interactions=camps_table(), items=items)
    run = weft.train(store, "mf", out=tmp_path / "run", sets=[*QUICK, "train.loss=bpr", "train.epochs=2"])
    vectors = run.load_model().item_vectors(store.items.batch())
    new = torch.from_numpy(store.catalogue.counts == 0)[2:]
    assert new.sum() == 2
    assert not vectors[2:][new][:, :8].any()
    assert vectors[2:][~new][:, :8].norm(dim=1).min() > 0


def test_the_rows_of_a_batch_are_held_back_once_each(store: Store, batch: Batch) -> None:
    """LightGCN's penalty: half the squares of users, items and drawn items, by the rows of the batch."""
    model = create("mf", store.fields, {"biases": False}, seed=0)
    drawn = store.items.take(np.arange(2, 8)).batch()
    pairs = replace(batch, negatives=drawn, weight=None)
    loss = retrieval.RetrievalLoss("bpr", Recipe(), store, "fp32")
    user, item = model.vectors(pairs)
    penalty = 0.1 / 2 * sum(v.square().sum() for v in (user, item, model.item_vectors(drawn))) / len(pairs)
    torch.testing.assert_close(with_row_penalty(loss, 0.1)(model, pairs), loss(model, pairs) + penalty)


def test_bf16_changes_little(store: Store, tmp_path: Path) -> None:
    sets = [*QUICK, "train.loss=softmax", "train.epochs=2", "unknown_share=0.0"]
    runs = [weft.train(store, "two_tower", out=tmp_path / p, sets=sets, seed=2, precision=p) for p in ("fp32", "bf16")]
    losses = [float(last_loss(run)) for run in runs]
    assert math.isclose(*losses, rel_tol=0.02)


def last_loss(run: SavedRun) -> float:
    epochs = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return float(next(line["loss"] for line in reversed(epochs) if line["kind"] == "epoch"))
