"""Stages: sources are merged, rankers order, a stage that fails or is late is skipped and the answer says so."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from music_for_recommend import Music

from weft.recommend.budget import Workers
from weft.recommend.bundle import bundle
from weft.recommend.final import Listed, Wish
from weft.recommend.pipeline import Cap, Mmr, Pipeline, Rank, Source
from weft.recommend.recommender import Recommender
from weft.recommend.stages import RRF, Asked, Proposed, Stages, merge, stage
from weft.transforms.rows import Rows

LISTS = st.lists(st.lists(st.integers(2, 9), unique=True, max_size=5), min_size=3, max_size=3)


def proposed(lists: list[list[int]]) -> Proposed:
    width = max(map(len, lists))
    ids = np.array([mine + [0] * (width - len(mine)) for mine in lists], np.int64).reshape(len(lists), width)
    return Proposed(ids, np.where(ids > 0, 1.0, -np.inf).astype(np.float32))


@given(st.lists(LISTS, min_size=2, max_size=3))
def test_merging_is_the_sum_of_reciprocal_ranks(sources: list[list[list[int]]]) -> None:
    merged = merge([proposed(lists) for lists in sources])
    for user in range(3):
        worth: dict[int, float] = {}
        for lists in sources:
            for place, item in enumerate(lists[user], 1):
                worth[item] = worth.get(item, 0.0) + np.float32(1 / (RRF + place))
        met = [item for lists in sources for item in lists[user]]
        wanted = sorted(worth, key=lambda item: (-worth[item], met.index(item)))
        ids = merged.ids[user].tolist()
        assert ids == wanted + [0] * (len(ids) - len(wanted))
        np.testing.assert_allclose(merged.scores[user, : len(wanted)], [worth[item] for item in wanted], rtol=1e-6)
        assert (merged.scores[user, len(wanted) :] == -np.inf).all()


def asked(k: int = 3, users: int = 1, hurried: bool = True) -> Asked:
    rows = Rows(
        ids=np.zeros((users, 0), np.int32),
        dense=np.zeros((users, 0), np.float32),
        ragged={},
        keys=np.zeros((users, 0), np.uint64),
    )
    return Asked(
        rows=rows,
        user=np.arange(2, 2 + users),
        k=k,
        hidden=[np.zeros(0, np.int64)] * users,
        available=None,
        times=None,
        had=lambda place: np.zeros(0, np.int64),
        random=np.random.default_rng(0),
        hurried=hurried,
    )


class ByIds:
    """A ranker whose score is the id, or minus it."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def one(self, user: Rows, items: np.ndarray, *, time: int | None = None) -> np.ndarray:
        return (self.sign * items).astype(np.float32)

    def candidates(self, users: Rows, items: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
        return (self.sign * items).astype(np.float32)


def source(ids: list[int]) -> Callable[[Asked, int], Proposed]:
    return lambda asked, quota: proposed([ids[:quota]] * len(asked))


def failing(*_: object, **__: object) -> Proposed:
    raise RuntimeError("the shard is down")


@pytest.mark.parametrize("users", [1, 3])
def test_the_way_from_sources_to_lists(users: int) -> None:
    workers = Workers()
    stages = Stages(
        [stage("sources.a", source([2, 3, 4, 5]), workers, budget_ms=None, size=4)],
        [
            stage("ranking.up", ByIds(1), workers, budget_ms=None, size=3),
            stage("ranking.down", ByIds(-1), workers, budget_ms=None),
        ],
        [stage("final.turn", lambda listed, wish: listed.take(np.arange(len(listed))[::-1]), workers, budget_ms=None)],
    )
    walk = stages.walk(asked(k=2, users=users))
    assert [passed.name for passed in walk.stages] == ["sources.a", "ranking.up", "ranking.down", "final.turn"]
    assert [passed.ids[users - 1].tolist() for passed in walk.stages] == [[2, 3, 4, 5], [5, 4, 3], [3, 4, 5], [5, 4, 3]]
    assert all(listed.ids.tolist() == [5, 4] for listed in walk.lists)
    assert walk.lists[0].score.tolist() == [-5, -4]
    assert (walk.degraded, walk.scored_by) == ((), 1)


def test_a_quota_and_what_is_kept_are_never_less_than_the_list() -> None:
    workers = Workers()
    stages = Stages(
        [stage("sources.a", source([2, 3, 4, 5, 6]), workers, budget_ms=None, size=1)],
        [stage("ranking.up", ByIds(1), workers, budget_ms=None, size=1)],
        [],
    )
    assert stages.walk(asked(k=4)).lists[0].ids.tolist() == [5, 4, 3, 2]
    assert stages.walk(asked(k=1)).lists[0].ids.tolist() == [2]


@pytest.mark.parametrize("hurried", [True, False])
def test_a_stage_that_fails_is_skipped_and_named(hurried: bool) -> None:
    workers = Workers()

    def broken(listed: Listed, wish: Wish) -> Listed:
        raise KeyError("gone")

    stages = Stages(
        [
            stage("sources.broken", failing, workers, budget_ms=None, size=3),
            stage("sources.b", source([2, 3, 4]), workers, budget_ms=1_000, size=3),
        ],
        [
            stage("ranking.up", ByIds(1), workers, budget_ms=None),
            stage(
                "ranking.broken",
                type("Broken", (), {"one": failing, "candidates": failing})(),
                workers,
                budget_ms=9_000,
            ),
        ],
        [stage("final.broken", broken, workers, budget_ms=None)],
    )
    walk = stages.walk(asked(hurried=hurried))
    assert walk.lists[0].ids.tolist() == [4, 3, 2]
    assert walk.scored_by == 0
    assert walk.degraded == (
        "sources.broken: the shard is down",
        "ranking.broken: the shard is down",
        "final.broken: 'gone'",
    )


def test_a_late_source_and_a_late_ranker_are_skipped_within_the_time() -> None:
    workers, go = Workers(), threading.Event()

    class Slow(ByIds):
        def one(self, user: Rows, items: np.ndarray, *, time: int | None = None) -> np.ndarray:
            go.wait(20)
            return super().one(user, items, time=time)

    def slow(asked: Asked, quota: int) -> Proposed:
        go.wait(20)
        return source([9])(asked, quota)

    stages = Stages(
        [
            stage("sources.slow", slow, workers, budget_ms=30, size=3),
            stage("sources.b", source([2, 3, 4]), workers, budget_ms=None, size=3),
        ],
        [stage("ranking.slow", Slow(1), workers, budget_ms=30)],
        [],
    )
    walk = stages.walk(asked())
    assert walk.lists[0].ids.tolist() == [2, 3, 4]
    assert walk.degraded == ("sources.slow: not done within 30 ms", "ranking.slow: not done within 30 ms")
    assert sum(passed.seconds for passed in walk.stages) < 5
    go.set()
    assert stages.walk(asked(hurried=False)).lists[0].ids.tolist() == [9, 4, 3]


def test_where_every_source_is_down_the_answer_is_what_is_popular(
    music: Music, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle([music.runs["mf"], music.runs["lr"]], tmp_path / "bundle", calibrate="platt")
    recommender = Recommender.of(made)
    user = recommender.most_active_user()
    plain = recommender.recommend(user)
    assert (plain.degraded, plain.model, plain.calibrated) == ((), "lr", True)
    index = type(made.members["mf"].index)
    monkeypatch.setattr(index, "search", failing)
    answer = recommender.recommend(user, k=5, seen="hide")
    assert (answer.known, answer.model, answer.calibrated) == (True, "popularity", False)
    assert answer.degraded == ("sources.mf: the shard is down",)
    assert len(answer.items) == 5
    assert not {item.id for item in answer.items} & {item.id for item in plain.recent}


def test_a_ranker_that_is_down_leaves_the_sources_order(
    music: Music, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(
        sources=(Source(run="mf"), Source(run="popularity")),
        ranking=(Rank(run="lr"),),
        final=(Cap(feature="artist", most=1), Mmr(by="mf")),
    )
    made = bundle(
        [music.runs[name] for name in ("mf", "popularity", "lr")],
        tmp_path / "bundle",
        pipeline=pipeline,
        calibrate="platt",
    )
    recommender = Recommender.of(made)
    user = recommender.most_active_user()
    monkeypatch.setattr(made.members["lr"].scorer, "one", failing)
    answer = recommender.recommend(user, trace=True)
    assert answer.degraded == ("ranking.lr: the shard is down",)
    assert (answer.model, answer.calibrated) == ("merged", False)
    assert answer.trace is not None
    assert [s.name for s in answer.trace.stages] == [
        "sources.mf",
        "sources.popularity",
        "merge",
        "ranking.lr",
        "final.cap",
        "final.mmr",
    ]
    assert answer.trace.stages[3].skipped == "the shard is down"
    assert all(why[0].startswith(("mf #", "popularity #")) for why in (item.why for item in answer.items))
