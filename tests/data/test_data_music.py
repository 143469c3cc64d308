"""The simulated music service does what its configuration says, and its planted truth can be found again."""

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from weft.data.music import REMEMBERED, MusicConfig, MusicWorld, _History, simulate, write
from weft.errors import ConfigError


@pytest.fixture(scope="module")
def world() -> MusicWorld:
    return simulate(MusicConfig(rows=40_003, seed=1, random_share=0.3))


@pytest.fixture(scope="module")
def joined(world: MusicWorld) -> pl.DataFrame:
    return _joined(world)


def _joined(world: MusicWorld) -> pl.DataFrame:
    rows = world.impressions.hstack(world.truth)
    rows = rows.join(world.users, on="user_id", how="left", maintain_order="left")
    return rows.join(world.tracks, on="track_id", how="left", maintain_order="left")


def _levels(world: MusicWorld, rows: pl.DataFrame) -> dict[str, np.ndarray]:
    """Number the level of each part of a cross, from the planted description alone."""
    levels = {}
    for part, names in world.planted["levels"].items():
        if part in world.planted["edges"]:
            levels[part] = np.searchsorted(world.planted["edges"][part], rows[part].to_numpy(), side="right")
        else:
            levels[part] = np.array([names.index(value) for value in rows[part]])
    return levels


def _crossed(world: MusicWorld, levels: dict[str, np.ndarray]) -> np.ndarray:
    return sum(np.array(c["logits"])[tuple(levels[part] for part in c["of"])] for c in world.planted["crosses"])


def _auc(rows: pl.DataFrame, score: str) -> float:
    return roc_auc_score(rows["played"], rows[score])


def _frames(world: MusicWorld) -> list[pl.DataFrame]:
    return [world.users, world.tracks, world.impressions, world.truth]


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    first, second, other = (simulate(MusicConfig(rows=3_000, seed=seed)) for seed in (5, 5, 6))
    for mine, same, different in zip(_frames(first), _frames(second), _frames(other), strict=True):
        assert mine.hash_rows().to_list() == same.hash_rows().to_list()
        assert mine.hash_rows().to_list() != different.hash_rows().to_list()
    assert first.planted == second.planted != other.planted


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MusicConfig(rows=1_000), (1_000, 20, 300)),
        (MusicConfig(rows=20_000), (20_000, 200, 565)),
        (MusicConfig(rows=1_001, users=30, tracks=200, slate=50), (1_001, 30, 200)),
        (MusicConfig(rows=1_003, slate=2, policy_correlation=1, position_bias=0, drift=0), (1_003, 20, 300)),
    ],
)
def test_sizes_are_those_asked_for(config: MusicConfig, sizes: tuple[int, int, int]) -> None:
    world = simulate(config)
    assert (world.impressions.height, world.users.height, world.tracks.height) == sizes
    assert world.truth.height == config.rows
    assert sum(frame.null_count().sum_horizontal().item() for frame in _frames(world)) == 0


def test_the_default_world_stays_as_playable_as_the_demo_needs() -> None:
    rows = _joined(simulate(MusicConfig(rows=60_000)))
    assert 0.2 < rows["played"].mean() < 0.35
    assert _auc(rows, "relevance") > 0.75
    seen_at_random = rows.filter((pl.col("randomised") == 1) & (pl.col("seen") == 1))
    assert _auc(seen_at_random, "relevance") > 0.85
    assert 0.6 < _auc(seen_at_random, "first_order") < 0.7


def test_impressions_stand_in_time_order_with_one_user_and_time_a_request(world: MusicWorld) -> None:
    rows = world.impressions
    assert rows["time"].is_sorted()
    requests = rows.group_by("request", maintain_order=True).agg(
        pl.col("user_id", "session", "time", "randomised").n_unique(),
        pl.col("track_id").n_unique().alias("tracks"),
        pl.col("position"),
    )
    assert requests.select(pl.col("user_id", "session", "time", "randomised").max()).row(0) == (1, 1, 1, 1)
    full, last = requests[:-1], requests[-1]
    assert full["tracks"].unique().to_list() == [10]
    assert full["position"].list.eval(pl.element() == pl.int_range(1, 11)).list.all().all()
    assert last["tracks"].item() == 3
    assert rows.group_by("session").agg(pl.col("user_id").n_unique())["user_id"].max() == 1


