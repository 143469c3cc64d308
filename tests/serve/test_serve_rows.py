"""Training rows out of the log: exactly what was seen, with what followed inside the window, each once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores_for_tests import KINDS, event, store_url

import camps_for_tests as camp
from weft.data.store import Store
from weft.schema import Count, Label, Roles, Schema
from weft.serve import rows as joining
from weft.serve import store as stores
from weft.serve.features import pack, unpack
from weft.serve.rows import outcome_columns, outcomes_of, training_rows
from weft.serve.store import EventStore, Request
from weft.transforms.columns import from_values
from weft.transforms.encode import Transforms
from weft.transforms.rows import ALL_SIDES, Rows

WINDOW = 60.0
SECOND = 1_000_000
START = 1_700_000_000 * SECOND


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStore]:
    """A store whose clock stands at START, so that every window closes when a test says so."""
    monkeypatch.setattr(stores, "now", lambda: START)
    with store_url(request.param, tmp_path) as url:
        opened = EventStore(url)
        yield opened
        opened.close()


def features(transforms: Transforms, user: int, songs: list[str]) -> Rows:
    values = [{"user": user, "song": song, "year": 1980 + place} for place, song in enumerate(songs)]
    rows = transforms.encode(from_values(transforms.schema, values))
    return replace(rows, label=None, group=None, time=None)


def shown(store: EventStore, transforms: Transforms, id: str, songs: list[str], **changes: Any) -> Rows:
    rows = features(transforms, camp.FIRST_USER, songs)
    plain = {"user": str(camp.FIRST_USER), "time": START, "bundle": "b1", "features": pack(rows)}
    items = tuple((song, 0.5 if place == 0 else None) for place, song in enumerate(songs))
    store.add_request(Request(**{"id": id, "shown": items, **plain, **changes})).result(30)
    return rows


def seen(id: str, item: str, kind: str = "impression", after: float = 0.0, **more: Any) -> stores.Event:
    plain = {"user": str(camp.FIRST_USER), "item": item, "kind": kind, "time": START + round(after * SECOND)}
    return event(id, **{**plain, "request": "r1", **more})


def read(store: EventStore, schema: Schema, since: int = 0, *, later: float = WINDOW + 1, **more: Any) -> Any:
    clock = START + round(later * SECOND)
    return training_rows(store, schema, since=since, window=WINDOW, clock=clock, **more)


def same(first: Rows, second: Rows) -> bool:
    one, two = (rows.columns() for rows in (first, second))
    ragged = all(
        a.tobytes() == b.tobytes()
        for name in first.ragged
        for a, b in zip(first.ragged[name][:2], second.ragged[name][:2], strict=True)
    )
    return ragged and all(one[n].tobytes() == two[n].tobytes() for n in ("ids", "dense", "keys", "user", "item"))


def test_packed_rows_come_back_bit_for_bit(camps: Store) -> None:
    rows = camps.split("train").take(np.arange(7))
    back = unpack(pack(rows))
    assert back.sides == ALL_SIDES
    assert list(back.columns()) == list(rows.columns())
    assert all(
        c.tobytes() == back.columns()[n].tobytes() and c.dtype == back.columns()[n].dtype
        for n, c in rows.columns().items()
    )
    assert same(rows, back)
    assert len(unpack(pack(rows.take(np.arange(0))))) == 0


def test_a_row_is_what_was_seen_with_what_followed(store: EventStore, camps: Store) -> None:
    rows = shown(store, camps.transforms, "r1", ["song-1", "song-2", "song-3"], explored=True)
    events = [
        *(seen(f"i{place}", f"song-{place}", position=place) for place in (1, 2, 3)),
        seen("l2", "song-2", "like", after=30),
        seen("p3", "song-3", "play", after=10),
        seen("l3", "song-3", "like", after=WINDOW + 1),
    ]
    store.add_events(events).result(30)
    found = read(store, camps.schema)
    assert found.rows is not None
    assert same(found.rows, rows)
    assert found.rows.label is not None
    assert found.rows.label[:, 0].tolist() == [0, 1, 0]
    assert found.rows.position is not None
    assert found.rows.position.tolist() == [1, 2, 3]
    assert found.rows.propensity is not None
    assert found.rows.propensity.tolist() == [0.5, 1, 1]
    assert found.rows.time is not None
    assert found.rows.time.tolist() == [START // SECOND] * 3
    assert found.rows.group is not None
    assert len(set(found.rows.group.tolist())) == 1
    assert (found.users[0], found.items[1], found.bundles, found.explored) == (
        str(camp.FIRST_USER),
        "song-2",
        ("b1",) * 3,
        (True,) * 3,
    )
    assert found.offset == store.newest()


def test_rows_wait_for_their_window_and_come_once(store: EventStore, camps: Store, monkeypatch: Any) -> None:
    shown(store, camps.transforms, "r1", ["song-1", "song-2"])
    store.add_events([seen("i1", "song-1"), seen("l1", "song-1", "like", after=5)]).result(30)
    monkeypatch.setattr(stores, "now", lambda: START + 30 * SECOND)
    store.add_events([seen("i2", "song-2", after=30)]).result(30)
    early = read(store, camps.schema, later=59)
    assert (early.rows, early.offset) == (None, 0)
    first = read(store, camps.schema, later=61)
    assert first.items == ("song-1",)
    nothing = read(store, camps.schema, first.offset, later=61)
    assert (nothing.rows, nothing.offset) == (None, first.offset)
    second = read(store, camps.schema, first.offset, later=91)
    assert second.items == ("song-2",)
    assert read(store, camps.schema, second.offset, later=1_000).rows is None


def test_reading_in_small_steps_gives_the_same_rows(store: EventStore, camps: Store) -> None:
    songs = [f"song-{place}" for place in range(12)]
    shown(store, camps.transforms, "r1", songs)
    likes = [seen(f"l{song}", song, "like", after=2) for song in songs[::3]]
    store.add_events([*(seen(f"i{song}", song) for song in songs), *likes]).result(30)
    whole = read(store, camps.schema)
    offset, items, labels = 0, [], []
    while (step := read(store, camps.schema, offset, limit=5)).offset > offset:
        offset = step.offset
        items += step.items
        labels += [] if step.rows is None else step.rows.label[:, 0].tolist()
    assert tuple(items) == whole.items == tuple(songs)
    assert labels == whole.rows.label[:, 0].tolist() == [float(place % 3 == 0) for place in range(12)]


def test_impressions_without_their_answer_are_counted_and_left_out(store: EventStore, camps: Store) -> None:
    shown(store, camps.transforms, "r1", ["song-1"])
    events = [
        seen("ok", "song-1"),
        seen("other", "song-9"),
        seen("lost", "song-1", request="r9"),
        seen("none", "song-1", request=None),
        seen("bad", "song-1", quarantined=True),
        seen("theirs", "song-1", user="somebody"),
    ]
    store.add_events(events).result(30)
    found = read(store, camps.schema)
    assert found.items == ("song-1",)
    assert found.skipped == 5


def test_what_belongs_to_another_request_or_came_before_does_not_count(store: EventStore, camps: Store) -> None:
    shown(store, camps.transforms, "r1", ["song-1", "song-2", "song-3"])
    events = [
        *(seen(f"i{place}", f"song-{place}", after=10) for place in (1, 2, 3)),
        seen("early", "song-1", "like", after=5),
        seen("other", "song-2", "like", after=20, request="r2"),
        seen("loose", "song-3", "like", after=20, request=None),
    ]
    store.add_events(events).result(30)
    assert read(store, camps.schema).rows.label[:, 0].tolist() == [0, 0, 1]


SCHEMA = Schema(
    features=(Count(name="seconds_before", by=("user",), of="seconds", stat="sum"),),
    roles=Roles(user="user", item="song", time="time", label=(Label(name="played"), Label(name="liked"))),
)


def test_which_columns_an_event_tells() -> None:
    assert outcome_columns(SCHEMA) == ("played", "liked", "seconds")
    assert outcomes_of(event("a", kind="play", values={"seconds": 7.0, "other": 1.0}), SCHEMA) == {
        "played": 1.0,
        "seconds": 7.0,
    }
    assert outcomes_of(event("a", kind="like"), SCHEMA) == {"liked": 1.0}
    assert outcomes_of(event("a", kind="play", values={"played": 0.0}), SCHEMA) == {"played": 0.0}
    assert outcomes_of(event("a", kind="skip"), SCHEMA) == {}
    rated = Schema(features=(), roles=Roles(user="user", item="song", label=(Label(name="rating", task="regression"),)))
    assert outcomes_of(event("a", kind="play"), rated) == {"rating": 1.0}
    assert outcomes_of(event("a", kind="like", values={"rating": 4.0}), rated) == {"rating": 4.0}


def test_times_are_in_the_schemas_unit() -> None:
    for unit, wanted in (("s", 1_700_000_000), ("ms", 1_700_000_000_000), ("us", START)):
        schema = Schema(features=(), roles=Roles(time="time", time_unit=unit))
        assert joining.in_unit(START, schema) == wanted
