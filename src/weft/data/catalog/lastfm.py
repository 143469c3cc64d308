"""Last.fm: how often 1,892 users played their artists, the tags of the artists, and who is a friend of whom.

Source: Cantador, Brusilovsky and Kuflik, HetRec 2011, https://grouplens.org/datasets/hetrec-2011/, the
set hetrec2011-lastfm-2k: 92,834 (user, artist) pairs of 17,632 artists, about 49 a user, each with its number of plays;
there are no times.
No split is published, so each protocol draws its own from the seed; numbers of other papers are of other splits.
Protocols:
    top-n        a fifth of each user's artists is the test split, a tenth of the rest for validation; a pair that is
                 there is the positive, the whole catalogue is ranked with train artists hidden.
    plays        the same rows; the label is the number of plays, a count (Poisson).
    new-artists  a fifth of the artists, drawn at random, has test rows only, a tenth of the others validation rows
                 only; the whole catalogue is ranked, so what must be found was never seen in training.
An artist's tags are those that any user gave it, weighted by how many did; that users of test pairs are among them
cannot be undone, since the file knows no order of playing and tagging.
"""

from typing import Annotated

import numpy as np
import polars as pl
from msgspec import Meta

from weft.data.catalog._draw import drawn
from weft.data.catalog._files import Columns, Dataset, Download, Files, Options, Tables
from weft.errors import DataError
from weft.schema import Categorical, ColumnSplit, Label, MultiHot, Protocol, Roles, Schema
from weft.schema import Tables as TableNames

REPOSITORY = "https://raw.githubusercontent.com/qcymkxyc/RecSys/cb313bf92f80d3cd7c7bde39b12ab4319ccf61a8/data/lastfm-2k"
PLAYS: Columns = {"userID": pl.Int64, "artistID": pl.Int64, "weight": pl.Int64}
ARTISTS: Columns = {"id": pl.Int64, "name": pl.String, "url": pl.String, "pictureURL": pl.String}
TAGS: Columns = {"tagID": pl.Int64, "tagValue": pl.String}
DAYS: Columns = {"day": pl.Int64, "month": pl.Int64, "year": pl.Int64}
TAGGED: Columns = {"userID": pl.Int64, "artistID": pl.Int64, "tagID": pl.Int64, **DAYS}
FRIENDS: Columns = {"userID": pl.Int64, "friendID": pl.Int64}
NAMES = {"userID": "user_id", "artistID": "artist_id", "id": "artist_id", "weight": "plays", "friendID": "friend"}
WEIGHT = "tags.weight"
FEWEST_ROWS = 5  # tags of fewer train rows are unknown


class LastfmOptions(Options, frozen=True, kw_only=True):
    """Options of the data set.

    Attributes:
        test: Share of each user's artists (new-artists: of the artists) in the test split.
        valid: Share of the rest for validation.
        seed: Of the draws.
    """

    test: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2
    valid: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    seed: Annotated[int, Meta(ge=0)] = 0


def _read(files: Files, protocol: str, options: LastfmOptions) -> Tables:
    plays = _table(files, "user_artists.dat", PLAYS)
    if plays.is_empty() or plays["plays"].min() < 1:  # type: ignore[operator]
        raise DataError(
            f"{str(files.path('user_artists.dat'))!r} must hold plays of 1 or more; get the publisher's file again"
        )
    split = _by_artist(plays, options) if protocol == "new-artists" else _by_user(plays, options)
    label = pl.col("plays") if protocol == "plays" else pl.lit(1, dtype=pl.Int8).alias("listened")
    frames = {
        "interactions": plays.with_columns(split=split).select("user_id", "artist_id", label, "split"),
        "items": _artists(files),
        "friends": _table(files, "user_friends.dat", FRIENDS),
    }
    note = f"The split is weft's own, drawn with seed {options.seed}: no published number can be compared with it."
    return Tables(frames, _schema(protocol, options), (note,))


def _table(files: Files, name: str, columns: Columns) -> pl.DataFrame:
    return files.table(name, columns, header=True).rename(NAMES, strict=False)