def test_the_clock_columns_follow_the_time(world: MusicWorld) -> None:
    clock = pl.from_epoch("time")
    rows = world.impressions.with_columns(clock.dt.hour().alias("h"), (clock.dt.weekday() - 1).alias("w"))
    assert rows.filter((pl.col("h") != pl.col("hour")) | (pl.col("w") != pl.col("weekday"))).is_empty()


def test_late_users_and_tracks_are_not_shown_before_they_enter(joined: pl.DataFrame, world: MusicWorld) -> None:
    assert joined.filter((pl.col("time") < pl.col("added")) | (pl.col("time") < pl.col("joined"))).is_empty()
    for table, column in ((world.users, "joined"), (world.tracks, "added")):
        late = table.filter(pl.col(column) > pl.col(column).min())
        assert late.height == int(0.3 * table.height)
    assert joined.filter(pl.col("added") > pl.col("added").min()).height > 1_000


def test_only_seen_tracks_are_played_and_what_was_played_fits_together(joined: pl.DataFrame) -> None:
    played, idle = joined.filter(pl.col("played") == 1), joined.filter(pl.col("played") == 0)
    assert played["seen"].min() == 1
    assert idle.select(pl.col("listen_seconds", "skipped", "liked").max()).row(0) == (0, 0, 0)
    assert played.filter((pl.col("listen_seconds") < 1) | (pl.col("listen_seconds") > pl.col("duration"))).is_empty()
    assert ((played["listen_seconds"] < 30) == (played["skipped"] == 1)).all()
    assert played.filter((pl.col("skipped") == 1) & (pl.col("liked") == 1)).is_empty()
    assert played["skipped"].sum() > 0
    assert 0.05 < played["liked"].mean() < 0.4
    relevant, other = (played.filter((pl.col("relevance") > 0.5) == side) for side in (True, False))
    assert relevant["listen_seconds"].mean() > 1.2 * other["listen_seconds"].mean()


def test_labels_are_drawn_from_the_truth(joined: pl.DataFrame) -> None:
    expected = joined["relevance"] * joined["examination"]
    error = np.sqrt((expected * (1 - expected)).sum()) / joined.height
    assert abs(joined["played"].mean() - expected.mean()) < 4 * error
    np.testing.assert_allclose(joined["relevance"], 1 / (1 + np.exp(-joined["logit"].to_numpy())))


def test_listeners_replay_tracks(world: MusicWorld) -> None:
    plays = world.impressions.filter(pl.col("played") == 1)
    assert 0.1 < 1 - plays.unique(["user_id", "track_id"]).height / plays.height < 0.6


def test_history_keeps_the_last_plays_of_each_user() -> None:
    history = _History(2)
    plays = np.arange(REMEMBERED + 3)
    history.add(np.array([0, 1, 0]), np.array([97, 98, 99]))
    assert set(history.track_UH[0]) == {97, 99, -1}
    history.add(np.zeros(len(plays), dtype=np.int64), plays)
    assert set(history.track_UH[0]) == set(plays[-REMEMBERED:])
    assert set(history.track_UH[1]) == {98, -1}


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
def test_the_position_bias_can_be_recovered_from_random_orders(bias: float) -> None:
    world = simulate(MusicConfig(rows=60_000, random_share=1.0, position_bias=bias))
    rate = world.impressions.group_by("position").agg(pl.col("played").mean()).sort("position")["played"].to_numpy()
    np.testing.assert_allclose(rate / rate[0], world.planted["examination"], atol=0.05)
    np.testing.assert_allclose(world.planted["examination"], np.arange(1.0, 11.0) ** -bias)


def test_propensities_are_one_or_uniform(world: MusicWorld) -> None:
    requests = world.impressions.unique("request", maintain_order=True)
    assert requests["randomised"].mean() == pytest.approx(0.3, abs=0.03)
    expected = pl.when(pl.col("randomised") == 1).then(0.1).otherwise(1.0)
    assert world.impressions.filter(pl.col("propensity") != expected).is_empty()


