"""Permutation importance: how much worse a model gets when one feature's values are shuffled over the rows.

A shuffled feature keeps its own distribution and loses all connection with the label and with the other features. The
columns that are made of one feature (its buckets, its missing indicator, the id of its role) move together; a cross is
a feature of its own. Two features that say the same may both look unimportant, since each stands in for the other.

The interval holds two kinds of chance: each resample draws the rows with replacement, and which of the shuffles count.

Paper: Breiman, Machine Learning 2001, https://doi.org/10.1023/A:1010933404324, section 10.
Differs: on rows that training did not see, instead of those out of a bag.

Dimension key: N rows, T labels or classes, K shuffles, S resamples.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft import metrics
from weft.batch import Fields
from weft.explain.explanation import Importance
from weft.metrics.bootstrap import weighted_auc, weighted_mean
from weft.schema import Label, Schema
from weft.transforms.layout import BUCKET, MISSING
from weft.transforms.rows import Rows

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Weights = NDArray[np.float64]
Metric = Callable[[Weights], float]


class Columns(NamedTuple):
    """The columns of rows that one feature fills.

    Attributes:
        feature: Its name.
        ids: Places in `Rows.ids`.
        dense: Places in `Rows.dense`.
        ragged: Names in `Rows.ragged`.
        role: The id column of a role that goes with it.
    """

    feature: str
    ids: tuple[int, ...] = ()
    dense: tuple[int, ...] = ()
    ragged: tuple[str, ...] = ()
    role: Literal["user", "item"] | None = None


def features(schema: Schema, fields: Fields) -> list[Columns]:
    """The features of a schema with their columns, then the roles `user` and `item` that are no features."""
    names = [feature.name for feature in schema.features]
    roles: dict[str | None, Literal["user", "item"]] = {schema.roles.user: "user", schema.roles.item: "item"}
    roles.pop(None, None)
    found = [
        Columns(
            feature=name,
            ids=tuple(i for i, field in enumerate(fields.ids) if _owner(field.name, names) == name),
            dense=tuple(i for i, field in enumerate(fields.dense) if _owner(field.name, names) == name),
            ragged=tuple(field.name for field in fields.ragged if field.name == name),
            role=roles.pop(name, None),
        )
        for name in names
    ]
    return found + [Columns(feature=str(name), role=role) for name, role in roles.items()]


def _owner(field: str, names: Sequence[str]) -> str:
    """The feature that a field is made of."""
    return field if field in names else field.removesuffix(BUCKET).removesuffix(MISSING)


def shuffled(rows: Rows, columns: Columns, order_N: Ints) -> Rows:
    """The rows, with the values of one feature taken from other rows."""
    ids, dense = np.array(rows.ids), np.array(rows.dense)
    for i in columns.ids:
        ids[:, i] = rows.ids[order_N, i]
    for i in columns.dense:
        dense[:, i] = rows.dense[order_N, i]
    ragged = {name: sets.take(order_N) if name in columns.ragged else sets for name, sets in rows.ragged.items()}
    moved = replace(rows, ids=ids, dense=dense, ragged=ragged)
    match columns.role, rows.user, rows.item:
        case "user", np.ndarray() as user, _:
            return replace(moved, user=user[order_N])
        case "item", _, np.ndarray() as item:
            return replace(moved, item=item[order_N])
    return moved


def importances(
    rows: Rows,
    schema: Schema,
    columns: Iterable[Columns],
    score: Callable[[Rows], Floats],
    *,
    seed: int,
    shuffles: int = 5,
    resamples: int = 200,
) -> tuple[Importance, ...]:
    """The importance of each feature by each metric, most important first within a metric.

    Args:
        rows: With labels.
        schema: For the labels' tasks.
        columns: The features to shuffle.
        score: Logits [N] or [N, T] of rows.
        seed: Of shuffles and resamples.
        shuffles: How often each feature is shuffled.
        resamples: Of the interval.
    """
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(rows)) for _ in range(shuffles)]
    weights_SN = [
        np.bincount(random.integers(len(rows), size=len(rows)), minlength=len(rows)) for _ in range(resamples)
    ]
    drawn_SK = random.integers(shuffles, size=(resamples, shuffles))
    weights = [np.ones(len(rows)), *(weight.astype(np.float64) for weight in weights_SN)]
    base = _measured(metrics_of(schema.roles.label, rows, score(rows)), weights)
    found: dict[str, list[Importance]] = {name: [] for name in base}
    for one in columns:
        tries = [score(shuffled(rows, one, order)) for order in orders]
        measured = [_measured(metrics_of(schema.roles.label, rows, logits), weights) for logits in tries]
        for name in base:
            worse = np.stack([_worse(name, base[name], values[name]) for values in measured], axis=1)
            found[name].append(_importance(one.feature, name, worse, drawn_SK))
    return tuple(one for many in found.values() for one in sorted(many, key=_rank))


def metrics_of(labels: Sequence[Label], rows: Rows, logits: Floats) -> dict[str, Metric]:
    """The metrics of each label as functions of one weight a row."""
    assert rows.label is not None
    found: dict[str, Metric] = {}
    for t, label in enumerate(labels):
        of_label = _by_task(label, rows.label[:, t], logits[:, t] if len(labels) > 1 else logits)
        found |= {f"{label.name}.{name}" if len(labels) > 1 else name: metric for name, metric in of_label.items()}
    return found


def _by_task(label: Label, y: Floats, logits: Floats) -> dict[str, Metric]:
    match label.task:
        case "binary":
            logloss = weighted_mean(metrics.row_logloss(y, logits))
            return {"auc": weighted_auc(y, logits).of, "logloss": logloss.of}
        case "regression":
            square = weighted_mean((logits.astype(np.float64) - y) ** 2)
            return {"rmse": lambda weight: float(np.sqrt(square.of(weight)))}
        case "count":
            return {"poisson_deviance": weighted_mean(metrics.row_poisson_deviance(y, logits)).of}
        case "multiclass":
            return {"logloss": weighted_mean(metrics.row_multiclass_logloss(y, logits)).of}


def _measured(found: dict[str, Metric], weights: Sequence[Weights]) -> dict[str, Floats]:
    return {name: np.array([metric(weight) for weight in weights]) for name, metric in found.items()}


def _worse(name: str, base: Floats, other: Floats) -> Floats:
    return base - other if metrics.more_is_better(name) else other - base


def _importance(feature: str, metric: str, worse: Floats, drawn_SK: Ints) -> Importance:
    """From what each shuffle did [1 + S, K]: on all rows, then on each resample."""
    replicates_S = np.take_along_axis(worse[1:], drawn_SK, axis=1).mean(1)
    replicates_S = replicates_S[~np.isnan(replicates_S)]
    ends = np.quantile(replicates_S, [0.025, 0.975]) if len(replicates_S) else np.full(2, np.nan)
    value, low, high = (None if np.isnan(x) else float(x) for x in (worse[0].mean(), *ends))
    return Importance(feature=feature, metric=metric, worse=value, low=low, high=high)


def _rank(one: Importance) -> float:
    return np.inf if one.worse is None else -one.worse
