"""Requests to a bundle on the music service: rules over artists and genres, context, traces, arrivals."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from music_for_recommend import Music

from weft.errors import ConfigError, DataError, Unsupported
from weft.recommend.bundle import Bundle, bundle
from weft.recommend.pipeline import (
    Boost,
    Cap,
    Explore,
    Filter,
    Final,
    Mix,
    Mmr,
    Only,
    Pin,
    Pipeline,
    Rank,
    Seen,
    Source,
    Unseen,
    Without,
    load,
)
from weft.recommend.recommender import Recommendation, Recommender
from weft.transforms.columns import from_values

RECIPES = Path(__file__).parent.parent.parent / "recipes"
RUNS = ("two_tower", "popularity", "dcn_v2")
PLAIN = Pipeline(
    sources=(Source(run="two_tower"), Source(run="popularity", quota=30)), ranking=(Rank(run="dcn_v2", keep=200),)
)


@pytest.fixture(scope="module")
def made(music: Music, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle([music.runs[name] for name in RUNS], tmp_path_factory.mktemp("bundles") / "plain", pipeline=PLAIN)


@pytest.fixture(scope="module")
def plain(made: Bundle) -> Recommender:
    return Recommender.of(made)


@pytest.fixture(scope="module")
def user(plain: Recommender) -> int:
    return int(plain.most_active_user())


def with_steps(made: Bundle, *final: Final, filters: tuple[Filter, ...] = (Seen(),)) -> Recommender:
    pipeline = msgspec.structs.replace(PLAIN, final=final, filters=filters)
    return Recommender.of(replace(made, pipeline=pipeline))


def ids(answer: Recommendation) -> list[int]:
    return [int(item.id) for item in answer.items]


def of_tracks(music: Music, column: str) -> dict[int, object]:
    return dict(music.tracks.select("track_id", column).iter_rows())


def played(music: Music, user: int) -> set[int]:
    return set(music.plays.filter(user_id=user)["track_id"])


def users_of(music: Music, count: int = 8) -> list[int]:
    return music.plays["user_id"].value_counts().sort("count", "user_id", descending=True)["user_id"].to_list()[:count]


# Filters


def test_discovery_shows_only_artists_whom_the_user_has_never_played(music: Music, made: Bundle) -> None:
    artist = of_tracks(music, "artist")
    served = with_steps(made, filters=(Seen(seen="hide"), Unseen(feature="artist")))
    for user in users_of(music):
        known = {artist[track] for track in played(music, user)}
        shown = {artist[track] for track in ids(served.recommend(user, k=300))}
        assert not shown & known
        assert shown
        answer = served.recommend(user, k=300)
        assert len(ids(answer)) <= sum(name not in known for name in artist.values())


def test_only_and_without_hold_for_every_source_and_for_the_fallback(music: Music, made: Bundle, user: int) -> None:
    genre = of_tracks(music, "genre")
    names = tuple(sorted(set(map(str, genre.values()))))[:2]
    for rule, fine in (
        (Only(feature="genre", values=names), lambda name: name in names),
        (Without(feature="genre", values=names), lambda name: name not in names),
    ):
        served = with_steps(made, filters=(rule,))
        for asked in (user, "nobody"):
            answer = served.recommend(asked, k=300)
            assert all(fine(genre[track]) for track in ids(answer))
        assert len(ids(served.recommend("nobody", k=300))) == sum(map(fine, genre.values()))


@pytest.mark.parametrize("model", ["mf", "popularity", "item_knn", "lr"])
def test_sources_give_k_items_where_k_may_be_shown(music: Music, tmp_path: Path, model: str) -> None:
    """However much the filters take away, through an index, own lists and exact scores."""
    made = bundle([music.runs[model]], tmp_path / "bundle")
    served = Recommender.of(made)
    tracks = music.tracks["track_id"].to_list()
    for user in users_of(music, 4):
        fine = [track for track in tracks if track not in played(music, user)]
        for allow in (fine[:3], tracks):
            shown = ids(served.recommend(user, k=20, seen="hide", allow=allow))
            assert set(shown) <= set(allow) - played(music, user)
            if model in ("popularity", "lr"):
                assert len(shown) == min(20, len(set(allow) - played(music, user)))


def test_allow_deny_and_had_of_a_request(music: Music, plain: Recommender, user: int) -> None:
    first = ids(plain.recommend(user, k=12))
    assert ids(plain.recommend(user, k=5, deny=first[:2])) == first[2:7]
    assert ids(plain.recommend(user, k=5, had=first[:2])) == first[2:7]
    assert ids(plain.recommend(user, k=5, had=first[:2], seen="allow"))[:1] != []
    assert set(ids(plain.recommend(user, k=5, allow=[*first[3:6], "nothing"]))) == set(first[3:6])
    assert not set(ids(plain.recommend(user, k=300, seen="hide"))) & played(music, user)
    assert set(ids(plain.recommend(user, k=300, seen="allow"))) & played(music, user)


# Last steps


def test_a_cap_on_artists_and_on_genres(music: Music, made: Bundle) -> None:
    artist, genres = of_tracks(music, "artist"), of_tracks(music, "genres")
    capped = with_steps(made, Cap(feature="artist", most=2), Mmr(by="genres"))
    several = with_steps(made, Cap(feature="genres", most=3))
    for user in (*users_of(music, 4), "nobody"):
        assert max(Counter(artist[track] for track in ids(capped.recommend(user, k=30))).values()) <= 2
        met = Counter(name for track in ids(several.recommend(user, k=30)) for name in genres[track])  # type: ignore[attr-defined]
        assert max(met.values()) <= 3


def test_the_first_of_a_capped_list_is_the_first_of_the_plain_one(made: Bundle, plain: Recommender, user: int) -> None:
    assert ids(with_steps(made, Cap(feature="artist", most=1)).recommend(user))[0] == ids(plain.recommend(user))[0]


def test_mmr_makes_lists_more_varied(music: Music, made: Bundle, plain: Recommender) -> None:
    genre = of_tracks(music, "genre")
    varied = {by: with_steps(made, Mmr(by=by, balance=0.3)) for by in ("genre", "two_tower")}

    def kinds(served: Recommender) -> float:
        return float(np.mean([len({genre[t] for t in ids(served.recommend(u))}) for u in users_of(music)]))

    def likeness(served: Recommender) -> float:
        unit = made.members["two_tower"].unit_vectors
        found = []
        for user in users_of(music):
            mine = unit[[served.items.id_of(track) for track in ids(served.recommend(user))]]
            found.append(float((mine @ mine.T)[np.triu_indices(len(mine), 1)].mean()))
        return float(np.mean(found))

    assert kinds(varied["genre"]) > kinds(plain) + 0.5
    assert likeness(varied["two_tower"]) < likeness(plain)


def test_a_mix_brings_a_list_near_to_the_users_genres(music: Music, made: Bundle, plain: Recommender) -> None:
    genre = of_tracks(music, "genre")
    mixed = with_steps(made, Mix(feature="genre", balance=0.2))

    def distance(served: Recommender, user: int) -> float:
        wanted = Counter(genre[t] for t in music.plays.filter(user_id=user)["track_id"])
        shown = Counter(genre[t] for t in ids(served.recommend(user, k=20)))
        names = wanted.keys() | shown.keys()
        return sum(abs(wanted[n] / wanted.total() - shown[n] / shown.total()) for n in names)

    users = users_of(music)
    assert np.mean([distance(mixed, u) for u in users]) < 0.6 * np.mean([distance(plain, u) for u in users])


def test_boosted_and_pinned_items(music: Music, made: Bundle, plain: Recommender, user: int) -> None:
    last = plain.recommend(user, k=200, seen="allow").items[-1]
    artist = str(of_tracks(music, "artist")[int(last.id)])
    boosted = with_steps(made, Boost(feature="artist", values=(artist,), add=100.0)).recommend(
        user, k=200, seen="allow", trace=True
    )
    place = ids(boosted).index(int(last.id))
    assert place < sum(name == artist for name in of_tracks(music, "artist").values())
    assert boosted.items[place].score == pytest.approx(last.score, rel=1e-5)
    assert "boosted" in boosted.items[place].why
    by_id = with_steps(made, Boost(feature="track_id", values=(last.id,), add=100.0))
    assert ids(by_id.recommend(user, k=3, seen="allow"))[0] == last.id

    first = ids(plain.recommend(user, k=5))
    pinned = with_steps(made, Pin(items=(int(last.id), first[3]), at=2))
    answer = pinned.recommend(user, k=5, seen="allow", trace=True)
    free = ids(plain.recommend(user, k=5, seen="allow"))
    rest = [track for track in free if track not in (last.id, first[3])]
    assert ids(answer) == [rest[0], last.id, first[3], *rest[1:3]]
    assert "pinned" in answer.items[1].why
    denied = ids(pinned.recommend(user, k=5, deny=[last.id]))
    assert last.id not in denied


def test_a_pinned_item_that_no_source_gave_is_scored_by_the_ranker(made: Bundle, plain: Recommender, user: int) -> None:
    tight = msgspec.structs.replace(
        PLAIN,
        sources=(Source(run="two_tower", quota=1),),
        final=(Pin(items=(int(ids(plain.recommend(user, k=9))[8]),)),),
    )
    served = Recommender.of(replace(made, pipeline=tight))
    item = served.recommend(user, k=1).items[0]
    assert item.score == pytest.approx({i.id: i.score for i in plain.recommend(user, k=9).items}[item.id], rel=1e-5)


def test_an_exploration_share_records_propensities(made: Bundle, plain: Recommender, user: int) -> None:
    served = with_steps(made, Explore(share=0.3, pool=50))
    answer = served.recommend(user, seed=3, trace=True)
    assert answer == msgspec.structs.replace(served.recommend(user, seed=3, trace=True), trace=answer.trace)
    assert any(served.recommend(user, seed=seed).items != answer.items for seed in range(5))
    best = ids(plain.recommend(user, k=60))
    left = list(best)
    for item in answer.items:
        assert item.propensity == pytest.approx(0.7 * (item.id == left[0]) + 0.3 / len(left))
        left.remove(int(item.id))
    assert all(item.propensity is None for item in plain.recommend(user).items)
    drawn = [len(set(ids(served.recommend(user, seed=seed))) - set(best[:10])) for seed in range(40)]
    assert np.mean(drawn) == pytest.approx(10 * 0.3 * 50 / 60, rel=0.5)


# Requests


def test_context_is_read_by_the_ranker(plain: Recommender, user: int) -> None:
    lists = {hour: plain.recommend(user, context={"hour": hour, "weekday": 2}).items for hour in (3, 12, 20)}
    assert len({tuple(item.score for item in items) for items in lists.values()}) == 3
    assert plain.recommend(user, context={}).items == plain.recommend(user).items
    with pytest.raises(ConfigError, match="`context` has no feature 'hours'; did you mean hour"):
        plain.recommend(user, context={"hours": 3})
    with pytest.raises(ConfigError, match="no feature 'genre'; known: hour, weekday"):
        plain.recommend(user, context={"genre": "pop"})
    with pytest.raises(DataError, match="hour"):
        plain.recommend(user, context={"hour": [3]})


def test_scores_are_those_of_the_pairs_as_full_rows(music: Music, plain: Recommender, user: int) -> None:
    context = {"hour": 9, "weekday": 1}
    answer = plain.recommend(user, context=context)
    rows = plain.features(plain.user_rows(user, context), [item.id for item in answer.items])
    assert rows.sides == ("user", "item", "context", "pair")
    scores = plain.bundle.members["dcn_v2"].scorer.rows(rows)
    np.testing.assert_allclose([item.score for item in answer.items], scores, rtol=1e-4, atol=1e-5)
    assert [plain.items.name_of(int(id)) for id in rows.item] == ids(answer)


def test_ranking_given_candidates(plain: Recommender, user: int) -> None:
    shown = plain.recommend(user, k=6)
    mixed = [*reversed(ids(shown)), 10**9, "none"]
    ranked = plain.rank(user, mixed)
    assert ids(ranked) == ids(shown)
    assert ranked.unknown == (10**9, "none")
    assert (ranked.model, ranked.known) == ("dcn_v2", True)
    np.testing.assert_allclose([i.score for i in ranked.items], [i.score for i in shown.items], rtol=1e-5)
    assert not plain.rank("nobody", ids(shown)).known
    assert plain.rank(user, []).items == ()


def test_similar_items_are_the_nearest_by_cosine(
    made: Bundle, plain: Recommender, music: Music, tmp_path: Path
) -> None:
    track = music.tracks["track_id"][5]
    unit = made.members["two_tower"].unit_vectors
    mine = plain.items.id_of(track)
    cosine = {plain.items.name_of(i): float(unit[i] @ unit[mine]) for i in range(2, len(unit)) if i != mine}
    found = plain.similar(track, k=5)
    assert [item.id for item in found] == sorted(cosine, key=lambda name: -cosine[name])[:5]
    np.testing.assert_allclose([item.score for item in found], sorted(cosine.values())[::-1][:5], rtol=1e-5)
    with pytest.raises(ConfigError, match="no item 'zzz'"):
        plain.similar("zzz")
    alone = Recommender.of(bundle([music.runs["lr"]], tmp_path / "lr"))
    with pytest.raises(Unsupported, match="add a retriever"):
        alone.similar(track)


def test_a_trace_tells_what_each_stage_did(made: Bundle, user: int) -> None:
    served = with_steps(made, Cap(feature="artist", most=1), Mmr(by="two_tower"))
    answer = served.recommend(user, trace=True)
    assert answer.trace is not None
    stages = {stage.name: stage for stage in answer.trace.stages}
    assert list(stages) == [
        "sources.two_tower",
        "sources.popularity",
        "merge",
        "ranking.dcn_v2",
        "final.cap",
        "final.mmr",
    ]
    assert stages["sources.popularity"].items == 30
    assert stages["ranking.dcn_v2"].items == 200
    assert stages["final.cap"].items == stages["final.mmr"].items < 200
    assert all(stage.milliseconds > 0 for stage in answer.trace.stages)
    assert sum(stage.milliseconds for stage in answer.trace.stages) < answer.trace.milliseconds
    for place, item in enumerate(answer.items, 1):
        assert item.why[-1] == f"mmr #{place}"
        assert any(why.startswith("dcn_v2 #") for why in item.why)
        assert any(why.startswith(("two_tower #", "popularity #")) for why in item.why)
    assert served.recommend(user).trace is None
    assert answer.bundle == served.bundle_id == made.id


def test_many_users_are_answered_as_one_by_one(music: Music, made: Bundle) -> None:
    served = with_steps(made, Cap(feature="artist", most=2), Mix(feature="genre"))
    asked = [*users_of(music), "nobody", *users_of(music, 2)]
    for answer in served.recommend_many(iter(asked)):
        alone = served.recommend(answer.user)
        assert ids(answer) == ids(alone)
        np.testing.assert_allclose(
            [i.score for i in answer.items], [i.score for i in alone.items], rtol=1e-4, atol=1e-5
        )


def test_users_are_read_as_they_are_answered(plain: Recommender) -> None:
    taken = []

    def endless():  # type: ignore[no-untyped-def]
        while True:
            taken.append(1)
            yield "nobody"

    answers = plain.recommend_many(endless())
    for _ in range(3):
        next(answers)
    assert len(taken) <= 64


def test_threads_share_a_recommender(music: Music, plain: Recommender) -> None:
    users = users_of(music)
    wanted = {user: ids(plain.recommend(user)) for user in users}
    wrong: list[object] = []

    def ask() -> None:
        for user in users * 3:
            if ids(plain.recommend(user)) != wanted[user]:
                wrong.append(user)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# What arrives later


def test_new_items_are_found_at_once_where_a_tower_reads_features(music: Music, plain: Recommender, user: int) -> None:
    best = ids(plain.recommend(user, k=1))[0]
    row = music.tracks.filter(track_id=best).row(0, named=True)
    later = plain.with_items([row | {"track_id": "brand new", "title": "Brand New"}])
    answer = later.recommend(user, k=300, trace=True)
    mine = next(item for item in answer.items if item.id == "brand new")
    assert mine.title == "Brand New"
    assert any(why.startswith("two_tower #") for why in mine.why)
    assert later.rank(user, ["brand new"]).items[0].score == pytest.approx(mine.score, rel=1e-5)
    assert later.similar("brand new", k=3)
    assert "brand new" not in [item.id for item in plain.recommend(user, k=300).items]
    assert plain.rank(user, ["brand new"]).unknown == ("brand new",)
    gone = later.without_items(["brand new", "never heard of"])
    assert "brand new" not in [item.id for item in gone.recommend(user, k=300).items]
    assert "brand new" not in [item.id for item in gone.similar(best, k=300)]
    back = gone.with_items([row | {"track_id": "brand new"}])
    assert "brand new" in [item.id for item in back.recommend(user, k=300).items]


def test_an_item_that_changes_is_read_anew(music: Music, plain: Recommender, user: int) -> None:
    tracks = music.tracks
    first, other = tracks.row(0, named=True), tracks.filter(pl.col("genre") != tracks["genre"][0]).row(0, named=True)
    changed = plain.with_items([other | {"track_id": first["track_id"], "title": "Renamed"}])
    assert len(changed.items) == len(plain.items)
    before, after = (r.features(r.user_rows(user), [first["track_id"]]) for r in (plain, changed))
    wanted = plain.features(plain.user_rows(user), [other["track_id"]])
    column = [field.name for field in plain.transforms.fields.ids].index("genre")
    assert after.ids[0, column] == wanted.ids[0, column] != before.ids[0, column]
    assert after.item == before.item
    assert changed.rank(user, [first["track_id"]]).items[0].title == "Renamed"
    np.testing.assert_allclose(
        changed.rank(user, [first["track_id"]]).items[0].score,
        changed.bundle.members["dcn_v2"].scorer.rows(after)[0],
        rtol=1e-4,
    )


def test_new_users_are_answered_by_what_reads_features(music: Music, plain: Recommender, tmp_path: Path) -> None:
    person = pl.read_parquet(music.data / "users.parquet").row(0, named=True)
    later = plain.with_users([person | {"user_id": "just here"}])
    answer = later.recommend("just here", trace=True)
    assert (answer.known, answer.model, answer.recent) == (True, "dcn_v2", ())
    assert any(why.startswith("two_tower #") for item in answer.items for why in item.why)
    assert not plain.recommend("just here").known
    ids_alone = Recommender.of(bundle([music.runs["mf"]], tmp_path / "mf")).with_users([{"user_id": "just here"}])
    fallback = ids_alone.recommend("just here")
    assert (fallback.known, fallback.model) == (True, "popularity")
    assert ids(fallback) == ids(ids_alone.recommend("nobody"))


@pytest.mark.parametrize("bad", [{}, {"track_id": None}, {"track_id": 1.5}, {"track_id": True}, {"track_id": ""}])
def test_an_item_needs_its_name(plain: Recommender, bad: dict[str, object]) -> None:
    with pytest.raises(DataError, match="item 1: column 'track_id' must name it"):
        plain.with_items([{"track_id": "fine"}, bad])


def test_newer_history_is_read_at_once(music: Music, plain: Recommender, user: int) -> None:
    """The next request sees the last play: the ranker's features of a user change with the events."""
    track = music.plays["track_id"].mode().min()
    known = music.tracks.drop("title").filter(track_id=track).row(0, named=True)
    play = known | {"user_id": user, "played": 1, "time": 2_000_000_000}
    later = plain.with_transforms(plain.transforms.with_history(from_values(plain.schema, [play])))
    before, after = (r.features(r.user_rows(user), [track]) for r in (plain, later))
    recent = after.ragged["recent_tracks"].values.tolist()
    assert recent[-1] == plain.transforms.vocabularies["track_id"].id_of(track)
    assert recent != before.ragged["recent_tracks"].values.tolist()
    names = [field.name for field in plain.transforms.fields.dense]
    for name in ("user_plays", "user_genre_plays"):
        assert after.dense[0, names.index(name)] > before.dense[0, names.index(name)]
    assert later.rank(user, [track]).items[0].score != plain.rank(user, [track]).items[0].score
    scores = later.bundle.members["dcn_v2"].scorer.rows(after)
    assert later.rank(user, [track]).items[0].score == pytest.approx(float(scores[0]), rel=1e-4)


