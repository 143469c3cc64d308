"""The Last.fm loader: plays, tags counted by users, three protocols and what each holds out."""

from pathlib import Path

import polars as pl
import pytest
from catalog_for_tests import check, read, real, real_data

import weft
from weft.data import catalog
from weft.errors import DataError
from weft.schema import MultiHot

USERS, ARTISTS = 6, 20


def write(folder: Path) -> Path:
    """Every user played every artist; artist 1 is tagged pop by two users and rock by one, artist 99 is unknown."""
    folder.mkdir(parents=True)
    plays = [f"{u}\t{a}\t{100 * u + a}" for u in range(2, 2 + USERS) for a in range(1, 1 + ARTISTS)]
    names = [f'{a}\tArtist "{a}"\thttp://a\thttp://p' for a in range(1, 1 + ARTISTS)]
    tagged = ["2\t1\t7\t1\t4\t2009", "2\t1\t8\t1\t4\t2009", "3\t1\t7\t1\t4\t2009", "3\t99\t7\t1\t4\t2009"]
    tables = {
        "user_artists.dat": ["userID\tartistID\tweight", *plays],
        "artists.dat": ["id\tname\turl\tpictureURL", *names],
        "tags.dat": ["tagID\ttagValue", "7\tpop", "8\trock"],
        "user_taggedartists.dat": ["userID\tartistID\ttagID\tday\tmonth\tyear", *tagged],
        "user_friends.dat": ["userID\tfriendID", "2\t3", "3\t2"],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_top_n_draws_from_each_user(tmp_path: Path) -> None:
    out = catalog.get("lastfm", tmp_path / "out", source=write(tmp_path / "lastfm-2k"))
    found = check(out)
    rows = read(out)
    assert rows.columns == ["user_id", "artist_id", "listened", "split"]
    assert rows["listened"].unique().to_list() == [1]
    for _, mine in rows.group_by("user_id"):
        assert dict(mine["split"].value_counts().rows()) == {"train": 14, "valid": 2, "test": 4}
    assert (found.protocol.kind, found.protocol.k) == ("full", (20,))
    assert "no published number can be compared" in (out / "README.txt").read_text()


def test_tags_are_weighted_by_their_users_and_friends_are_pairs(tmp_path: Path) -> None:
    out = catalog.get("lastfm", tmp_path / "out", source=write(tmp_path / "lastfm-2k"))
    items = read(out, "items")
    assert items.height == ARTISTS
    assert items.row(0) == (1, 'Artist "1"', ["pop", "rock"], [2, 1])
    assert items["tags"].null_count() == ARTISTS - 1
    assert read(out, "friends").rows() == [(2, 3), (3, 2)]
    tags = check(out).feature("tags")
    assert isinstance(tags, MultiHot)
    assert tags.weights == "tags.weight"


def test_plays_are_counts_on_the_same_split(tmp_path: Path) -> None:
    source = write(tmp_path / "lastfm-2k")
    out = catalog.get("lastfm", tmp_path / "plays", protocol="plays", source=source)
    found = check(out)
    rows, other = read(out), read(catalog.get("lastfm", tmp_path / "top", source=source))
    assert rows["plays"].to_list()[:2] == [201, 202]
    assert rows["split"].equals(other["split"])
    assert (found.roles.label[0].task, found.protocol.kind) == ("count", "pointwise")


def test_new_artists_are_in_one_split_only(tmp_path: Path) -> None:
    source = write(tmp_path / "lastfm-2k")
    splits = []
    for seed in (0, 1):
        options = {"seed": seed}
        out = catalog.get("lastfm", tmp_path / f"{seed}", protocol="new-artists", source=source, options=options)
        check(out)
        of_artist = read(out).group_by("artist_id").agg(pl.col("split").unique()).sort("artist_id")
        assert of_artist["split"].list.len().unique().to_list() == [1]
        splits.append(of_artist["split"].list.first())
        assert dict(splits[-1].value_counts().rows()) == {"train": 14, "valid": 2, "test": 4}
    assert not splits[0].equals(splits[1])


def test_plays_below_one_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "lastfm-2k")
    with (source / "user_artists.dat").open("a") as file:
        file.write("2\t30\t0\n")
    with pytest.raises(DataError, match=r"user_artists\.dat' must hold plays of 1 or more"):
        catalog.get("lastfm", tmp_path / "out", source=source)


@real_data
@pytest.mark.parametrize("protocol", ["top-n", "plays", "new-artists"])
def test_real_lastfm_has_the_published_sizes_and_becomes_a_store(protocol: str, tmp_path: Path) -> None:
    out = catalog.get("lastfm", tmp_path / "out", protocol=protocol, source=real("hetrec2011-lastfm-2k"))
    check(out)
    rows = read(out)
    assert rows.height == 92_834
    assert (rows["user_id"].n_unique(), rows["artist_id"].n_unique()) == (1_892, 17_632)
    assert read(out, "items").height == 17_632
    assert read(out, "items")["tags"].null_count() == 17_632 - 12_133
    assert read(out, "friends").height == 25_434
    share = rows["split"].value_counts(normalize=True, sort=True).rows()
    assert [name for name, _ in share] == ["train", "test", "valid"]
    store = weft.prepare(out / "schema.toml", tmp_path / "store")
    assert len(store.items) == 17_632 + 2, "new artists are in the catalogue"
    assert store.friends is not None
    strangers = 10 if protocol == "new-artists" else 0  # pairs with a user who has no artist left to train on
    assert store.friends.shape == (2, 12_717 - strangers)
    if protocol == "new-artists":
        assert (store.catalogue.counts[2:] == 0).sum() == 3_526 + 1_411
