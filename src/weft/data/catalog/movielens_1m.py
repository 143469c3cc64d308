"""MovieLens-1M: one million ratings of 6,040 users for 3,706 movies, in the year 2000 to 2003.

Source: Harper and Konstan, ACM TiiS 2015, https://grouplens.org/datasets/movielens/1m/.
Protocols:
    ctr     ratings 4 and 5 against 1 and 2, rating 3 dropped (739,012 rows), split 8:1:1 at random; the seven fields
            UserID, Gender, Age, Occupation, MovieID, Release, Genres that public logs call "ML_1M_7_x1". Their split
            of the rows is not published, so this one is drawn from the seed.
    rating  all ratings as numbers, split 8:1:1 at random.
    autoint Song et al., CIKM 2019: `ctr` without any id, with zip code, release year (decade before 1970) and the time
            of the rating. Of users 1 to 2999 only, since the rebuilt table below knows all their times; the published
            0.8456 AUC is of all users. The split is drawn from the seed.
    ncf     He et al., WWW 2017: each user's last movie is ranked among 99 others, both as published; ids only.
Read from ratings.dat, or from a file ratings.tsv with the columns user_id, movie_id, rating, timestamp, chrono_rank in
the order of ratings.dat.
"""

from typing import Annotated

import polars as pl
from msgspec import Meta

from weft.data.catalog._files import Columns, Dataset, Download, Files, Options, Tables
from weft.errors import DataError
from weft.schema import Categorical, ColumnSplit, Dense, Label, MultiHot, Protocol, RandomSplit, Roles, Schema
from weft.schema import Tables as TableNames

TERMS = "Research use with acknowledgement; no redistribution and no commercial use without permission of GroupLens."
NCF = "https://raw.githubusercontent.com/hexiangnan/neural_collaborative_filtering/4aab159e81c44b062c091bdaed0ab54ac632371f/Data"

USERS: Columns = {"user_id": pl.Int64, "gender": pl.String, "age": pl.Int64, "occupation": pl.Int64, "zip": pl.String}
MOVIES: Columns = {"movie_id": pl.Int64, "title": pl.String, "genres": pl.String}
RATINGS: Columns = {"user_id": pl.Int64, "movie_id": pl.Int64, "rating": pl.Int64, "timestamp": pl.Int64}
NCF_RATINGS: Columns = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Int64, "timestamp": pl.Int64}

MOST_GENRES = 5
FIRST_DECADE, LAST_DECADE = 1920, 1990  # the few movies before and after join the nearest: eight decades
FIRST_YEAR, LAST_YEAR = 1970, 2000  # of `autoint`, whose releases before are decades
AUTOINT_GENRES = 6
LAST_TIMED_USER = 2999
NEGATIVES = 99

_TABLES = TableNames(interactions="interactions.parquet", users="users.parquet", items="items.parquet")
_BARS = {"embedding_dim": 16, "dropout": 0.2, "train": {"l2": 0.01}}
_NCF_BARS = {"embedding_dim": 16, "dropout": 0.2, "train": {"l2": 0.01, "negatives": 4}}
_IDS = (Categorical(name="user_id", side="user"), Categorical(name="movie_id", side="item"))
_FIELDS = (
    Categorical(name="user_id", side="user"),
    Categorical(name="gender", side="user"),
    Categorical(name="age", side="user"),
    Categorical(name="occupation", side="user"),
    Categorical(name="movie_id", side="item"),
    Categorical(name="release", side="item"),
    MultiHot(name="genres", side="item"),
)


class MovieLensOptions(Options, frozen=True, kw_only=True):
    """Options of the data set.

    Attributes:
        seed: Of the random split of `ctr`, `rating` and `autoint`.
        valid: Keep the newest train movie of each user of `ncf` for validation; without it is trained on, as published.
    """

    seed: Annotated[int, Meta(ge=0)] = 0
    valid: bool = True


def _read(files: Files, protocol: str, options: MovieLensOptions) -> Tables:
    tables = {"users": _users(files), "items": _items(files)}
    ratings = _ratings(files)
    if protocol == "ncf":
        return _ncf(files, ratings, tables, options.valid)
    split = RandomSplit(valid=0.1, test=0.1, seed=options.seed)
    if protocol == "ctr":
        return Tables({"interactions": _liked(ratings), **tables}, _ctr_schema(split))
    if protocol == "autoint":
        return _autoint(files, ratings, split)
    return Tables({"interactions": ratings.drop("timestamp"), **tables}, _rating_schema(split))


def _users(files: Files) -> pl.DataFrame:
    return files.table("users.dat", USERS, separator="::", encoding="latin-1").drop("zip")