# Recipes


def test_the_playlist_recipe(music: Music, tmp_path: Path) -> None:
    runs = [music.runs[name] for name in ("two_tower", "item_knn", "dcn_v2")]
    made = bundle(runs, tmp_path / "playlist", pipeline=RECIPES / "playlist.toml")
    patient = Recommender.of(replace(made, pipeline=unhurried(load(RECIPES / "playlist.toml"))))
    artist = of_tracks(music, "artist")
    for user in users_of(music, 5):
        answer = patient.recommend(user, k=30)
        assert answer.degraded == ()
        assert len(set(ids(answer))) == 30
        assert max(Counter(artist[track] for track in ids(answer)).values()) <= 2


def test_the_discovery_recipe(music: Music, tmp_path: Path) -> None:
    runs = [music.runs[name] for name in RUNS]
    made = bundle(runs, tmp_path / "discovery", pipeline=RECIPES / "discovery.toml")
    patient = Recommender.of(replace(made, pipeline=unhurried(load(RECIPES / "discovery.toml"))))
    artist = of_tracks(music, "artist")
    for user in users_of(music, 5):
        answer = patient.recommend(user, seed=0)
        known = {artist[track] for track in played(music, user)}
        shown = [artist[track] for track in ids(answer)]
        assert not set(shown) & known
        assert len(set(shown)) == len(shown) > 0
        assert all(item.propensity is not None for item in answer.items)


def unhurried(pipeline: Pipeline) -> Pipeline:
    """Without time budgets: this is about rules, and the machine of a test may be busy."""
    free: Callable[..., object] = msgspec.structs.replace
    return msgspec.structs.replace(
        pipeline,
        sources=tuple(free(step, budget_ms=None) for step in pipeline.sources),
        ranking=tuple(free(step, budget_ms=None) for step in pipeline.ranking),
        final=tuple(free(step, budget_ms=None) for step in pipeline.final),
    )
