"""A bundle of the two camps that has served for a while, and the log of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_for_tests import NAMES, live, visit

from weft.recommend.bundle import bundle
from weft.runs import SavedRun
from weft.serve.store import EventStore


@pytest.fixture(scope="session")
def lived(camp_runs: dict[str, SavedRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundles/first (mf and item_knn propose, dcn_v2 ranks) and log.db, in which tastes have turned."""
    folder = tmp_path_factory.mktemp("lived")
    bundle([camp_runs[name].path for name in ("mf", "item_knn", "dcn_v2")], folder / "bundles" / "first")
    store = EventStore(folder / "log.db")
    visit(store, live(store, folder / "bundles" / "first"), NAMES)
    store.close()
    return folder


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> Path:
    """The folder of bundles, for this test alone."""
    shutil.copytree(lived, tmp_path, dirs_exist_ok=True)
    return tmp_path / "bundles"


@pytest.fixture
def log(place: Path) -> Iterator[EventStore]:
    """The log beside it."""
    store = EventStore(place.parent / "log.db")
    yield store
    store.close()
