from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec.structs import replace as changed
from tables_for_tests import schema, tables

from weft.data.load import Loader
from weft.data.sample import NegativeSampler, OtherItems, UniformItems, intercept, keep_negatives, met
from weft.data.store import Store, prepare
from weft.errors import ConfigError, DataError
from weft.schema import Categorical, ColumnSplit, Count, Dense, Label, RandomSplit, Roles, Schema


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(schema(), tmp_path_factory.mktemp("world") / "s", **tables(rows=150))


def own_items(store: Store, user: int) -> set[int]:
    seen = store.catalogue.seen
    events = seen.of(user)
    return set(seen.item[events][seen.split[events] == 0].tolist())


def test_negatives_follow_their_rows(store: Store) -> None:
    rows = store.split("train").take(np.arange(20))
    made = NegativeSampler(store, 3)(rows, epoch=0, step=0)
    assert len(made) == 80
    assert made.label is not None
    assert made.user is not None
    assert made.item is not None
    assert made.time is not None
    assert rows.user is not None
    assert rows.time is not None
    assert made.ids[:20].tolist() == rows.ids.tolist()
    assert made.label[20:].sum() == 0
    assert made.user[20:].tolist() == np.repeat(rows.user, 3).tolist()
    assert made.time[20:].tolist() == np.repeat(rows.time, 3).tolist()
    for user, item in zip(made.user[20:].tolist(), made.item[20:].tolist(), strict=True):
        assert item >= 2
        assert item not in own_items(store, user)


def test_negatives_are_rows_of_the_item_as_of_the_moment(store: Store) -> None:
    rows = store.split("train").take(np.arange(20))
    made = NegativeSampler(store, 1)(rows, epoch=0, step=0).take(np.arange(20, 40))
    assert made.item is not None
    again = store.transforms.join(rows, store.items.take(made.item), time=rows.time)
    assert made.ids.tolist() == again.ids.tolist()
    assert made.dense.tolist() == again.dense.tolist()
    assert made.position is not None
    assert rows.position is not None
    assert made.position.tolist() == rows.position.tolist()


def test_draws_are_even_and_depend_on_the_step(store: Store) -> None:
    sampler = NegativeSampler(store, 1)
    drawn = sampler.draw(np.full(6000, 2), np.random.default_rng(0))
    items, counts = np.unique(drawn, return_counts=True)
    assert set(items.tolist()) == set(range(2, len(store.items))) - own_items(store, 2)
    assert counts.max() < 1.5 * counts.min()
    rows = store.split("train").take(np.arange(50))
    first, same, other = (sampler(rows, epoch=0, step=step).item for step in (0, 0, 1))
    assert first is not None
    assert same is not None
    assert other is not None
    assert first.tolist() == same.tolist()
    assert first.tolist() != other.tolist()


def drawn_slowly(store: Store, users: list[int], generator: np.random.Generator) -> list[int]:
    """All rows are drawn at once, then those that met one of the user's own again, in order, until none is left."""
    items = generator.integers(2, len(store.items), len(users))
    own = [own_items(store, user) for user in users]
    while again := [row for row, item in enumerate(items) if int(item) in own[row]]:
        items[again] = generator.integers(2, len(store.items), len(again))
    return items.tolist()


def test_the_draw_is_the_one_written_out_slowly(store: Store) -> None:
    users = np.random.default_rng(1).integers(2, 12, 500)
    found = NegativeSampler(store, 1).draw(users, np.random.default_rng([3, 1, 4]))
    assert found.tolist() == drawn_slowly(store, users.tolist(), np.random.default_rng([3, 1, 4]))


def test_rows_without_features_get_the_same_negatives(store: Store) -> None:
    rows = store.split("train").take(np.arange(30))
    sampler = NegativeSampler(store, 4)
    full, bare = (sampler(some, epoch=2, step=5) for some in (rows, rows.bare()))
    assert bare.is_bare
    assert not full.is_bare
    for name, column in full.columns().items():
        if name not in ("ids", "dense", "keys"):
            assert np.array_equal(bare.columns()[name], column), name
            assert bare.columns()[name].dtype == column.dtype, name
    assert bare.columns().keys() == full.columns().keys()
    assert len(bare.batch()) == 150


