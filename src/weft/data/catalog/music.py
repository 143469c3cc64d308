"""The simulated music service of weft.data.music as tables and a schema; nothing is downloaded.

Protocol `plays` has one label, `tasks` has three: whether a shown track was played, liked, and heard to its end.

The schema names no cross: a model has to find them, or `weft crosses` has to propose them.
"""

import polars as pl

from weft.data.catalog._files import Dataset, Files, Tables
from weft.data.music import MusicConfig, MusicWorld, simulate
from weft.schema import Categorical, Count, Dense, Label, MultiHot, Protocol, Roles, Schema, Sequence, TimeSplit
from weft.schema import Tables as TableNames

DAY = 86_400.0
TASKS = ("played", "liked", "finished")


def _read(files: Files, protocol: str, options: MusicConfig) -> Tables:
    world = simulate(options)
    several = protocol == "tasks"
    frames = {
        "interactions": with_finished(world) if several else world.impressions,
        "users": world.users,
        "items": world.tracks,
        "truth": world.truth,
    }
    notes = (
        f"Simulated: {options.rows:,} impressions, seed {options.seed}. truth.parquet is the answer, row by row; it is "
        "for tests, and no schema may name it.",
    )
    return Tables(frames, _schema(options, TASKS if several else TASKS[:1]), notes)


def with_finished(world: MusicWorld) -> pl.DataFrame:
    """The impressions, and a column `finished`: played as long as the track lasts."""
    duration = world.tracks.select("track_id", "duration")
    joined = world.impressions.join(duration, on="track_id", how="left", maintain_order="left")
    return joined.with_columns(finished=(pl.col("listen_seconds") >= pl.col("duration")).cast(pl.Int8)).drop("duration")


def _schema(options: MusicConfig, labels: tuple[str, ...]) -> Schema:
    return Schema(
        name="music",
        tables=TableNames(interactions="interactions.parquet", users="users.parquet", items="items.parquet"),
        features=(
            Categorical(name="user_id", side="user"),
            Dense(name="age", side="user", buckets=8),
            Categorical(name="gender", side="user"),
            Categorical(name="country", side="user"),
            Categorical(name="device", side="user"),
            Sequence(name="recent_tracks", of="track_id", where="played", max_length=20),
            Categorical(name="track_id", side="item"),
            Categorical(name="artist", side="item"),
            Categorical(name="artist_origin", side="item"),
            Categorical(name="genre", side="item"),
            MultiHot(name="genres", side="item"),
            Dense(name="year", side="item", buckets=8),
            Dense(name="tempo", side="item", buckets=8),
            Categorical(name="hour", side="context"),
            Categorical(name="weekday", side="context"),
            Count(name="user_plays", by=("user_id",), of="played", stat="sum"),
            Count(name="user_genre_plays", by=("user_id", "genre"), of="played", stat="sum"),
            Count(name="track_play_rate", by=("track_id",), of="played", stat="mean", transform="standardize"),
        ),
        roles=Roles(
            user="user_id",
            item="track_id",
            time="time",
            label=tuple(Label(name=name) for name in labels),
            position="position",
            propensity="propensity",
            group="request",
            title="title",
        ),
        split=TimeSplit(valid=0.1, test=0.1),
        protocol=Protocol(
            name=f"music, newest tenth, {options.rows:,} impressions, seed {options.seed}",
            seen="window",
            window=DAY,
            seen_from="relevant",
        ),
        presets={"bars": {"embedding_dim": 16, "dropout": 0.1, "train": {"l2": 1e-4, "batch_size": 1024}}},
    )


DATASET = Dataset(
    name="music",
    title="A simulated music service with planted crosses",
    protocols=("plays", "tasks"),
    terms="Made by weft; free of any terms.",
    options=MusicConfig,
    read=_read,
)
