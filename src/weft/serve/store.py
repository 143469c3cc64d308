"""The event store: what users did and were shown, on SQLite or PostgreSQL.

One thread writes. It takes all that waits into one transaction (group commit) and answers when that is on disk, so a
write that was acknowledged is there after a crash, and a thousand callers share one flush of the disk. Transactions of
several processes go one after the other, so `seq` rises in the order of commits.
"""

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, final

import msgspec
from msgspec import Struct
from sqlalchemy import URL, Connection, Engine, Row, Select, create_engine, func, make_url, select, text, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.event import listens_for
from sqlalchemy.exc import ArgumentError, DBAPIError

from weft.errors import ConfigError, Overloaded, Unavailable
from weft.serve.tables import (
    AUDIT,
    CHANGES,
    EVENTS,
    FORGOTTEN,
    GENERATIONS,
    ITEMS,
    OFFSETS,
    REQUESTS,
    USERS,
    WORKERS,
    migrate,
)

GROUP = 256  # writes in one transaction
WAITING = 4_096  # writes that may wait for theirs
WRITER = 7_306_357_445_130_112  # PostgreSQL's advisory lock of whoever writes
HOUR = 3_600_000_000
ENDS: Select[Any] = select(
    select(func.coalesce(func.max(EVENTS.c.seq), 0)).scalar_subquery().label("event"),
    select(func.coalesce(func.max(CHANGES.c.seq), 0)).scalar_subquery().label("change"),
)  # how far the log and the changes reach

T = TypeVar("T")


class Event(Struct, frozen=True, kw_only=True):
    """Something that a user did.

    Attributes:
        id: Of the event; a second one with the same id is a retry and changes nothing.
        kind: impression, play, like or skip.
        request: Id of the request whose answer it belongs to.
        user: External id, as text.
        item: External id, as text.
        time: When it happened, microseconds since 1970.
        position: Where the item was shown, from 1.
        propensity: The probability with which it was shown.
        surface: Where in the product.
        values: Numbers by column of the table, such as the seconds listened.
        quarantined: The item was not known when the event came; it is kept, and not learnt from.
        seq: Place in the log; 0 before it is there.
        received: When the store had it, microseconds since 1970; never falls along `seq`.
    """

    id: str
    kind: str
    user: str
    item: str
    time: int
    request: str | None = None
    position: int | None = None
    propensity: float | None = None
    surface: str | None = None
    values: dict[str, float] = {}
    quarantined: bool = False
    seq: int = 0
    received: int = 0


class Request(Struct, frozen=True, kw_only=True):
    """An answer that was given.

    Attributes:
        id: Of the request.
        user: External id, as text.
        time: When, microseconds since 1970.
        bundle: Id of the bundle that answered.
        surface: Where in the product.
        explored: Whether a part of it was left to chance.
        shown: Items by position, each with its propensity.
        features: The encoded rows that the model read, as `weft.serve.features.pack` writes them.
        seq: Place in the log; 0 before it is there.
    """

    id: str
    user: str
    time: int
    bundle: str
    shown: tuple[tuple[str, float | None], ...]
    features: bytes
    surface: str | None = None
    explored: bool = False
    seq: int = 0


class Generation(Struct, frozen=True):
    """A bundle in service: its place in the row of them, its path, its id, and the generation it took over from."""

    seq: int
    path: str
    bundle: str
    parent: int | None


class Change(Struct, frozen=True):
    """A row of items or users that was written, or the hash of a forgotten user."""

    seq: int
    kind: str
    id: str


class AuditEntry(Struct, frozen=True):
    """Who did what to the service, and why."""

    seq: int
    time: int
    action: str
    bundle: str | None
    actor: str
    reason: str


class _Job(Struct):
    work: Callable[[Connection], Any]
    future: Future[Any]


