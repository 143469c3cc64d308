"""Avazu: clicks on mobile advertising, 22 columns of codes.

Source: Avazu, Click-Through Rate Prediction, Kaggle 2014, https://www.kaggle.com/c/avazu-ctr-prediction. Kaggle asks
for a login, so nothing is downloaded: `--from` names the folder with train.csv, or with samples of its head.
The split is a random one, 8:1:1. The head of train.csv lies within one hour, so samples have neither hour nor weekday
as a feature, and no published number can be compared with theirs.
`banner_pos` says where on the page the advertisement stood: a feature in the protocol `random`, as in publications; in
`position` it has the role of the position, counted from 1, and no model sees it as a feature.
"""

from io import BytesIO
from typing import Annotated

import polars as pl
from msgspec import Meta

from weft.data.catalog._files import Columns, Dataset, Files, Options, Tables, read_bytes
from weft.schema import Categorical, Label, Protocol, RandomSplit, Roles, Schema
from weft.schema import Tables as TableNames

WHOLE = "train.csv"
SAMPLES = ("train_rows1-9000.csv", "train_rows9001-10000.csv")
POSITION = "banner_pos"
CATEGORIES = (
    *("C1", POSITION, "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{k}" for k in range(14, 22)),
)
COLUMNS: Columns = {
    "id": pl.String,
    "click": pl.Int8,
    "hour": pl.String,
    **dict.fromkeys(CATEGORIES, pl.String),
    POSITION: pl.Int64,
}
HEADER = b"id,click,"


class AvazuOptions(Options, frozen=True, kw_only=True):
    """Options of the data set.

    Attributes:
        min_count: Values seen in fewer train rows are unknown.
        seed: Of the split.
    """

    min_count: Annotated[int, Meta(ge=1)] = 2
    seed: Annotated[int, Meta(ge=0)] = 0


def _read(files: Files, protocol: str, options: AvazuOptions) -> Tables:
    whole = files.find(WHOLE)
    rows = pl.scan_csv(whole, schema=COLUMNS, quote_char=None) if whole and whole.suffix != ".xz" else _samples(files)
    shown = "train.csv" if whole else "samples, all of one hour: no published number can be compared"
    position = protocol == "position"
    return Tables(
        {"interactions": _columns(rows, position)},
        _schema(options, whole=whole is not None, position=position),
        (f"The rows are {shown}.",),
    )


def _samples(files: Files) -> pl.LazyFrame:
    """Train.csv as `.xz`, or the samples of it that are there, one after the other; only the first has a header."""
    first = files.path(WHOLE, *SAMPLES)
    names = () if first.name.startswith(WHOLE) else SAMPLES
    more = (path for name in names if (path := files.find(name)) and path != first)
    content = b"".join(read_bytes(path) for path in (first, *more))
    return pl.scan_csv(BytesIO(content), has_header=content.startswith(HEADER), schema=COLUMNS, quote_char=None)


def _columns(rows: pl.LazyFrame, position: bool) -> pl.LazyFrame:
    time = (pl.col("hour") + "00").str.to_datetime("%y%m%d%H%M", time_unit="us")
    rows = rows.select(
        "click",
        time.alias("time"),
        time.dt.hour().alias("hour"),
        time.dt.weekday().alias("weekday"),
        *CATEGORIES,
    )
    return rows.with_columns(pl.col(POSITION) + 1) if position else rows


def _schema(options: AvazuOptions, *, whole: bool, position: bool) -> Schema:
    names = [name for name in CATEGORIES if not (position and name == POSITION)]
    times = ("hour", "weekday") if whole else ()
    batch = 10_000 if whole else 512
    return Schema(
        name=f"avazu{' position' if position else ''}",
        tables=TableNames(interactions="interactions.parquet"),
        features=tuple(
            Categorical(name=name, side="context", min_count=options.min_count) for name in (*times, *names)
        ),
        roles=Roles(time="time", position=POSITION if position else None, label=(Label(name="click"),)),
        split=RandomSplit(valid=0.1, test=0.1, seed=options.seed),
        protocol=Protocol(name=f"avazu {'' if whole else 'samples, '}random 8:1:1, seed {options.seed}"),
        presets={"bars": {"embedding_dim": 16, "dropout": 0.2, "train": {"l2": 1e-5, "batch_size": batch}}},
    )


DATASET = Dataset(
    name="avazu",
    title="Avazu Kaggle: clicks on mobile advertising",
    protocols=("random", "position"),
    terms="The rules of Kaggle's competition: for it and for research, no redistribution; pass the files with --from.",
    folders=("avazu",),
    options=AvazuOptions,
    read=_read,
)
