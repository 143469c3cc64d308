"""Gowalla: the places, 40,981 in all, at which 29,858 users of a location network checked in.

Source: Cho, Myers and Leskovec, KDD 2011, https://snap.stanford.edu/data/loc-gowalla.html; the split of NGCF (Wang et
al., SIGIR 2019) and LightGCN (He et al., SIGIR 2020): of each user's places, about a fifth at random is the test split.
Protocol `lightgcn`: the whole catalogue is ranked for each user, train places hidden, Recall@20 and NDCG@20. A line of
a file is a user and the user's places; there are no times and no features.
The published protocol has no validation rows, and its code takes the best epoch of the test rows. Here a tenth of each
user's train places is drawn for validation; with `valid=0` all of them are trained on, as published.
"""

from typing import Annotated

import numpy as np
import polars as pl
from msgspec import Meta

from weft.data.catalog._draw import drawn
from weft.data.catalog._files import Dataset, Download, Files, Options, Tables, read_bytes
from weft.errors import DataError
from weft.schema import Categorical, ColumnSplit, Label, Protocol, Roles, Schema
from weft.schema import Tables as TableNames

REPOSITORY = (
    "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/data/gowalla"
)
USER, ITEM = "user_id", "item_id"


class GowallaOptions(Options, frozen=True, kw_only=True):
    """Options of the data set.

    Attributes:
        valid: Share of each user's train places that is held out for validation; 0 trains on all, as published.
        seed: Of the draw.
    """

    valid: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    seed: Annotated[int, Meta(ge=0)] = 0


def _read(files: Files, protocol: str, options: GowallaOptions) -> Tables:
    train, test = (_pairs(files, name) for name in ("train.txt", "test.txt"))
    repeated = test.join(train, on=[USER, ITEM], how="semi").height
    if repeated:
        raise DataError(
            f"{repeated} test pairs of gowalla are train pairs too, and the split has none; get both files again"
        )
    valid = drawn(train[USER], options.valid, options.seed)
    train = train.with_columns(split=pl.when(valid).then(pl.lit("valid")).otherwise(pl.lit("train")))
    rows = pl.concat([train, test.with_columns(split=pl.lit("test"))])
    note = (
        f"{options.valid:.0%} of each user's train places, drawn with seed {options.seed}, are the validation rows; "
        "the published protocol has none."
        if options.valid
        else "There are no validation rows, as published."
    )
    return Tables({"interactions": rows.with_columns(visited=pl.lit(1, dtype=pl.Int8))}, _schema(options), (note,))


def _pairs(files: Files, name: str) -> pl.DataFrame:
    """The (user, place) pairs of a file in its order."""
    path = files.path(name)
    try:
        lines = [line.split() for line in read_bytes(path).decode().splitlines()]
        users = [int(line[0]) for line in lines if line]
        places = [[int(place) for place in line[1:]] for line in lines if line]
    except (UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} does not hold lines of a user and places: {error}; get the publisher's file again"
        ) from error
    if len(set(users)) < len(users) or not any(places):
        raise DataError(f"{str(path)!r} must hold one line a user, with places; get the publisher's file again")
    count = [len(some) for some in places]
    user, item = np.repeat(np.array(users, np.int64), count), np.concatenate([np.array(some) for some in places])
    return pl.DataFrame({USER: user, ITEM: item.astype(np.int64)})


def _schema(options: GowallaOptions) -> Schema:
    validation = f"{options.valid:.0%} of train for validation" if options.valid else "no validation rows"
    return Schema(
        name="gowalla",
        tables=TableNames(interactions="interactions.parquet"),
        features=(Categorical(name=USER, side="user"), Categorical(name=ITEM, side="item")),
        roles=Roles(user=USER, item=ITEM, label=(Label(name="visited"),)),
        split=ColumnSplit(column="split"),
        protocol=Protocol(
            kind="full", name=f"gowalla, LightGCN split, all places ranked, train hidden, {validation}", k=(20,)
        ),
        presets={"bars": {"embedding_dim": 64}},
    )


DATASET = Dataset(
    name="gowalla",
    title="Gowalla: places that users checked in at, the split of LightGCN",
    protocols=("lightgcn",),
    terms="Free for research, cite Cho et al. 2011; the repository of the split names no terms.",
    downloads=(
        Download(f"{REPOSITORY}/train.txt", git_blob="a27782bd7a1d4d0744148dc0460ea94da74763f2"),
        Download(f"{REPOSITORY}/test.txt", git_blob="9ed5af4b5d21511f33740b4e22e3852f45671800"),
    ),
    folders=("gowalla",),
    options=GowallaOptions,
    read=_read,
)
