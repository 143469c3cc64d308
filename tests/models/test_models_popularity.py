import math
from dataclasses import replace

import pytest
import torch
from msgspec.structs import replace as with_fields

from weft.batch import Batch, Fields
from weft.errors import NotFitted, Unsupported
from weft.models import create, score
from weft.testing import tiny


def rows(item: list[int], label: list[float], weight: list[float] | None = None) -> Batch:
    none = torch.zeros(len(item), 0)
    return Batch(
        ids=none.long(),
        dense=none,
        ragged={},
        label=torch.tensor(label)[:, None],
        item=torch.tensor(item),
        weight=None if weight is None else torch.tensor(weight),
    )


def test_popularity_counts_relevant_rows() -> None:
    model = create("popularity", Fields(items=6), {})
    model.fit([rows([2, 2, 3, 4], [1, 1, 0, 1]), rows([4, 4, 5], [1, 1, 0])])
    assert model.count.tolist() == [0, 0, 2, 0, 3, 0]
    assert model.candidates(torch.tensor([7, 8]), 3).tolist() == [[4, 2, 3], [4, 2, 3]]


@pytest.mark.parametrize(("task", "label"), [("binary", [1, 0, 1, 1, 0, 1]), ("count", [3, 0, 1, 7, 1, 2])])
def test_the_line_is_the_most_likely_one(task: str, label: list[float]) -> None:
    item = [2, 2, 3, 3, 4, 3]
    model = create("popularity", Fields(items=6, task=task), {"ridge": 1e-9})
    batch = rows(item, label)
    model.fit([batch])
    s = score(model, batch).double()
    mean = s.sigmoid() if task == "binary" else s.exp()
    slope = model.count[batch.item].log1p()
    miss = torch.tensor(label) - mean
    assert miss.sum().item() == pytest.approx(0, abs=1e-5)
    assert (miss * slope).sum().item() == pytest.approx(0, abs=1e-5)


def test_ratings_are_fitted_by_least_squares() -> None:
    item, label = [2, 2, 3, 3, 3, 4], [400.0, 500.0, 300.0, 500.0, 200.0, 100.0]
    model = create("popularity", Fields(items=6, task="regression", relevant=400.0), {"ridge": 1e-9})
    model.fit([rows(item, label)])
    x = torch.tensor([[1.0, math.log1p({2: 2, 3: 1, 4: 0}[i])] for i in item])
    want = torch.linalg.lstsq(x, torch.tensor(label)[:, None]).solution[:, 0]
    torch.testing.assert_close(model.line.float(), want, rtol=1e-4, atol=1e-4)


def test_weights_weigh() -> None:
    once = create("popularity", Fields(items=6), {"ridge": 1.0})
    once.fit([rows([2, 3, 3, 4, 4], [1, 1, 0, 1, 0], [1, 1, 2, 1, 1])])
    twice = create("popularity", Fields(items=6), {"ridge": 1.0})
    twice.fit([rows([2, 3, 3, 3, 4, 4], [1, 1, 0, 0, 1, 0])])
    torch.testing.assert_close(once.line, twice.line)


def test_items_that_are_always_liked_do_not_run_away() -> None:
    model = create("popularity", Fields(items=4), {})
    model.fit([rows([2, 2, 3], [1, 1, 1])])
    assert torch.isfinite(model.line).all()


def test_it_says_what_is_missing() -> None:
    fields, batch = tiny()
    with pytest.raises(NotFitted, match="call `fit`"):
        create("popularity", fields)(batch)
    with pytest.raises(Unsupported, match="needs an item role"):
        create("popularity", with_fields(fields, items=0))
    with pytest.raises(Unsupported, match="needs a user and an item role"):
        create("mf", with_fields(fields, users=0))
    with pytest.raises(Unsupported, match="this batch has no `item`"):
        create("mf", fields).item_vectors(replace(batch, item=None))


@pytest.mark.parametrize("label", [[1.0] * 6, [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]])
def test_the_more_popular_item_stands_first_whatever_the_labels_say(label: list[float]) -> None:
    """All labels positive: the line would be flat; the popular item often disliked: it would fall."""
    model = create("popularity", Fields(items=4))
    batch = rows([2, 2, 2, 2, 2, 3], label)
    model.fit([batch])
    scores = model(batch)
    assert torch.isfinite(scores).all()
    assert scores[0] > scores[-1]
