import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tables_for_tests import FEATURES, ROLES, schema, tables

from weft import schema as schemas
from weft.data.store import Store, prepare
from weft.errors import ArtifactError, ConfigError, SchemaError
from weft.schema import (
    Categorical,
    Dense,
    Label,
    LastSplit,
    MultiHot,
    Protocol,
    RandomSplit,
    Roles,
    Schema,
    Sequence,
    Tables,
    TimeSplit,
)
from weft.transforms.columns import from_values


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(schema(), tmp_path_factory.mktemp("world") / "store", **tables())


def joined() -> pl.DataFrame:
    frames = tables()
    with_users = frames["interactions"].join(frames["users"], on="user", how="left", maintain_order="left")
    both: pl.DataFrame = with_users.join(frames["items"], on="track", how="left", maintain_order="left")
    return both


def test_splits_hold_the_rows_in_order(store: Store) -> None:
    assert store.rows == {"train": 317, "valid": 43, "test": 40}
    times = np.concatenate([store.split(name).time for name in store.rows])
    assert times.tolist() == tables()["interactions"]["time"].to_list()
    labels = np.concatenate([store.split(name).label for name in store.rows])
    assert labels[:, 0].tolist() == tables()["interactions"]["played"].to_list()
    with pytest.raises(ConfigError, match="no split 'tset'; did you mean test"):
        store.split("tset")


def test_rows_equal_those_encoded_one_by_one(store: Store) -> None:
    columns = [*joined().columns]
    test = store.split("test")
    rows = joined().tail(40).select(columns).to_dicts()
    for place in (0, 17, 39):
        alone = store.transforms.encode(from_values(store.schema, [rows[place]]))
        there = test.take(np.array([place]))
        for name, column in alone.columns().items():
            assert column.tobytes() == np.asarray(there.columns()[name]).tobytes(), name
        for name, ragged in alone.ragged.items():
            assert ragged.values.tolist() == there.ragged[name].values.tolist()


def test_catalogues_lie_by_id(store: Store) -> None:
    frames = tables()
    ids = store.transforms.item_ids
    assert ids is not None
    assert len(store.items) == ids.rows == store.fields.items == 17
    assert len(store.users) == store.fields.users == 22
    titles = store.catalogue.titles
    assert titles is not None
    artist = store.transforms.vocabularies["artist"]
    column = [f.name for f in store.fields.of("item").ids].index("artist")
    for row in frames["items"].iter_rows(named=True):
        id = ids.id_of(row["track"])
        assert store.items.ids[id, column] == artist.id_of(row["artist"])
        assert titles[id] == row["title"]
    assert store.items.ids[:2].tolist() == [[0, 0], [0, 0]]
    assert titles[:2].tolist() == ["", ""]


def test_seen_and_counts(store: Store) -> None:
    played = tables()["interactions"]
    users, items = store.transforms.user_ids, store.transforms.item_ids
    assert users is not None
    assert items is not None
    seen = store.catalogue.seen
    mine = played.filter(pl.col("user") == 5).sort("time", maintain_order=True)
    events = seen.of(users.id_of(5))
    assert [items.value_of(i) for i in seen.item[events].tolist()] == mine["track"].to_list()
    assert seen.time[events].tolist() == mine["time"].to_list()
    assert seen.relevant[events].tolist() == [bool(label) for label in mine["played"]]
    assert len(seen.item) == len(played)
    assert np.bincount(seen.split).tolist() == list(store.rows.values())
    train = played.head(317)
    for track in ("t0", "t7", "t14"):
        rows = train.filter(pl.col("track") == track)
        assert store.catalogue.counts[items.id_of(track)] == len(rows)
        assert store.catalogue.positives[items.id_of(track)] == rows["played"].sum()


def test_without_tables_the_catalogue_takes_the_newest_train_row(tmp_path: Path) -> None:
    plain = Schema(
        features=(
            Categorical(name="price", side="item"),
            MultiHot(name="tags", side="item"),
            Dense(name="age", side="user"),
            Sequence(name="before", shares="tags"),
        ),
        roles=Roles(label=(Label(name="y"),), user="u", item="i", time="t", title="name"),
        split=LastSplit(valid=0, test=1),
    )
    frame = pl.DataFrame(
        {
            "u": ["a", "a", "a", "b"],
            "i": [1, 1, 2, 1],
            "t": [2, 1, 3, 0],
            "price": [20, 10, 30, 5],
            "tags": [["x"], ["y"], ["z"], []],
            "age": [3.0, 4.0, 5.0, 6.0],
            "before": [["x"], [], ["y"], ["x"]],
            "name": ["new", "old", "other", "first"],
            "y": [0, 1, 0, 1],
        }
    )
    made = prepare(plain, tmp_path / "s", interactions=frame)
    assert made.transforms.item_ids is not None
    assert made.transforms.item_ids.values.tolist() == [1]
    assert made.catalogue.titles is not None
    assert made.catalogue.titles.tolist() == ["", "", "new"]
    assert made.items.ids[2, 0] == made.transforms.vocabularies["price"].id_of(20)
    assert made.items.ragged["tags"].values.tolist() == [made.transforms.vocabularies["tags"].id_of("x")]
    assert made.split("test").item is not None
    assert made.split("test").item.tolist() == [1]  # type: ignore[union-attr]


