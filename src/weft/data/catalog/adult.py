"""Adult: who earns more than 50,000 dollars a year, from the American census of 1994.

Source: Becker and Kohavi, UCI Machine Learning Repository, 1996, https://doi.org/10.24432/C5XW20. The columns, the
edges of the age buckets and the three crosses are those of TensorFlow's tutorial of Wide & Deep; `plain` is the same
without the crosses. The test split is the publisher's, the validation split a seeded tenth of the publisher's train
rows.
Differs from the tutorial: crosses have a vocabulary and no hash buckets, gains and losses are scaled by their
logarithm. A `?` is a value like any other. Race, marital status and the census weight are in the table, and neither
the tutorial nor the schema names them.
"""

from typing import Annotated

import numpy as np
import polars as pl
from msgspec import Meta

from weft.data.catalog._files import Columns, Dataset, Download, Files, Options, Tables
from weft.errors import DataError
from weft.schema import Categorical, ColumnSplit, Cross, Dense, Label, Protocol, Roles, Schema
from weft.schema import Tables as TableNames

UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"
NUMBERS = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship"),
    *("race", "gender", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
)
INCOMES = {"<=50K": 0, ">50K": 1}
AGE_EDGES = (18.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0)
CATEGORIES = ("gender", "native_country", "education", "occupation", "workclass", "relationship")
CROSSES = (
    ("education", "occupation"),
    ("native_country", "occupation"),
    ("age.bucket", "education", "occupation"),
)


class AdultOptions(Options, frozen=True, kw_only=True):
    """Options of the data set.

    Attributes:
        min_count: Combinations of a cross seen in fewer train rows are unknown.
        seed: Of the validation rows.
    """

    min_count: Annotated[int, Meta(ge=1)] = 1
    seed: Annotated[int, Meta(ge=0)] = 0


def _read(files: Files, protocol: str, options: AdultOptions) -> Tables:
    train, test = _rows(files, "adult.data"), _rows(files, "adult.test")
    held = np.random.default_rng(options.seed).permutation(train.height) < train.height // 10
    split = pl.Series("split", np.where(held, "valid", "train"), dtype=pl.String)
    rows = pl.concat([train.with_columns(split), test.with_columns(split=pl.lit("test"))])
    return Tables({"interactions": rows}, _schema(protocol, options))


def _rows(files: Files, name: str) -> pl.DataFrame:
    """The rows of one file; the first line of the publisher's test file is a remark, the last line of a file empty."""
    columns: Columns = dict.fromkeys(COLUMNS, pl.String)
    rows = files.table(name, columns, separator=", ", remark="|").filter(pl.col("workclass").is_not_null())
    income = rows["income"].str.strip_suffix(".").replace_strict(INCOMES, default=None, return_dtype=pl.Int8)
    if income.null_count():
        row = int(income.is_null().arg_max() or 0)
        raise DataError(
            f"{str(files.path(name))!r}, column 'income', row {row}: got {rows['income'][row]!r}, "
            f"{' and '.join(INCOMES)} are known; get the publisher's file again"
        )
    return rows.with_columns(income, pl.col(*NUMBERS).cast(pl.Int64))


def _schema(protocol: str, options: AdultOptions) -> Schema:
    crosses = CROSSES if protocol == "crosses" else ()
    return Schema(
        name=f"adult {protocol}",
        tables=TableNames(interactions="interactions.parquet"),
        features=(
            Dense(name="age", side="user", buckets=AGE_EDGES),
            Dense(name="education_num", side="user"),
            Dense(name="capital_gain", side="user", transform="log_standardize"),
            Dense(name="capital_loss", side="user", transform="log_standardize"),
            Dense(name="hours_per_week", side="user"),
            *(Categorical(name=name, side="user") for name in CATEGORIES),
            *(Cross(name=_cross_name(of), of=of, min_count=options.min_count) for of in crosses),
        ),
        roles=Roles(label=(Label(name="income"),)),
        split=ColumnSplit(column="split"),
        protocol=Protocol(name=f"adult, the publisher's test file, validation seed {options.seed}"),
        presets={"bars": {"embedding_dim": 8, "hidden": [100, 50], "train": {"batch_size": 256}}},
    )


def _cross_name(parts: tuple[str, ...]) -> str:
    return " x ".join(part.removesuffix(".bucket") for part in parts)


DATASET = Dataset(
    name="adult",
    title="Adult: income over 50,000 dollars in the census of 1994",
    protocols=("crosses", "plain"),
    terms="CC BY 4.0; cite Becker and Kohavi 1996.",
    downloads=(
        Download(f"{UCI}/adult.data", md5="5d7c39d7b8804f071cdd1f2a7c460872"),
        Download(f"{UCI}/adult.test", md5="35238206dfdf7f1fe215bbb874adecdc"),
    ),
    folders=("adult",),
    options=AdultOptions,
    read=_read,
)
