"""The past of a user, kept online event by event and offline by `prepare`, gives the same bytes."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from stores_for_tests import event

import camps_for_tests as camp
import weft
from weft.data.store import Store
from weft.recommend.recommender import Recommender
from weft.schema import Categorical, ColumnSplit, Count, Dense, Label, Protocol, Roles, Schema, Sequence
from weft.serve import live as following
from weft.serve import rows as joining
from weft.serve import store as stores
from weft.serve.features import pack
from weft.serve.live import Live, grown, means_of, with_means
from weft.serve.rows import training_rows
from weft.serve.store import EventStore, Request
from weft.transforms.columns import from_values
from weft.transforms.encode import Transforms
from weft.transforms.history import EventLog
from weft.transforms.rows import Rows, concat

SECOND = 1_000_000
SCHEMA = Schema(
    features=(
        Categorical(name="user", side="user"),
        Categorical(name="song", side="item"),
        Categorical(name="genre", side="item"),
        Categorical(name="device", side="context"),
        Dense(name="hour", side="context"),
        Count(name="user_rows", by=("user",)),
        Count(name="song_plays", by=("song",), of="played", stat="sum"),
        Count(name="song_rate", by=("song",), of="played", stat="mean"),
        Count(name="genre_seconds", by=("user", "genre"), of="seconds", stat="sum", window=500.0),
        Count(name="mean_seconds", by=("user",), of="seconds", stat="mean"),
        Count(name="device_rows", by=("user", "device")),
        Sequence(name="recent", of="song", where="played", max_length=3),
        Sequence(name="shown", of="genre", max_length=4),
    ),
    roles=Roles(user="user", item="song", time="time", label=(Label(name="played"),)),
    split=ColumnSplit(column="split"),
    protocol=Protocol(seen_from="relevant"),
)


def table(count: int = 240) -> pl.DataFrame:
    """Impressions, some with the same moment, and what followed each before the next moment."""
    rng = np.random.default_rng(3)
    played = (rng.random(count) < 0.4).astype(int)
    return pl.DataFrame(
        {
            "user": rng.integers(1, 6, count),
            "song": [f"s{i}" for i in rng.integers(0, 9, count)],
            "device": rng.choice(["phone", "desk"], count),
            "hour": rng.integers(0, 24, count),
            "time": np.sort(rng.integers(1_000, 3_000, count // 2).repeat(2)),
            "played": played,
            "seconds": played * rng.integers(5, 200, count),
            "split": ["train"] * (count - count // 4) + ["valid"] * (count // 8) + ["test"] * (count // 4 - count // 8),
        }
    ).with_columns(genre=pl.col("song").str.slice(1).cast(pl.Int64) % 3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return weft.prepare(SCHEMA, tmp_path_factory.mktemp("replay") / "store", interactions=table())


def everything(rows: Rows) -> dict[str, bytes]:
    columns = {name: column.tobytes() for name, column in rows.columns().items()}
    ragged = {f"{name}.{p}": a.tobytes() for name, s in rows.ragged.items() for p, a in zip("vo", s[:2], strict=True)}
    return columns | ragged


def without_history(transforms: Transforms) -> Transforms:
    empty = transforms.with_history(from_values(transforms.schema, table().to_dicts()))
    nothing = {name: EventLog(log.events.take(np.zeros(len(log), bool))) for name, log in empty.history.items()}
    return empty.replace(history=nothing)


def test_event_by_event_and_prepare_give_the_same_bytes(prepared: Store) -> None:
    """Each row is encoded from what was known before it and then told, in single events; the store has the same row."""
    online = without_history(prepared.transforms)
    made: list[Rows] = []
    for place, values in enumerate(table().drop("split").to_dicts()):
        row = online.encode(from_values(SCHEMA, [values]))
        made.append(row)
        shown = event(f"i{place}", kind="impression")
        told = [shown]
        if values["played"]:
            told.append(event(f"p{place}", kind="play", values={"seconds": float(values["seconds"])}))
        for one in told:
            online = grown(online, row, [one])
        outcome = {"played": float(values["played"]), "seconds": float(values["seconds"])}
        online = with_means(online, row, [outcome], means_of(SCHEMA))
    offline = concat([prepared.split(name) for name in ("train", "valid", "test")])
    assert everything(concat(made)) == everything(offline)
    for name, log in prepared.transforms.history.items():
        whole, single = log.events, online.history[name].events
        kept = np.ones(len(whole.key), bool)
        if name in ("song_plays", "genre_seconds"):  # a sum is not told of what adds nothing to it
            assert whole.value is not None
            kept = whole.value != 0
        for one, two in zip(whole.take(kept), single, strict=True):
            assert (one is None) == (two is None)
            assert one is None or (two is not None and one.tobytes() == two.tobytes()), name


def test_which_counts_wait_for_the_window() -> None:
    assert [mean.name for mean in means_of(SCHEMA)] == ["song_rate", "mean_seconds"]
    assert means_of(camp.schema()) == ()


# Through the store and a recommender


@pytest.fixture(scope="module")
def recommender(prepared: Store, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    run = weft.train(prepared, "lr", out=tmp_path_factory.mktemp("live") / "run", sets=["train.epochs=1"])
    return Recommender.load(run.path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    opened = EventStore(tmp_path / "store.db")
    yield opened
    opened.close()


def write(
    store: EventStore, recommender: Recommender, later: pl.DataFrame, *, bundle: str | None = None
) -> list[dict[str, Any]]:
    """Serve and log some rows, each as a request, with plays after them; the rows as a table has them."""
    id = bundle or recommender.bundle_id
    done: list[dict[str, Any]] = []
    for place, values in enumerate(later.drop("split").to_dicts()):
        context = {"device": values["device"], "hour": values["hour"]}
        rows = recommender.features(recommender.user_rows(values["user"], context), [values["song"]])
        plain = {"user": str(values["user"]), "time": values["time"] * SECOND}
        shown = ((values["song"], None),)
        store.add_request(Request(id=f"r{place}", bundle=id, shown=shown, features=pack(rows), **plain))
        events = [event(f"i{place}", kind="impression", item=values["song"], request=f"r{place}", **plain)]
        if values["played"]:
            told = {"seconds": float(values["seconds"])}
            late = {**plain, "time": values["time"] * SECOND + 7 * SECOND}
            events.append(event(f"p{place}", item=values["song"], request=f"r{place}", values=told, **late))
        store.add_events(events).result(30)
        done.append(values)
    return done


def after_all(recommender: Recommender, transforms: Transforms) -> dict[str, bytes]:
    changed = recommender.with_transforms(transforms)
    return {
        f"{user}.{name}": data
        for user in range(1, 6)
        for name, data in everything(changed.features(changed.user_rows(user), [f"s{i}" for i in range(9)])).items()
    }


@pytest.mark.parametrize("at_once", [3, 5_000])
def test_the_log_and_a_longer_table_give_the_same_bytes(
    store: EventStore, recommender: Recommender, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """What the service knows after the log is what `with_history` knows of the same rows as a table."""
    monkeypatch.setattr(following, "AT_ONCE", at_once)
    monkeypatch.setattr(stores, "now", lambda: 10_000 * SECOND)
    monkeypatch.setattr(joining, "now", lambda: 20_000 * SECOND)
    later = table(120).with_columns(time=pl.col("time") + 5_000)
    live = Live(recommender, store, window=60.0)
    rows = write(store, recommender, later)
    now, reasons = live.current()
    offline = recommender.transforms.with_history(from_values(SCHEMA, rows))
    assert reasons == []
    assert after_all(recommender, now.transforms) == after_all(recommender, offline)
    assert after_all(recommender, now.transforms) != after_all(recommender, recommender.transforms)
    again = Live(recommender, store, window=60.0).current()[0]
    assert after_all(recommender, again.transforms) == after_all(recommender, now.transforms)


def test_what_another_bundle_logged_counts_as_much(
    prepared: Store, store: EventStore, recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle with other ids takes the log of the one before: by the keys that were logged, and its own ids."""
    monkeypatch.setattr(stores, "now", lambda: 10_000 * SECOND)
    monkeypatch.setattr(joining, "now", lambda: 20_000 * SECOND)
    rows = write(store, recommender, table(120).with_columns(time=pl.col("time") + 5_000))
    other = weft.prepare(
        SCHEMA, tmp_path / "store", interactions=table(400).tail(260).with_columns(time=pl.col("time"))
    )
    run = weft.train(other, "lr", out=tmp_path / "run", sets=["train.epochs=1"])
    second = Recommender.load(run.path)
    assert second.transforms.item_ids is not None
    assert recommender.transforms.item_ids is not None
    assert second.transforms.item_ids.values.tolist() != recommender.transforms.item_ids.values.tolist()
    now = Live(second, store, window=60.0).current()[0]
    offline = second.transforms.with_history(from_values(SCHEMA, rows))
    assert after_all(second, now.transforms) == after_all(second, offline)


