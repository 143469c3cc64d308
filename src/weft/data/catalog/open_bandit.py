"""Open Bandit: impressions of a fashion shop with the probability that the logging policy had for each of them.

Source: Saito et al., NeurIPS 2021 (datasets), https://arxiv.org/abs/2008.07146; https://research.zozo.com/data.html.
A protocol is a logging policy and a campaign. `random` shows every item with the same probability, so that its click
rate by position is causal; `bts` is Bernoulli Thompson sampling, its propensities are the true ones. An impression has
one of three positions side by side.
What is downloaded are the publisher's samples of 10,000 rows, with a click in about 200 of them: enough to see that a
method runs, not to rank two methods. The whole data set is read in the same way with `--from`.
Columns are hashed anew for each policy: features of `random` and of `bts` cannot be joined.
The affinities of a user (one column an item in the publisher's file: the user's past clicks on it) become the set
`clicked_items`, weighted by `clicked_items.weight`, which shares the table of the items.
"""

from io import BytesIO
from typing import Annotated

import polars as pl
from msgspec import Meta

from weft.data.catalog._files import Dataset, Download, Files, Options, Tables, read_bytes
from weft.schema import Categorical, Dense, Label, MultiHot, Protocol, Roles, Schema, TimeSplit
from weft.schema import Tables as TableNames

REPOSITORY = "https://raw.githubusercontent.com/st-tech/zr-obp/8cbd5fa4558b7ad2ba4781546d6604e4cc3e07c4/obd"
BLOBS = {  # protocol: the SHA-1 by which git knows the impressions and the items
    "random-men": ("e99ba925c30ccd537a554ce8ea2104a005c6f49e", "a60a504367e3e2d9eb6e89be1d8a7aa72db3313c"),
    "random-women": ("630e72022583db451326bb4f7c23e4f4130708fb", "421c9b7f3306232a758e41aefee883fe07014bfe"),
    "random-all": ("8ff22a297ec374cc4bfa9cc857d819da3bb9ab97", "0b0d21ead6facaab4ee753c54f2bfa6ef92f0390"),
    "bts-men": ("fbd217ad69b08f6dc338c7e2180cd8da16fcf658", "61e244116e392d340e4e40d9dfe5460d22be9710"),
    "bts-women": ("d2a3ac87a545e428241c94e2b6549a386a323a80", "a6095e6250811eee357041bcc9705dead679f2eb"),
    "bts-all": ("6ac7a0573c8514dec0a9bb0d9ee60825dba5c80f", "f1666ca56cc0272c0e769171f19fa9b971037e10"),
}
USER = tuple(f"user_feature_{k}" for k in range(4))
ITEM = tuple(f"item_feature_{k}" for k in range(4))
AFFINITY = "user-item_affinity_"
CLICKED, WEIGHT = "clicked_items", "clicked_items.weight"


class OpenBanditOptions(Options, frozen=True, kw_only=True):
    """Options of the data set.

    Attributes:
        valid: Share of the rows, in time order, before the test rows.
        test: Share of the rows, the newest.
    """

    valid: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.2
    test: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.3


def _read(files: Files, protocol: str, options: OpenBanditOptions) -> Tables:
    policy, campaign = protocol.split("-")
    rows = _scan(files, f"{policy}/{campaign}/{campaign}.csv", f"{policy}/{campaign}.csv")
    items = _scan(files, f"{policy}/{campaign}/item_context.csv", f"{policy}/{campaign}_item_context.csv")
    frames = {"interactions": _impressions(rows), "items": items.select("item_id", *ITEM)}
    clicks = rows.select(pl.len(), pl.col("click").sum()).collect().row(0)
    note = f"{clicks[0]:,} impressions with {clicks[1]:,} clicks, logged by the policy {policy!r}."
    return Tables(frames, _schema(protocol, options), (note,))


def _scan(files: Files, *names: str) -> pl.LazyFrame:
    path = files.path(*names)
    return pl.scan_csv(path if path.suffix != ".xz" else BytesIO(read_bytes(path)), infer_schema_length=None)


def _impressions(rows: pl.LazyFrame) -> pl.LazyFrame:
    affinities = [name for name in rows.collect_schema().names() if name.startswith(AFFINITY)]
    past = [pl.when(pl.col(name) > 0) for name in affinities]
    items = (when.then(int(name.removeprefix(AFFINITY))) for when, name in zip(past, affinities, strict=True))
    weights = (when.then(pl.col(name)) for when, name in zip(past, affinities, strict=True))
    return rows.select(
        pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_unit="us", time_zone="UTC").alias("time"),
        "item_id",
        "position",
        "click",
        "propensity_score",
        *USER,
        pl.concat_list(*items).list.drop_nulls().alias(CLICKED),
        pl.concat_list(*weights).list.drop_nulls().alias(WEIGHT),
    )


def _schema(protocol: str, options: OpenBanditOptions) -> Schema:
    return Schema(
        name=f"open-bandit {protocol}",
        tables=TableNames(interactions="interactions.parquet", items="items.parquet"),
        features=(
            *(Categorical(name=name, side="user") for name in USER),
            MultiHot(name=CLICKED, side="user", weights=WEIGHT, shares="item_id"),
            Categorical(name="item_id", side="item"),
            Dense(name=ITEM[0], side="item"),
            *(Categorical(name=name, side="item") for name in ITEM[1:]),
        ),
        roles=Roles(
            item="item_id",
            time="time",
            position="position",
            propensity="propensity_score",
            label=(Label(name="click"),),
        ),
        split=TimeSplit(valid=options.valid, test=options.test),
        protocol=Protocol(name=f"open-bandit {protocol}, newest {options.test:.0%}"),
        presets={"bars": {"embedding_dim": 8, "dropout": 0.1, "train": {"l2": 1e-4, "batch_size": 256}}},
    )


def _downloads(protocol: str) -> tuple[Download, Download]:
    policy, campaign = protocol.split("-")
    place = f"{policy}/{campaign}"
    names = (f"{campaign}.csv", "item_context.csv")
    rows, items = (
        Download(f"{REPOSITORY}/{place}/{name}", git_blob=blob, protocols=(protocol,), folder=place)
        for name, blob in zip(names, BLOBS[protocol], strict=True)
    )
    return rows, items


DATASET = Dataset(
    name="open-bandit",
    title="Open Bandit: fashion impressions with position and logging probability",
    protocols=tuple(BLOBS),
    terms="CC BY 4.0; cite Saito et al. 2021.",
    downloads=tuple(file for protocol in BLOBS for file in _downloads(protocol)),
    folders=("open-bandit", "obd"),
    options=OpenBanditOptions,
    read=_read,
)
