"""Metrics as functions of how often each row, group or user is drawn: what models are compared by on the same draws.

A metric is of rows (AUC, logloss), of groups of rows that were shown together (GAUC, NDCG of the pointwise protocol) or
of users (the ranking protocols). Resamples of what it is of are the same for every model, since rows, groups and users
are those of the split and not of the model.

Dimension key: N rows, G groups, U users.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import metrics
from weft.batch import FIRST_ID
from weft.errors import ConfigError, near
from weft.evaluate.evaluator import SCORE
from weft.evaluate.pointwise import by_label, lists_of_groups
from weft.metrics.bootstrap import Weighted, weighted_auc, weighted_mean, weighted_normalized_entropy
from weft.schema import Protocol, Schema
from weft.transforms.rows import Rows

Floats = NDArray[np.floating[Any]]

OF_LISTS = ("ndcg", "recall", "hr", "map", "mrr", "precision")
OF_CANDIDATES = ("ndcg", "hr")


def _root(weighted: Weighted) -> Weighted:
    return Weighted(weighted.rows, lambda weight: float(np.sqrt(weighted.of(weight))))


def _error(y: Floats, prediction: Floats) -> Floats:
    error: Floats = prediction.astype(np.float64) - y
    return error


# The first metric of a task is the one that models are compared by where no other is asked for.
OF_ROWS: dict[str, dict[str, Callable[[Floats, Floats], Weighted]]] = {
    "binary": {
        "auc": weighted_auc,
        "logloss": lambda y, logit: weighted_mean(metrics.row_logloss(y, logit)),
        "ne": weighted_normalized_entropy,
        "accuracy": lambda y, logit: weighted_mean((logit > 0) == (y > 0)),
    },
    "regression": {
        "rmse": lambda y, value: _root(weighted_mean(_error(y, value) ** 2)),
        "mae": lambda y, value: weighted_mean(np.abs(_error(y, value))),
    },
    "count": {
        "poisson_deviance": lambda y, rate: weighted_mean(metrics.row_poisson_deviance(y, rate)),
        "rmse": lambda y, rate: _root(weighted_mean(_error(y, np.exp(rate.astype(np.float64))) ** 2)),
    },
    "multiclass": {
        "logloss": lambda y, logits: weighted_mean(metrics.row_multiclass_logloss(y, logits)),
        "accuracy": lambda y, logits: weighted_mean(logits.argmax(1) == y),
    },
}


def comparable(schema: Schema, protocol: Protocol) -> tuple[str, ...]:
    """The metrics by which models can be compared, the one to take without a wish first.

    >>> from weft.schema import Label, Roles
    >>> schema = Schema(features=(), roles=Roles(user="u", item="i", label=(Label(name="play"),)))
    >>> comparable(schema, Protocol())
    ('auc', 'logloss', 'ne', 'accuracy', 'gauc')
    >>> comparable(schema, Protocol(kind="candidates", k=(5, 10)))
    ('ndcg@10', 'hr@10', 'ndcg@5', 'hr@5')
    """
    if protocol.kind != "pointwise":
        lengths = sorted(protocol.k, key=lambda k: (k != 10, k))
        named = OF_LISTS if protocol.kind == "full" else OF_CANDIDATES
        return tuple(f"{name}@{k}" for k in lengths for name in named)
    found: list[str] = []
    for label in schema.roles.label:
        names = [*OF_ROWS[label.task], *(_of_groups(schema) if label.task == "binary" else ())]
        found += [name if len(schema.roles.label) == 1 else f"{label.name}.{name}" for name in names]
    return tuple(found)


def choose(metric: str | None, schema: Schema, protocol: Protocol) -> str:
    """The metric to compare by; ConfigError when there is none of that name."""
    names = comparable(schema, protocol)
    if metric is not None and metric not in names:
        raise ConfigError(f"models cannot be compared by {metric!r} here; {near(metric, names)}")
    return metric or names[0]


def drawn(metric: str, protocol: Protocol) -> str:
    """What a resample draws.

    >>> drawn("auc", Protocol()), drawn("gauc", Protocol()), drawn("hr@5", Protocol(kind="full"))
    ('rows', 'groups', 'users')
    """
    if protocol.kind != "pointwise":
        return "users"
    name = metric.rpartition(".")[2]
    return "groups" if name == "gauc" or name.startswith("ndcg@") else "rows"


def weighted(
    metric: str, rows: Rows, values: Mapping[str, Floats], schema: Schema, protocol: Protocol, *, seed: int = 0
) -> Weighted:
    """A metric of one model.

    Args:
        metric: One of `comparable`.
        rows: The split.
        values: As `judge` gives them for the model.
        schema: For the labels.
        protocol: Under which the values were taken.
        seed: Orders equal scores within groups, as in `evaluate`.
    """
    if protocol.kind != "pointwise":
        return weighted_mean(values[metric])
    labels = schema.roles.label
    column = next((i for i, label in enumerate(labels) if metric.startswith(f"{label.name}.")), 0)
    name = metric.removeprefix(f"{labels[column].name}.")
    assert rows.label is not None
    y, logit = rows.label[:, column], by_label(labels, values[SCORE])[column]
    of_rows = OF_ROWS[labels[column].task]
    return of_rows[name](y, logit) if name in of_rows else _within_groups(name, rows, y, logit, seed)


def _of_groups(schema: Schema) -> tuple[str, ...]:
    if schema.roles.group is not None:
        return ("gauc", *(f"ndcg@{k}" for k in schema.protocol.k))
    return ("gauc",) if schema.roles.user is not None else ()


def _within_groups(name: str, rows: Rows, y: Floats, logit: Floats, seed: int) -> Weighted:
    if name == "gauc":
        group, kept = _groups(rows)
        found = metrics.group_auc(y[kept], logit[kept], group[kept])
        return weighted_mean(found.auc, found.rows)
    k = int(name.removeprefix("ndcg@"))
    assert rows.group is not None
    hits, relevant = lists_of_groups(y, logit, rows.group, k, seed=seed)
    return weighted_mean(metrics.ndcg(hits, relevant, k))


def _groups(rows: Rows) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """The group of each row and which rows count: all, or without a group role those of users that training knows."""
    if rows.group is not None:
        return rows.group, np.ones(len(rows), np.bool_)
    assert rows.user is not None
    return rows.user, rows.user >= FIRST_ID
