"""Stores of both kinds for the tests of the service, and events to put into them."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from weft.serve.store import Event, now

KINDS = ("sqlite", "postgresql")
POSTGRES = os.environ.get("WEFT_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")


@contextmanager
def store_url(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a new, empty store; PostgreSQL's is a database that is dropped afterwards."""
    if kind == "sqlite":
        yield str(folder / "store.db")
        return
    try:
        admin = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at WEFT_POSTGRES ({POSTGRES}): {str(error).splitlines()[0]}")
    name = f"weft_test_{uuid.uuid4().hex[:12]}"
    with admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            yield POSTGRES.rsplit("/", 1)[0] + f"/{name}"
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def event(id: str, user: str = "ann", item: str = "song-1", kind: str = "play", **changes: Any) -> Event:
    return Event(**{"id": id, "kind": kind, "user": user, "item": item, "time": now(), **changes})
