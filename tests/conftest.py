"""What several folders of tests share: one small store, and a run of each kind of model on it."""

from pathlib import Path

import pytest

import weft
from camps_for_tests import interactions, schema, songs
from weft.data.store import Store
from weft.runs import SavedRun

QUICK = ("train.batch_size=64", "train.learning_rate=0.02", "train.epochs=12", "train.patience=4")
SETTINGS: dict[str, tuple[str, ...]] = {
    "popularity": (),
    "item_knn": ("neighbours=5",),
    "lr": QUICK,
    "mf": (*QUICK, "embedding_dim=8", "embedding_std=0.1"),
    "dcn_v2": (*QUICK, "embedding_dim=8", "hidden=[16]", "embedding_std=0.1"),
}


@pytest.fixture(scope="session")
def camps(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the two camps."""
    folder = tmp_path_factory.mktemp("camps")
    return weft.prepare(schema(), folder / "store", interactions=interactions(), items=songs())


@pytest.fixture(scope="session")
def camp_runs(camps: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SavedRun]:
    """A finished run of each model, by its name."""
    folder: Path = tmp_path_factory.mktemp("runs")
    return {
        model: weft.train(camps, model, out=folder / model, sets=sets, seed=1, precision="fp32")
        for model, sets in SETTINGS.items()
    }
