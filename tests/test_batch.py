"""Batches and fields: one length, integer ids, one-sided parts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from weft.batch import Batch, DenseField, Field, Fields, Graph, Ragged
from weft.errors import Unsupported

FIELDS = Fields(
    ids=(
        Field(name="user", side="user", rows=9),
        Field(name="item", side="item", rows=7),
        Field(name="hour", side="context", rows=26),
        Field(name="liked", side="item", rows=7, table="item"),
    ),
    dense=(DenseField(name="age", side="user"), DenseField(name="tempo", side="item")),
    ragged=(Field(name="genres", side="item", rows=5, kind="set"),),
    outputs=2,
    user="user",
    item="item",
    users=9,
    items=7,
)


def batch(**changes: Any) -> Batch:
    columns: dict[str, Any] = {
        "ids": torch.tensor([[2, 3, 4, 5], [6, 5, 4, 3], [8, 2, 2, 2]], dtype=torch.int32),
        "dense": torch.tensor([[0.5, -1.0], [1.5, 2.0], [-2.5, 0.0]]),
        "ragged": {"genres": Ragged(torch.tensor([2, 3, 4]), torch.tensor([0, 2, 2, 3]), torch.ones(3))},
        "label": torch.tensor([[1.0], [0.0], [1.0]]),
        "user": torch.tensor([2, 6, 8]),
    }
    return Batch(**(columns | changes))


def test_a_batch_has_one_length() -> None:
    assert len(batch()) == 3
    assert len(batch(ids=torch.zeros(3, 0, dtype=torch.int64), dense=torch.zeros(3, 0), ragged={})) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense": torch.zeros(2, 2)}, "'dense': 2"),
        ({"label": torch.zeros(4, 1)}, "'label': 4"),
        ({"time": torch.zeros(1, dtype=torch.int64)}, "'time': 1"),
        ({"ragged": {"genres": Ragged(torch.tensor([2]), torch.tensor([0, 1]))}}, "'genres': 1"),
    ],
)
def test_two_lengths_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch(**changes)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_float_ids_are_refused(kind: torch.dtype) -> None:
    with pytest.raises(TypeError, match=str(kind)):
        batch(ids=torch.zeros(3, 4, dtype=kind))


@pytest.mark.parametrize(
    ("sides", "ids", "dense", "ragged"),
    [
        (("user",), ["user"], ["age"], []),
        (("user", "context"), ["user", "hour"], ["age"], []),
        (("item",), ["item", "liked"], ["tempo"], ["genres"]),
        (("pair",), [], [], []),
    ],
)
def test_a_side_of_a_batch_goes_with_the_side_of_the_fields(
    sides: tuple[str, ...], ids: list[str], dense: list[str], ragged: list[str]
) -> None:
    part, fields = batch().of(FIELDS, *sides), FIELDS.of(*sides)
    assert [f.name for f in fields.ids] == ids
    assert [f.name for f in fields.dense] == dense
    assert [f.name for f in fields.ragged] == ragged == list(part.ragged)
    whole = batch()
    _equal(part.ids, torch.stack([whole.ids[:, FIELDS.column(name)] for name in ids], 1) if ids else whole.ids[:, :0])
    assert part.dense.shape == (3, len(dense))
    assert part.label is not None
    assert len(part) == 3


def _equal(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_whole_rows_of_a_side_lack_the_other_sides() -> None:
    rows = batch()
    item = rows.of(FIELDS, "item").whole(FIELDS, "item")
    assert item.ids.tolist() == [[0, 3, 0, 5], [0, 5, 0, 3], [0, 2, 0, 2]]
    assert item.ids.dtype == rows.ids.dtype
    assert item.dense.tolist() == [[0, -1], [0, 2], [0, 0]]
    assert item.ragged["genres"] is rows.ragged["genres"]
    user = rows.of(FIELDS, "user", "context").whole(FIELDS, "user", "context")
    assert user.ids.tolist() == [[2, 0, 4, 0], [6, 0, 4, 0], [8, 0, 2, 0]]
    assert user.dense.tolist() == [[0.5, 0], [1.5, 0], [-2.5, 0]]
    assert user.ragged["genres"].offsets.tolist() == [0, 0, 0, 0]
    assert not len(user.ragged["genres"].values)
    assert torch.equal((item.ids + user.ids), rows.ids)


def test_fields_of_a_side_keep_what_is_not_of_a_side() -> None:
    user = FIELDS.of("user", "context")
    assert (user.user, user.item, user.users, user.items, user.outputs) == ("user", None, 9, 7, 2)


def test_shared_fields_are_one_table() -> None:
    assert FIELDS.tables() == {"user": 9, "item": 7, "hour": 26, "genres": 5}


def test_the_id_of_a_role() -> None:
    assert (FIELDS.id_of("user", "mf"), FIELDS.id_of("item", "mf")) == (0, 1)
    with pytest.raises(Unsupported, match="mf learns from the user's id"):
        FIELDS.of("item").id_of("user", "mf")


def test_to_moves_every_tensor() -> None:
    moved = batch(position=torch.tensor([1, 2, 3])).to("meta")
    genres = moved.ragged["genres"]
    assert genres.weights is not None
    tensors = [moved.ids, moved.dense, moved.label, moved.user, moved.position, *genres]
    assert all(tensor is not None and tensor.is_meta for tensor in tensors)
    assert moved.time is None


def test_a_batch_is_frozen() -> None:
    with pytest.raises(AttributeError):
        batch().ids = torch.zeros(1, 1)  # type: ignore[misc]


def graph(**changes: object) -> Graph:
    plain = {"users": 4, "items": 5, "edges": torch.tensor([[2, 3, 3], [4, 2, 4]])}
    return Graph(**{**plain, **changes})


def test_links_of_a_graph_go_both_ways_users_before_items() -> None:
    row, column = graph().links()
    assert list(zip(row.tolist(), column.tolist(), strict=True)) == [(2, 8), (3, 6), (3, 8), (6, 3), (8, 2), (8, 3)]


def test_friends_link_users_once_in_whatever_order_they_come() -> None:
    plain = graph(edges=torch.zeros(2, 0, dtype=torch.int64))
    known = graph(edges=plain.edges, friends=torch.tensor([[2, 3, 2], [3, 2, 3]]))
    assert [part.tolist() for part in known.links()] == [[2, 3], [3, 2]]
    assert len(plain.links()[0]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": torch.tensor([[1], [2]])}, r"`edges` must hold ids from 2 to 3, got 1 to 1"),
        ({"edges": torch.tensor([[2], [5]])}, r"`edges` must hold ids from 2 to 4, got 5 to 5"),
        ({"friends": torch.tensor([[2], [4]])}, r"`friends` must hold ids from 2 to 3, got 4 to 4"),
        ({"edges": torch.tensor([2, 3])}, r"`edges` must be \[2, M\] int64, got \[2\] torch.int64"),
    ],
)
def test_a_graph_refuses_what_no_catalogue_has(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph(**changes)
