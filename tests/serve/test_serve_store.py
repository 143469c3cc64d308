"""The event store: one behaviour on SQLite and PostgreSQL; what was acknowledged is there after a SIGKILL."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from stores_for_tests import KINDS, event, store_url

from weft.errors import ArtifactError, ConfigError, Overloaded, Unavailable
from weft.serve import store as stores
from weft.serve import tables
from weft.serve.store import Event, EventStore, Request, now, user_hash

SECONDS = 30.0


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with store_url(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def store(url: str) -> Iterator[EventStore]:
    opened = EventStore(url)
    yield opened
    opened.close()


def done(future: "Future[Any]") -> Any:
    return future.result(SECONDS)


def test_events_come_back_as_they_were_and_in_order(store: EventStore) -> None:
    full = event(
        "e1",
        request="r1",
        position=3,
        propensity=0.1,
        surface="home",
        values={"seconds": 12.5},
        quarantined=True,
        time=1_700_000_000_123_456,
    )
    started = now()
    assert done(store.add_events([full, event("e2", user="Zoë 'x' \"y\" 日本")])) == ["stored", "stored"]
    first, second = store.events()
    assert first.received >= started
    assert first == stores.msgspec.structs.replace(full, seq=first.seq, received=first.received)
    assert second.seq > first.seq
    assert store.events(first.seq) == [second]
    assert store.events(until=first.seq) == [first]
    assert store.events(limit=1) == [first]
    assert store.newest() == second.seq
    assert store.events_of("Zoë 'x' \"y\" 日本") == [second]


def test_a_retry_changes_nothing(store: EventStore) -> None:
    assert done(store.add_events([event("a"), event("b"), event("a", item="other")])) == [
        "stored",
        "stored",
        "duplicate",
    ]
    assert done(store.add_events([event("b", item="other"), event("c")])) == ["duplicate", "stored"]
    assert [(e.id, e.item) for e in store.events()] == [("a", "song-1"), ("b", "song-1"), ("c", "song-1")]


def test_a_users_events_are_capped_within_an_hour(store: EventStore) -> None:
    first = [event(f"a{i}") for i in range(3)] + [event("b0", user="bob")]
    assert done(store.add_events(first, hourly=2)) == ["stored", "stored", "capped", "stored"]
    assert done(store.add_events([event("a9"), event("a0"), event("b1", user="bob")], hourly=2)) == [
        "capped",
        "duplicate",
        "stored",
    ]
    assert {e.id for e in store.events()} == {"a0", "a1", "b0", "b1"}


def test_the_clock_of_the_log_never_falls(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, moment in enumerate((5_000, 3_000, 7_000)):
        monkeypatch.setattr(stores, "now", lambda moment=moment: moment)
        done(store.add_events([event(f"e{place}", time=1)]))
    assert [e.received for e in store.events()] == [5_000, 5_000, 7_000]


def request(id: str, user: str = "ann", **changes: Any) -> Request:
    shown = (("song-1", 0.25), ("song-2", None))
    return Request(
        **{"id": id, "user": user, "time": now(), "bundle": "b", "shown": shown, "features": b"\x00\xff", **changes}
    )


def test_requests_come_back_as_they_were(store: EventStore) -> None:
    asked = request("r1", surface="home", explored=True)
    done(store.add_request(asked))
    done(store.add_request(request("r1", user="bob")))
    found = store.requests(["r1", "nothing"])
    assert found == {"r1": stores.msgspec.structs.replace(asked, seq=found["r1"].seq)}


def test_items_users_and_their_changes(store: EventStore) -> None:
    done(store.put_items([("i1", {"year": 1999, "genre": "jazz"}), ("i2", {})]))
    done(store.put_items([("i1", {"year": 2000})]))
    done(store.delete_items(["i2", "i3"]))
    done(store.put_users([("ann", {"age": 3})]))
    assert store.items() == {"i1": {"year": 2000}, "i2": None, "i3": None}
    assert store.items(["i1"]) == {"i1": {"year": 2000}}
    assert store.users() == {"ann": {"age": 3}}
    changes = store.changes()
    assert [(c.kind, c.id) for c in changes] == [
        ("item", "i1"),
        ("item", "i2"),
        ("item", "i1"),
        ("item", "i2"),
        ("item", "i3"),
        ("user", "ann"),
    ]
    assert store.changes(changes[3].seq) == changes[4:]
    assert store.newest_change() == changes[-1].seq


def test_forgetting_a_user_leaves_a_hash_alone(store: EventStore, url: str) -> None:
    done(store.add_events([event("e1", user="ann-of-old"), event("e2", user="bob")]))
    done(store.add_request(request("r1", user="ann-of-old")))
    done(store.put_users([("ann-of-old", {"age": 3})]))
    newest = store.newest()
    assert done(store.forget("ann-of-old")) == 3
    assert store.events_of("ann-of-old") == []
    assert store.requests(["r1"]) == {}
    assert store.users() == {}
    assert store.forgotten() == {user_hash("ann-of-old")}
    assert store.changes()[-1].kind == "forget"
    assert "ann-of-old" not in str([store.changes(), store.audits()])
    done(store.add_events([event("e9")]))
    assert store.newest() > newest, "the number of a deleted event is not given again"
    done(store.put_users([("ann-of-old", {})]))
    assert store.forgotten() == set()


def test_no_byte_of_a_forgotten_user_stays_in_the_file(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "store.db")
    done(store.add_events([event(f"e{i}", user="unforgettable") for i in range(50)]))
    done(store.forget("unforgettable"))
    store.close()
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"unforgettable" not in left


def test_the_pointer_moves_and_goes_back(store: EventStore) -> None:
    assert store.current() is None
    assert done(store.rollback(actor="me", reason="none")) is None
    one = done(store.activate("/a", "A", actor="me", reason="first"))
    assert done(store.rollback(actor="me", reason="none before")) is None
    two, three = (done(store.activate(f"/{name}", name, actor="me", reason="better")) for name in "BC")
    assert store.current() == three
    for wanted in (two, one):
        back = done(store.rollback(actor="you", reason="worse"))
        assert (back.path, back.bundle) == (wanted.path, wanted.bundle)
        assert back.seq > three.seq
        assert store.current() == back
    assert done(store.rollback(actor="you", reason="at the start")) is None
    done(store.audit("refuse", actor="gate", reason="AUC fell", bundle="D"))
    told = [(entry.action, entry.bundle, entry.actor, entry.reason) for entry in store.audits()]
    assert told[0] == ("refuse", "D", "gate", "AUC fell")
    assert [action for action, *_ in told] == ["refuse", "rollback", "rollback", *["activate"] * 3]


def test_the_pointer_is_replaced_only_where_it_was(store: EventStore) -> None:
    before = done(store.activate("/a", "A", actor="me", reason="first"))
    after = done(store.replace(before, "/b", "B", actor="me", reason="better"))
    assert (after.bundle, after.parent) == ("B", before.seq)
    assert done(store.replace(before, "/c", "C", actor="me", reason="late")) is None
    assert store.current() == after
    assert [entry.bundle for entry in store.audits()] == ["B", "A"]


def test_workers_and_offsets(store: EventStore) -> None:
    started = now()
    done(store.report("w1", 1))
    done(store.report("w2", 1))
    done(store.report("w1", 2))
    assert store.workers(since=started) == {"w1": 2, "w2": 1}
    assert store.workers(since=now() + 10**9) == {}
    assert store.offset("learn") == 0
    done(store.set_offset("learn", 7))
    done(store.set_offset("learn", 9))
    assert store.offset("learn") == 9


def test_many_writers_share_transactions(store: EventStore) -> None:
    commits = 0
    transaction = EventStore._transaction

    def counted(self: EventStore) -> Any:
        nonlocal commits
        commits += 1
        return transaction(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventStore, "_transaction", counted)
        hold = store.submit(lambda connection: time.sleep(0.2))
        futures = [store.add_events([event(f"e{i}")]) for i in range(200)]
        assert [done(future) for future in futures] == [["stored"]] * 200
        done(hold)
    assert commits <= 3
    assert len(store.events()) == 200


def test_a_bad_write_harms_no_other(store: EventStore) -> None:
    def bad(connection: Connection) -> None:
        connection.execute(text("INSERT INTO users (id, columns) VALUES ('x', '{}')"))
        raise ValueError("bad")

    store.submit(lambda connection: time.sleep(0.1))
    one, two, three = store.add_events([event("a")]), store.submit(bad), store.add_events([event("b")])
    assert (done(one), done(three)) == (["stored"], ["stored"])
    with pytest.raises(ValueError, match="bad"):
        done(two)
    assert store.users() == {}


def test_a_full_queue_says_so(url: str) -> None:
    store = EventStore(url, waiting=2)
    release = threading.Event()
    blocker = store.submit(lambda connection: release.wait(SECONDS))
    while not blocker.running():
        time.sleep(0.01)
    futures = [store.add_events([event(f"e{i}")]) for i in range(2)]
    with pytest.raises(Overloaded, match="too many writes"):
        store.add_events([event("e2")])
    release.set()
    assert [done(future) for future in futures] == [["stored"]] * 2
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.add_events([event("e3")])


def test_closing_finishes_what_waits(url: str) -> None:
    store = EventStore(url)
    futures = [store.add_events([event(f"e{i}")]) for i in range(20)]
    store.close()
    assert all(done(future) == ["stored"] for future in futures)
    store = EventStore(url)
    assert len(store.events()) == 20
    store.close()


def test_two_processes_worth_of_stores_write_in_one_order(url: str) -> None:
    """What a reader has read up to a number never grows behind it."""
    writers = [EventStore(url) for _ in range(2)]
    reader = EventStore(url)
    threads = [
        threading.Thread(target=lambda w=w, s=s: [done(s.add_events([event(f"{w}-{i}")])) for i in range(60)])
        for w, s in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    read: list[Event] = []
    while any(thread.is_alive() for thread in threads):
        read += reader.events(read[-1].seq if read else 0)
    read += reader.events(read[-1].seq if read else 0)
    assert read == reader.events()
    assert len(read) == 120
    assert [e.received for e in read] == sorted(e.received for e in read)
    for opened in (*writers, reader):
        opened.close()


def test_versions_go_up_and_never_down(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EventStore(url)
    done(store.add_events([event("old")]))
    store.close()

    def second(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE audit ADD COLUMN place TEXT"))

    with monkeypatch.context() as patch:
        patch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, second))
        for _ in range(2):  # the second time there is nothing left to do
            store = EventStore(url)
            assert [e.id for e in store.events()] == ["old"]
            done(store.submit(lambda connection: connection.execute(text("SELECT place FROM audit"))))
            store.close()
    with pytest.raises(ArtifactError, match=f"version {len(tables.MIGRATIONS) + 1}.*newer weft"):
        EventStore(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [("mysql://x/y", "got 'mysql'"), ("sqlite://", "path of a file"), ("://", "cannot be read|got ''")],
)
def test_urls_that_cannot_be_used(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EventStore(url)


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="try again"):
        EventStore(tmp_path / "nowhere" / "store.db")
    with pytest.raises(Unavailable, match="try again"):
        EventStore("postgresql://postgres@127.0.0.1:1/none?connect_timeout=2")


def test_a_full_database_refuses_and_recovers(tmp_path: Path) -> None:
    """SQLite's own limit of pages gives the error of a full disk."""
    store = EventStore(tmp_path / "store.db")
    done(store.add_events([event("before")]))
    pages = done(store.submit(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar()))
    done(store.submit(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}").scalar()))
    big = [event(f"big{i}", item="x" * 500) for i in range(200)]
    with pytest.raises(Unavailable, match="full"):
        done(store.add_events(big))
    assert [e.id for e in store.events()] == ["before"]
    done(store.submit(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar()))
    assert set(done(store.add_events(big))) == {"stored"}
    store.close()


FULL_DISK = """
import resource, signal, sys
from weft.errors import Unavailable
from weft.serve.store import Event, EventStore, now

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = EventStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
acked, refused = [], []
for i in range(300):
    try:
        store.add_events([Event(id=f"e{i}", kind="play", user="u", item="i" * 900, time=now())]).result(30)
        acked.append(f"e{i}")
    except Unavailable:
        refused.append(f"e{i}")
assert acked and refused, (len(acked), len(refused))
assert {e.id for e in store.events()} == set(acked)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.add_events([Event(id=id, kind="play", user="u", item="i", time=now()) for id in refused]).result(30)
assert {e.id for e in store.events()} == {*acked, *refused}
store.close()
print(len(acked), len(refused))
"""


def test_a_limit_on_file_size_refuses_and_recovers(tmp_path: Path) -> None:
    """The system refuses to write more: nothing is acknowledged that is not there, and all goes on when it may."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "store.db")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr


KILLED = """
import sys, threading
from weft.serve.store import Event, EventStore, now

store = EventStore(sys.argv[1])
lock = threading.Lock()

def write(thread):
    for i in range(10_000):
        id = f"{sys.argv[2]}-{thread}-{i}"
        store.add_events([Event(id=id, kind="play", user="u", item="i", time=now())]).result()
        with lock:
            sys.stdout.write(id + "\\n")
            sys.stdout.flush()

for thread in range(8):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def test_an_acknowledged_event_survives_a_kill(url: str) -> None:
    """A process that writes with eight threads is killed again and again; every event that it was told of is there."""
    acked: set[str] = set()
    rng = random.Random(0)
    for round_ in range(5):
        command = [sys.executable, "-c", KILLED, url, str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.3))
            process.send_signal(signal.SIGKILL)
            lines = [first, *process.stdout.readlines()]
            acked |= {line.strip() for line in lines if line.endswith("\n")}
    store = EventStore(url)
    kept = [e.id for e in store.events(limit=1_000_000)]
    assert len(acked) > 50
    assert acked <= set(kept)
    assert len(kept) == len(set(kept))
    retried = done(store.add_events([event(id) for id in sorted(acked)]))
    assert set(retried) == {"duplicate"}
    store.close()
