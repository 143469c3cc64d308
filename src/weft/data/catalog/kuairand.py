"""KuaiRand: impressions of short videos, and what their users did before.

Source: Gao et al., CIKM 2022, https://arxiv.org/abs/2208.08696, https://kuairand.com. Read are files of
https://github.com/wmyh-0416/kuairand-short-video-recommender: `val.parquet`, one row an impression of the standard log
of 25 to 30 April 2022, and `user_sequences.parquet`, the newest 50 videos of each user up to 24 April; beside them the
publisher's `user_features_pure.csv` and `video_features_basic_pure.csv`. Nothing is downloaded: `--from` names their
folder. The statistics of videos are not read: they cover the whole month, and so the answers.
The split is by day (UTC+8): 25 to 28 April for training, the 29th for validation, the 30th for the test; it is weft's
own, so no published number can be compared.
The log repeats rows: of one user, video and millisecond the first is kept. Rows that are not later than what their
user's history ends with are left out.
Protocols:
    click      whether the video was clicked.
    long-view  whether it was watched for long, as the log says it.
    tasks      both, the click first.
    retrieval  the whole catalogue is ranked for each user; a clicked video is relevant, those that the user was shown
               in earlier splits are hidden.
"""

from io import BytesIO

import polars as pl

from weft.data.catalog._files import Dataset, Files, Options, Tables, read_bytes
from weft.schema import Categorical, ColumnSplit, Dense, Feature, Label, MultiHot, Protocol, Roles, Schema, Sequence
from weft.schema import Tables as TableNames

LOG, HISTORY = "val.parquet", "user_sequences.parquet"
USERS, VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv"
LABELS = {
    "click": ("is_click",),
    "long-view": ("long_view",),
    "tasks": ("is_click", "long_view"),
    "retrieval": ("is_click",),
}
FIRST_VALID, FIRST_TEST = 1_651_161_600_000, 1_651_248_000_000  # milliseconds: 29 and 30 April, 0:00 UTC+8
HOURS_EAST = 8
KEY = ("user_id", "video_id", "time_ms")
SEQUENCES = {"watch_seq": "watched", "long_watch_seq": "watched_long", "like_seq": "liked"}
USER_CODES = ("user_active_degree", "is_live_streamer", "is_video_author", *(f"onehot_feat{k}" for k in range(18)))
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
VIDEO_CODES = ("author_id", "music_id", "video_type", "upload_type", "upload_dt", "music_type")
MOST_VIDEOS = 50  # of a history
FEWEST_ROWS = 2  # values of fewer train rows are unknown


def _read(files: Files, protocol: str, options: Options) -> Tables:
    history = _parquet(files, HISTORY).rename(SEQUENCES)
    log = _parquet(files, LOG)
    once = log.unique(KEY, keep="first", maintain_order=True)
    rows = _after_history(once, history)
    frames = {
        "interactions": _impressions(rows, LABELS[protocol]),
        "users": _users(files, history),
        "items": _videos(files),
    }
    notes = (
        f"{log.height - once.height:,} rows of the log repeat a user, a video and a millisecond; the first is kept.",
        f"{once.height - rows.height:,} rows that are not later than their user's history are left out.",
        "The split by day is weft's own: no published number can be compared.",
    )
    return Tables(frames, _schema(protocol), notes)


def _parquet(files: Files, name: str) -> pl.DataFrame:
    return pl.read_parquet(BytesIO(read_bytes(files.path(name))))


def _csv(files: Files, name: str) -> pl.DataFrame:
    return pl.read_csv(BytesIO(read_bytes(files.path(name))), infer_schema_length=None)


def _after_history(log: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    ends = history.select("user_id", "last_time_ms")
    joined = log.join(ends, on="user_id", how="left", maintain_order="left")
    late = pl.col("last_time_ms").is_null() | (pl.col("time_ms") > pl.col("last_time_ms"))
    return joined.filter(late).drop("last_time_ms")


def _impressions(rows: pl.DataFrame, labels: tuple[str, ...]) -> pl.DataFrame:
    time = pl.col("time_ms")
    here = pl.from_epoch(time, "ms").dt.offset_by(f"{HOURS_EAST}h")
    split = (
        pl.when(time < FIRST_VALID)
        .then(pl.lit("train"))
        .when(time < FIRST_TEST)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    hour = here.dt.hour().alias("hour")
    return rows.select(*KEY, "tab", hour, *(pl.col(name).cast(pl.Int8) for name in labels), split=split)


def _users(files: Files, history: pl.DataFrame) -> pl.DataFrame:
    users = _csv(files, USERS).select("user_id", *USER_CODES, *USER_NUMBERS)
    whole = users.with_columns(pl.col(name).cast(pl.Int64) for name in USER_CODES if name.startswith("onehot"))
    past = history.select("user_id", *SEQUENCES.values())
    return whole.join(past, on="user_id", how="left", maintain_order="left")


def _videos(files: Files) -> pl.DataFrame:
    videos = _csv(files, VIDEOS).select("video_id", *VIDEO_CODES, "video_duration", "tag")
    return videos.with_columns(pl.col("music_type").cast(pl.Int64))


def _schema(protocol: str) -> Schema:
    ranked = protocol == "retrieval"
    days = "25 to 28 April 2022 for training, 29 for validation, 30 for the test"
    return Schema(
        name=f"kuairand {protocol}",
        tables=TableNames(interactions="interactions.parquet", users="users.parquet", items="items.parquet"),
        features=_features(),
        roles=Roles(
            user="user_id",
            item="video_id",
            time="time_ms",
            time_unit="ms",
            label=tuple(Label(name=name) for name in LABELS[protocol]),
        ),
        split=ColumnSplit(column="split"),
        protocol=Protocol(
            kind="full" if ranked else "pointwise",
            name=f"kuairand {protocol}, {days}",
            k=(20, 100) if ranked else (10,),
        ),
        presets={"bars": {"embedding_dim": 16, "dropout": 0.2, "train": {"l2": 1e-4, "batch_size": 1024}}},
    )


def _features() -> tuple[Feature, ...]:
    return (
        Categorical(name="user_id", side="user"),
        *(Categorical(name=name, side="user", min_count=FEWEST_ROWS) for name in USER_CODES),
        *(Dense(name=name, side="user", transform="log_standardize") for name in USER_NUMBERS),
        *(Sequence(name=name, side="user", max_length=MOST_VIDEOS, shares="video_id") for name in SEQUENCES.values()),
        Categorical(name="video_id", side="item"),
        *(Categorical(name=name, side="item", min_count=FEWEST_ROWS) for name in VIDEO_CODES),
        Dense(name="video_duration", side="item", transform="log_standardize", missing_indicator=True),
        MultiHot(name="tag", side="item", separator=","),
        Categorical(name="tab", side="context", min_count=FEWEST_ROWS),
        Categorical(name="hour", side="context"),
    )


DATASET = Dataset(
    name="kuairand",
    title="KuaiRand: impressions of short videos, clicks and long views, histories",
    protocols=tuple(LABELS),
    terms="CC BY-SA 4.0; cite Gao et al. 2022; pass the files with --from.",
    folders=("kuairand",),
    read=_read,
)
