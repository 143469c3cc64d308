"""The user's side once: the parts of users, items and pairs, joined, score as the full rows do."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft.batch import Batch, DenseField, Field, Fields, Ragged
from weft.models import Retriever, create, entry, names, score
from weft.models._contract import served
from weft.models._parts import ITEM, PAIR, USER, Splits, rows_of, splits
from weft.testing import make_lopsided

USERS, ITEMS = 3, 4
REQUIRED = ["lr", "fm", "deepfm", "wide_deep", "mlp", "dcn", "dcn_v2", "dcn_mix", "gdcn_s", "gdcn_p", "dlrm"]

IDS = {
    "user": Field(name="user", side="user", rows=7),
    "item": Field(name="item", side="item", rows=8),
    "hour.bucket": Field(name="hour.bucket", side="context", rows=5),
    "user_hour": Field(name="user_hour", side="context", rows=6, cross=True),
    "artist": Field(name="artist", side="item", rows=6),
    "user_artist": Field(name="user_artist", side="pair", rows=9, cross=True),
}
DENSE = {
    "age": DenseField(name="age", side="user"),
    "hour": DenseField(name="hour", side="context"),
    "tempo": DenseField(name="tempo", side="item"),
    "plays": DenseField(name="plays", side="pair"),
}
RAGGED = {
    "genres": Field(name="genres", side="item", rows=6, kind="set"),
    "installed": Field(name="installed", side="user", rows=7, kind="set"),
    "recent": Field(name="recent", side="user", rows=8, kind="sequence", table="item", max_length=3),
    "liked_genres": Field(name="liked_genres", side="pair", rows=5, kind="set", cross=True),
}

SCHEMAS: dict[str, tuple[str, ...]] = {
    "everything": (*IDS, *DENSE, *RAGGED),
    "no pair": ("user", "item", "hour.bucket", "artist", "age", "tempo", "genres", "installed", "recent"),
    "user numbers": ("item", "user", "age", "hour", "artist", "recent"),
    "item numbers": ("user", "item", "tempo", "genres", "user_artist"),
    "pair numbers": ("user", "item", "plays"),
    "numbers alone": ("age", "tempo", "plays"),
    "context alone": ("hour.bucket", "user_hour", "hour"),
    "items alone": ("item", "artist", "tempo"),
}

WIDE = {"artist": 2, "installed": 7}
OPTIONS: dict[str, list[Mapping[str, Any]]] = {
    "lr": [{"pooling": "max"}],
    "fm": [{"widths": WIDE}, {"pooling": "sum"}],
    "deepfm": [{"widths": WIDE, "hidden": [5, 3]}, {"hidden": []}, {"hidden": [4], "batch_norm": False}],
    "wide_deep": [{"widths": WIDE, "hidden": [5, 3]}, {"hidden": []}],
    "mlp": [{"widths": WIDE, "hidden": [5, 3]}, {"hidden": []}, {"hidden": [4], "activation": "gelu"}],
    "dcn": [
        {"widths": WIDE, "hidden": [5, 3]},
        {"hidden": [5], "structure": "stacked"},
        {"hidden": [], "num_cross": 1},
    ],
    "dcn_v2": [
        {"widths": WIDE, "hidden": [5, 3]},
        {"hidden": [5], "structure": "stacked", "num_cross": 1},
        {"hidden": [], "rank": 2},
        {"hidden": [4], "rank": 3, "num_cross": 2},
    ],
    "dcn_mix": [
        {"widths": WIDE, "hidden": [5, 3], "experts": 2, "rank": 3},
        {"hidden": [5], "structure": "stacked", "gate": "sigmoid", "shared_gates": True, "rank": 2},
        {"hidden": [], "gate": "constant", "cross_activation": "hardtanh", "rank": 2},
    ],
    "gdcn_s": [{"widths": WIDE, "hidden": [5, 3]}, {"hidden": [], "num_cross": 1}],
    "gdcn_p": [{"widths": WIDE, "hidden": [5, 3]}, {"hidden": []}],
    "dlrm": [
        {"widths": WIDE, "hidden": [5, 3], "bottom": [3]},
        {"hidden": [], "bottom": []},
        {"hidden": [4], "bottom": [3], "batch_norm": True},
    ],
}


def fields_of(schema: str) -> Fields:
    kept = SCHEMAS[schema]
    return Fields(
        ids=tuple(field for name, field in IDS.items() if name in kept),
        dense=tuple(field for name, field in DENSE.items() if name in kept),
        ragged=tuple(field for name, field in RAGGED.items() if name in kept),
        user="user" if "user" in kept else None,
        item="item" if "item" in kept else None,
        users=7,
        items=8,
    )


def rows(fields: Fields, count: int, seed: int) -> Batch:
    """Random rows, with padding, unknown values, empty sets and weights."""
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(field.rows, (count,), generator=draw) for field in fields.ids]
    return Batch(
        ids=torch.stack(ids, dim=1).int() if ids else torch.zeros(count, 0, dtype=torch.int32),
        dense=torch.randn(count, len(fields.dense), generator=draw).double(),
        ragged={field.name: sets(field, count, draw) for field in fields.ragged},
    )


def sets(field: Field, count: int, draw: torch.Generator) -> Ragged:
    lengths = torch.randint(4, (count,), generator=draw)
    lengths[0] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randint(field.rows, (int(offsets[-1]),), generator=draw).int()
    return Ragged(values, offsets, torch.rand(len(values), generator=draw).double() if field.kind == "set" else None)


def take(ragged: Ragged, at: Tensor) -> Ragged:
    spans = [torch.arange(int(ragged.offsets[b]), int(ragged.offsets[b + 1])) for b in at.tolist()]
    places = torch.cat([torch.zeros(0, dtype=torch.int64), *spans])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ragged.offsets.diff()[at].cumsum(0)])
    return Ragged(ragged.values[places], offsets, None if ragged.weights is None else ragged.weights[places])


class World:
    """Some users, some items and every pair of them, and the full rows that these make."""

    def __init__(self, schema: str) -> None:
        self.fields = fields_of(schema)
        self.users = rows(self.fields.of(*USER), USERS, 1)
        self.items = rows(self.fields.of(*ITEM), ITEMS, 2)
        self.pairs = rows(self.fields.of(*PAIR), USERS * ITEMS, 3)
        self.user_of, self.item_of = torch.arange(USERS * ITEMS) // ITEMS, torch.arange(USERS * ITEMS) % ITEMS
        sides = ((self.users, USER, self.user_of), (self.items, ITEM, self.item_of), (self.pairs, PAIR, None))
        self.full = self._put_together(sides)
        self.full = replace(self.full, user=2 + self.user_of, item=2 + self.item_of)

    @property
    def pair(self) -> Batch | None:
        empty = self.fields.of(*PAIR)
        return self.pairs if empty.ids or empty.dense or empty.ragged else None

    def pair_of(self, user: int) -> Batch | None:
        mine = self.user_of == user
        at = torch.arange(len(mine))[mine]
        ragged = {name: take(r, at) for name, r in self.pairs.ragged.items()}
        return None if self.pair is None else Batch(ids=self.pairs.ids[at], dense=self.pairs.dense[at], ragged=ragged)

    def _put_together(self, sides: Any) -> Batch:
        """Column by column, by names: not by `Batch.whole`."""
        every = torch.arange(USERS * ITEMS)
        columns: dict[str, Any] = {}
        for batch, side, at in sides:
            at = every if at is None else at
            fields = self.fields.of(*side)
            columns |= {field.name: batch.ids[at, i] for i, field in enumerate(fields.ids)}
            columns |= {field.name: batch.dense[at, i] for i, field in enumerate(fields.dense)}
            columns |= {field.name: take(batch.ragged[field.name], at) for field in fields.ragged}
        none = torch.zeros(USERS * ITEMS, 0)
        ids = [columns[field.name] for field in self.fields.ids]
        dense = [columns[field.name] for field in self.fields.dense]
        return Batch(
            ids=torch.stack(ids, dim=1) if ids else none.int(),
            dense=torch.stack(dense, dim=1) if dense else none.double(),
            ragged={field.name: columns[field.name] for field in self.fields.ragged},
        )


def ready(model: nn.Module) -> nn.Module:
    """Lopsided weights that keep sums small, and batch norms that have seen rows."""
    model = make_lopsided(model).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.running_mean.copy_(torch.arange(1.0, norm.num_features + 1).cos())
        norm.running_var.copy_(torch.arange(1.0, norm.num_features + 1).sin() + 2)
    return model


@torch.no_grad()
def assert_joined_is_forward(model: nn.Module, world: World) -> None:
    assert splits(model)
    assert isinstance(model, Splits)
    want = score(model, world.full)
    user, item = model.user_part(world.users), model.item_part(world.items)
    for part, count in ((user, USERS), (item, ITEMS)):
        assert all(len(tensor) == count for tensor in part.values())
    found = model.join(rows_of(user, world.user_of), rows_of(item, world.item_of), world.pair)
    torch.testing.assert_close(found, want)
    for u in range(USERS):
        alone = model.join(rows_of(user, torch.tensor([u])), item, world.pair_of(u))
        torch.testing.assert_close(alone, want[world.user_of == u])


CASES = [(name, options) for name, every in OPTIONS.items() for options in every]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{options}" for name, options in CASES])
def test_parts_joined_are_the_forward_pass(name: str, options: Mapping[str, Any], schema: str) -> None:
    world = World(schema)
    tables = world.fields.tables()
    given = {"embedding_dim": 3} if "embedding_dim" in entry(name).config.__struct_fields__ else {}
    given |= {key: value for key, value in options.items() if key != "widths"}
    if "widths" in options:
        given["widths"] = {table: width for table, width in WIDE.items() if table in tables}
    assert_joined_is_forward(ready(create(name, world.fields, given)), world)


DEEP = [name for name in REQUIRED if name not in ("lr", "fm")]


@pytest.mark.parametrize("schema", ["everything", "no pair", "user numbers"])
@pytest.mark.parametrize("name", [name for name in REQUIRED if name != "lr"])
def test_a_history_is_attended_pair_by_pair(name: str, schema: str) -> None:
    world = World(schema)
    options = {"pooling": "target", "embedding_dim": 3, "widths": {"item": 5}}
    options |= {"hidden": [4]} if name in DEEP else {}
    model = ready(create(name, world.fields, options))
    assert_joined_is_forward(model, world)
    assert not torch.allclose(
        score(model, world.full), score(ready(create(name, world.fields, options | {"pooling": "mean"})), world.full)
    )


@pytest.mark.parametrize("name", [name for name in REQUIRED if hasattr(entry(name).model, "represent")])
@pytest.mark.parametrize(
    "wrappers",
    [
        {"tasks": {"kind": "shared_bottom", "hidden": [3]}},
        {"tasks": {"kind": "mmoe", "experts": 2, "expert_hidden": [4]}, "position": {"kind": "watch_next"}},
    ],
)
def test_wrappers_with_several_labels_join_as_they_score(name: str, wrappers: Mapping[str, Any]) -> None:
    world = World("everything")
    fields = Fields(**{key: getattr(world.fields, key) for key in world.fields.__struct_fields__} | {"outputs": 2})
    model = ready(create(name, fields, {"embedding_dim": 3, "hidden": [4], **wrappers}))
    assert_joined_is_forward(model, world)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize(
    "position", [{"kind": "pal"}, {"kind": "watch_next", "features": ["hour.bucket"]}, {"kind": "watch_next"}]
)
def test_a_tower_of_positions_joins_as_it_scores_without_one(name: str, position: Mapping[str, Any]) -> None:
    world = World("everything")
    model = ready(create(name, world.fields, {"position": position}))
    assert_joined_is_forward(model, world)
    assert_joined_is_forward(served(model), world)


@pytest.mark.parametrize("name", names("ranker"))
def test_every_ranker_of_the_registry_splits_or_says_that_it_does_not(name: str) -> None:
    """What does not split is asked plainly: its `forward` is the one way to score with it."""
    world = World("everything")
    if "fitted" in entry(name).kinds or issubclass(entry(name).model, Retriever):
        return
    model = create(name, world.fields, {})
    assert splits(model) == (name in (*REQUIRED, "split"))
    if splits(model):
        assert_joined_is_forward(ready(model), world)
    else:
        wrapped = create(name, world.fields, {"position": {"kind": "watch_next"}})
        assert not splits(wrapped)


def test_a_pair_that_is_left_out_is_noticed() -> None:
    world = World("everything")
    model = ready(create("dcn_v2", world.fields, {"hidden": [4]}))
    with pytest.raises(AssertionError, match="give their columns as `pair`"):
        model.join(model.user_part(world.users), model.item_part(world.items))


def test_an_mlp_keeps_its_first_layer_only() -> None:
    """What nobody reads beside the first maps is not stored a second time for each item of a catalogue."""
    world = World("no pair")
    deep = create("mlp", world.fields, {"hidden": [4]}).double()
    assert {name: list(tensor.shape) for name, tensor in deep.item_part(world.items).items()} == {"first.0": [ITEMS, 4]}
    cross = create("dcn_v2", world.fields, {"hidden": [4]}).double()
    assert set(cross.item_part(world.items)) == {"x", "first.0", "first.1"}
