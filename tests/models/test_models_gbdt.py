"""Boosted trees: means without a row's own label, every kind of column, tasks, state, determinism."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace as with_fields
from safetensors.torch import load_file, save_file

from weft.batch import FIRST_ID, Batch, DenseField, Field, Fields, Ragged
from weft.errors import NotFitted, Unsupported
from weft.metrics import auc
from weft.models import create, entry, score
from weft.models import gbdt as module
from weft.testing import World, check, cross_only, third_order, tiny

FEW = {"trees": 20, "min_rows": 1, "held_out": 0.0}


def fitted(world: World, **options: object) -> torch.nn.Module:
    model = create("gbdt", world.fields, options, seed=0)
    model.fit([world.train])
    return model


def numbers(rows: int, seed: int = 0) -> tuple[Fields, Batch, torch.Tensor]:
    """A signal of one dense column, which the label of the caller's task is made of."""
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))
    fields = Fields(dense=(DenseField(name="x", side="context"), DenseField(name="noise", side="context")))
    return fields, Batch(ids=torch.zeros(rows, 0, dtype=torch.int32), dense=x, ragged={}), x[:, 0]


@pytest.mark.parametrize(
    "options",
    [
        FEW,
        {**FEW, "categories": 0, "set_values": 0},
        {"trees": 20, "min_rows": 1, "held_out": 0.4, "categories": 6},
    ],
)
def test_the_contract_holds_with_trees_that_split_eight_rows(options: dict[str, object]) -> None:
    check("gbdt", options)
    fields, batch = tiny()
    model = create("gbdt", fields, options, seed=0)
    model.fit([batch])
    assert len(score(model, batch).unique()) > 1


@pytest.mark.parametrize("world", [cross_only, third_order])
def test_trees_find_what_only_a_cross_says(world: object) -> None:
    assert callable(world)
    planted = world()
    found = score(fitted(planted), planted.test).numpy()
    assert auc(planted.test.label[:, 0].numpy(), found) > 0.99


def test_a_large_vocabulary_is_known_by_its_mean() -> None:
    """500 values, half of them good: no category, so only the mean of other rows tells the good ones."""
    draw = torch.Generator().manual_seed(0)
    good = torch.rand(500, generator=draw) < 0.5
    fields = Fields(ids=(Field(name="many", side="context", rows=500 + FIRST_ID),))

    def rows() -> Batch:
        value = torch.randint(500, (6000,), generator=draw)
        chance = torch.where(good[value], 0.8, 0.2)
        label = (torch.rand(6000, generator=draw) < chance).float()
        none = torch.zeros(6000, 0)
        return Batch(ids=(value + FIRST_ID)[:, None], dense=none, ragged={}, label=label[:, None])

    world = World(fields, rows(), rows())
    label = world.test.label[:, 0].numpy()
    best = auc(label, good[world.test.ids[:, 0] - FIRST_ID].numpy())
    model = fitted(world)
    assert auc(label, score(model, world.test).numpy()) > best - 0.03
    assert model.means.shape == (502, 1)


def test_means_are_smoothed_and_weighted_means_of_all_train_rows() -> None:
    fields = Fields(ids=(Field(name="a", side="context", rows=5),), dense=(DenseField(name="x", side="context"),))
    batch = Batch(
        ids=torch.tensor([[2], [2], [3], [2]], dtype=torch.int32),
        dense=torch.tensor([[0.1], [0.2], [0.3], [0.4]]),
        ragged={},
        label=torch.tensor([[1.0], [0.0], [1.0], [0.0]]),
        weight=torch.tensor([1.0, 2.0, 4.0, 1.0]),
    )
    model = create("gbdt", fields, {**FEW, "categories": 0, "smoothing": 3.0})
    model.fit([batch])
    mean = (1 + 4) / 8
    want = [mean, mean, (1 + 3 * mean) / (4 + 3), (4 + 3 * mean) / (4 + 3), mean]
    torch.testing.assert_close(model.means[:, 0], torch.tensor(want, dtype=torch.float64))


def test_no_row_reads_its_own_label_or_one_that_is_held_out() -> None:
    """Turn one label: the means that this row and its fold read stay as they were, those of other folds move."""
    rows = 60
    fields = Fields(ids=(Field(name="a", side="context", rows=4),))
    model = create("gbdt", fields, {**FEW, "categories": 0})
    values = module.Values(np.arange(rows) % 2 + 2, np.arange(rows))
    fold = np.arange(rows) // 2 % (module.FOLDS + 1)  # the last one is held out
    y = (np.arange(rows) % 3 == 0).astype(np.float64)[:, None]

    def read(y: np.ndarray) -> np.ndarray:
        weight = (fold < module.FOLDS).astype(np.float64)
        return model._means_of_others(fields.ids[0], values, module.Target(y, weight, np.array([0.3])), fold)[:, 0]

    before = read(y)
    for row in (0, 2, 11):
        turned = y.copy()
        turned[row] = 1 - turned[row]
        moved = read(turned) != before
        own = fold == fold[row]
        same_value = values.value_V == values.value_V[row]
        assert not moved[own].any()
        assert (moved == (same_value & ~own & (fold[row] < module.FOLDS))).all()
    slow = [
        (sum(y[o, 0] for o in others) + 20 * 0.3) / (len(others) + 20)
        for r in range(rows)
        if (others := [o for o in range(rows) if o % 2 == r % 2 and fold[o] not in (fold[r], module.FOLDS)]) is not None
    ]
    np.testing.assert_allclose(before, slow)


