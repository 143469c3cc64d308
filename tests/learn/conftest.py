"""A bundle of the two camps to learn from, and an empty log beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.recommend.bundle import bundle
from weft.runs import SavedRun
from weft.serve.store import EventStore


@pytest.fixture
def place(camp_runs: dict[str, SavedRun], tmp_path: Path) -> Path:
    """A folder with the bundle `first`: mf proposes, item_knn too, dcn_v2 ranks."""
    bundle([camp_runs[name].path for name in ("mf", "item_knn", "dcn_v2")], tmp_path / "bundles" / "first")
    return tmp_path / "bundles"


@pytest.fixture
def log(place: Path) -> Iterator[EventStore]:
    """A store beside the bundle."""
    store = EventStore(place.parent / "log.db")
    yield store
    store.close()