def test_a_table_without_users_items_or_time(tmp_path: Path) -> None:
    plain = Schema(
        features=(Dense(name="x", side="context"), Categorical(name="c", side="item")),
        roles=Roles(label=(Label(name="y"),)),
        split=RandomSplit(valid=0.2, test=0.2),
    )
    frame = pl.DataFrame({"x": range(10), "c": ["a", "b"] * 5, "y": [0, 1] * 5})
    made = prepare(plain, tmp_path / "s", interactions=frame)
    assert made.rows == {"train": 6, "valid": 2, "test": 2}
    assert len(made.users) == len(made.items) == 2
    assert made.split("train").user is None
    assert len(made.split("train").batch()) == 6


def test_tables_of_a_schema_file_lie_beside_it(tmp_path: Path) -> None:
    frames = tables()
    (tmp_path / "data").mkdir()
    frames["interactions"][:200].write_csv(tmp_path / "data" / "a.csv")
    frames["interactions"][200:].write_csv(tmp_path / "data" / "b.csv")
    frames["users"].write_csv(tmp_path / "data" / "users.tsv", separator="\t")
    frames["items"].write_parquet(tmp_path / "data" / "items.parquet")
    named = schema(tables=Tables(interactions=("a.csv", "b.csv"), users="users.tsv", items="items.parquet"))
    (tmp_path / "data" / "schema.toml").write_text(schemas.dumps(named))
    made = prepare(tmp_path / "data" / "schema.toml", tmp_path / "s")
    assert made.rows == {"train": 317, "valid": 43, "test": 40}
    assert made.schema == named
    with pytest.raises(SchemaError, match="no table of interactions"):
        prepare(schema(), tmp_path / "t")


def test_candidates(tmp_path: Path, store: Store) -> None:
    lists = pl.DataFrame({"user": [3, 99, 4], "candidates": [["t1", None, "nowhere"], ["t1"], ["t2"]]})
    protocol = Protocol(kind="candidates", candidates="lists.parquet")
    made = prepare(schema(protocol=protocol), tmp_path / "s", **tables(), candidates=lists)
    users, items = made.candidates()
    assert made.transforms.user_ids is not None
    assert made.transforms.item_ids is not None
    one, two = (made.transforms.item_ids.id_of(track) for track in ("t1", "t2"))
    assert users.tolist() == [made.transforms.user_ids.id_of(3), made.transforms.user_ids.id_of(4)]
    assert items.tolist() == [[one, -1, 1], [two, -1, -1]]
    with pytest.raises(ArtifactError, match="no candidate lists"):
        store.candidates()


def test_a_store_in_the_way_is_refused_or_replaced(tmp_path: Path) -> None:
    first = prepare(schema(), tmp_path / "s", **tables())
    with pytest.raises(ArtifactError, match="exists already"):
        prepare(schema(), tmp_path / "s", **tables())
    again = prepare(schema(RandomSplit()), tmp_path / "s", **tables(), overwrite=True)
    assert again.id != first.id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ArtifactError, match="no manifest"):
        prepare(schema(), tmp_path / "other", **tables(), overwrite=True)
    assert (tmp_path / "other" / "letter.txt").exists()


def test_damage_is_found(tmp_path: Path) -> None:
    prepare(schema(), tmp_path / "s", **tables())
    with (tmp_path / "s" / "train" / "ids.npy").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x07\x00\x00\x00")
    Store.open(tmp_path / "s")
    with pytest.raises(ArtifactError, match=r"train/ids.npy' differs from its hash"):
        Store.open(tmp_path / "s", verify=True)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from tables_for_tests import schema, tables
from weft.data import _tables
from weft.data.store import prepare
_tables.MOST_ROWS = _tables.LEAST_ROWS = 1000
print(prepare(schema(), sys.argv[2], **tables(rows=6000, users=300, items=200)).id)
"""


def test_any_number_of_threads_gives_the_same_bytes(tmp_path: Path) -> None:
    ids = set()
    for run, threads in enumerate(("1", "2", "2")):
        environment = {**os.environ, "POLARS_MAX_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / str(run))]
        ids.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(ids) == 1
    manifests = [json.loads((tmp_path / str(run) / "manifest.json").read_bytes()) for run in range(3)]
    assert manifests[0]["files"] == manifests[1]["files"]


def test_every_kind_of_feature_was_tried() -> None:
    assert {type(f).__name__ for f in FEATURES} == {"Categorical", "Dense", "MultiHot", "Cross", "Count", "Sequence"}
    assert ROLES.title == "title"
    assert isinstance(schema().split, TimeSplit)
