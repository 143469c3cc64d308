"""The music world's users against a service: what they play, what the log has, and that the same visits come again."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import weft
from weft.data import catalog
from weft.data.music import Listeners, MusicConfig, Visit
from weft.errors import ConfigError, Unavailable
from weft.learn.gate import Bounds
from weft.learn.loop import Learning, Outcome, learn
from weft.learn.showing import serving, show
from weft.learn.simulate import Client, Day, gain, render, simulate
from weft.serve.settings import Limits, Settings
from weft.serve.store import EventStore

WORLD = MusicConfig(rows=3_000, users=40, tracks=200)
SMALL = ("hidden=[16]", "embedding_dim=4", "train.epochs=2", "train.batch_size=128")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `weft demo` leaves it, small: a run of dcn_v2 on the music world."""
    folder = tmp_path_factory.mktemp("music")
    options = {"rows": WORLD.rows, "users": WORLD.users, "tracks": WORLD.tracks}
    store = weft.prepare(catalog.get("music", folder / "data", options=options) / "schema.toml", folder / "store")
    weft.train(store, "dcn_v2", out=folder / "dcn_v2", sets=SMALL)
    weft.bundle([folder / "dcn_v2"], folder / "bundles" / "first")
    return folder


def settings(demo: Path, store: Path) -> Settings:
    limits = Limits(outcome_seconds=0.05, events_hourly=None)
    return Settings(bundle=str(demo / "bundles" / "first"), store=str(store), limits=limits, level="error")


def test_a_simulated_day_is_in_the_log_and_can_be_learnt(demo: Path, tmp_path: Path) -> None:
    heard: list[int] = []
    with serving(settings(demo, tmp_path / "log.db")) as url, closing(Client(url)) as client:
        days = simulate([client], WORLD, days=2, requests=12, added=4, hear=lambda ds: heard.append(ds[0].day))[0]
        log = EventStore(tmp_path / "log.db")
        assert heard == [1, 2]
        events = log.events()
        assert sum(event.kind == "play" for event in events) == sum(sum(day.plays) for day in days) > 0
        assert sum(event.kind == "impression" for event in events) == 2 * 12 * 10
        assert sorted(log.items()) == ["201", "202", "203", "204"]
        bounds = Bounds(margin=9.0, old_margin=9.0, calibration=99.0)
        done = learn(demo / "bundles" / "first", log, Learning(window=0.05, least=50, bounds=bounds))
        assert done.action == "publish", done
        name = Path(str(done.bundle)).name
        told = client.ask("POST", "/v1/bundles/activate", {"bundle": name, "reason": "learnt"})
        assert told["path"] == name
        assert client.recommend(1, 10, {}).bundle == told["bundle"] != days[0].bundles[0]
        with pytest.raises(ConfigError, match="and this world has 200; give the service the bundle of this world"):
            simulate([client], WORLD, days=1, requests=50, added=0)
        log.close()


def test_two_services_have_the_same_visits() -> None:
    first, second = (Listeners(WORLD, added=3, seed=4) for _ in range(2))
    visits = [[world.visit(day / 5) for day in range(20)] for world in (first, second)]
    assert visits[0] == visits[1]
    assert first.arrivals == second.arrivals
    assert [track["track_id"] for track in first.arrivals] == [201, 202, 203]


def test_tastes_turn() -> None:
    """A track that a user's later taste likes more is played more often when the week is over."""
    config = MusicConfig(rows=3_000, users=40, tracks=200, position_bias=0.0)
    turning, still = Listeners(config, turn=3.0), Listeners(config, turn=0.0)
    early, late = (Visit(1, 12, 0, day) for day in (0.0, 7.0))
    tracks = list(range(1, 201))
    moved = np.abs(turning._relevance(late, tracks) - turning._relevance(early, tracks))
    assert moved.max() > 0.2
    assert np.array_equal(still._relevance(late, tracks), still._relevance(early, tracks))


def test_added_tracks_please_more_than_those_they_are_like() -> None:
    world = Listeners(WORLD, turn=0.0, added=50)
    like = np.random.default_rng(WORLD.seed).integers(0, 200, 50)
    visit = Visit(1, 12, 0, 0.0)
    old, new = (world._relevance(visit, tracks) for tracks in ((like + 1).tolist(), list(range(201, 251))))
    assert (new > old).all()


def test_the_gain_is_paired() -> None:
    days = [Day(day=1, plays=plays, bundles=("b",)) for plays in ((3, 1, 2), (2, 0, 1))]
    found = gain([days[0]], [days[1]])
    assert found.days == (found.whole,)
    assert (found.whole.value, found.whole.low, found.whole.high) == (1.0, 1.0, 1.0)
    console = Console(record=True, width=100)
    render({"learning": [days[0]], "frozen": [days[1]]}, console)
    assert "+1.000 (+1.000 to +1.000)" in console.export_text()


def test_the_demo_changes_its_list_because_of_three_plays(demo: Path) -> None:
    console = Console(record=True, width=120)
    first, second = show(demo, console)
    assert len(first) == len(second) == 10
    assert not set(first[:3]) & set(second), "what was just played is not shown again"
    assert "after playing its first 3" in console.export_text()


def test_nobody_there() -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 does not answer .* start `weft serve`"):
        Client("http://127.0.0.1:9").ask("POST", "/v1/recommend", {})


def test_no_address() -> None:
    with pytest.raises(ConfigError, match="got 'ftp://x'"):
        Client("ftp://x")


def test_every_outcome_says_what_and_why() -> None:
    said = str(Outcome(action="refuse", reason="worse", since=1, offset=1_234, rows=10))
    assert said == "refuse: worse (10 rows, log 1 to 1,234)"
