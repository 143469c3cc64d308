"""Frappe: a log of app use in context, 4,082 apps and 957 users, two drawn negatives for each use.

Source: Baltrunas et al., 2015, https://arxiv.org/abs/1505.03014; the split 7:2:1 of AFN (Cheng et al., AAAI 2020) that
benchmarks call Frappe_x1. A line holds the label and ten feature ids; the ten columns here count the values of each
field from 0, so `user` and `item` are the ids of the original log.
A negative never repeats an app that its user has used, in any split, so a pair seen in train is a certain positive:
this is a test of memory with a small tail of generalisation. Say so beside a number.
"""

import polars as pl

from weft.data.catalog._files import Columns, Dataset, Download, Files, Options, Tables
from weft.errors import DataError
from weft.schema import Categorical, ColumnSplit, Label, Protocol, Roles, Schema, Side
from weft.schema import Tables as TableNames

REPOSITORY = (
    "https://raw.githubusercontent.com/WeiyuCheng/AFN-AAAI-20/25d7bd995bd0a3c71f562b3d332a0628c3b30d28/data/frappe"
)

FIELDS = {  # the number of values of each field; feature ids count through the fields in this order
    "user": 957,
    "item": 4082,
    "daytime": 7,
    "weekday": 7,
    "isweekend": 2,
    "homework": 3,
    "cost": 2,
    "weather": 9,
    "country": 80,
    "city": 233,
}
SIDES: dict[str, Side] = {"user": "user", "item": "item"}
META = ("item", "package", "category", "downloads", "developer", "icon", "language", "description")
META_REST = ("name", "price", "rating", "short desc")
REGENERATED = "train_regenerated.libsvm"


def _read(files: Files, protocol: str, options: Options) -> Tables:
    train = files.path("train.libsvm", REGENERATED).name.removesuffix(".xz")
    sources = {"train": train, "valid": "valid.libsvm", "test": "test.libsvm"}
    rows = pl.concat([_rows(files, name).with_columns(split=pl.lit(split)) for split, name in sources.items()])
    frames = {"interactions": rows}
    if files.find("meta.csv"):
        frames["items"] = _titles(files)
    return Tables(frames, _schema(train, titles="items" in frames), (_note(train),))


def _note(train: str) -> str:
    if train == REGENERATED:
        return (
            f"The train rows are {REGENERATED}: the published positives with negatives drawn anew by the published "
            "rule; results compare with published ones in distribution, not bit for bit."
        )
    return f"The train rows are the published file {train}."


def _rows(files: Files, name: str) -> pl.DataFrame:
    """The rows of one libsvm file: `label` and the ten fields, counted from 0."""
    columns: Columns = {"label": pl.Float64, **dict.fromkeys(FIELDS, pl.String)}
    text = files.table(name, columns, separator=" ")
    rows = text.with_columns(
        pl.col("label").gt(0).cast(pl.Int8), pl.col(*FIELDS).str.strip_suffix(":1").cast(pl.Int64, strict=False)
    )
    start = 0
    for field, values in FIELDS.items():
        rows = rows.with_columns(pl.col(field) - start)
        _check(files, name, rows[field], values)
        start += values
    return rows


def _check(files: Files, name: str, column: pl.Series, values: int) -> None:
    good = column.is_between(0, values - 1).fill_null(False)
    if not good.all():
        row = int((~good).arg_max() or 0)
        raise DataError(
            f"{str(files.path(name))!r}, field {column.name!r}, row {row}: not one of the {values} feature ids of this "
            "field; get the publisher's file again"
        )


def _titles(files: Files) -> pl.DataFrame:
    """The names of the apps, where the log's own table of apps is there."""
    columns: Columns = {"item": pl.Int64, **dict.fromkeys((*META[1:], *META_REST), pl.String)}
    return files.table("meta.csv", columns, header=True).select("item", title="name")


def _schema(train: str, *, titles: bool) -> Schema:
    drawn = ", train negatives drawn anew" if train == REGENERATED else ""
    return Schema(
        name="frappe",
        tables=TableNames(interactions="interactions.parquet", items="items.parquet" if titles else None),
        features=tuple(Categorical(name=name, side=SIDES.get(name, "context")) for name in FIELDS),
        roles=Roles(user="user", item="item", label=(Label(name="label"),), title="title" if titles else None),
        split=ColumnSplit(column="split"),
        protocol=Protocol(name=f"frappe 7:2:1{drawn}", seen_from="relevant"),
        presets={"bars": {"embedding_dim": 10, "dropout": 0.4, "train": {"l2": 0.05}}},
    )


DATASET = Dataset(
    name="frappe",
    title="Frappe: app use in ten context fields",
    protocols=("afn",),
    terms="Research use with acknowledgement; no redistribution and no commercial use without permission.",
    downloads=(
        Download(f"{REPOSITORY}/train.libsvm", git_blob="6a5db57f39284d4b6b2fe36be26e7b833536de6a"),
        Download(
            f"{REPOSITORY}/valid.libsvm",
            sha256="fc9de537bfb9aacca043730cfa7e7878c3a8b49781bbe66a35dd27d6bad7bd29",
        ),
        Download(
            f"{REPOSITORY}/test.libsvm",
            sha256="20d3d26705874eea94bcc416dc2e266d4558cc5fba25526fd46807d316b16fd7",
        ),
    ),
    folders=("frappe",),
    read=_read,
)
