"""The numbers of docs/results.md, one seed each: minutes long, so marked slow."""

import os
from pathlib import Path

import pytest

import weft
from weft.data import catalog

needs_data = pytest.mark.skipif(
    "WEFT_DATA" not in os.environ, reason="real data: set WEFT_DATA to a folder with the publishers' files"
)


def auc_of(tmp_path: Path, name: str, source: str, protocol: str | None, *sets: str) -> float:
    """Test AUC of dcn_v2 with the preset `bars`, seed 0."""
    catalog.get(name, tmp_path / "tables", protocol=protocol, source=Path(os.environ["WEFT_DATA"]) / source)
    store = weft.prepare(tmp_path / "tables" / "schema.toml", tmp_path / "store")
    run = weft.train(store, "dcn_v2", out=tmp_path / "run", preset="bars", sets=sets)
    value = weft.evaluate(run.path).metrics["auc"].value
    assert value is not None
    return value


@pytest.mark.slow
@needs_data
def test_frappe_stands_beside_the_published_mean(tmp_path: Path) -> None:
    """BARS: DCN-V2 .98382 on average over 5 runs; ours may be .001 below."""
    assert auc_of(tmp_path, "frappe", "frappe", None, "num_cross=4") > 0.98382 - 0.001


@pytest.mark.slow
@needs_data
def test_movielens_1m_clicks(tmp_path: Path) -> None:
    """The DCN-V2 paper has .8950 on another split of the same rows."""
    assert auc_of(tmp_path, "movielens-1m", "ml-1m", "ctr") >= 0.900