def _items(files: Files) -> pl.DataFrame:
    movies = files.table("movies.dat", MOVIES, separator="::", encoding="latin-1")
    return movies.select(
        "movie_id",
        "title",
        release=(_year() // 10 * 10).clip(FIRST_DECADE, LAST_DECADE),
        genres=pl.col("genres").str.split("|").list.head(MOST_GENRES),
    )


def _year() -> pl.Expr:
    return pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64)


def _ratings(files: Files) -> pl.DataFrame:
    """All ratings in the order of ratings.dat."""
    path = files.path("ratings.dat", "ratings.tsv")
    if path.name.startswith("ratings.dat"):
        ratings = files.table("ratings.dat", RATINGS, separator="::")
    else:
        ratings = files.table("ratings.tsv", {**RATINGS, "chrono_rank": pl.Int64}, header=True).drop("chrono_rank")
    if ratings.is_empty() or not ratings["rating"].is_between(1, 5).all():
        raise DataError(f"{str(path)!r} must hold ratings of 1 to 5; get the publisher's file again")
    return ratings


def _liked(ratings: pl.DataFrame, *more: pl.Expr) -> pl.DataFrame:
    kept = ratings.filter(pl.col("rating") != 3)
    return kept.select("user_id", "movie_id", *more, liked=(pl.col("rating") >= 4).cast(pl.Int8))


def _roles(label: Label) -> Roles:
    return Roles(user="user_id", item="movie_id", label=(label,), title="title")


def _ctr_schema(split: RandomSplit) -> Schema:
    return Schema(
        name="movielens-1m ctr",
        tables=_TABLES,
        features=_FIELDS,
        roles=_roles(Label(name="liked")),
        split=split,
        protocol=Protocol(name=f"ml-1m ctr, rating 3 dropped, random 8:1:1, seed {split.seed}"),
        presets={"bars": _BARS},
    )


def _rating_schema(split: RandomSplit) -> Schema:
    return Schema(
        name="movielens-1m rating",
        tables=_TABLES,
        features=_FIELDS,
        roles=_roles(Label(name="rating", task="regression")),
        split=split,
        protocol=Protocol(name=f"ml-1m rating, random 8:1:1, seed {split.seed}", relevant=4.0),
        presets={"bars": _BARS},
    )


# ---- autoint ----


