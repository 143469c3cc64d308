"""Criteo Display Advertising Challenge: a label, 13 numbers I1..I13 and 26 hashed categories C1..C26.

Source: Criteo AI Lab, https://ailab.criteo.com/. The protocol `random` is a random split 8:1:1 of the rows of
train.txt, or of every sample of them that is there. Published numbers on this data use other splits (by days in the
papers of DCN and DLRM) or other handling of the numbers (bucketed in "x4"): none of them is comparable as it stands.
Numbers are scaled as log(1 + x - min(0, smallest x)), because one column holds negative values.
"""

from io import BytesIO
from pathlib import Path
from typing import Annotated

import polars as pl
from msgspec import Meta

from weft.data.catalog._files import Columns, Dataset, Download, Files, Options, Tables, read_bytes
from weft.schema import Categorical, Dense, Label, Protocol, RandomSplit, Roles, Schema
from weft.schema import Tables as TableNames

NUMBERS = tuple(f"I{k}" for k in range(1, 14))
CATEGORIES = tuple(f"C{k}" for k in range(1, 27))
COLUMNS: Columns = {
    "label": pl.Int8,
    **dict.fromkeys(NUMBERS, pl.Float64),
    **dict.fromkeys(CATEGORIES, pl.String),
}
WHOLE = "train.txt"
SAMPLES = ("train_first10k.txt", "x4_valid_sample.csv", "x4_test_sample.csv", "criteo_sample.txt")


class CriteoOptions(Options, frozen=True, kw_only=True):
    """Options of the data set.

    Attributes:
        min_count: Categories seen in fewer train rows are unknown.
        seed: Of the split.
    """

    min_count: Annotated[int, Meta(ge=1)] = 10
    seed: Annotated[int, Meta(ge=0)] = 0


def _read(files: Files, protocol: str, options: CriteoOptions) -> Tables:
    path = files.path(WHOLE, *SAMPLES)
    whole = path.name.startswith(WHOLE)
    rows = _scan(path) if whole else _samples(files)
    source = "the whole of train.txt" if whole else "samples: no published number can be compared"
    return Tables({"interactions": rows}, _schema(options, whole), (f"The rows are {source}.",))


def _samples(files: Files) -> pl.DataFrame:
    """All samples that are there; a row that an earlier file has is left out of a later one."""
    found = [path for name in SAMPLES if (path := files.find(name))]
    rows = _scan(found[0]).collect()
    for path in found[1:]:
        more = _scan(path).collect()
        fresh = more.join(rows, on=list(COLUMNS), how="anti", nulls_equal=True, maintain_order="left")
        rows = pl.concat([rows, fresh])
    return rows


def _scan(path: Path) -> pl.LazyFrame:
    """Read tab separated rows without a header, or comma separated rows with one."""
    plain = path.suffix != ".xz"
    first = _first_line(path) if plain else read_bytes(path).split(b"\n", 1)[0]
    tabs = b"\t" in first
    return pl.scan_csv(
        path if plain else BytesIO(read_bytes(path)),
        separator="\t" if tabs else ",",
        has_header=False,
        skip_lines=0 if tabs else 1,
        schema=COLUMNS,
        quote_char=None,
    )


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


def _schema(options: CriteoOptions, whole: bool) -> Schema:
    batch = 10_000 if whole else 512
    return Schema(
        name="criteo",
        tables=TableNames(interactions="interactions.parquet"),
        features=(
            *(Dense(name=name, side="context", transform="log_standardize") for name in NUMBERS),
            *(Categorical(name=name, side="context", min_count=options.min_count) for name in CATEGORIES),
        ),
        roles=Roles(label=(Label(name="label"),)),
        split=RandomSplit(valid=0.1, test=0.1, seed=options.seed),
        protocol=Protocol(name=f"criteo {'' if whole else 'samples, '}random 8:1:1, seed {options.seed}"),
        presets={"bars": {"embedding_dim": 16, "dropout": 0.2, "train": {"l2": 1e-5, "batch_size": batch}}},
    )


DATASET = Dataset(
    name="criteo",
    title="Criteo Kaggle: clicks on display advertising",
    protocols=("random",),
    terms="Criteo's data terms: no commercial use, and results name Criteo as the source.",
    downloads=(
        Download(
            "https://go.criteo.net/criteo-research-kaggle-display-advertising-challenge-dataset.tar.gz",
            members=(WHOLE,),
        ),
    ),
    folders=("criteo",),
    options=CriteoOptions,
    read=_read,
)