def test_random_orders_know_nothing_of_the_relevance(joined: pl.DataFrame) -> None:
    at_random = joined.filter(pl.col("randomised") == 1)
    assert abs(np.corrcoef(at_random["position"], at_random["logit"])[0, 1]) < 0.03


def test_the_policy_correlation_orders_the_slates() -> None:
    gaps = []
    for correlation in (-1.0, -0.5, 0.0, 0.5, 1.0):
        rows = _joined(simulate(MusicConfig(rows=10_000, policy_correlation=correlation, random_share=0.0)))
        first, last = (rows.filter(pl.col("position") == place)["relevance"].mean() for place in (1, 10))
        gaps.append(first - last)
    assert gaps == sorted(gaps)
    assert abs(gaps[2]) < 0.06
    assert gaps[0] < -0.6
    assert gaps[4] > 0.6


def test_the_best_policy_sorts_each_slate_by_the_truth() -> None:
    world = simulate(MusicConfig(rows=2_000, policy_correlation=1.0, random_share=0.0))
    logits = world.truth["logit"].to_numpy().reshape(-1, 10)
    assert (np.diff(logits, axis=1) <= 0).all()


def test_planted_crosses_are_nought_along_each_part(world: MusicWorld) -> None:
    shares = world.planted["shares"]
    for cross in world.planted["crosses"]:
        for axis, part in enumerate(cross["of"]):
            mean = np.average(np.array(cross["logits"]), axis=axis, weights=shares[part])
            np.testing.assert_allclose(mean, 0.0, atol=1e-12)
    assert [cross["of"] for cross in world.planted["crosses"]] == [
        ["country", "artist_origin"],
        ["age", "genre"],
        ["hour", "tempo"],
        ["age", "device", "genre"],
    ]


def test_the_crosses_hardly_move_with_any_single_part(world: MusicWorld, joined: pl.DataFrame) -> None:
    levels = _levels(world, joined)
    crossed = _crossed(world, levels)
    for level in levels.values():
        means = np.bincount(level, crossed) / np.bincount(level)
        between = np.average((means - crossed.mean()) ** 2, weights=np.bincount(level))
        assert between < 0.06 * crossed.var()


@pytest.mark.parametrize(("drift", "standing_still"), [(0.0, True), (0.5, False)])
def test_taste_moves_only_by_drift(drift: float, standing_still: bool) -> None:
    """What first order and crosses leave of the logit is taste and familiarity: nought, artist, or track and artist."""
    world = simulate(MusicConfig(rows=5_000, drift=drift))
    rows = _joined(world)
    rest = rows["logit"] - rows["first_order"] - pl.Series(_crossed(world, _levels(world, rows)))
    above = pl.col("rest") - pl.col("rest").min().over("user_id", "track_id")
    steps = rows.with_columns(rest=rest).select(above)["rest"].to_numpy()
    explained = np.isclose(steps[:, None], [0.0, 0.4, 0.9, 1.3], atol=1e-9).any(axis=1)
    assert explained.all() == standing_still
    assert (steps > 0.3).any()


def test_a_linear_model_needs_the_crosses(world: MusicWorld, joined: pl.DataFrame) -> None:
    levels, played = _levels(world, joined), joined["played"].to_numpy()
    alone = hstack([_one_hot(level) for level in levels.values()]).tocsr()
    both = hstack([alone, *(_one_hot(_joint(world, c["of"], levels)) for c in world.planted["crosses"])]).tocsr()
    half = len(played) // 2
    auc = {}
    for name, x in (("alone", alone), ("both", both)):
        model = LogisticRegression(C=0.3, max_iter=300, tol=1e-3).fit(x[:half], played[:half])
        auc[name] = roc_auc_score(played[half:], model.decision_function(x[half:]))
    assert auc["alone"] < 0.62
    assert auc["both"] > auc["alone"] + 0.08


def _joint(world: MusicWorld, parts: list[str], levels: dict[str, np.ndarray]) -> np.ndarray:
    shape = [len(world.planted["levels"][part]) for part in parts]
    return np.ravel_multi_index([levels[part] for part in parts], shape)