def _autoint(files: Files, ratings: pl.DataFrame, split: RandomSplit) -> Tables:
    timed = ratings.filter((pl.col("user_id") <= LAST_TIMED_USER) & pl.col("timestamp").is_not_null())
    interactions = _liked(timed, pl.col("timestamp").alias("request_time"))
    movies = files.table("movies.dat", MOVIES, separator="::", encoding="latin-1")
    year, decade = _year(), (_year() // 10 * 10).clip(FIRST_DECADE)
    items = movies.select(
        "movie_id",
        "title",
        release=pl.when(year < FIRST_YEAR).then(decade).otherwise(year.clip(upper_bound=LAST_YEAR)),
        genres=pl.col("genres").str.split("|").list.head(AUTOINT_GENRES),
    )
    users = files.table("users.dat", USERS, separator="::", encoding="latin-1")
    return Tables({"interactions": interactions, "users": users, "items": items}, _autoint_schema(split))


def _autoint_schema(split: RandomSplit) -> Schema:
    return Schema(
        name="movielens-1m autoint",
        tables=_TABLES,
        features=(
            *(Categorical(name=name, side="user") for name in ("gender", "age", "occupation", "zip")),
            Categorical(name="release", side="item"),
            MultiHot(name="genres", side="item"),
            Dense(name="request_time", side="context", transform="minmax"),
        ),
        roles=_roles(Label(name="liked")),
        split=split,
        protocol=Protocol(
            name=f"ml-1m autoint, users 1 to {LAST_TIMED_USER}, rating 3 dropped, random 8:1:1, seed {split.seed}"
        ),
    )


# ---- ncf ----


def _ncf(files: Files, ratings: pl.DataFrame, tables: dict[str, pl.DataFrame], valid: bool) -> Tables:
    """The published split under MovieLens's own ids.

    The files count users from 0 and movies by their first appearance in ratings.dat. A user's train rows stand newest
    first; `place` counts them from the oldest, so it orders the rows of one user and says nothing across users.
    """
    movies = ratings["movie_id"].unique(maintain_order=True)
    train = files.table("ml-1m.train.rating", NCF_RATINGS)
    test = files.table("ml-1m.test.rating", NCF_RATINGS)
    candidates, repeated = _candidates(files, test, movies)
    notes = (
        f"{repeated} users have their test movie among their 99 negatives in the published file: that negative is null "
        "in candidates.parquet and cannot be ranked.",
        "The validation row is the user's newest train row; the published protocol has none."
        if valid
        else "There are no validation rows, as published.",
        "`place` is the order of a user's rows, not a time: it must not be compared between users.",
    )
    frames = {"interactions": _ncf_rows(train, test, movies, valid), **tables, "candidates": candidates}
    return Tables(frames, _ncf_schema(valid), notes)


def _ncf_rows(train: pl.DataFrame, test: pl.DataFrame, movies: pl.Series, valid: bool) -> pl.DataFrame:
    newest_first = pl.int_range(pl.len()).over("user")
    train = train.with_columns(
        place=pl.len().over("user") - 1 - newest_first,
        split=pl.when((newest_first == 0) & valid).then(pl.lit("valid")).otherwise(pl.lit("train")),
    )
    count = train.group_by("user", maintain_order=True).len("place")
    test = test.join(count, on="user", how="left", maintain_order="left").with_columns(split=pl.lit("test"))
    columns = ("user", "item", pl.col("place").cast(pl.Int64), "split")
    rows = pl.concat([train.select(*columns), test.select(*columns)])
    return rows.select(
        user_id=pl.col("user") + 1,
        movie_id=_raw(rows["item"], movies),
        place=pl.col("place").fill_null(0),
        rated=pl.lit(1, dtype=pl.Int8),
        split=pl.col("split"),
    )


def _candidates(files: Files, test: pl.DataFrame, movies: pl.Series) -> tuple[pl.DataFrame, int]:
    """The published lists, the positive first, and how many users have it among their negatives too."""
    names = [f"negative_{k}" for k in range(NEGATIVES)]
    table = files.table("ml-1m.test.negative", {"pair": pl.String, **dict.fromkeys(names, pl.Int64)})
    pairs = test.select(pl.format("({},{})", "user", "item")).to_series()
    if not table["pair"].equals(pairs):
        raise DataError("ml-1m.test.negative and ml-1m.test.rating name other (user, item) pairs; get both files again")
    lists = pl.DataFrame(
        {"positive": _raw(test["item"], movies), **{name: _raw(table[name], movies) for name in names}}
    )
    repeats = lists.select(pl.any_horizontal(pl.col(*names) == pl.col("positive"))).to_series().sum()
    others = (pl.when(pl.col(name) != pl.col("positive")).then(name) for name in names)
    frame = lists.select(test["user"].alias("user_id") + 1, candidates=pl.concat_list("positive", *others))
    return frame, int(repeats)


def _raw(places: pl.Series, movies: pl.Series) -> pl.Series:
    """MovieLens's ids of movies that the files count by first appearance."""
    if len(places) and not places.is_between(0, len(movies) - 1).all():
        raise DataError(
            f"an item of the ncf files is not in 0..{len(movies) - 1}: the ratings beside them are of other data; "
            "get ml-1m and the ncf files again"
        )
    return movies.gather(places)


def _ncf_schema(valid: bool) -> Schema:
    validation = "" if valid else ", no validation rows"
    return Schema(
        name="movielens-1m ncf",
        tables=_TABLES,
        features=_IDS,
        roles=Roles(user="user_id", item="movie_id", time="place", label=(Label(name="rated"),), title="title"),
        split=ColumnSplit(column="split"),
        protocol=Protocol(
            kind="candidates",
            name=f"ml-1m ncf, last one out among 99 published negatives (repeated positives dropped){validation}",
            k=(10,),
            candidates="candidates.parquet",
        ),
        presets={"bars": _NCF_BARS},
    )


DATASET = Dataset(
    name="movielens-1m",
    title="MovieLens-1M: a million movie ratings",
    protocols=("ctr", "rating", "autoint", "ncf"),
    terms=TERMS,
    downloads=(
        Download(
            "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            md5="c4d9eecfca2ab87c1945afe126590906",
            members=("ml-1m/ratings.dat", "ml-1m/users.dat", "ml-1m/movies.dat"),
        ),
        Download(
            f"{NCF}/ml-1m.train.rating",
            git_blob="31ba384fd58dac8fbd09d2dfc6616431f3563ab5",
            protocols=("ncf",),
        ),
        Download(
            f"{NCF}/ml-1m.test.rating",
            sha256="231ae11eb060b643a8c58c063cd17ffc743b54f569afb073d1abb6cf126b88b5",
            protocols=("ncf",),
        ),
        Download(
            f"{NCF}/ml-1m.test.negative",
            sha256="127853228a76b7d21c0481e8ef8d00dd009cd5c88670dbdd9e9debfdb9f93de4",
            protocols=("ncf",),
        ),
    ),
    folders=("ml-1m", "ncf"),
    options=MovieLensOptions,
    read=_read,
)
