"""Scoring a table: the same numbers as scoring encoded rows, whatever the table brings along."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import weft
from camps_for_tests import interactions, schema, songs
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, DataError, UnknownColumn
from weft.runs import SavedRun
from weft.schema import Label, Roles
from weft.scoring import Scorer


def expected(run: SavedRun, store: Store) -> list[float]:
    """Probabilities of the test rows from the store's encoded rows."""
    logit = Scorer(run.load_model(), run.transforms, store.items).rows(store.split("test"))
    return (1 / (1 + np.exp(-logit.astype(np.float64)))).tolist()


def asked() -> pl.DataFrame:
    return interactions().filter(pl.col("split") == "test")


@pytest.mark.parametrize("model", ["popularity", "lr", "mf", "dcn_v2"])
def test_scores_equal_those_of_the_encoded_rows(
    camps: Store, camp_runs: dict[str, SavedRun], tmp_path: Path, model: str
) -> None:
    table = asked().join(songs(), on="song", how="left", maintain_order="left")
    rows = weft.predict(camp_runs[model].path, table, tmp_path / "scored.parquet")
    scored = pl.read_parquet(tmp_path / "scored.parquet")
    assert rows == scored.height == table.height
    assert scored.columns == [*table.columns, "score"]
    assert scored.drop("score").equals(table)
    np.testing.assert_allclose(scored["score"], expected(camp_runs[model], camps), rtol=1e-5)


def test_columns_of_items_are_looked_up_and_labels_are_not_needed(
    camps: Store, camp_runs: dict[str, SavedRun], tmp_path: Path
) -> None:
    asked().select("user", "song", "time").write_csv(tmp_path / "asked.csv")
    weft.predict(camp_runs["dcn_v2"].path, tmp_path / "asked.csv", tmp_path / "scored.csv")
    scored = pl.read_csv(tmp_path / "scored.csv")
    known = scored["song"] != "song-new"  # the catalogue has no year of it, the joined table of the other test has none
    np.testing.assert_allclose(
        scored["score"].filter(known), np.array(expected(camp_runs["dcn_v2"], camps))[known.to_numpy()], rtol=1e-5
    )


def test_a_row_without_time_is_asked_now(camp_runs: dict[str, SavedRun], tmp_path: Path) -> None:
    table = pl.DataFrame({"user": [1000, 1001], "song": ["song-0", "song-1"]})
    weft.predict(camp_runs["dcn_v2"].path, table, tmp_path / "now.parquet")
    late = table.with_columns(time=pl.lit(2_000_000_000))
    weft.predict(camp_runs["dcn_v2"].path, late, tmp_path / "late.parquet")
    now, later = (pl.read_parquet(tmp_path / name)["score"] for name in ("now.parquet", "late.parquet"))
    assert now.to_list() == later.to_list()


def test_bad_tables_are_refused_and_nothing_is_written(camp_runs: dict[str, SavedRun], tmp_path: Path) -> None:
    run, out = camp_runs["lr"].path, tmp_path / "out.parquet"
    with pytest.raises(UnknownColumn, match="song"):
        weft.predict(run, pl.DataFrame({"user": [1000]}), out)
    with pytest.raises(DataError, match="missing"):
        weft.predict(run, pl.DataFrame({"user": [1000, None], "song": ["song-0", "song-1"]}), out)
    with pytest.raises(ConfigError, match=r"must end in .parquet or .csv, got .*out.txt"):
        weft.predict(run, asked(), tmp_path / "out.txt")
    with pytest.raises(ArtifactError, match="does not exist"):
        weft.predict(run, asked(), tmp_path / "no" / "out.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "classes", "columns"), [("count", None, ["score"]), ("multiclass", 2, ["score.0", "score.1"])]
)
def test_answers_by_task(tmp_path: Path, task: str, classes: int | None, columns: list[str]) -> None:
    label = Label(name="liked", task=task, classes=classes)  # type: ignore[arg-type]
    roles = Roles(user="user", item="song", time="time", title="title", label=(label,))
    store = weft.prepare(schema(roles=roles), tmp_path / "store", interactions=interactions(), items=songs())
    run = weft.train(store, "lr", out=tmp_path / "run", sets=["train.epochs=1"])
    weft.predict(run.path, asked(), tmp_path / "scored.parquet")
    scored = pl.read_parquet(tmp_path / "scored.parquet").select(pl.col("^score.*$"))
    assert scored.columns == columns
    assert scored.to_numpy().min() > 0
    if classes:
        np.testing.assert_allclose(scored.to_numpy().sum(axis=1), 1, rtol=1e-5)