def _by_user(plays: pl.DataFrame, options: LastfmOptions) -> pl.Series:
    """A share of each user's rows for the test, a share of the others for validation."""
    split = np.full(plays.height, "train", dtype=object)
    test = drawn(plays["user_id"], options.test, options.seed).to_numpy()
    rest = np.flatnonzero(~test)
    valid = drawn(plays["user_id"][rest], options.valid, options.seed + 1).to_numpy()
    split[test], split[rest[valid]] = "test", "valid"
    return pl.Series(split.tolist(), dtype=pl.String)


def _by_artist(plays: pl.DataFrame, options: LastfmOptions) -> pl.Series:
    """All rows of a share of the artists for the test, all rows of a share of the others for validation."""
    artists = plays["artist_id"].unique().sort()
    order = np.random.default_rng(options.seed).permutation(len(artists))
    test = round(options.test * len(artists))
    valid = round(options.valid * (len(artists) - test))
    of_artist = np.full(len(artists), "train", dtype=object)
    of_artist[order[:test]], of_artist[order[test : test + valid]] = "test", "valid"
    return pl.Series(of_artist[artists.search_sorted(plays["artist_id"]).to_numpy()].tolist(), dtype=pl.String)


def _artists(files: Files) -> pl.DataFrame:
    """Name and tags of each artist, the tag that most users gave first."""
    tags = _table(files, "tags.dat", TAGS)
    tagged = _table(files, "user_taggedartists.dat", TAGGED)
    counted = (
        tagged.group_by("artist_id", "tagID", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("users"))
        .join(tags, on="tagID", how="inner", maintain_order="left")
        .sort("artist_id", "users", "tagValue", descending=[False, True, False])
    )
    sets = counted.group_by("artist_id", maintain_order=True).agg(
        pl.col("tagValue").alias("tags"), pl.col("users").alias(WEIGHT)
    )
    artists = _table(files, "artists.dat", ARTISTS).select("artist_id", "name")
    return artists.join(sets, on="artist_id", how="left", maintain_order="left")


def _schema(protocol: str, options: LastfmOptions) -> Schema:
    plays = protocol == "plays"
    who = "artists" if protocol == "new-artists" else "artists of each user"
    drawing = f"{options.test:.0%} of the {who} for the test, drawn with seed {options.seed}"
    return Schema(
        name=f"lastfm {protocol}",
        tables=TableNames(interactions="interactions.parquet", items="items.parquet", friends="friends.parquet"),
        features=(
            Categorical(name="user_id", side="user"),
            Categorical(name="artist_id", side="item"),
            MultiHot(name="tags", side="item", weights=WEIGHT, min_count=FEWEST_ROWS),
        ),
        roles=Roles(
            user="user_id",
            item="artist_id",
            label=(Label(name="plays", task="count") if plays else Label(name="listened"),),
            title="name",
        ),
        split=ColumnSplit(column="split"),
        protocol=Protocol(kind="pointwise" if plays else "full", name=f"lastfm {protocol}, {drawing}", k=(20,)),
        presets={"bars": {"embedding_dim": 32, "dropout": 0.2, "train": {"l2": 1e-4, "batch_size": 1024}}},
    )


DATASET = Dataset(
    name="lastfm",
    title="Last.fm (HetRec 2011): plays of artists, tags, friends",
    protocols=("top-n", "plays", "new-artists"),
    terms="Non-commercial use; cite HetRec 2011 and Last.fm.",
    downloads=(
        Download(f"{REPOSITORY}/user_artists.dat", git_blob="14d6b2b2bd6c31ce5f8a3c1f83ebe6c55c79183b"),
        Download(f"{REPOSITORY}/artists.dat", git_blob="c33103eeaf8f7024748f5b370d6689d9e61ab1e0"),
        Download(f"{REPOSITORY}/tags.dat", git_blob="22045f5ab0baedc2813b1dfd472cf2553cf59a00"),
        Download(f"{REPOSITORY}/user_taggedartists.dat", git_blob="c410ef8dc88b7e743022f7d149462bae90046d96"),
        Download(f"{REPOSITORY}/user_friends.dat", git_blob="8001dcf2a1dd307b97e277fc0c06191dbed604bb"),
    ),
    folders=("hetrec2011-lastfm-2k", "lastfm-2k"),
    options=LastfmOptions,
    read=_read,
)