def test_rows_without_features_are_not_joined(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("features were joined")

    monkeypatch.setattr(type(store.transforms), "join", refuse)
    rows = store.split("train").take(np.arange(10))
    assert len(NegativeSampler(store, 2)(rows.bare(), epoch=0, step=0)) == 30
    with pytest.raises(AssertionError, match="features were joined"):
        NegativeSampler(store, 2)(rows, epoch=0, step=0)


def test_trap_18_never_a_train_positive_and_perhaps_the_test_item(store: Store) -> None:
    rows = store.split("train").bare()
    sampler = NegativeSampler(store, 4)
    drawn: set[tuple[int, int]] = set()
    for epoch in range(40):
        made = sampler(rows, epoch=epoch, step=0).take(slice(len(rows), None))
        assert made.user is not None
        assert made.item is not None
        drawn |= set(zip(made.user.tolist(), made.item.tolist(), strict=True))
    pairs = {
        split: set(zip(part.user.tolist(), part.item.tolist(), strict=True))
        for split in ("train", "test")
        if (part := store.split(split)).user is not None and part.item is not None
    }
    assert drawn.isdisjoint(pairs["train"])
    held_out = {(user, item) for user, item in pairs["test"] - pairs["train"] if user >= 2 and item >= 2}
    known = {user for user, _ in pairs["train"]}
    wanted = {(user, item) for user, item in held_out if user in known}
    assert wanted
    assert wanted <= drawn, "what the test holds is not known to training, so it is drawn like any other item"


def test_every_epoch_draws_anew(store: Store) -> None:
    rows = store.split("train").take(np.arange(50)).bare()
    sampler = NegativeSampler(store, 4)
    first, second = (sampler(rows, epoch=epoch, step=0).item for epoch in (0, 1))
    assert first is not None
    assert second is not None
    assert first.tolist() != second.tolist()


def test_a_user_with_nearly_all_items(tmp_path: Path) -> None:
    plain = Schema(
        features=(Categorical(name="u", side="user"), Categorical(name="i", side="item")),
        roles=Roles(label=(Label(name="y"),), user="u", item="i"),
        split=RandomSplit(valid=0, test=0),
    )
    frame = pl.DataFrame({"u": [0] * 199 + [1], "i": [*range(199), 199], "y": [1] * 200})
    store = prepare(plain, tmp_path / "s", interactions=frame)
    rows = store.split("train")
    assert store.transforms.item_ids is not None
    made = NegativeSampler(store, 2)(rows, epoch=0, step=0)
    assert made.item is not None
    assert made.user is not None
    of_first = made.item[200:][made.user[200:] == made.user[0]]
    assert {store.transforms.item_ids.value_of(item) for item in of_first.tolist()} == {199}
    everything = pl.DataFrame({"u": [0] * 199 + [1], "i": [*range(199), 0], "y": [1] * 200})
    full = prepare(plain, tmp_path / "t", interactions=everything)
    with pytest.raises(DataError, match="1 users have all 199 items"):
        NegativeSampler(full, 1)


def test_the_loader_adds_them(store: Store) -> None:
    loader = Loader(store.split("train"), 30, sampler=NegativeSampler(store, 2))
    first, *_, last = loader.batches(epoch=1)
    assert len(first) == 90
    assert len(last) == 3 * (store.rows["train"] % 30)


def test_a_schema_without_users_is_refused(tmp_path: Path) -> None:
    plain = Schema(features=(Categorical(name="i", side="item"),), roles=Roles(label=(Label(name="y"),)))
    frame = pl.DataFrame({"i": range(20), "y": [0, 1] * 10})
    with pytest.raises(ConfigError, match="`user` and `item` in"):
        NegativeSampler(prepare(plain, tmp_path / "s", interactions=frame), 1)


def test_downsampling_keeps_the_odds_after_correction() -> None:
    labels = (np.random.default_rng(1).random(200_000) < 0.02).astype(np.float32)
    kept = keep_negatives(labels, 0.1, seed=0)
    assert set(np.flatnonzero(labels)) <= set(kept.tolist())
    rate = labels[kept].mean()
    corrected = np.log(rate / (1 - rate)) + intercept(0.1)
    assert corrected == pytest.approx(np.log(labels.mean() / (1 - labels.mean())), abs=0.03)
    assert keep_negatives(labels, 1.0, seed=0).tolist() == list(range(len(labels)))
    with pytest.raises(ConfigError, match="got 0"):
        keep_negatives(labels, 0, seed=0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Users who like some items and dislike others; the items 100 to 104 have no train row, 104 no row at all."""
    rng = np.random.default_rng(3)
    pairs = [(u, int(i), int(rng.random() < 0.5)) for u in range(8) for i in rng.permutation(20)[:10]]
    rows = [(*pair, place, "train") for place, pair in enumerate(pairs)]
    rows += [(u, 100 + u % 4, 1, 200 + u, "test") for u in range(8)]
    frame = pl.DataFrame(rows, schema=["u", "i", "y", "t", "split"], orient="row")
    items = pl.DataFrame({"i": [*range(20), *range(100, 105)], "size": np.arange(25.0)})
    plain = Schema(
        features=(
            Categorical(name="i", side="item"),
            Dense(name="size", side="item"),
            Count(name="likes", by=("i",), of="y", stat="sum"),
        ),
        roles=Roles(label=(Label(name="y"),), user="u", item="i", time="t"),
        split=ColumnSplit(column="split"),
    )
    return prepare(plain, tmp_path_factory.mktemp("shop") / "s", interactions=frame, items=items)


def test_other_items_are_none_that_the_user_likes_and_none_that_are_new(shop: Store) -> None:
    rows = shop.split("train")
    assert rows.user is not None
    assert rows.item is not None
    assert rows.label is not None
    made = OtherItems(shop, 30, seed=1)(rows, epoch=0, step=0)
    assert made.item is not None
    assert len(made) == 30 * len(rows)
    owner = np.repeat(rows.user, 30)
    liked = {(u, i) for u, i, y in zip(rows.user, rows.item, rows.label[:, 0], strict=True) if y}
    disliked = {(u, i) for u, i in zip(rows.user, rows.item, strict=True)} - liked
    drawn = set(zip(owner.tolist(), made.item.tolist(), strict=True))
    assert not drawn & liked
    assert disliked <= drawn, "what a user had and did not like is no item of the user's"
    assert set(made.item.tolist()) == set(np.flatnonzero(shop.catalogue.counts))


def test_drawn_items_are_rows_of_the_item_as_of_the_rows_moment(shop: Store) -> None:
    rows = shop.split("train").take(np.arange(40, 60))
    assert rows.time is not None
    made = OtherItems(shop, 2)(rows, epoch=3, step=1)
    assert made.item is not None
    assert made.sides == ("item",)
    again = shop.transforms.as_of(shop.items.take(made.item), time=np.repeat(rows.time, 2))
    assert made.dense.tolist() == again.dense.tolist()
    assert made.dense.tolist() != shop.items.take(made.item).dense.tolist()
    bare = OtherItems(shop, 2)(rows.bare(), epoch=3, step=1)
    assert bare.is_bare
    assert bare.item is not None
    assert bare.item.tolist() == made.item.tolist()


def test_uniform_items_are_distinct_even_and_of_the_train_rows(shop: Store) -> None:
    rows, met = shop.split("train"), np.flatnonzero(shop.catalogue.counts)
    sampler = UniformItems(shop, 6, seed=2)
    draws = [sampler(rows, epoch=0, step=step).item for step in range(2_000)]
    counts = np.zeros(len(shop.items))
    for drawn in draws:
        assert drawn is not None
        assert len(set(drawn.tolist())) == 6
        counts[drawn] += 1
    assert set(np.flatnonzero(counts)) == set(met)
    assert counts[met].min() > 0.85 * 2_000 * 6 / len(met)
    assert len(UniformItems(shop, 999)(rows, epoch=0, step=0)) == len(met)


def test_a_user_who_likes_everything_is_refused_by_pairs(tmp_path: Path) -> None:
    plain = Schema(
        features=(Categorical(name="i", side="item"),), roles=Roles(label=(Label(name="y"),), user="u", item="i")
    )
    frame = pl.DataFrame({"u": [0] * 6 + [1], "i": [*range(6), 0], "y": [1] * 7})
    store = prepare(changed(plain, split=RandomSplit(valid=0, test=0)), tmp_path / "s", interactions=frame)
    with pytest.raises(DataError, match="1 users have all 6 items"):
        OtherItems(store, 1)


def test_what_the_train_rows_have(shop: Store) -> None:
    found = met(shop)
    assert found["user"].tolist() == [False, False] + [True] * 8
    item = shop.split("train").item
    assert item is not None
    assert np.flatnonzero(found["item"]).tolist() == np.unique(item).tolist()
    assert len(found["item"]) == 2 + 25
