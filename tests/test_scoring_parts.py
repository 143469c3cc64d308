"""The user's side once, from rows to scores: the same as full rows, with history, context, pairs and several labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import camps_for_tests as camp
import weft
from weft import scoring
from weft.data.store import Store
from weft.models import create
from weft.schema import Categorical, Count, Cross, Dense, Label, MultiHot, Roles, Schema
from weft.scoring import Scorer
from weft.transforms.columns import from_values
from weft.transforms.rows import Rows, concat

RANKERS = ("lr", "fm", "deepfm", "wide_deep", "mlp", "dcn", "dcn_v2", "dcn_mix", "gdcn_s", "gdcn_p", "dlrm")
NOW = camp.START + 100 * camp.STEP
EARLY = camp.START + 2 * camp.STEP


def schema(**roles: Any) -> Schema:
    """Camps with a context, genres, and what only user and song together have: crosses of ids and sets, a counter."""
    plain = camp.schema()
    more = (
        Dense(name="hour", side="context", buckets=4),
        MultiHot(name="genres", side="item"),
        Cross(name="user_song", of=("user", "song")),
        Cross(name="recent_song", of=("recent", "song")),
        Cross(name="hour_user", of=("hour.bucket", "user")),
        Count(name="user_genre_rows", by=("user", "style")),
        Categorical(name="style", side="item"),
    )
    given = {"user": "user", "item": "song", "time": "time", "label": (Label(name="liked"),)} | roles
    return camp.schema(features=(*plain.features, *more), roles=Roles(**given))


def make(folder: Any, given: Schema) -> Store:
    rows = camp.interactions()
    songs = camp.songs().with_columns(
        pl.Series("genres", [[f"g{i % 3}", f"g{i % 5}"] for i in range(camp.SONGS)]),
        pl.Series("style", [f"s{i % 4}" for i in range(camp.SONGS)]),
    )
    rows = rows.with_columns(hour=pl.col("time") // 3_600 % 24, finished=pl.col("liked"))
    return weft.prepare(given, folder, interactions=rows, items=songs)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("crossed") / "store", schema())


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Items without history, nothing of pairs."""
    kept = [f for f in schema().features if f.name not in ("song_likes", "user_song", "recent_song", "user_genre_rows")]
    given = camp.schema(features=tuple(kept))
    return make(tmp_path_factory.mktemp("quiet") / "store", given)


def scorer_of(store: Store, name: str, options: Mapping[str, Any] | None = None) -> Scorer:
    model = create(name, store.transforms.fields, {"embedding_std": 0.5, **(options or {})}, seed=3).eval()
    return Scorer(model, store.transforms, store.items, intercept=0.25)


def plainly(
    scorer: Scorer, users: Rows, items: NDArray[Any], times: Any = None, context: Rows | None = None
) -> NDArray[np.float32]:
    """Every pair as a full row."""
    scores = [
        scorer.rows(
            scorer.transforms.join(
                users.take(slice(u, u + 1)),
                scorer.items.take(items[u]),
                context=None if context is None else context.take(slice(u, u + 1)),
                time=None if times is None else int(times[u]),
            )
        )
        for u in range(len(users))
    ]
    return np.stack([score if score.ndim == 1 else score[:, 0] for score in scores])


def close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert np.ptp(wanted, axis=1).min() > 1e-3, "the items must not look alike"


@pytest.mark.parametrize("name", RANKERS)
def test_the_catalogue_and_candidates_score_as_full_rows(store: Store, name: str) -> None:
    scorer, users = scorer_of(store, name), store.users.take(np.arange(2, 8))
    every = np.tile(np.arange(len(store.items)), (6, 1))
    for times in (None, np.full(6, NOW), EARLY + 3_600 * np.arange(6)):
        wanted = plainly(scorer, users, every, times)
        close(scorer.catalogue(users, times), wanted)
        some = np.random.default_rng(0).integers(0, len(store.items), (6, 5))
        close(scorer.candidates(users, some, times), np.take_along_axis(wanted, some, 1))
    now, early = scorer.catalogue(users), scorer.catalogue(users, np.full(6, EARLY))
    assert not np.allclose(now, early), "history changes scores"
    np.testing.assert_array_equal(scorer.catalogue(users), now)


@pytest.mark.parametrize("name", ["fm", "dcn_v2", "dlrm"])
def test_rows_of_a_split_bring_their_own_context(store: Store, name: str) -> None:
    scorer, rows = scorer_of(store, name, {"pooling": "target"}), store.split("test").take(np.arange(7))
    every = np.tile(np.arange(len(store.items)), (7, 1))
    close(scorer.catalogue(rows, rows.time), plainly(scorer, rows, every, rows.time))


