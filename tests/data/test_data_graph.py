"""The graph of a store: what enters it, and above all what does not."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import camps_for_tests as camps
from weft import schema as schemas
from weft.batch import FIRST_ID
from weft.data.graph import train_graph
from weft.data.store import Store, prepare
from weft.errors import DataError, SchemaError, Unsupported
from weft.schema import Protocol, Roles, Schema, Tables

FRIENDS = pl.DataFrame(
    {"user": [1_000, 1_002, 1_000, 1_003, 1_004, 7], "friend": [1_002, 1_000, 1_002, 1_003, 1_001, 1_000]}
)


def made(path: Path, schema: Schema | None = None, **tables: object) -> Store:
    given = {"interactions": camps.interactions(), "items": camps.songs(), **tables}
    return prepare(schema or camps.schema(), path / "store", **given)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("camps"), friends=FRIENDS)


def liked(store: Store, split: str) -> set[tuple[int, int]]:
    """Pairs of ids of the liked rows of a split, from the table itself."""
    rows = camps.interactions().filter((pl.col("split") == split) & (pl.col("liked") == 1))
    users = store.transforms.user_ids.encode_values(rows["user"].to_numpy())
    songs = store.transforms.item_ids.encode_values(rows["song"].to_numpy())
    pairs = zip(users.tolist(), songs.tolist(), strict=True)
    return {(u, i) for u, i in pairs if min(u, i) >= FIRST_ID}


def test_no_edge_of_validation_or_test_can_enter(store: Store) -> None:
    """Trap 34: with the test edges in the graph, recall is a look at the answers."""
    edges = {tuple(pair) for pair in train_graph(store).edges.T.tolist()}
    assert edges == liked(store, "train"), "liked train rows and nothing else; what was not liked is no edge"
    later = (liked(store, "valid") | liked(store, "test")) - liked(store, "train")
    assert len(later) > 50
    assert not edges & later


def test_the_rows_of_the_nodes_are_the_catalogues(store: Store) -> None:
    graph = train_graph(store)
    assert (graph.users, graph.items) == (len(store.users), len(store.items))
    assert graph.user_rows.ids.tolist() == store.users.ids.tolist()
    assert graph.item_rows.dense.tolist() == store.items.dense.tolist()


def test_friends_are_pairs_of_users_each_once(store: Store) -> None:
    ids = store.transforms.user_ids.encode_values(np.array([1_000, 1_002, 1_001, 1_004]))
    wanted = sorted([sorted(ids[:2].tolist()), sorted(ids[2:].tolist())])
    assert store.friends.T.tolist() == wanted
    assert train_graph(store).friends.T.tolist() == wanted


def test_friends_without_a_train_row_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "weft"):
        made(tmp_path, friends=FRIENDS)
    assert "1 pairs with a user without a train row are left out" in caplog.text


def test_a_schema_file_names_the_table_of_friends(tmp_path: Path) -> None:
    camps.interactions().write_parquet(tmp_path / "rows.parquet")
    camps.songs().write_parquet(tmp_path / "songs.parquet")
    FRIENDS.write_parquet(tmp_path / "known.parquet")
    names = Tables(interactions="rows.parquet", items="songs.parquet", friends="known.parquet")
    (tmp_path / "schema.toml").write_text(schemas.dumps(camps.schema(tables=names)))
    assert prepare(tmp_path / "schema.toml", tmp_path / "store").friends.shape == (2, 2)


def test_a_store_without_friends_has_none(tmp_path: Path) -> None:
    plain = made(tmp_path)
    assert plain.friends is None
    assert train_graph(plain).friends is None


def test_friends_need_the_column_of_the_user_role(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="friend"):
        made(tmp_path, friends=FRIENDS.rename({"friend": "freind"}))
    with pytest.raises(SchemaError, match="does not say who users are"):
        made(tmp_path, camps.schema(roles=Roles(item="song"), features=camps.schema().features[1:3]), friends=FRIENDS)


def test_a_graph_without_edges_is_refused(tmp_path: Path) -> None:
    high = camps.schema(protocol=Protocol(relevant=2.0))
    with pytest.raises(DataError, match=r"no train row of the store .* has a label of 2 or more"):
        train_graph(made(tmp_path, high))


def test_a_graph_needs_both_roles(tmp_path: Path) -> None:
    plain = camps.schema(
        roles=Roles(item="song", label=camps.schema().roles.label), features=camps.schema().features[1:3]
    )
    with pytest.raises(Unsupported, match="set `user` and `item` in \\[roles\\]"):
        train_graph(made(tmp_path, plain))
