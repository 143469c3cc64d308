"""MovieLens-100K: 100,000 ratings of 943 users for 1,682 movies, in 1997 and 1998.

Source: Harper and Konstan, ACM TiiS 2015, https://grouplens.org/datasets/movielens/100k/.
Protocols:
    rating  all ratings as numbers, the official folds u1 to u5: fold k tests on lines 20,000 (k - 1) to 20,000 k of
            u.data. A tenth of the other rows, drawn with a fixed seed, is the validation split.
    ctr     ratings 4 and 5 against 1 and 2, rating 3 dropped, the same folds.
"""

from typing import Annotated

import numpy as np
import polars as pl
from msgspec import Meta

from weft.data.catalog._files import Columns, Dataset, Download, Files, Options, Tables
from weft.errors import DataError
from weft.schema import Categorical, ColumnSplit, Dense, Label, MultiHot, Protocol, Roles, Schema
from weft.schema import Tables as TableNames

GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
RATINGS: Columns = {"user_id": pl.Int64, "movie_id": pl.Int64, "rating": pl.Int64, "timestamp": pl.Int64}
USERS: Columns = {"user_id": pl.Int64, "age": pl.Int64, "gender": pl.String, "occupation": pl.String, "zip": pl.String}
MOVIES: Columns = {
    "movie_id": pl.Int64,
    "title": pl.String,
    "released": pl.String,
    "video": pl.String,
    "url": pl.String,
    **dict.fromkeys(GENRES, pl.Int64),
}
FOLDS = 5
VALID_SHARE = 0.1
VALID_SEED = 0


class FoldOptions(Options, frozen=True, kw_only=True):
    """Options of the data set: `fold`, 1 to 5, is the test split."""

    fold: Annotated[int, Meta(ge=1, le=FOLDS)] = 1


def _read(files: Files, protocol: str, options: FoldOptions) -> Tables:
    ratings = files.table("u.data", RATINGS)
    if ratings.is_empty() or not ratings["rating"].is_between(1, 5).all():
        raise DataError(f"{str(files.path('u.data'))!r} must hold ratings of 1 to 5; get the publisher's file again")
    _check_fold(files, ratings, options.fold)
    ratings = ratings.with_columns(split=_assign(len(ratings), options.fold))
    if protocol == "ctr":
        ratings = _liked(ratings)
    frames = {"interactions": ratings, "users": _users(files), "items": _items(files)}
    return Tables(frames, _schema(protocol, options.fold))


def _bounds(rows: int, fold: int) -> tuple[int, int]:
    return (fold - 1) * rows // FOLDS, fold * rows // FOLDS


def _check_fold(files: Files, ratings: pl.DataFrame, fold: int) -> None:
    """Where the official test file is there, its rows must be the fold."""
    name = f"u{fold}.test"
    if files.find(name) is None:
        return
    start, stop = _bounds(len(ratings), fold)
    official = files.table(name, RATINGS).sort("user_id", "movie_id")
    if not ratings[start:stop].sort("user_id", "movie_id").equals(official):
        raise DataError(
            f"{str(files.path(name))!r} is not lines {start} to {stop} of u.data; get both files of the publisher again"
        )


def _assign(rows: int, fold: int) -> pl.Series:
    split = np.full(rows, "train", dtype=object)
    start, stop = _bounds(rows, fold)
    rest = np.concatenate([np.arange(start), np.arange(stop, rows)])
    split[start:stop] = "test"
    split[np.random.default_rng(VALID_SEED).permutation(rest)[: int(VALID_SHARE * len(rest))]] = "valid"
    return pl.Series("split", split.tolist(), dtype=pl.String)


def _liked(ratings: pl.DataFrame) -> pl.DataFrame:
    kept = ratings.filter(pl.col("rating") != 3)
    return kept.with_columns(liked=(pl.col("rating") >= 4).cast(pl.Int8)).drop("rating")


def _users(files: Files) -> pl.DataFrame:
    return files.table("u.user", USERS, separator="|").drop("zip")


def _items(files: Files) -> pl.DataFrame:
    movies = files.table("u.item", MOVIES, separator="|", encoding="latin-1")
    names = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES]
    return movies.select(
        "movie_id",
        "title",
        year=pl.col("released").str.extract(r"(\d{4})$").cast(pl.Int64),
        genres=pl.concat_list(names).list.drop_nulls(),
    )


def _schema(protocol: str, fold: int) -> Schema:
    rating = protocol == "rating"
    name = f"ml-100k {protocol}, official fold u{fold}"
    return Schema(
        name=f"movielens-100k {protocol}",
        tables=TableNames(interactions="interactions.parquet", users="users.parquet", items="items.parquet"),
        features=(
            Categorical(name="user_id", side="user"),
            Dense(name="age", side="user", buckets=8),
            Categorical(name="gender", side="user"),
            Categorical(name="occupation", side="user"),
            Categorical(name="movie_id", side="item"),
            Dense(name="year", side="item", buckets=10),
            MultiHot(name="genres", side="item"),
        ),
        roles=Roles(
            user="user_id",
            item="movie_id",
            time="timestamp",
            label=(Label(name="rating", task="regression") if rating else Label(name="liked"),),
            title="title",
        ),
        split=ColumnSplit(column="split"),
        protocol=Protocol(name=name, relevant=4.0 if rating else 0.5),
        presets={"bars": {"embedding_dim": 16, "dropout": 0.2, "train": {"l2": 0.01}}},
    )


DATASET = Dataset(
    name="movielens-100k",
    title="MovieLens-100K: 100,000 movie ratings",
    protocols=("rating", "ctr"),
    terms="Research use with acknowledgement; no redistribution and no commercial use without permission of GroupLens.",
    downloads=(
        Download(
            "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            md5="0e33842e24a9c977be4e0107933c0723",
            members=(
                "ml-100k/u.data",
                "ml-100k/u.item",
                "ml-100k/u.user",
                *(f"ml-100k/u{k}.test" for k in range(1, 6)),
            ),
        ),
    ),
    folders=("ml-100k",),
    options=FoldOptions,
    read=_read,
)
