from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tables_for_tests import schema, tables

from weft.data.load import Loader
from weft.data.sample import NegativeSampler, intercept, keep_negatives
from weft.data.store import Store, prepare
from weft.errors import ConfigError, DataError
from weft.schema import Categorical, Label, RandomSplit, Roles, Schema


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
