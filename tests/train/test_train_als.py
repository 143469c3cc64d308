"""Alternating least squares: the equations written out slowly, an objective that never rises, runs and their resume."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import weft
from camps_for_tests import interactions, schema, songs
from weft.data.store import Store
from weft.errors import Unsupported
from weft.models import create
from weft.schema import Label, Roles
from weft.testing import tiny
from weft.train import als
from weft.train.als import Pairs, objective, pairs_of, solve
from weft.train.run import train
from weft.transforms.rows import Rows

USERS, ITEMS, WIDTH = 7, 9, 3
ALPHA, L2 = 1.7, 0.3
R = {(2, 2): 1.0, (2, 3): 4.0, (2, 5): 0.5, (3, 3): 2.0, (5, 2): 1.0, (5, 8): 3.0, (5, 3): 1.0, (6, 7): 1.0}


def vectors(rows: int, shift: float) -> Tensor:
    return torch.arange(1.0, rows * WIDTH + 1).mul(1.3).add(shift).sin().view(rows, WIDTH)


def table(user: list[int], item: list[int], label: list[float], weight: list[float] | None = None) -> Rows:
    return Rows(
        ids=np.zeros((len(user), 0), np.int32),
        dense=np.zeros((len(user), 0), np.float32),
        ragged={},
        keys=np.zeros((len(user), 0), np.uint64),
        label=np.array(label, np.float32)[:, None],
        weight=None if weight is None else np.array(weight, np.float32),
        user=np.array(user, np.int32),
        item=np.array(item, np.int32),
    )


def lopsided() -> tuple[Pairs, Pairs]:
    users, items = zip(*R, strict=True)
    return pairs_of(table(list(users), list(items), list(R.values())), USERS, ITEMS)


def slow_user(user: int, y: np.ndarray) -> np.ndarray:
    """Equation (4) with the diagonal matrix of all items written out."""
    confidence = np.diag([1 + ALPHA * R.get((user, i), 0.0) for i in range(ITEMS)])
    preference = np.array([float((user, i) in R) for i in range(ITEMS)])
    return np.linalg.solve(y.T @ confidence @ y + L2 * np.eye(WIDTH), y.T @ confidence @ preference)


def slow_objective(x: np.ndarray, y: np.ndarray) -> float:
    total = L2 * ((x**2).sum() + (y**2).sum())
    for u in range(USERS):
        for i in range(ITEMS):
            total += (1 + ALPHA * R.get((u, i), 0.0)) * (((u, i) in R) - x[u] @ y[i]) ** 2
    return float(total)


@pytest.mark.parametrize("at_once", [als.AT_ONCE, 20, 1])
def test_users_are_the_solutions_of_the_normal_equations(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(als, "AT_ONCE", at_once)
    x, y = vectors(USERS, 0.0), vectors(ITEMS, 5.0)
    solve(x, y, lopsided()[0], alpha=ALPHA, l2=L2)
    want = np.stack([slow_user(u, y.double().numpy()) for u in range(USERS)])
    np.testing.assert_allclose(x.numpy(), want, rtol=1e-5, atol=1e-6)
    assert not x[[0, 1, 4]].any(), "who has nothing gets zeros"


def test_the_objective_is_the_sum_over_all_pairs_and_a_solution_has_no_slope() -> None:
    x, y = vectors(USERS, 0.0).double(), vectors(ITEMS, 5.0).double()
    by_user, by_item = lopsided()
    assert objective(x, y, by_user, alpha=ALPHA, l2=L2) == pytest.approx(slow_objective(x.numpy(), y.numpy()))
    solve(y, x, by_item, alpha=ALPHA, l2=L2)
    best = slow_objective(x.numpy(), y.numpy())
    for step in (1e-4, -1e-4):
        moved = y.clone()
        moved[3, 1] += step
        assert slow_objective(x.numpy(), moved.numpy()) > best


def test_every_half_step_lowers_the_objective() -> None:
    x, y = vectors(USERS, 0.0), vectors(ITEMS, 5.0)
    by_user, by_item = lopsided()
    found = [objective(x, y, by_user, alpha=ALPHA, l2=L2)]
    for _ in range(4):
        for own, other, pairs in ((x, y, by_user), (y, x, by_item)):
            solve(own, other, pairs, alpha=ALPHA, l2=L2)
            found.append(objective(x, y, by_user, alpha=ALPHA, l2=L2))
    assert all(later < earlier for earlier, later in pairwise(found))


def test_pairs_are_added_up_with_their_weights() -> None:
    by_user, by_item = pairs_of(table([3, 2, 3, 3], [4, 4, 2, 4], [1, 5, 1, 2], [1, 1, 0.5, 3]), 5, 6)
    assert by_user.offsets.tolist() == [0, 0, 0, 1, 3, 3]
    assert by_user.other.tolist() == [4, 2, 4]
    assert by_user.r.tolist() == [5, 0.5, 7]
    assert by_item.offsets.tolist() == [0, 0, 0, 1, 1, 3, 3]
    assert (by_item.other.tolist(), by_item.r.tolist()) == ([3, 2, 3], [0.5, 5, 7])


@pytest.mark.parametrize("biases", [True, False])
def test_scores_of_mf_are_dot_products_of_its_factors(biases: bool) -> None:
    fields, batch = tiny()
    model = create("mf", fields, {"embedding_dim": WIDTH, "biases": biases, "embedding_std": 1.0}, seed=2)
    x, y = model.factors()
    x.copy_(vectors(len(x), 0.0))
    y.copy_(vectors(len(y), 5.0))
    user, item = model.vectors(batch)
    torch.testing.assert_close((user * item).sum(1), (x[batch.user] * y[batch.item]).sum(1))


QUICK = ("train.loss=als", "train.als_alpha=5", "train.als_l2=1", "embedding_dim=4", "embedding_std=0.1")


def test_a_run_finds_the_camps_and_its_loss_falls(camps: Store, tmp_path: Path) -> None:
    run = train(camps, "mf", out=tmp_path / "run", sets=(*QUICK, "train.epochs=6", "train.patience=9"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "epoch"]
    assert len(losses) == 6
    assert losses == sorted(losses, reverse=True)
    report = weft.evaluate(run, protocol="full")
    assert report.metrics["recall@6"].value > 0.4  # chance is a quarter
    assert not run.load_model().bias.any()


def test_a_run_goes_on_with_the_same_bits(camps: Store, tmp_path: Path) -> None:
    sets = (*QUICK, "train.epochs=4", "train.patience=9")
    whole = train(camps, "mf", out=tmp_path / "whole", sets=sets)
    cut = tmp_path / "cut"
    stopped = als.alternate

    def stop_after_two(*args: object, **keys: object):  # type: ignore[no-untyped-def]
        for event in stopped(*args, **keys):  # type: ignore[arg-type]
            yield event
            if event.progress.epoch == 2 and not event.progress.step:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(als, "alternate", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            train(camps, "mf", out=cut, sets=sets)
    resumed = train(camps, "mf", out=cut, resume=True)
    for name, value in whole.load_model().state_dict().items():
        assert torch.equal(resumed.load_model().state_dict()[name], value), name


def test_counts_are_the_confidence(tmp_path: Path) -> None:
    plays = interactions().with_columns(liked=(interactions()["liked"] * 7).cast(int))
    counted = schema(
        roles=Roles(user="user", item="song", time="time", label=(Label(name="liked", task="count"),)),
        features=schema().features[:3],
    )
    store = weft.prepare(counted, tmp_path / "store", interactions=plays, items=songs())
    rows = store.split("train").bare()
    kept = rows.take(np.flatnonzero(rows.label[:, 0] >= store.fields.relevant))
    assert set(pairs_of(kept, store.fields.users, store.fields.items)[0].r.tolist()) == {7.0}
    run = train(store, "mf", out=tmp_path / "run", sets=(*QUICK, "train.epochs=3"))
    assert weft.evaluate(run, protocol="full").metrics["recall@6"].value > 0.4


@pytest.mark.parametrize("model", ["lr", "two_tower", "popularity"])
def test_models_of_more_than_free_vectors_are_refused(model: str, camps: Store, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"`train.loss` = 'als' solves for a free vector.*choose the model mf"):
        train(camps, model, out=tmp_path / "run", sets=["train.loss=als"])
    assert not (tmp_path / "run").exists()