@pytest.mark.parametrize("pairs", [1, 7, 50, 10_000])
@pytest.mark.parametrize("most", [0, 2**30])
def test_groups_and_pieces_change_nothing(
    store: Store, quiet: Store, pairs: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(scoring, "MOST_KEPT", most)
    for world in (store, quiet):
        scorer, users = scorer_of(world, "dcn_v2", {"hidden": [8]}), world.users.take(np.arange(2, 7))
        assert (scorer.parts is None) == (most == 0)
        items = np.random.default_rng(1).integers(0, len(world.items), (5, 9))
        for times in (None, np.full(5, EARLY)):
            close(scorer.candidates(users, items, times), plainly(scorer, users, items, times))
        every = np.tile(np.arange(len(world.items)), (5, 1))
        close(scorer.catalogue(users), plainly(scorer, users, every))


@pytest.mark.parametrize("name", ["lr", "wide_deep", "gdcn_p", "dlrm", "autoint", "mf", "dhen"])
def test_one_user_scores_as_among_many_with_a_context_of_now(store: Store, name: str) -> None:
    options = {} if name == "mf" else {"embedding_std": 0.5}
    scorer = Scorer(create(name, store.transforms.fields, options, seed=3).eval(), store.transforms, store.items)
    user, items = store.users.take(slice(5, 6)), np.array([7, 2, 9, 9, 3])
    context = store.transforms.encode_side(from_values(store.schema, [{"hour": 7}]), "context")
    other = store.transforms.encode_side(from_values(store.schema, [{"hour": 20}]), "context")
    for time in (None, NOW, EARLY):
        times = None if time is None else np.array([time])
        wanted = plainly(scorer, user, items[None], times, context)[0]
        found = scorer.one(user, items, context=context, time=time)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        without = scorer.candidates(user, items[None], times)[0]
        np.testing.assert_allclose(scorer.one(user, items, time=time), without, rtol=1e-5, atol=1e-6)
        if name != "mf":
            assert not np.allclose(found, scorer.one(user, items, context=other, time=time))
    assert scorer.one(user, items[:0]).shape == (0,)
    both = concat([context, other])
    users = store.users.take(np.array([5, 5]))
    found = scorer.candidates(users, np.stack([items, items]), context=both)
    np.testing.assert_allclose(found[0], scorer.one(user, items, context=context), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], scorer.one(user, items, context=other), rtol=1e-5, atol=1e-6)


def test_of_several_labels_the_first_ranks(tmp_path: Any) -> None:
    labels = (Label(name="liked"), Label(name="finished"))
    both = make(tmp_path / "store", schema(label=labels))
    options = {"tasks": {"kind": "mmoe", "experts": 2}, "position": {"kind": "watch_next"}, "hidden": [8]}
    scorer, users = scorer_of(both, "dcn_v2", options), both.users.take(np.arange(2, 5))
    every = np.tile(np.arange(len(both.items)), (3, 1))
    close(scorer.catalogue(users), plainly(scorer, users, every))


def test_parts_go_through_a_file(store: Store, quiet: Store, tmp_path: Any) -> None:
    for place, world in enumerate((store, quiet)):
        scorer, users = scorer_of(world, "dcn_v2"), world.users.take(np.arange(2, 6))
        assert scorer.parts is not None
        assert all(tensor.is_contiguous() and len(tensor) == len(world.items) for tensor in scorer.parts.values())
        save_file(scorer.parts, tmp_path / f"{place}.safetensors")
        parts = load_file(tmp_path / f"{place}.safetensors")
        again = Scorer(scorer.model, world.transforms, world.items, intercept=0.25, parts=parts)
        np.testing.assert_array_equal(again.catalogue(users), scorer.catalogue(users))
        shifted = {name: tensor + 1 for name, tensor in parts.items()}
        other = Scorer(scorer.model, world.transforms, world.items, intercept=0.25, parts=shifted)
        assert not np.allclose(other.catalogue(users), scorer.catalogue(users)), "the parts given are those that score"


@pytest.mark.parametrize("name", ["dcn_v2", "mf"])
def test_newer_history_keeps_what_does_not_change(store: Store, quiet: Store, name: str) -> None:
    for world, has_history in ((store, True), (quiet, False)):
        options = {} if name == "mf" else {"embedding_std": 0.5}
        scorer = Scorer(create(name, world.transforms.fields, options, seed=3).eval(), world.transforms, world.items)
        users = world.users.take(np.arange(2, 6))
        before = scorer.catalogue(users)
        rows = [{"user": camp.FIRST_USER, "song": "song-3", "liked": 1, "style": "s1", "time": NOW}]
        newer = world.transforms.with_history(from_values(world.schema, rows))
        later = scorer.with_transforms(newer)
        fresh = Scorer(scorer.model, newer, world.items)
        np.testing.assert_allclose(later.catalogue(users), fresh.catalogue(users), rtol=1e-5, atol=1e-6)
        if name == "dcn_v2":
            assert not np.allclose(later.catalogue(users)[0], before[0])
            assert (later.parts is scorer.parts) == (not has_history)
        np.testing.assert_array_equal(scorer.catalogue(users), before)


@pytest.mark.parametrize("name", ["dcn_v2", "mf"])
def test_another_catalogue_keeps_the_rows_that_stay(store: Store, quiet: Store, name: str) -> None:
    for world in (store, quiet):
        options = {} if name == "mf" else {"embedding_std": 0.5}
        scorer = Scorer(create(name, world.transforms.fields, options, seed=3).eval(), world.transforms, world.items)
        users, old = world.users.take(np.arange(2, 6)), len(world.items)
        before = scorer.catalogue(users)
        order = np.array([0, 1, 5, old, 3, old, 4])
        stay = order < old
        rows = world.items.take(np.where(stay, order, 8))
        found = scorer.with_items(rows, order).catalogue(users)
        np.testing.assert_allclose(found[:, stay], before[:, order[stay]], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[:, ~stay], before[:, [8, 8]], rtol=1e-5, atol=1e-6)
