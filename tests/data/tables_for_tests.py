"""A small music-like world with every kind of feature, for the tests of the room data."""

from typing import Any

import numpy as np
import polars as pl

from weft.schema import (
    Categorical,
    ColumnSplit,
    Count,
    Cross,
    Dense,
    Label,
    LastSplit,
    MultiHot,
    RandomSplit,
    Roles,
    Schema,
    Sequence,
    TimeSplit,
)

START = 1_700_000_000

FEATURES = (
    Categorical(name="user", side="user"),
    Dense(name="age", side="user", buckets=4, missing_indicator=True),
    Categorical(name="country", side="user", min_count=2),
    Categorical(name="track", side="item"),
    Categorical(name="artist", side="item"),
    MultiHot(name="genres", side="item", weights="genre_weights"),
    Dense(name="tempo", side="item", transform="log_standardize"),
    Dense(name="hour", side="context", transform="quantile"),
    Cross(name="country_x_artist", of=("country", "artist")),
    Cross(name="country_x_genres", of=("country", "genres"), hash_buckets=50),
    Cross(name="age_x_artist", of=("age.bucket", "artist")),
    Count(name="plays", by=("user",), of="played", stat="sum"),
    Count(name="liking", by=("user", "artist"), of="played", stat="mean", transform="none"),
    Sequence(name="recent", of="track", where="played", max_length=5),
)

ROLES = Roles(
    label=(Label(name="played"),),
    user="user",
    item="track",
    time="time",
    position="position",
    propensity="propensity",
    group="request",
    title="title",
)


def schema(split: RandomSplit | TimeSplit | LastSplit | ColumnSplit | None = None, **changes: Any) -> Schema:
    """A schema that reads all three tables."""
    return Schema(**{"features": FEATURES, "roles": ROLES, "split": split or TimeSplit(), **changes})


def tables(rows: int = 400, users: int = 20, items: int = 15, seed: int = 0) -> dict[str, Any]:
    """Interactions, users and items; the last user and item stand in no interaction, and some values are missing."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users - 1, rows)
    track = rng.integers(0, items - 1, rows)
    interactions = pl.DataFrame(
        {
            "user": user,
            "track": [f"t{i}" for i in track],
            "time": START + np.sort(rng.integers(0, rows, rows)),
            "played": (rng.random(rows) < 0.4).astype(np.int8),
            "position": rng.integers(1, 5, rows),
            "propensity": rng.uniform(0.1, 1, rows),
            "request": np.arange(rows) // 4,
            "hour": rng.integers(0, 24, rows),
            "unused": 1,
        }
    )
    people = pl.DataFrame(
        {
            "user": np.arange(users),
            "age": pl.Series(rng.integers(15, 70, users)).cast(pl.Float64).set(pl.Series(np.arange(users) == 3), None),
            "country": [("Kenya", "Japan", "Peru", None)[i % 4] for i in range(users)],
        }
    )
    return {"interactions": interactions, "users": people, "items": _tracks(items, rng)}


def _tracks(items: int, rng: np.random.Generator) -> pl.DataFrame:
    genres = [["pop", "jazz", "folk"][: i % 4] for i in range(items)]
    return pl.DataFrame(
        {
            "track": [f"t{i}" for i in range(items)],
            "artist": [f"artist {i % 6}" for i in range(items)],
            "genres": genres,
            "genre_weights": [[1.0 / (k + 1) for k in range(len(g))] for g in genres],
            "tempo": rng.uniform(-5, 180, items),
            "title": [f"Song {i}" for i in range(items)],
        },
        schema_overrides={"genres": pl.List(pl.String), "genre_weights": pl.List(pl.Float64)},
    )
