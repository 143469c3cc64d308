"""Bundles of the two camps for the tests of the service."""

from pathlib import Path

import pytest

from weft.recommend.bundle import bundle
from weft.runs import SavedRun


@pytest.fixture(scope="session")
def bundles(camp_runs: dict[str, SavedRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: `ranker` has dcn_v2 over all items, `staged` two sources below it, `other` mf alone."""
    folder = tmp_path_factory.mktemp("bundles")
    bundle([camp_runs["dcn_v2"].path], folder / "ranker")
    bundle([camp_runs[name].path for name in ("popularity", "mf", "dcn_v2")], folder / "staged")
    bundle([camp_runs["mf"].path], folder / "other")
    return folder