def test_columns_written_out_slowly() -> None:
    """A category, a rank and mean, a set as columns, a sequence as length and average mean, with padding in it."""
    fields = Fields(
        ids=(Field(name="big", side="context", rows=9), Field(name="small", side="context", rows=4)),
        dense=(DenseField(name="x", side="context"),),
        ragged=(
            Field(name="tags", side="item", rows=4, kind="set"),
            Field(name="past", side="user", rows=9, kind="sequence", table="big"),
        ),
    )
    batch = Batch(
        ids=torch.tensor([[8, 3], [2, 0]], dtype=torch.int32),
        dense=torch.tensor([[0.5], [-1.0]]),
        ragged={
            "tags": Ragged(torch.tensor([3, 1, 3]), torch.tensor([0, 3, 3])),
            "past": Ragged(torch.tensor([5, 0, 7, 0]), torch.tensor([0, 3, 4])),
        },
    )
    model = create("gbdt", fields, {"categories": 4, "set_values": 4})
    model.means.copy_(torch.arange(18.0)[:, None])
    found = model._columns(batch, lambda field, values: model._table(field).numpy()[values.value_V])
    want = [[3, 0.5, 8, 8, 1, 0, 1, 2, (14 + 16) / 2], [0, -1.0, 2, 2, 0, 0, 0, 0, math.nan]]
    np.testing.assert_allclose(found, np.array(want))
    assert [f.name for f in model._categories()] == ["small"]


def test_regression_and_counts_and_classes_have_their_own_links() -> None:
    fields, batch, x = numbers(3000)
    regression = create("gbdt", with_fields(fields, task="regression"), seed=0)
    regression.fit([replace(batch, label=(3 * x + 7)[:, None])])
    error = score(regression, batch) - (3 * x + 7)
    assert error.square().mean().sqrt() < 0.5
    count = create("gbdt", with_fields(fields, task="count"), seed=0)
    rate = (0.5 * x + 1).exp()
    count.fit([replace(batch, label=torch.poisson(rate, generator=torch.Generator().manual_seed(1))[:, None])])
    assert (score(count, batch) - rate.log()).abs().mean() < 0.15
    classes = create("gbdt", with_fields(fields, task="multiclass", outputs=3), seed=0)
    label = (x > -0.5).long() + (x > 0.5).long()
    classes.fit([replace(batch, label=label.float()[:, None])])
    logits = score(classes, batch)
    assert logits.shape == (3000, 3)
    assert (logits.argmax(1) == label).float().mean() > 0.98
    assert score(classes, batch_of_one(batch)).shape == (1, 3)


def batch_of_one(batch: Batch) -> Batch:
    return replace(batch, ids=batch.ids[:1], dense=batch.dense[:1])


def test_one_and_two_threads_and_two_fits_give_the_same_bytes() -> None:
    world = cross_only(500)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            found.append(fitted(world, trees=30).booster)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    other = create("gbdt", world.fields, {"trees": 30}, seed=1)
    other.fit([world.train])
    assert not torch.equal(other.booster, found[0])  # another seed holds out other rows


def test_held_out_rows_stop_the_trees() -> None:
    world = cross_only(2000)
    noise = replace(world.train, label=torch.rand(2000, 1, generator=torch.Generator().manual_seed(3)).round())

    def size(model: torch.nn.Module) -> int:
        return model.booster.numpy().tobytes().count(b"\nTree=")

    assert size(fitted(world._replace(train=noise), held_out=0.5, patience=5)) < 20
    assert size(fitted(world._replace(train=noise), held_out=0.0, trees=60)) == 60


def test_state_is_a_file_of_tensors_of_any_size(tmp_path: Path) -> None:
    world = cross_only(500)
    model = fitted(world, trees=30, categories=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert {name: t.dtype for name, t in model.state_dict().items()} == {"booster": torch.uint8, "means": torch.float64}
    again = fitted(world._replace(train=world.test), trees=5, categories=0)
    score(again, world.test)
    again.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(score(again, world.test), score(model, world.test))


def test_what_it_cannot_do_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fields, batch = tiny()
    model = create("gbdt", fields)
    with pytest.raises(NotFitted, match="no tree yet"):
        score(model, batch)
    with pytest.raises(NotFitted, match="given no row"):
        model.fit([])
    with pytest.raises(Unsupported, match="learns from a label"):
        model.fit([replace(batch, label=None)])
    with pytest.raises(Unsupported, match="every train row has the label 1; give rows of both labels"):
        model.fit([replace(batch, label=torch.ones(8, 1))])
    with pytest.raises(Unsupported, match="no feature to read"):
        create("gbdt", Fields())
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match=r"LightGBM, which is not installed; pip install 'weft\[tune\]'"):
        create("gbdt", fields)
    assert entry("gbdt").year == 2017
