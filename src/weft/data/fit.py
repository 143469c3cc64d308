"""Fitting transforms on the train rows, chunk by chunk; memory is bounded by vocabularies, not by the table.

Every statistic is a sum of integers, or is folded over chunks of fixed size in the order of the rows, so that any
number of threads gives the same bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data._tables import ROLES, Role, Tables
from weft.data.split import TRAIN, Assignment
from weft.errors import DataError
from weft.schema import Categorical, Count, Cross, Dense, Feature, MultiHot, Scaling, Schema
from weft.schema import Sequence as SequenceFeature
from weft.transforms.bucket import quantile_edges
from weft.transforms.columns import Numbers, table_columns
from weft.transforms.cross import CrossVocabulary
from weft.transforms.encode import Transforms
from weft.transforms.hashing import Hashes
from weft.transforms.history import EventLog, Events
from weft.transforms.scale import QUANTILES, Moments, Scaler, log_shift, shifted_log
from weft.transforms.vocabulary import Vocabulary

SAMPLE = 1 << 20
COMPACT = 1 << 22


def fit(tables: Tables, split: Assignment) -> Transforms:
    """Fit everything that the schema needs.

    Vocabularies, scalers, buckets and crosses see train rows only. The user and item ids also hold the ids of the
    tables of users and items. The history holds all rows: a row reads only what lies strictly before its time.
    """
    counts = {name: ValueCounts() for name in (*_vocabulary_columns(tables), *ROLES)}
    statistics = {f.name: DenseStatistics(f.transform) for f in tables.schema.features if isinstance(f, Dense)}
    labels = {label.name: Moments() for label in tables.schema.roles.label}
    for frame in train_frames(tables, split):  # all columns: every value is checked once
        _count(counts, _counted(tables, frame))
        for name, dense in statistics.items():
            dense.add(_numbers(frame[name]))
        labels = {name: seen.merge(Moments.of(_numbers(frame[name]))) for name, seen in labels.items()}
    _again(statistics, lambda name: (_numbers(frame[name]) for frame in train_frames(tables, split, [name])))
    _refuse_constant(tables, counts, statistics, int((split == TRAIN).sum()))
    _refuse_constant_labels(tables, labels)
    transforms = Transforms(
        tables.schema,
        vocabularies=_vocabularies(tables, counts),
        scalers=_scalers(tables, statistics),
        edges=_edges(tables, statistics),
        user_ids=_role_ids(tables, "user", counts["user"]),
        item_ids=_role_ids(tables, "item", counts["item"]),
    )
    return _fit_made(_with_history(transforms, tables), tables, split)


def train_frames(tables: Tables, split: Assignment, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """The train rows, chunk by chunk."""
    for piece in tables.chunks(columns):
        yield piece.frame.filter(pl.Series(split[piece.start : piece.start + piece.frame.height] == TRAIN))


# Counting values


class ValueCounts:
    """How often each value of a column occurs, over chunks."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []
        self._rows = 0

    def add(self, counted: pl.DataFrame) -> None:
        """Add the columns `value` and `count` of a chunk."""
        self._parts.append(counted)
        self._rows += counted.height
        if self._rows > COMPACT:
            self._rows = self._merged().height

    def result(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Distinct values, sorted, and their counts."""
        merged = self._merged().sort("value")
        return merged["value"].to_numpy(), merged["count"].to_numpy()

    def __len__(self) -> int:
        """Number of distinct values."""
        return self._merged().height

    def total(self) -> int:
        """Number of values, each as often as it occurs."""
        return int(self._merged()["count"].sum())

    def _merged(self) -> pl.DataFrame:
        if not self._parts:
            return pl.DataFrame(schema={"value": pl.Int64, "count": pl.Int64})
        if len({part.schema["value"] for part in self._parts}) > 1:
            self._parts = [part.cast({"value": pl.String}) for part in self._parts]
        if len(self._parts) > 1:
            self._parts = [pl.concat(self._parts).group_by("value").agg(pl.col("count").sum())]
        return self._parts[0]


def _count(counts: Mapping[str, ValueCounts], columns: Mapping[str, list[pl.Series]]) -> None:
    """Count the values of many columns at once; several columns of one name are counted together."""
    names = [name for name, many in columns.items() for _ in many]
    plans = [_group(series) for many in columns.values() for series in many]
    for name, counted in zip(names, pl.collect_all(plans), strict=True):
        counts[name].add(counted)


def _group(series: pl.Series) -> pl.LazyFrame:
    lazy = pl.DataFrame({"value": series}).lazy().drop_nulls()
    return lazy.group_by("value").agg(pl.len().cast(pl.Int64).alias("count"))


def _vocabulary_columns(tables: Tables) -> dict[str, list[str]]:
    """The columns whose values each vocabulary holds, by the name of the feature that owns it."""
    owners: dict[str, list[str]] = {}
    for feature in tables.schema.features:
        if _has_values(feature):
            shared = getattr(feature, "shares", None)
            owners.setdefault(shared or feature.name, []).append(feature.name)
    hashed = {f.name for f in tables.schema.features if getattr(f, "hash_buckets", None) is not None}
    return {name: columns for name, columns in owners.items() if name not in hashed}


def _has_values(feature: Feature) -> bool:
    return isinstance(feature, Categorical | MultiHot) or (isinstance(feature, SequenceFeature) and feature.of is None)


def _counted(tables: Tables, frame: pl.DataFrame) -> dict[str, list[pl.Series]]:
    columns = {name: [_flat(frame[c]) for c in many] for name, many in _vocabulary_columns(tables).items()}
    roles = tables.schema.roles
    named: dict[Role, str | None] = {"user": roles.user, "item": roles.item}
    return columns | {role: [frame[name]] for role, name in named.items() if name is not None}


def _flat(series: pl.Series) -> pl.Series:
    if isinstance(series.dtype, pl.List):
        return series.explode(empty_as_null=False, keep_nulls=False)
    return series


def _vocabularies(tables: Tables, counts: Mapping[str, ValueCounts]) -> dict[str, Vocabulary]:
    return {
        name: Vocabulary.from_counts(*counts[name].result(), getattr(tables.schema.feature(name), "min_count", 1))
        for name in _vocabulary_columns(tables)
    }


def _role_ids(tables: Tables, role: Role, counts: ValueCounts) -> Vocabulary | None:
    name = tables.schema.roles.user if role == "user" else tables.schema.roles.item
    if name is None:
        return None
    if role in tables.side_frames:
        ids = tables.side_frames[role][name]
        counts.add(pl.DataFrame({"value": ids, "count": pl.zeros(len(ids), pl.Int64, eager=True)}))
    return Vocabulary.from_counts(*counts.result(), 0)


# Numbers


class DenseStatistics:
    """Statistics of a number column over chunks: moments, moments of the logarithm, and values for quantiles.

    Up to 2**20 values quantiles are exact; of more every second, fourth, ... value is kept.
    """

    def __init__(self, transform: Scaling) -> None:
        self.transform = transform
        self.moments = Moments()
        self._logs = Moments()
        self._log_shift = 0.0
        self._kept: list[Numbers] = []
        self._stride = 1
        self._seen = 0

    def add(self, values: Numbers) -> None:
        """Add the values of a chunk; NaN is missing."""
        self.moments = self.moments.merge(Moments.of(values))
        self._add_logs(values)
        self._keep(values[~np.isnan(values)])

    def is_flat(self) -> bool:
        """Whether there is at most one distinct value."""
        return self.moments.smallest >= self.moments.largest

    def needs_logs(self) -> bool:
        """Whether `add_again` must see all chunks again: only then the shift of the logarithm is known."""
        return self.transform == "log_standardize" and log_shift(self.moments) != self._log_shift

    def restart_logs(self) -> None:
        """Before the second pass."""
        self._log_shift = log_shift(self.moments)
        self._logs = Moments()

    def add_again(self, values: Numbers) -> None:
        """The second pass over a chunk."""
        self._add_logs(values)

    def sample(self) -> Numbers:
        """Values that stand for the column."""
        return np.concatenate(self._kept) if self._kept else np.empty(0)

    def scaler(self, missing: str = "mean") -> Scaler:
        """The fitted scaling."""
        quantiles = self._quantiles() if self.transform == "quantile" else None
        return Scaler.from_moments(self.transform, self.moments, missing=missing, logs=self._logs, quantiles=quantiles)

    def _add_logs(self, values: Numbers) -> None:
        if self.transform == "log_standardize":
            self._logs = self._logs.merge(Moments.of(shifted_log(values, self._log_shift)))

    def _keep(self, present: Numbers) -> None:
        first = -self._seen % self._stride
        self._seen += len(present)
        self._kept.append(present[first :: self._stride])
        while sum(map(len, self._kept)) > SAMPLE:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._stride *= 2

    def _quantiles(self) -> Numbers:
        values = self.sample()
        if len(values):
            values = np.quantile(values, np.linspace(0, 1, QUANTILES + 1))
            values[0], values[-1] = self.moments.smallest, self.moments.largest
        return values


def _numbers(series: pl.Series) -> Numbers:
    return series.fill_null(float("nan")).to_numpy()


def _again(statistics: Mapping[str, DenseStatistics], columns: Callable[[str], Iterator[Numbers]]) -> None:
    """Give the columns that need it a second pass."""
    for name, dense in statistics.items():
        if dense.needs_logs():
            dense.restart_logs()
            for values in columns(name):
                dense.add_again(values)


def _scalers(tables: Tables, statistics: Mapping[str, DenseStatistics]) -> dict[str, Scaler]:
    features = [f for f in tables.schema.features if isinstance(f, Dense)]
    return {f.name: statistics[f.name].scaler(f.missing) for f in features}


def _edges(tables: Tables, statistics: Mapping[str, DenseStatistics]) -> dict[str, Numbers]:
    edges: dict[str, Numbers] = {}
    for feature in tables.schema.features:
        if isinstance(feature, Dense) and feature.buckets is not None:
            given = feature.buckets
            sample = statistics[feature.name].sample()
            edges[feature.name] = quantile_edges(sample, given) if isinstance(given, int) else np.array(given)
    return edges


def _refuse_constant(
    tables: Tables, counts: Mapping[str, ValueCounts], statistics: Mapping[str, DenseStatistics], rows: int
) -> None:
    """Raise DataError for a feature with one and the same value in all train rows; a missing value is another one."""
    flat = {name: dense.moments.count for name, dense in statistics.items() if dense.is_flat()}
    single = {name: counts[name].total() for name in _vocabulary_columns(tables) if len(counts[name]) <= 1}
    for name, present in (flat | single).items():
        if rows > 1 and present in (0, rows):
            what = "has no value" if present == 0 else "has one and the same value"
            raise DataError(
                f"{tables.file_of(name)!r}, column {name!r}: it {what} in all {rows:,} train rows, from row 0 on, "
                "so nothing can be learnt from it; remove the feature from the schema"
            )


def _refuse_constant_labels(tables: Tables, labels: Mapping[str, Moments]) -> None:
    """Raise DataError for a label with one value in all train rows; a binary 1 passes, for sampled negatives."""
    tasks = {label.name: label.task for label in tables.schema.roles.label}
    for name, seen in labels.items():
        value = seen.smallest
        if seen.count > 1 and value == seen.largest and (tasks[name], value) != ("binary", 1.0):
            raise DataError(
                f"{tables.file_of(name)!r}, column {name!r}: the label is {value:g} in all {seen.count:,} train rows, "
                "from row 0 on, so nothing can be learnt; mend the column or give other train rows"
            )


# Crosses and counters: fitted on what the first pass made


def _history_features(schema: Schema) -> list[Feature]:
    return [f for f in schema.features if isinstance(f, Count) or (isinstance(f, SequenceFeature) and f.of is not None)]


def _history_columns(schema: Schema) -> set[str]:
    """The columns that the events of Counts and derived Sequences come from."""
    if not _history_features(schema):
        return set()
    names = {schema.roles.user, schema.roles.time}
    for feature in schema.features:
        if isinstance(feature, Count):
            names |= {*feature.by, feature.of}
        if isinstance(feature, SequenceFeature) and feature.of is not None:
            names |= {feature.of, feature.where}
    return {name for name in names if name is not None}


def _cross_columns(schema: Schema) -> set[str]:
    read = table_columns(schema)
    parts = {part.removesuffix(".bucket") for f in schema.features if isinstance(f, Cross) for part in f.of}
    return {part for part in parts if part in read}


def _with_history(transforms: Transforms, tables: Tables) -> Transforms:
    columns = _history_columns(tables.schema)
    if not columns:
        return transforms
    gathered: dict[str, list[Events]] = {}
    for piece in tables.chunks(sorted(columns)):
        for name, events in transforms.history_events(tables.raw(piece.frame)).items():
            gathered.setdefault(name, []).append(events)
    return transforms.replace(history={name: EventLog(_joined(parts)) for name, parts in gathered.items()})


def _joined(parts: Sequence[Events]) -> Events:
    values = [part.value for part in parts if part.value is not None]
    return Events(
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate(values) if values else None,
    )


def _fit_made(transforms: Transforms, tables: Tables, split: Assignment) -> Transforms:
    crosses = {f.name: f for f in tables.schema.features if isinstance(f, Cross) and f.hash_buckets is None}
    counters = {f.name: f for f in tables.schema.features if isinstance(f, Count)}
    if not crosses and not counters:
        return transforms
    columns = sorted(_history_columns(tables.schema) | _cross_columns(tables.schema))
    keys = {name: ValueCounts() for name in crosses}
    statistics = {name: DenseStatistics(f.transform) for name, f in counters.items()}
    for frame in train_frames(tables, split, columns):
        raw = tables.raw(frame)
        for name in crosses:
            keys[name].add(_counted_keys(transforms.cross_keys(name, raw)))
        for name in counters:
            statistics[name].add(transforms.count_values(name, raw))
    _again(statistics, lambda name: _counter_columns(transforms, name, tables, split, columns))
    return transforms.replace(
        crosses={name: CrossVocabulary.from_counts(*keys[name].result(), f.min_count) for name, f in crosses.items()},
        scalers={**transforms.scalers, **{name: dense.scaler() for name, dense in statistics.items()}},
    )


def _counted_keys(keys: Hashes) -> pl.DataFrame:
    values, counts = np.unique(keys, return_counts=True)
    return pl.DataFrame({"value": values, "count": counts.astype(np.int64)})


def _counter_columns(
    transforms: Transforms, name: str, tables: Tables, split: Assignment, columns: Sequence[str]
) -> Iterator[Numbers]:
    for frame in train_frames(tables, split, columns):
        yield transforms.count_values(name, tables.raw(frame))