def test_a_mean_waits_for_the_window_and_a_sum_does_not(
    store: EventStore, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 10_000 * SECOND
    monkeypatch.setattr(following, "LOOK", 0.0)
    monkeypatch.setattr(stores, "now", lambda: 10_000 * SECOND)
    monkeypatch.setattr(joining, "now", lambda: clock)
    live = Live(recommender, store, window=60.0)
    write(store, recommender, table(4).with_columns(time=pl.col("time") + 5_000))
    logs = recommender.transforms.history
    first = live.current()[0].transforms.history
    assert len(first["user_rows"]) == len(logs["user_rows"]) + 4
    assert len(first["song_rate"]) == len(logs["song_rate"])
    clock += 61 * SECOND
    assert len(live.current()[0].transforms.history["song_rate"]) == len(logs["song_rate"]) + 4


def test_training_rows_are_what_was_read(store: EventStore, recommender: Recommender) -> None:
    rows = write(store, recommender, table(30).with_columns(time=pl.col("time") + 5_000))
    found = training_rows(store, SCHEMA, window=60.0, clock=stores.now() + 61 * SECOND)
    assert found.rows is not None
    assert found.rows.label is not None
    assert found.rows.label[:, 0].tolist() == [row["played"] for row in rows]
    assert found.values["seconds"].tolist() == [row["seconds"] for row in rows]
    read = concat(
        [
            recommender.features(
                recommender.user_rows(r["user"], {"device": r["device"], "hour": r["hour"]}), [r["song"]]
            )
            for r in rows
        ]
    )
    assert found.rows.ids.tobytes() == read.ids.tobytes()
    assert found.rows.dense.tobytes() == read.dense.tobytes()
    assert found.rows.keys.tobytes() == read.keys.tobytes()


def test_plays_without_a_request_count_and_quarantined_ones_do_not(store: EventStore, recommender: Recommender) -> None:
    live = Live(recommender, store)
    plain = {"user": "1", "time": 9_000 * SECOND}
    store.add_events(
        [
            event("a", item="s1", **plain),
            event("b", item="s2", quarantined=True, **plain),
            event("c", item="unknown-song", **plain),
        ]
    ).result(30)
    history = live.current()[0].transforms.history
    assert len(history["recent"]) == len(recommender.transforms.history["recent"]) + 1


def test_what_a_user_had_follows_the_schemas_rule(
    store: EventStore, recommender: Recommender, monkeypatch: Any
) -> None:
    live = Live(recommender, store)
    store.add_events(
        [
            event("a", item="s1", user="1", kind="impression"),
            event("b", item="s2", user="1"),
            event("c", item="s3", user="2"),
            event("d", item="s4", user="1", time=stores.now() - 3_600 * SECOND),
        ]
    ).result(30)
    assert live.had(1, None) == ["s4", "s2"]
    assert live.had("1", "allow") == []
    rows = replace_protocol(recommender, Protocol(seen_from="rows", seen="window", window=60.0))
    assert Live(rows, store).had(1, None) == ["s2", "s1"]
    assert Live(rows, store).had(1, "hide") == ["s4", "s2", "s1"]


def replace_protocol(recommender: Recommender, protocol: Protocol) -> Any:
    class Other:
        schema = stores.msgspec.structs.replace(recommender.schema, protocol=protocol)

        def __getattr__(self, name: str) -> Any:
            return getattr(recommender, name)

    return Other()


def test_many_threads_follow_one_log(store: EventStore, recommender: Recommender) -> None:
    """However many ask while events come, each event is taken in once."""
    live = Live(recommender, store)
    stop = threading.Event()
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                live.current()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for place in range(60):
        store.add_events([event(f"e{place}", item="s1", user="1", time=(9_000 + place) * SECOND)]).result(30)
        assert len(live.current()[0].transforms.history["recent"]) >= place + 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    grown_by = len(live.current()[0].transforms.history["recent"]) - len(recommender.transforms.history["recent"])
    assert grown_by == 60


def test_a_log_that_cannot_be_read_leaves_what_was_known(store: EventStore, recommender: Recommender) -> None:
    live = Live(recommender, store)
    store.add_events([event("a", item="s1", user="1")]).result(30)
    known = live.current()[0]
    store.submit(lambda c: c.exec_driver_sql("ALTER TABLE events RENAME TO away")).result(30)
    assert live.current() == (known, ["store"])
    store.submit(lambda c: c.exec_driver_sql("ALTER TABLE away RENAME TO events")).result(30)
    assert live.current() == (known, [])
