from io import StringIO
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score
from tables_for_tests import schema, tables

from weft.data.describe import Description, FieldFacts, auc, describe, stability
from weft.data.store import prepare
from weft.schema import Categorical, Dense, Feature, Label, MultiHot, RandomSplit, Roles, Schema, TimeSplit


def described(tmp_path: Path, frame: pl.DataFrame, *features: Feature, time: str | None = None) -> Description:
    plain = Schema(
        features=features,
        roles=Roles(label=(Label(name="y"),), time=time),
        split=RandomSplit(valid=0.2, test=0.2) if time is None else TimeSplit(valid=0.2, test=0.2),
    )
    return describe(prepare(plain, tmp_path / "s", interactions=frame))


def field(description: Description, name: str) -> FieldFacts:
    return next(f for f in description.fields if f.name == name)


def test_facts_of_a_world_with_every_kind(tmp_path: Path) -> None:
    frames = tables()
    store = prepare(schema(), tmp_path / "s", **frames)
    description = describe(store)
    assert [split.rows for split in description.splits] == [317, 43, 40]
    assert description.splits[0].labels["played"] == pytest.approx(frames["interactions"]["played"][:317].mean())
    assert (description.users, description.items) == (20, 15)
    pairs = frames["interactions"].select("user", "track").n_unique()
    assert description.density == pytest.approx(pairs / 300)
    fields = store.fields
    names = [*(f.name for f in fields.ids), *(f.name for f in fields.dense), *(f.name for f in fields.ragged)]
    assert [f.name for f in description.fields] == names
    assert sum(sum(period.rows.values()) for period in description.periods) == 400
    train = frames["interactions"][:317].join(frames["users"], on="user")
    assert field(description, "age").missing == pytest.approx(train["age"].null_count() / 317)
    assert field(description, "country").missing == pytest.approx(train["country"].null_count() / 317)
    top = train["country"].value_counts()["count"].max()
    assert field(description, "country").top == pytest.approx(float(top) / 317)


def test_it_prints_and_becomes_json(tmp_path: Path) -> None:
    description = describe(prepare(schema(), tmp_path / "s", **tables()))
    console = Console(width=160, record=True, file=StringIO())
    description.render(console)
    text = console.export_text()
    for word in ("20 users, 15 items", "country_x_artist", "train label", "2023-11-14 22:13"):
        assert word in text
    assert msgspec.json.decode(msgspec.json.encode(description), type=Description) == description


def test_a_leak_and_a_drift_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 2000)
    frame = pl.DataFrame(
        {
            "y": label,
            "t": np.arange(2000),
            "answer": label * 5.0 + rng.normal(0, 0.5, 2000),
            "noise": rng.integers(0, 9, 2000),
            "epoch": np.arange(2000) // 500,
            "flat": "same",
            "tags": [["yes"] if y and i % 2 else ["no"] for i, y in enumerate(label)],
        },
    )
    features: tuple[Feature, ...] = (
        Dense(name="answer", side="context"),
        Categorical(name="noise", side="context"),
        Categorical(name="epoch", side="context"),
        Categorical(name="flat", side="context", hash_buckets=8),
        MultiHot(name="tags", side="context"),
    )
    description = described(tmp_path, frame, *features, time="t")
    warnings = "\n".join(description.warnings)
    assert "'answer' alone predicts the label with AUC 1.000" in warnings
    assert "'epoch' drifts" in warnings
    assert "'flat' has one value in all train rows" in warnings
    assert "'noise'" not in warnings
    assert "'tags'" not in warnings
    noise = field(description, "noise")
    assert noise.auc == pytest.approx(0.5, abs=0.08)
    assert noise.drift is not None
    assert noise.drift < 0.05
    assert field(description, "epoch").unknown == 1.0
    assert field(description, "tags").auc == pytest.approx(0.75, abs=0.05)
    assert [period.start for period in description.periods] == list(range(0, 2000, 200))
    assert description.periods[0].rows == {"train": 200, "valid": 0, "test": 0}


def test_a_table_without_time_or_users(tmp_path: Path) -> None:
    frame = pl.DataFrame({"y": [0, 1] * 50, "a": range(100)})
    description = described(tmp_path, frame, Dense(name="a", side="context"))
    assert (description.users, description.items, description.density) == (None, None, None)
    assert [period.rows["train"] for period in description.periods] == [6] * 10
    description.render(Console(quiet=True))


def test_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 500) / 7, rng.random(500) < 0.3
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert auc(scores, np.ones(500, bool)) is None


def test_the_stability_index_is_nought_by_chance_and_grows_with_drift() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(50):
        train, test = (np.bincount(rng.integers(2, 12, n), minlength=12) for n in (4000, 1000))
        value = stability(train, test)
        assert value is not None
        found.append(value)
    assert np.mean(found) < 0.005
    train, test = np.array([0, 0, 8000, 2000]), np.array([0, 0, 4000, 6000])
    by_hand = (0.8 - 0.4) * np.log(0.8 / 0.4) + (0.2 - 0.6) * np.log(0.2 / 0.6)
    assert stability(train, test) == pytest.approx(by_hand, rel=1e-3)
    assert stability(train, np.zeros(4, np.int64)) is None
