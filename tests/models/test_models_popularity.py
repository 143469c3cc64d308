import math
from dataclasses import replace

import pytest
import torch
from msgspec.structs import replace as with_fields

from weft.batch import Batch, Field, Fields
from weft.errors import ConfigError, NotFitted, Unsupported
from weft.models import create, score
from weft.testing import check, tiny


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


# ---- windows, half lives, segments ----


def timed(item: list[int], time: list[int], label: list[float] | None = None) -> Batch:
    return replace(rows(item, label or [1.0] * len(item)), time=torch.tensor(time))


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"window": 10.0}, {2: 1, 3: 2, 4: 1}),
        ({"window": 9.5}, {2: 1, 3: 1, 4: 1}),
        ({"half_life": 10.0}, {2: 0.25 + 1, 3: 0.5 + 2**-0.2, 4: 2**-0.5}),
        ({"half_life": 10.0, "window": 5.0}, {2: 1, 3: 2**-0.2, 4: 2**-0.5}),
    ],
)
def test_newer_rows_count_more(options: dict[str, float], want: dict[int, float]) -> None:
    """Age is measured from the newest row of all, at 120."""
    batches = [timed([2, 3], [100, 110]), timed([2, 3, 5, 4], [120, 118, 120, 115], [1, 1, 0, 1])]
    model = create("popularity", Fields(items=6), options)
    model.fit(batches)
    for item, count in want.items():
        assert model.count[item].item() == pytest.approx(count), item
    order = sorted(range(2, 6), key=lambda i: (-want.get(i, 0), i))
    assert model.candidates(torch.tensor([7]), 4).tolist() == [order]


def test_a_window_over_everything_is_the_default() -> None:
    batch = timed([2, 2, 3, 4], [5, 6, 7, 8], [1, 0, 1, 0])
    whole, plain = create("popularity", Fields(items=6), {"window": 100.0}), create("popularity", Fields(items=6))
    for model in (whole, plain):
        model.fit([batch])
    assert torch.equal(whole(batch), plain(batch))


SEGMENTED = Fields(
    ids=(Field(name="hour", side="context", rows=4), Field(name="country", side="user", rows=6)), items=6, users=8
)


def of_countries(user: list[int], country: list[int], item: list[int], label: list[float] | None = None) -> Batch:
    plain = rows(item, label or [1.0] * len(item))
    ids = torch.stack([torch.zeros(len(item), dtype=torch.int64), torch.tensor(country)], dim=1)
    return replace(plain, ids=ids, user=torch.tensor(user))


def test_each_country_has_its_own_popular_items() -> None:
    """Country 2 likes item 3, country 3 likes item 4; 4 has no liked row and 1 is unknown: both have those of all."""
    train = of_countries([2, 2, 2, 3, 3, 4, 5], [2, 2, 2, 3, 3, 4, 1], [3, 3, 4, 4, 4, 2, 5], [1, 1, 1, 1, 1, 0, 1])
    model = create("popularity", SEGMENTED, {"segment": "country"})
    model.fit([train])
    everybody = [0, 0, 0, 2, 3, 1]
    assert model.count.tolist() == [
        everybody,
        everybody,
        [0, 0, 0, 2, 1, 0],
        [0, 0, 0, 0, 2, 0],
        everybody,
        everybody,
    ]
    assert model.segment_of.tolist() == [1, 1, 2, 3, 4, 1, 1, 1]
    assert model.candidates(torch.tensor([2, 3, 4, 5, 7]), 2).tolist() == [[3, 4], [4, 2], [4, 3], [4, 3], [4, 3]]
    asked = of_countries([2, 3, 1], [2, 3, 5], [3, 3, 3])
    scores = model(asked)
    assert scores[0] > scores[1]
    torch.testing.assert_close(model.scores(torch.tensor([2, 3]))[:, 3], scores[:2])
    assert scores[2].item() == pytest.approx(scores[0].item()), "two liked rows of item 3 in all"


def test_a_segment_must_be_a_category_of_the_user() -> None:
    with pytest.raises(ConfigError, match=r"`segment` must name a categorical feature of the user's side, got 'hour'"):
        create("popularity", SEGMENTED, {"segment": "hour"})
    with pytest.raises(ConfigError, match=r"got 'contry'; did you mean country"):
        create("popularity", SEGMENTED, {"segment": "contry"})
    with pytest.raises(Unsupported, match="`window` and `half_life` of model 'popularity' need the time"):
        create("popularity", Fields(items=6), {"window": 5.0}).fit([rows([2], [1])])


def test_popularity_by_segment_keeps_the_contract() -> None:
    check("popularity", {"segment": "user"})
