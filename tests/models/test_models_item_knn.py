"""Item-based neighbours equal their formula written out slowly, in pieces of any size, and find the planted camps."""

import math
from collections.abc import Sequence

import pytest
import torch
from msgspec.structs import replace

from weft.batch import Batch, Fields
from weft.errors import NotFitted, Unsupported
from weft.models import create, item_knn
from weft.testing import check, tiny

USERS, ITEMS = 9, 8
PAIRS = [  # lopsided: items and users of very different size
    *((2, i) for i in (2, 3, 4, 5, 6)),
    *((3, i) for i in (2, 3)),
    *((4, i) for i in (2, 3, 6)),
    *((5, i) for i in (2, 5)),
    *((6, i) for i in (4, 5, 6)),
    *((7, i) for i in (2,)),
]


def rows(pairs: Sequence[tuple[int, int]], label: Sequence[float] | None = None) -> Batch:
    none = torch.zeros(len(pairs), 0)
    ids = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    return Batch(
        ids=none.long(),
        dense=none,
        ragged={},
        label=torch.tensor([1.0] * len(pairs) if label is None else label)[:, None],
        user=ids[:, 0],
        item=ids[:, 1],
    )


def slow_likeness(user: int, item: int, *, shrink: float, neighbours: int, cosine: bool, damping: float) -> float:
    """The formula of the docstring, in Python."""
    users = {i: {u for u, j in PAIRS if j == i} for i in range(2, ITEMS)}
    size = {u: sum(v == u for v, _ in PAIRS) for u, _ in PAIRS}

    def alike(i: int, j: int) -> float:
        both = sum(size[u] ** -damping for u in users[i] & users[j])
        return both / (math.sqrt(len(users[i]) * len(users[j])) + shrink) if cosine else both

    others = [j for j in range(2, ITEMS) if j != item and users[item] & users[j]]
    nearest = sorted(others, key=lambda j: (-alike(item, j), j))[:neighbours]
    return sum(alike(item, j) for j in nearest if (user, j) in PAIRS)


@pytest.mark.parametrize("neighbours", [1, 2, 100])
@pytest.mark.parametrize("shrink", [0.0, 1.7])
@pytest.mark.parametrize("similarity", ["cosine", "cooccurrence"])
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_scores_are_the_formula(neighbours: int, shrink: float, similarity: str, damping: float) -> None:
    options = {"neighbours": neighbours, "shrink": shrink, "similarity": similarity, "damping": damping}
    model = create("item_knn", Fields(users=USERS, items=ITEMS), options)
    model.fit([rows(PAIRS)])
    every = [(u, i) for u in range(USERS) for i in range(ITEMS)]
    known = {"shrink": shrink, "neighbours": neighbours, "cosine": similarity == "cosine", "damping": damping}
    want = torch.tensor([slow_likeness(u, i, **known) if i >= 2 else 0.0 for u, i in every]).log1p()
    torch.testing.assert_close(model(rows(every)), want)
    torch.testing.assert_close(model.scores(torch.arange(USERS)), want.view(USERS, ITEMS))


def test_pieces_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for size in (item_knn.AT_ONCE, 5, 1):
        monkeypatch.setattr(item_knn, "AT_ONCE", size)
        model = create("item_knn", Fields(users=USERS, items=ITEMS), {"neighbours": 3})
        model.fit([rows(PAIRS[:7]), rows(PAIRS[7:]), rows(PAIRS[:3])])
        made.append({**model.state_dict(), "rows": model(rows(PAIRS))})
    for other in made[1:]:
        for name, value in made[0].items():
            assert torch.equal(other[name], value), name


def test_only_relevant_rows_and_known_ids_are_pairs() -> None:
    fields = Fields(users=USERS, items=ITEMS)
    clean, mixed = create("item_knn", fields), create("item_knn", fields)
    clean.fit([rows(PAIRS)])
    others = [(2, 7), (3, 7), (1, 2), (1, 3), (3, 1)]
    mixed.fit([rows([*PAIRS, *others], [1.0] * len(PAIRS) + [0.0, 0.0, 1.0, 1.0, 1.0])])
    for name in ("neighbour", "similarity", "owned"):
        assert torch.equal(getattr(mixed, name), getattr(clean, name)), name


def test_the_line_makes_logits_where_the_labels_vary() -> None:
    model = create("item_knn", Fields(users=USERS, items=ITEMS), {"ridge": 1e-9})
    batch = rows([*PAIRS, (3, 5), (7, 6), (5, 4), (7, 4)], [1.0] * len(PAIRS) + [0.0] * 4)
    model.fit([batch])
    miss = batch.label[:, 0] - model(batch).sigmoid()
    x = (model(batch) - model.line[0]) / model.line[1]
    assert miss.sum().item() == pytest.approx(0, abs=1e-4)
    assert (miss * x).sum().item() == pytest.approx(0, abs=1e-4)
    assert model.line[1] > 0


def test_candidates_are_the_best_scores_and_equal_ones_come_by_id() -> None:
    model = create("item_knn", Fields(users=USERS, items=ITEMS), {})
    model.fit([rows(PAIRS)])
    found = model.candidates(torch.tensor([7, 1, 8]), 10)
    assert found.shape == (3, ITEMS - 2)
    scores = model.scores(torch.tensor([7]))[0]
    assert scores[found[0]].tolist() == sorted(scores[2:].tolist(), reverse=True)
    assert found[1].tolist() == found[2].tolist() == list(range(2, ITEMS)), "nothing is known of these users"


def test_it_finds_the_item_that_was_withheld_from_each_user_of_a_camp() -> None:
    size = 20
    likes = [(2 + u, 2 + i) for u in range(size) for i in range(size) if (u - i) % 2 == 0 and u != i]
    model = create("item_knn", Fields(users=size + 2, items=size + 2), {"neighbours": 5, "shrink": 0.0})
    model.fit([rows(likes)])
    scores = model.scores(torch.arange(2, size + 2))
    for u, i in likes:
        scores[u - 2, i] = -1
    assert scores.argmax(1).tolist() == list(range(2, size + 2))


def test_nobody_with_two_items_is_no_neighbour_for_anybody() -> None:
    model = create("item_knn", Fields(users=USERS, items=ITEMS))
    model.fit([rows([(2, 3), (4, 5)])])
    assert model.scores(torch.tensor([2, 4])).count_nonzero() == 0
    empty = create("item_knn", Fields(users=USERS, items=ITEMS))
    empty.fit([rows([(2, 3)], [0.0])])
    assert empty(rows([(2, 3)])).tolist() == [0.0]


def test_it_says_what_is_missing() -> None:
    fields, batch = tiny()
    with pytest.raises(NotFitted, match="call `fit`"):
        create("item_knn", fields)(batch)
    with pytest.raises(NotFitted, match="was given no row"):
        create("item_knn", fields).fit([])
    with pytest.raises(Unsupported, match="needs a user and an item role"):
        create("item_knn", replace(fields, users=0))
    with pytest.raises(Unsupported, match="rows that have `user`, `item` and `label`"):
        create("item_knn", fields).fit([Batch(ids=batch.ids, dense=batch.dense, ragged={})])


@pytest.mark.parametrize("options", [{}, {"similarity": "cooccurrence", "neighbours": 1}])
def test_it_keeps_the_contract(options: dict[str, object]) -> None:
    check("item_knn", options)
