"""What is in a store, and what looks wrong with it: labels that leak into a feature, drift from train to test.

Field statistics are taken over at most a million evenly spaced rows of a split.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from weft.batch import FIRST_ID, PADDING, UNKNOWN
from weft.data.split import NAMES
from weft.data.store import Store
from weft.schema import TimeUnit
from weft.transforms.rows import RaggedArrays, Rows

SAMPLE = 1_000_000
LEAK = 0.95  # AUC of a single field
APART, SUSPICIOUS = 0.1, 0.8  # AUC: so far above the next best field, when at least this good
DRIFT = 0.25  # population stability index
BINS = 20
PRIOR = 20.0  # rows with the mean label that every id is given
PERIODS = 10

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


class SplitFacts(Struct, frozen=True, kw_only=True):
    """A split: its rows and the mean of each label."""

    name: str
    rows: int
    labels: dict[str, float]


class FieldFacts(Struct, frozen=True, kw_only=True):
    """A field of ids or a number.

    Attributes:
        name: The field.
        side: Whose it is.
        kind: id, set, sequence or number.
        values: Number of ids; None for a number.
        missing: Share of train rows without a value; None where encoding no longer tells.
        unknown: Share of test values that have no id of their own.
        top: Share of train values that are the most frequent one; of a number, the fullest of 20 intervals.
        auc: How well this field alone, through its mean label in train, orders the validation rows by the first label.
        drift: Population stability index from train to test, less what chance alone gives.
    """

    name: str
    side: str
    kind: Literal["id", "set", "sequence", "number"]
    values: int | None
    missing: float | None
    unknown: float | None
    top: float | None
    auc: float | None
    drift: float | None


class Period(Struct, frozen=True, kw_only=True):
    """A tenth of all rows in order of time (without a time role: a tenth of each split, in the order of the table).

    Attributes:
        start: Time of its first row.
        rows: Rows of each split.
        label: Mean of the first label in each split that has rows.
    """

    start: int | None
    rows: dict[str, int]
    label: dict[str, float]


class Description(Struct, frozen=True, kw_only=True):
    """All that `weft describe` says.

    Attributes:
        splits: Train, valid, test.
        users: Number of users with an id; None without a user role.
        items: Number of items with an id; None without an item role.
        density: Share of all pairs of a user and an item that occur.
        fields: Every field, in the order of batches.
        periods: The first label over time.
        time_unit: Of the periods' starts.
        warnings: Sentences about labels of one value, leakage, drift and fields without content.
    """

    splits: tuple[SplitFacts, ...]
    users: int | None
    items: int | None
    density: float | None
    fields: tuple[FieldFacts, ...]
    periods: tuple[Period, ...]
    time_unit: TimeUnit
    warnings: tuple[str, ...]

    def render(self, console: Console) -> None:
        """Print it as tables."""
        console.print(_title(self), highlight=False)
        console.print(_splits_table(self))
        console.print(_fields_table(self))
        if self.periods:
            console.print(_periods_table(self))
        for warning in self.warnings or ("nothing looks like leakage or drift",):
            console.print(f"- {warning}", highlight=False)


def describe(store: Store) -> Description:
    """Describe a store: rows, users, items, fields, the label over time, leakage and drift."""
    rows = {name: store.split(name) for name in NAMES}
    names = [label.name for label in store.schema.roles.label]
    fields = _fields(store, {name: _thinned(part) for name, part in rows.items()})
    return Description(
        splits=tuple(SplitFacts(name=name, rows=len(part), labels=_means(part, names)) for name, part in rows.items()),
        users=_known(store.transforms.user_ids),
        items=_known(store.transforms.item_ids),
        density=_density(store),
        fields=fields,
        periods=_periods(rows),
        time_unit=store.schema.roles.time_unit,
        warnings=(*_one_sided(rows["train"], names), *_leaks(fields), *_drifts(fields), *_empty(fields)),
    )


def _known(vocabulary: Any) -> int | None:
    return None if vocabulary is None else len(vocabulary)


def _thinned(rows: Rows) -> Rows:
    if len(rows) <= SAMPLE:
        return rows
    return rows.take(np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64))


def _means(rows: Rows, names: list[str]) -> dict[str, float]:
    if rows.label is None or not len(rows):
        return {}
    return dict(zip(names, rows.label.mean(axis=0, dtype=np.float64).tolist(), strict=True))


def _density(store: Store) -> float | None:
    users, items = _known(store.transforms.user_ids), _known(store.transforms.item_ids)
    if not users or not items:
        return None
    seen = store.catalogue.seen
    user = np.repeat(np.arange(len(seen.offsets) - 1), np.diff(seen.offsets))
    return len(np.unique(user * (items + FIRST_ID) + np.asarray(seen.item))) / (users * items)


# Fields


class _Binned(NamedTuple):
    """A field as bins: bin of each element, and the row that it belongs to."""

    bins: Ints
    row: Ints
    rows: int


def _fields(store: Store, rows: dict[str, Rows]) -> tuple[FieldFacts, ...]:
    return (*_id_fields(store, rows), *_numbers(store, rows), *_ragged_fields(store, rows))


def _id_fields(store: Store, rows: dict[str, Rows]) -> Iterator[FieldFacts]:
    for place, field in enumerate(store.fields.ids):
        columns = {name: _flat(part.ids[:, place]) for name, part in rows.items()}
        yield _facts(field.name, field.side, "id", field.rows, columns, rows)


def _ragged_fields(store: Store, rows: dict[str, Rows]) -> Iterator[FieldFacts]:
    for field in store.fields.ragged:
        columns = {name: _elements(part.ragged[field.name]) for name, part in rows.items()}
        assert field.kind != "id"
        yield _facts(field.name, field.side, field.kind, field.rows, columns, rows)


def _numbers(store: Store, rows: dict[str, Rows]) -> Iterator[FieldFacts]:
    for place, field in enumerate(store.fields.dense):
        train = rows["train"].dense[:, place]
        edges = np.unique(np.quantile(train, np.linspace(0, 1, BINS + 1)[1:-1]))
        columns = {
            name: _flat(FIRST_ID + np.searchsorted(edges, part.dense[:, place], side="right"))
            for name, part in rows.items()
        }
        facts = _facts(field.name, field.side, "number", FIRST_ID + len(edges) + 1, columns, rows)
        count = store.missing.get(field.name)
        missing = None if count is None else count / max(1, store.rows["train"])
        yield replace(facts, values=None, missing=missing, unknown=None)


def _flat(ids: Ints) -> _Binned:
    return _Binned(ids, np.arange(len(ids)), len(ids))


def _elements(ragged: RaggedArrays) -> _Binned:
    rows = len(ragged.offsets) - 1
    return _Binned(ragged.values, np.repeat(np.arange(rows), np.diff(ragged.offsets)), rows)


def _facts(
    name: str,
    side: str,
    kind: Literal["id", "set", "sequence", "number"],
    size: int,
    columns: dict[str, _Binned],
    rows: dict[str, Rows],
) -> FieldFacts:
    counts = np.bincount(columns["train"].bins, minlength=size)
    test = np.bincount(columns["test"].bins, minlength=size)
    filled = len(np.unique(columns["train"].row[columns["train"].bins != PADDING]))
    return FieldFacts(
        name=name,
        side=side,
        kind=kind,
        values=size,
        missing=1 - filled / max(1, columns["train"].rows),
        unknown=_share(test[UNKNOWN], test.sum()),
        top=_share(counts[UNKNOWN:].max(initial=0), counts.sum()),
        auc=_single_auc(columns, rows, size),
        drift=stability(counts, test),
    )


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


# Leakage


def _single_auc(columns: dict[str, _Binned], rows: dict[str, Rows], size: int) -> float | None:
    if rows["train"].label is None or rows["valid"].label is None or not len(rows["valid"]):
        return None
    known, asked = rows["train"].label[:, 0].astype(np.float64), rows["valid"].label[:, 0]
    middle = known.mean()
    fitted = columns["train"]
    sums = np.bincount(fitted.bins, known[fitted.row], minlength=size)
    means = (sums + PRIOR * middle) / (np.bincount(fitted.bins, minlength=size) + PRIOR)
    column = columns["valid"]
    total = np.bincount(column.row, means[column.bins], minlength=column.rows)
    count = np.bincount(column.row, minlength=column.rows)
    return auc(np.where(count > 0, total / np.maximum(count, 1), middle), asked > middle)


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve; equal scores count one half; None if one class is empty.

    >>> auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True]))
    0.875
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _leaks(fields: tuple[FieldFacts, ...]) -> Iterator[str]:
    known = sorted((f.auc for f in fields if f.auc is not None), reverse=True)
    for field in fields:
        if field.auc is None:
            continue
        next_best = known[1] if len(known) > 1 and field.auc == known[0] else known[0]
        apart = field.auc >= SUSPICIOUS and len(known) > 1 and field.auc - next_best > APART
        if field.auc >= LEAK or apart:
            yield (
                f"{field.name!r} alone predicts the label with AUC {field.auc:.3f}: it may hold the answer; "
                "check that it is known before the label is, or remove it"
            )


# Drift


def stability(train: Ints, test: Ints) -> float | None:
    r"""Population stability index of two histograms, less its expectation if both were drawn alike.

    .. math:: \sum_k (p_k - q_k) \ln(p_k / q_k) - (K - 1) (1 / n + 1 / m)

    Bins are the missing, the unknown, the 20 most frequent values of train, and the rest; half a row is added to each.
    The expectation: Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020.
    """
    if not train.sum() or not test.sum():
        return None
    grouped = np.stack([_grouped(counts, train) for counts in (train, test)]).astype(np.float64)
    grouped = grouped[:, grouped.sum(axis=0) > 0]
    bins = grouped.shape[1]
    p, q = (grouped + 0.5) / (grouped.sum(axis=1, keepdims=True) + 0.5 * bins)
    chance = (bins - 1) * (1 / train.sum() + 1 / test.sum())
    return max(0.0, float(((p - q) * np.log(p / q)).sum() - chance))


def _grouped(counts: Ints, by: Ints) -> Ints:
    order = FIRST_ID + np.argsort(-by[FIRST_ID:], kind="stable")
    return np.concatenate([counts[:FIRST_ID], counts[order[:BINS]], [counts[order[BINS:]].sum()]])


def _drifts(fields: tuple[FieldFacts, ...]) -> Iterator[str]:
    for field in fields:
        if field.drift is not None and field.drift > DRIFT:
            yield (
                f"{field.name!r} drifts: its values in test differ from train (stability index {field.drift:.2f}, "
                f"above {DRIFT}); expect other results than in validation"
            )


def _one_sided(train: Rows, names: list[str]) -> Iterator[str]:
    for place, name in enumerate(names):
        assert train.label is not None
        label = train.label[:, place]
        if label.min() == label.max():
            yield f"the label {name!r} is {label[0]:g} in all train rows: train with sampled `negatives`"


def _empty(fields: tuple[FieldFacts, ...]) -> Iterator[str]:
    for field in fields:
        if field.missing == 1 or (field.kind == "id" and field.top == 1):
            yield f"{field.name!r} has one value in all train rows: nothing can be learnt from it; remove it"


# The label over time


def _periods(rows: dict[str, Rows]) -> tuple[Period, ...]:
    times = [part.time for part in rows.values() if part.time is not None]
    everything = np.sort(np.concatenate(times)) if times else None
    edges = None if everything is None else everything[np.arange(PERIODS) * len(everything) // PERIODS]
    parts = {name: _period_of(part, edges) for name, part in rows.items()}
    return tuple(
        Period(
            start=None if edges is None else int(edges[k]),
            rows={name: int((parts[name] == k).sum()) for name in rows},
            label={name: _mean_label(rows[name], parts[name] == k) for name in rows if (parts[name] == k).any()},
        )
        for k in range(PERIODS)
        if rows["train"].label is not None
    )


def _period_of(rows: Rows, edges: Ints | None) -> Ints:
    if edges is None or rows.time is None:
        return np.arange(len(rows)) * PERIODS // max(1, len(rows))
    return np.searchsorted(edges, rows.time, side="right") - 1


def _mean_label(rows: Rows, mask: NDArray[np.bool_]) -> float:
    assert rows.label is not None
    return float(rows.label[:, 0][mask].mean(dtype=np.float64))


# Tables


def _splits_table(description: Description) -> Table:
    table = _table("rows", "mean label", first="split", title="splits")
    for split in description.splits:
        labels = ", ".join(f"{name} {mean:.4f}" for name, mean in split.labels.items())
        table.add_row(split.name, f"{split.rows:,}", labels)
    return table


def _title(description: Description) -> str:
    users = "no users" if description.users is None else f"{description.users:,} users"
    items = "no items" if description.items is None else f"{description.items:,} items"
    density = "" if description.density is None else f", {description.density:.2%} of pairs occur"
    return f"{users}, {items}{density}"


def _fields_table(description: Description) -> Table:
    table = _table("side", "kind", "ids", "missing", "unknown", "top", "AUC", "drift", first="field", title="fields")
    for f in description.fields:
        ids = "-" if f.values is None else f"{f.values:,}"
        shares = (_percent(f.missing), _percent(f.unknown), _percent(f.top))
        table.add_row(f.name, f.side, f.kind, ids, *shares, _decimal(f.auc), _decimal(f.drift))
    return table


def _periods_table(description: Description) -> Table:
    names = [split.name for split in description.splits]
    columns = [f"{name} {what}" for what in ("rows", "label") for name in names]
    table = _table(*columns, first="from", title="first label over time")
    for place, period in enumerate(description.periods):
        start = f"tenth {place + 1}" if period.start is None else _date(period.start, description.time_unit)
        counts = [f"{period.rows[name]:,}" for name in names]
        table.add_row(start, *counts, *(_decimal(period.label.get(name)) for name in names))
    return table


def _table(*columns: str, first: str, title: str) -> Table:
    right = [Column(name, justify="right") for name in columns]
    options: dict[str, Any] = {"title": f"\n{title}", "title_justify": "left", "box": None, "padding": (0, 1, 0, 0)}
    return Table(Column(first, no_wrap=True), *right, **options)


def _date(time: int, unit: TimeUnit) -> str:
    return str(np.datetime64(time, unit).astype("datetime64[m]")).replace("T", " ")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
