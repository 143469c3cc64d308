"""Reading run folders back."""

from pathlib import Path

import pytest

from weft import artifacts
from weft.errors import ArtifactError, StaleModel
from weft.runs import RunConfig, SavedRun, read_config

CONFIG = RunConfig(model="lr", store="s", store_id="0", options={"widths": {"a": 3}}, recipe={"clip": float("inf")})


def test_settings_survive_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(CONFIG.toml())
    assert read_config(tmp_path) == CONFIG


def test_what_is_none_is_left_out() -> None:
    config = RunConfig(model="lr", store="s", store_id="0", recipe={"monitor": None})
    assert b"monitor" not in config.toml()
    assert b"preset" not in config.toml()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a folder"):
        SavedRun.open(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="is no run"):
        SavedRun.open(tmp_path)


def test_an_unfinished_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(CONFIG.toml())
    with pytest.raises(ArtifactError, match=r"not finished; go on with .*--resume"):
        SavedRun.open(tmp_path)


@pytest.mark.parametrize("text", ["model = 3", "model = ", "unknown = 1"])
def test_a_damaged_run_toml_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    artifacts.write_manifest(tmp_path, "run")
    with pytest.raises(ArtifactError, match=r"run\.toml' cannot be read"):
        SavedRun.open(tmp_path)


def test_another_store_than_that_of_the_run_is_said(tmp_path: Path) -> None:
    run = SavedRun(path=tmp_path / "run", id="1", config=CONFIG)
    run.check_store("0", tmp_path)
    with pytest.raises(StaleModel, match=r"run' was trained on another store than '.*other' .*; give the right one"):
        run.check_store("1", tmp_path / "other")