def _one_hot(level: np.ndarray) -> csr_matrix:
    return csr_matrix((np.ones(len(level)), (np.arange(len(level)), level)))


def test_names_can_be_read_and_told_apart(world: MusicWorld) -> None:
    tracks = world.tracks
    assert tracks["title"].n_unique() == tracks.height
    assert tracks["title"].str.contains(r"^[A-Z][A-Za-z, ]{5,}$").all()
    assert tracks["artist"].str.contains(r"^[A-Z][a-z]+( [A-Z][a-z]+)+$").all()
    assert tracks.group_by("artist").agg(pl.col("artist_origin").n_unique())["artist_origin"].max() == 1
    assert tracks.group_by("artist", "album").len()["len"].max() == 8
    assert tracks.group_by("artist", "album").agg(pl.col("year").n_unique())["year"].max() == 1


def test_titles_stay_unique_in_the_largest_catalogue() -> None:
    tracks = simulate(MusicConfig(rows=1_000, tracks=50_000)).tracks
    assert tracks["title"].n_unique() == 50_000


def test_genre_sets_begin_with_the_main_genre(world: MusicWorld) -> None:
    genres = world.tracks["genres"]
    assert (genres.list.first() == world.tracks["genre"]).all()
    assert (genres.list.n_unique() == genres.list.len()).all()
    assert sorted(genres.list.len().unique()) == [1, 2, 3]
    assert world.tracks["genre"].n_unique() == 12


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rows", 999),
        ("rows", 10_000_001),
        ("rows", 1e5),
        ("rows", None),
        ("seed", -1),
        ("users", 3),
        ("tracks", 60_000),
        ("policy_correlation", 1.1),
        ("policy_correlation", float("nan")),
        ("random_share", -0.1),
        ("position_bias", -1.0),
        ("drift", float("inf")),
        ("drift", "fast"),
        ("slate", 1),
        ("slate", True),
    ],
)
def test_a_value_out_of_range_is_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{setting}` must be .* got {value!r}"):
        MusicConfig(**{setting: value})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="sleight"):
        msgspec.convert({"sleight": 3}, MusicConfig)


def test_write_keeps_the_truth_apart(world: MusicWorld, tmp_path: Path) -> None:
    write(world, tmp_path / "music")
    names = ["interactions", "items", "truth", "users"]
    read = {name: pl.read_parquet(tmp_path / "music" / f"{name}.parquet") for name in names}
    assert sorted(path.name for path in (tmp_path / "music").iterdir()) == [f"{name}.parquet" for name in names]
    assert read["interactions"].equals(world.impressions)
    assert read["users"].equals(world.users)
    assert read["items"].equals(world.tracks)
    assert read["truth"].equals(world.truth)
    assert not set(read["truth"].columns) & set(read["interactions"].columns)


def test_a_policy_may_have_favourites_that_say_nothing_of_relevance() -> None:
    config = MusicConfig(rows=20_000, policy_correlation=0.0, policy_favouritism=1.0, random_share=0.2)
    rows = _joined(simulate(config))
    for randomised, fixed in ((0, True), (1, False)):
        mine = rows.filter(pl.col("randomised") == randomised)
        places = mine.group_by("track_id").agg(pl.col("position").mean(), pl.len()).filter(pl.col("len") > 30)
        assert (places["position"].std() > 2) == fixed, "some tracks stand high and some low"
    correlation = rows.filter(pl.col("randomised") == 0).select(pl.corr("position", "logit")).item()
    assert abs(correlation) < 0.06


def test_favourites_change_nothing_where_the_policy_has_none() -> None:
    plain, none = (simulate(MusicConfig(rows=1_000, **more)) for more in ({}, {"policy_favouritism": 0.0}))
    some = simulate(MusicConfig(rows=1_000, policy_favouritism=0.5))
    assert plain.impressions.equals(none.impressions)
    assert plain.users.equals(some.users)
    assert plain.tracks.equals(some.tracks)
    assert not plain.impressions.equals(some.impressions)
