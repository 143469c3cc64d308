"""The tables of the event store, and the steps by which an older database becomes a newer one.

Times are microseconds since 1970. `seq` rises in the order of commits, so that who has read up to a number has missed
nothing; numbers of deleted rows are not given again.
"""

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    select,
)

from weft.errors import ArtifactError

METADATA = MetaData()
Seq = BigInteger().with_variant(Integer(), "sqlite")
"""A number that the database gives; SQLite counts in its INTEGER only, which has 64 bits too."""


def _counted(name: str, *columns: Column[object] | Index) -> Table:
    return Table(name, METADATA, Column("seq", Seq, primary_key=True), *columns, sqlite_autoincrement=True)


VERSION = Table("weft_version", METADATA, Column("version", Integer, nullable=False))

EVENTS = _counted(
    "events",
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("request", Text),
    Column("user", Text, nullable=False),
    Column("item", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("position", Integer),
    Column("propensity", Float(53)),
    Column("surface", Text),
    Column("values", Text),
    Column("quarantined", Boolean, nullable=False),
    Index("events_of_user", "user", "seq"),
    Index("events_of_request", "request", "item"),
)
"""What users did. `values` is JSON: numbers by column; `quarantined` events name an item that nobody knew."""

REQUESTS = _counted(
    "requests",
    Column("id", Text, nullable=False, unique=True),
    Column("user", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("surface", Text),
    Column("explored", Boolean, nullable=False),
    Column("shown", Text, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Index("requests_of_user", "user"),
)
"""What was answered. `shown` is JSON: [item, propensity] by position; `features` are the rows that the model read."""

USERS = Table("users", METADATA, Column("id", Text, primary_key=True), Column("columns", Text, nullable=False))
ITEMS = Table("items", METADATA, Column("id", Text, primary_key=True), Column("columns", Text))
"""Items that came after training; `columns` is NULL for an item that was taken out."""

FORGOTTEN = Table("forgotten", METADATA, Column("hash", Text, primary_key=True))
"""SHA-256 of the ids of users who were deleted and may still be part of a bundle."""

CHANGES = _counted("changes", Column("kind", Text, nullable=False), Column("id", Text, nullable=False))
"""Which row of `items`, `users` or `forgotten` was written, for other processes to read."""

GENERATIONS = _counted(
    "generations",
    Column("time", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("parent", BigInteger),
)
"""Every move of the pointer to the bundle that serves; the last one holds. A rollback goes to `parent`."""

WORKERS = Table(
    "workers",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
)
"""Which generation each serving process has, and when it said so."""

AUDIT = _counted(
    "audit",
    Column("time", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("bundle", Text),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
OFFSETS = Table("offsets", METADATA, Column("name", Text, primary_key=True), Column("seq", BigInteger, nullable=False))


def _first(connection: Connection) -> None:
    METADATA.create_all(connection)


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_first,)
"""Step i makes version i + 1 out of version i; one that is out in the world is never changed."""


def migrate(connection: Connection) -> int:
    """Bring a database to the newest version, in the transaction of the connection; returns the version it had.

    Raises:
        ArtifactError: The database was written by a newer weft.
    """
    found = 0
    if inspect(connection).has_table(VERSION.name):
        found = connection.execute(select(VERSION.c.version)).scalar_one_or_none() or 0
    if found > len(MIGRATIONS):
        raise ArtifactError(
            f"the store has version {found}, this weft knows versions up to {len(MIGRATIONS)}; use a newer weft"
        )
    for step in MIGRATIONS[found:]:
        step(connection)
    if found < len(MIGRATIONS):
        connection.execute(VERSION.delete())
        connection.execute(VERSION.insert().values(version=len(MIGRATIONS)))
    return found