@final
class EventStore:
    """A store that is open. Writes return futures; reads answer at once, from any thread."""

    def __init__(self, url: str | Path, *, waiting: int = WAITING) -> None:
        """Open a store and bring it to the newest version.

        Args:
            url: A path (SQLite), or an SQLAlchemy URL of SQLite or PostgreSQL.
            waiting: Writes that may wait.

        Raises:
            ConfigError: The URL cannot be used.
            Unavailable: The database does not answer.
            ArtifactError: The database was written by a newer weft.
        """
        self.url = _url(url)
        self._sqlite = self.url.get_backend_name() == "sqlite"
        self._reader, self._writer = _engine(self.url, reading=True), _engine(self.url, reading=False)
        self._jobs: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._closed = False
        try:
            with _translated(), self._transaction() as connection:
                migrate(connection)
        except BaseException:
            self._dispose()
            raise
        self._thread = threading.Thread(target=self._write, name="weft-store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the writes that wait, then let go of the database."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()
            self._dispose()

    def _dispose(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    # Writing

    def submit(self, work: Callable[[Connection], T]) -> "Future[T]":
        """Have something done in the next transaction; its result comes when that is durable.

        The future fails with Unavailable when the database cannot write now (a full disk), and nothing of `work` stays.

        Raises:
            Overloaded: Too many writes wait.
        """
        future: Future[T] = Future()
        if self._closed:
            raise Unavailable("the store is closed; open it again")
        try:
            self._jobs.put_nowait(_Job(work, future))
        except queue.Full:
            raise Overloaded("too many writes wait for the store; try again later") from None
        return future

    def add_events(self, events: Sequence[Event], *, hourly: int | None = None) -> "Future[list[str]]":
        """Keep events. What became of each: stored, duplicate, or capped.

        Args:
            events: In the order in which they happened.
            hourly: At most so many events of a user within an hour; None is no cap.
        """
        return self.submit(lambda connection: self._add_events(connection, events, hourly))

    def add_request(self, request: Request) -> "Future[None]":
        """Keep what was answered to a request; one that is there already stays as it is."""
        values = {**msgspec.structs.asdict(request), "shown": _json(request.shown)}
        del values["seq"]
        return self.submit(lambda connection: self._insert(connection, REQUESTS, [values]))

    def put_items(self, items: Sequence[tuple[str, dict[str, Any]]]) -> "Future[None]":
        """Keep the raw columns of items that came after training, by external id."""
        return self.submit(lambda connection: self._put(connection, "item", [(id, _json(row)) for id, row in items]))

    def delete_items(self, ids: Sequence[str]) -> "Future[None]":
        """Take items out of service."""
        return self.submit(lambda connection: self._put(connection, "item", [(id, None) for id in ids]))

    def put_users(self, users: Sequence[tuple[str, dict[str, Any]]]) -> "Future[None]":
        """Keep the raw columns of users, by external id; who was forgotten is known again."""
        return self.submit(lambda connection: self._put_users(connection, users))

    def forget(self, user: str) -> "Future[int]":
        """Delete everything that is kept of a user; the number of rows. What stays is a hash, to ignore old bundles."""
        return self.submit(lambda connection: self._forget(connection, user))

    def activate(self, path: str, bundle: str, *, actor: str, reason: str) -> "Future[Generation]":
        """Move the pointer to a bundle, with an entry in the audit."""
        return self.submit(lambda connection: _activate(connection, path, bundle, actor, reason))

    def replace(
        self, before: Generation, path: str, bundle: str, *, actor: str, reason: str
    ) -> "Future[Generation | None]":
        """`activate`, unless another bundle than the one of `before` serves by then: None, and nothing has moved."""
        return self.submit(
            lambda connection: (
                _activate(connection, path, bundle, actor, reason) if _newest(connection) == before.seq else None
            )
        )

    def rollback(self, *, actor: str, reason: str) -> "Future[Generation | None]":
        """Move the pointer to the bundle that was in service before; None when there was none."""
        return self.submit(lambda connection: _rollback(connection, actor, reason))

    def audit(self, action: str, *, actor: str, reason: str, bundle: str | None = None) -> "Future[None]":
        """Make an entry in the audit."""
        return self.submit(lambda connection: _audit(connection, action, bundle, actor, reason))

    def report(self, worker: str, generation: int) -> "Future[None]":
        """Say which generation a serving process has."""
        row = {"id": worker, "generation": generation, "time": now()}
        return self.submit(lambda connection: self._upsert(connection, WORKERS, [row]))

    def set_offset(self, name: str, seq: int) -> "Future[None]":
        """Remember how far a reader has come."""
        return self.submit(lambda connection: self._upsert(connection, OFFSETS, [{"name": name, "seq": seq}], "name"))

    # Reading

    def newest(self) -> int:
        """The `seq` of the newest event; 0 without one."""
        return self.ends()[0]

    def events(self, since: int = 0, *, until: int | None = None, limit: int = 10_000) -> list[Event]:
        """Events after a `seq`, up to another one, in the order of the log."""
        query = select(EVENTS).where(EVENTS.c.seq > since).order_by(EVENTS.c.seq).limit(limit)
        return [_event(row) for row in self._rows(query if until is None else query.where(EVENTS.c.seq <= until))]

    def events_of(self, user: str, *, limit: int = 1_000) -> list[Event]:
        """A user's events, the newest first."""
        query = select(EVENTS).where(EVENTS.c.user == user).order_by(EVENTS.c.seq.desc()).limit(limit)
        return [_event(row) for row in self._rows(query)]

    def outcomes(self, impressions: Sequence[Event]) -> list[Event]:
        """What the users of some impressions did with their items: plays, likes and skips, in the order of the log."""
        found: list[Event] = []
        for part in _parts(sorted({(event.user, event.item) for event in impressions})):
            pairs = tuple_(EVENTS.c.user, EVENTS.c.item).in_(part)
            query = select(EVENTS).where(EVENTS.c.kind != "impression", pairs).order_by(EVENTS.c.seq)
            found += [_event(row) for row in self._rows(query)]
        return found

    def requests(self, ids: Sequence[str]) -> dict[str, Request]:
        """Requests by their ids, those that are there."""
        found: dict[str, Request] = {}
        for part in _parts(sorted(set(ids))):
            rows = self._rows(select(REQUESTS).where(REQUESTS.c.id.in_(part)))
            found |= {row.id: _request(row) for row in rows}
        return found

    def items(self, ids: Sequence[str] | None = None) -> dict[str, dict[str, Any] | None]:
        """Raw columns of items that came after training; None for an item that was taken out."""
        query = select(ITEMS) if ids is None else select(ITEMS).where(ITEMS.c.id.in_(ids))
        rows = self._rows(query.order_by(ITEMS.c.id))
        return {row.id: None if row.columns is None else msgspec.json.decode(row.columns) for row in rows}

    def users(self, ids: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Raw columns of users."""
        query = select(USERS) if ids is None else select(USERS).where(USERS.c.id.in_(ids))
        return {row.id: msgspec.json.decode(row.columns) for row in self._rows(query.order_by(USERS.c.id))}

    def forgotten(self) -> set[str]:
        """`user_hash` of the users who were deleted."""
        return {row.hash for row in self._rows(select(FORGOTTEN))}

    def changes(self, since: int = 0) -> list[Change]:
        """Which items and users were written after a `seq`."""
        query = select(CHANGES).where(CHANGES.c.seq > since).order_by(CHANGES.c.seq)
        return [Change(row.seq, row.kind, row.id) for row in self._rows(query)]

    def newest_change(self) -> int:
        """The `seq` of the newest change; 0 without one."""
        return self.ends()[1]

    def ends(self) -> tuple[int, int]:
        """`newest` and `newest_change` in one question."""
        row = self._rows(ENDS)[0]
        return int(row.event), int(row.change)

    def current(self) -> Generation | None:
        """The bundle that serves."""
        rows = self._rows(select(GENERATIONS).order_by(GENERATIONS.c.seq.desc()).limit(1))
        return _generation(rows[0]) if rows else None

    def workers(self, *, since: int) -> dict[str, int]:
        """The generation of each serving process that said so after a time."""
        return {row.id: row.generation for row in self._rows(select(WORKERS).where(WORKERS.c.time >= since))}

    def audits(self, *, limit: int = 100) -> list[AuditEntry]:
        """The newest entries of the audit, the newest first."""
        rows = self._rows(select(AUDIT).order_by(AUDIT.c.seq.desc()).limit(limit))
        return [AuditEntry(row.seq, row.time, row.action, row.bundle, row.actor, row.reason) for row in rows]

    def offset(self, name: str) -> int:
        """How far a reader has come; 0 for a new one."""
        rows = self._rows(select(OFFSETS.c.seq).where(OFFSETS.c.name == name))
        return int(rows[0].seq) if rows else 0

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with _translated(), self._reader.connect() as connection:
            return connection.execute(query).all()

    # The writer

    def _write(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, last = [first], False
            while len(jobs) < GROUP and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    last = True
                    break
                jobs.append(job)
            self._commit([job for job in jobs if job.future.set_running_or_notify_cancel()])
            if last:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        """Do some writes in one transaction; when that fails, each in its own, so that a bad one harms no other."""
        try:
            with _translated(), self._transaction() as connection:
                results = [job.work(connection) for job in jobs]
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._commit([job])
        else:
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._writer.begin() as connection:
            if not self._sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER})
            yield connection

    def _insert(self, connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
        connection.execute(self._dialect.insert(table).on_conflict_do_nothing(), rows)

    def _upsert(self, connection: Connection, table: Any, rows: list[dict[str, Any]], key: str = "id") -> None:
        insert = self._dialect.insert(table)
        changed = {name: insert.excluded[name] for name in rows[0] if name != key}
        connection.execute(insert.on_conflict_do_update(index_elements=[key], set_=changed), rows)

    @property
    def _dialect(self) -> Any:
        return sqlite if self._sqlite else postgresql

    def _add_events(self, connection: Connection, events: Sequence[Event], hourly: int | None) -> list[str]:
        newest = connection.execute(select(EVENTS.c.received).order_by(EVENTS.c.seq.desc()).limit(1)).scalar() or 0
        received = max(now(), newest)
        left = {} if hourly is None else _left(connection, {e.user for e in events}, received - HOUR, hourly)
        known = _known_ids(connection, [event.id for event in events])
        became: list[str] = []
        rows: list[dict[str, Any]] = []
        for one in events:
            capped = hourly is not None and left[one.user] <= 0
            became.append("duplicate" if one.id in known else "capped" if capped else "stored")
            if became[-1] == "stored":
                known.add(one.id)
                left[one.user] = left.get(one.user, 0) - 1
                rows.append(_event_row(one, received))
        if rows:
            connection.execute(EVENTS.insert(), rows)
        return became

    def _put(self, connection: Connection, kind: str, rows: Sequence[tuple[str, str | None]]) -> None:
        table = ITEMS if kind == "item" else USERS
        if rows:
            self._upsert(connection, table, [{"id": id, "columns": columns} for id, columns in rows])
            connection.execute(CHANGES.insert(), [{"kind": kind, "id": id} for id, _ in rows])

    def _put_users(self, connection: Connection, users: Sequence[tuple[str, dict[str, Any]]]) -> None:
        hashes = [user_hash(id) for id, _ in users]
        connection.execute(FORGOTTEN.delete().where(FORGOTTEN.c.hash.in_(hashes)))
        self._put(connection, "user", [(id, _json(row)) for id, row in users])

    def _forget(self, connection: Connection, user: str) -> int:
        owned = ((EVENTS, EVENTS.c.user), (REQUESTS, REQUESTS.c.user), (USERS, USERS.c.id))
        gone = sum(connection.execute(table.delete().where(column == user)).rowcount for table, column in owned)
        connection.execute(CHANGES.delete().where(CHANGES.c.kind == "user", CHANGES.c.id == user))
        self._insert(connection, FORGOTTEN, [{"hash": user_hash(user)}])
        connection.execute(CHANGES.insert().values(kind="forget", id=user_hash(user)))
        return gone


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1_000


def user_hash(user: str) -> str:
    """SHA-256 of a user's id, in hex."""
    return hashlib.sha256(user.encode()).hexdigest()


def _url(given: str | Path) -> URL:
    """A path or a URL as one that the installed drivers serve."""
    if isinstance(given, Path) or "://" not in given:
        return _url(URL.create("sqlite", database=str(given)).render_as_string())
    try:
        url = make_url(given)
    except ArgumentError as error:
        raise ConfigError(f"the store's URL cannot be read ({error}); give a path or postgresql://...") from error
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(f"the store must be sqlite or postgresql, got {backend!r}; give a path or postgresql://...")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError("the store must outlive its process; give the path of a file")
    return url.set(drivername="postgresql+psycopg") if backend == "postgresql" else url


def _engine(url: URL, *, reading: bool) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, pool_size=4 if reading else 1)
    engine = create_engine(url, connect_args={"timeout": 10.0}, pool_size=8 if reading else 1)

    @listens_for(engine, "connect")
    def settle(connection: Any, record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver thinks
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        if reading:
            connection.execute("PRAGMA query_only = ON")

    @listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """Unavailable for what the database cannot do now."""
    try:
        yield
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise Unavailable(f"the store cannot be used now ({reason}); try again later") from error


def _activate(connection: Connection, path: str, bundle: str, actor: str, reason: str) -> Generation:
    return _moved(connection, path, bundle, _newest(connection), "activate", actor, reason)


def _newest(connection: Connection) -> int | None:
    """The `seq` of the generation that serves."""
    return connection.execute(select(func.max(GENERATIONS.c.seq))).scalar()


def _rollback(connection: Connection, actor: str, reason: str) -> Generation | None:
    here = connection.execute(select(GENERATIONS).order_by(GENERATIONS.c.seq.desc()).limit(1)).first()
    if here is None or here.parent is None:
        return None
    back = connection.execute(select(GENERATIONS).where(GENERATIONS.c.seq == here.parent)).one()
    return _moved(connection, back.path, back.bundle, back.parent, "rollback", actor, reason)


def _moved(
    connection: Connection, path: str, bundle: str, parent: int | None, action: str, actor: str, reason: str
) -> Generation:
    made = GENERATIONS.insert().values(time=now(), path=path, bundle=bundle, parent=parent)
    _audit(connection, action, bundle, actor, reason)
    return Generation(connection.execute(made.returning(GENERATIONS.c.seq)).scalar_one(), path, bundle, parent)


def _audit(connection: Connection, action: str, bundle: str | None, actor: str, reason: str) -> None:
    connection.execute(AUDIT.insert().values(time=now(), action=action, bundle=bundle, actor=actor, reason=reason))


def _left(connection: Connection, users: set[str], since: int, hourly: int) -> dict[str, int]:
    """How many more events each user may have."""
    recent = select(EVENTS.c.user, func.count()).where(EVENTS.c.user.in_(users), EVENTS.c.received >= since)
    counted = {user: count for user, count in connection.execute(recent.group_by(EVENTS.c.user))}
    return {user: hourly - counted.get(user, 0) for user in users}


def _known_ids(connection: Connection, ids: Sequence[str]) -> set[str]:
    return {
        id
        for part in _parts(ids)
        for id in connection.execute(select(EVENTS.c.id).where(EVENTS.c.id.in_(part))).scalars()
    }


def _event_row(event: Event, received: int) -> dict[str, Any]:
    row = {
        **msgspec.structs.asdict(event),
        "received": received,
        "values": _json(event.values) if event.values else None,
    }
    del row["seq"]
    return row


def _event(row: Row[Any]) -> Event:
    columns = dict(row._mapping)
    return Event(**{**columns, "values": msgspec.json.decode(columns["values"]) if columns["values"] else {}})


def _request(row: Row[Any]) -> Request:
    shown = tuple((item, propensity) for item, propensity in msgspec.json.decode(row.shown))
    return Request(**{**row._mapping, "shown": shown})


def _generation(row: Row[Any]) -> Generation:
    return Generation(row.seq, row.path, row.bundle, row.parent)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _parts(values: Sequence[T], size: int = 400) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))
