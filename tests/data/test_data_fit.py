import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tables_for_tests import schema, tables

from weft.data import fit as fitting
from weft.data._tables import Tables
from weft.data.fit import DenseStatistics, ValueCounts, fit, train_frames
from weft.data.read import open_table
from weft.data.split import TRAIN, assign
from weft.schema import Categorical, Count, Dense, Label, MultiHot, Roles, Scaling, Schema, Sequence
from weft.transforms.bucket import quantile_edges
from weft.transforms.scale import Scaler


def world() -> Tables:
    frames = tables()
    return Tables(schema(), *(open_table(frames[name], name) for name in ("interactions", "users", "items")))


def test_only_train_rows_are_fitted() -> None:
    data = world()
    split = assign(data)
    fitted = fit(data, split)
    train = pl.concat(train_frames(data, split))
    assert len(train) == (split == TRAIN).sum() < len(split)
    counted = train["artist"].value_counts().sort(["count", "artist"], descending=[True, False])
    assert fitted.vocabularies["artist"].values.tolist() == counted["artist"].to_list()
    assert fitted.vocabularies["artist"].counts.tolist() == counted["count"].to_list()
    genres = train["genres"].explode(empty_as_null=False).value_counts()
    assert sorted(fitted.vocabularies["genres"].counts.tolist()) == sorted(genres["count"].to_list())
    assert fitted.scalers["age"] == Scaler.fit("standardize", train["age"].to_numpy())
    assert fitted.scalers["tempo"] == Scaler.fit("log_standardize", train["tempo"].to_numpy())
    assert fitted.edges["age"].tolist() == quantile_edges(train["age"].fill_null(np.nan).to_numpy(), 4).tolist()


def test_ids_hold_the_tables_and_history_holds_every_row() -> None:
    data = world()
    fitted = fit(data, assign(data))
    assert fitted.user_ids is not None
    assert fitted.item_ids is not None
    assert sorted(fitted.user_ids.values.tolist()) == list(range(20))
    assert fitted.item_ids.values.tolist()[-1] == "t14"
    assert fitted.item_ids.counts[-1] == 0
    assert 19 not in fitted.vocabularies["user"].values.tolist()
    assert len(fitted.history["plays"]) == len(data)


def test_crosses_and_counters_are_fitted_on_what_they_yield() -> None:
    data = world()
    split = assign(data)
    fitted = fit(data, split)
    train = pl.concat(train_frames(data, split))
    pairs = train.select("country", "artist").drop_nulls().unique()
    assert len(fitted.crosses["country_x_artist"]) == len(pairs)
    assert fitted.crosses["country_x_artist"].counts.sum() == len(train["country"].drop_nulls())
    plays = fitted.count_values("plays", data.raw(train))
    assert fitted.scalers["plays"] == Scaler.fit("log_standardize", plays)


def test_chunks_do_not_change_what_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(world(), assign(world()))
    monkeypatch.setattr("weft.data._tables._chunk_rows", lambda columns: 37)
    cut = fit(world(), assign(world()))
    assert cut.vocabularies["track"].values.tolist() == whole.vocabularies["track"].values.tolist()
    assert cut.crosses["age_x_artist"].keys.tolist() == whole.crosses["age_x_artist"].keys.tolist()
    for name in ("age", "plays", "tempo"):
        assert cut.scalers[name].center == pytest.approx(whole.scalers[name].center)
        assert cut.scalers[name].scale == pytest.approx(whole.scalers[name].scale)
    for mine, other in zip(cut.history["liking"].events, whole.history["liking"].events, strict=True):
        assert mine is not None
        assert mine.tolist() == np.asarray(other).tolist()


def test_shared_values_are_counted_together_also_when_types_differ() -> None:
    plain = Schema(
        features=(
            Categorical(name="a", side="context", min_count=2),
            Categorical(name="b", side="context", shares="a"),
            MultiHot(name="c", side="context", shares="a"),
            Categorical(name="hashed", side="context", hash_buckets=5),
        ),
        roles=Roles(label=(Label(name="y"),)),
    )
    frame = pl.DataFrame(
        {"a": [1, 2, 3], "b": ["2", "5", None], "c": [[5], [5, 1], []], "hashed": ["x"] * 3, "y": [0, 1, 0]}
    )
    fitted = fit(Tables(plain, open_table(frame)), np.zeros(3, np.int8))
    assert fitted.vocabularies["a"].values.tolist() == ["5", "1", "2"]
    assert fitted.vocabularies["a"].counts.tolist() == [3, 2, 2]
    assert set(fitted.vocabularies) == {"a"}


@pytest.mark.parametrize("transform", ["standardize", "log_standardize", "quantile", "minmax", "none"])
def test_statistics_over_chunks_are_those_of_the_column(transform: Scaling) -> None:
    values = np.random.default_rng(0).normal(0, 50, 1000)
    values[::7] = np.nan
    statistics = DenseStatistics(transform)
    for part in np.array_split(values, 9):
        statistics.add(part)
    if statistics.needs_logs():
        statistics.restart_logs()
        for part in np.array_split(values, 9):
            statistics.add_again(part)
    got, expected = statistics.scaler(), Scaler.fit(transform, values)
    assert got.kind == expected.kind
    for name in ("fill", "shift", "center", "scale"):
        assert getattr(got, name) == pytest.approx(getattr(expected, name))
    assert got.quantiles == pytest.approx(expected.quantiles)


def test_many_values_are_thinned_evenly_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "SAMPLE", 100)
    samples = []
    for parts in (1, 7, 64):
        statistics = DenseStatistics("quantile")
        for part in np.array_split(np.arange(1000.0), parts):
            statistics.add(part)
        samples.append(statistics.sample().tolist())
    assert samples[0] == samples[1] == samples[2] == [float(i) for i in range(0, 1000, 16)]


def test_counts_are_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "COMPACT", 3)
    counts = ValueCounts()
    for _ in range(5):
        counts.add(pl.DataFrame({"value": ["b", "a"], "count": [1, 2]}))
    values, numbers = counts.result()
    assert values.tolist() == ["a", "b"]
    assert numbers.tolist() == [10, 5]


def test_a_flat_column_with_missing_values_is_kept_and_further_columns_are_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = Schema(
        features=(Categorical(name="a", side="context"), Dense(name="b", side="context")),
        roles=Roles(label=(Label(name="y"),)),
    )
    frame = pl.DataFrame({"a": ["x", "y", "x"], "b": [2.0, None, 2.0], "y": [0, 1, 0], "c": 1})
    with caplog.at_level(logging.INFO, "weft"):
        fitted = fit(Tables(plain, open_table(frame, "plays")), np.zeros(3, np.int8))
    assert fitted.scalers["b"].apply(np.array([2.0, np.nan])).tolist() == [0, 0]
    assert "does not name are ignored: c" in caplog.text


def test_what_the_other_rows_hold_changes_nothing_fitted(tmp_path: Path) -> None:
    frames = tables()
    plays = frames["interactions"]
    kept = tuple(f for f in schema().features if not isinstance(f, Count | Sequence))  # history reads earlier rows
    other = plays.with_columns(
        pl.when(pl.int_range(pl.len()) >= 317).then(value).otherwise(name).alias(name)
        for name, value in (("played", 1 - pl.col("played")), ("hour", pl.lit(9999)), ("track", pl.lit("elsewhere")))
    )
    for name, rows in (("one", plays), ("two", other)):
        data = Tables(
            schema(features=kept),
            open_table(rows, "interactions"),
            open_table(frames["users"], "users"),
            open_table(frames["items"], "items"),
        )
        fit(data, assign(data)).save(tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
