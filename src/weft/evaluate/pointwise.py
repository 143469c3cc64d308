"""Metrics of rows as they are: each label by its task, and metrics within groups of rows that were shown together.

Dimension key: N rows, T labels or classes, G groups, K list length.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import metrics
from weft.batch import FIRST_ID
from weft.evaluate.report import Value, from_interval
from weft.metrics import Interval
from weft.metrics.bootstrap import bootstrap
from weft.schema import Label, Schema
from weft.transforms.rows import Rows

Floats = NDArray[np.floating[Any]]

RESAMPLES = 200


def pointwise(rows: Rows, logits: Floats, schema: Schema, *, seed: int) -> dict[str, Value]:
    """All metrics of a split from its logits [N] or [N, T]; several labels have keys such as `click.auc`."""
    labels = schema.roles.label
    found: dict[str, Value] = {}
    columns = by_label(labels, logits)
    for i, (label, column) in enumerate(zip(labels, columns, strict=True)):
        assert rows.label is not None
        of_label = by_task(label, rows.label[:, i], column, seed=seed)
        if label.task == "binary":
            of_label |= within_groups(rows, rows.label[:, i], column, schema, seed=seed)
        found |= of_label if len(labels) == 1 else {f"{label.name}.{key}": v for key, v in of_label.items()}
    return found


def by_label(labels: tuple[Label, ...], logits: Floats) -> list[Floats]:
    """The logits of each label: [N], or [N, C] of a multiclass one."""
    if len(labels) == 1:
        return [logits]
    widths = [label.classes or 1 for label in labels]
    parts = np.split(logits, np.cumsum(widths)[:-1], axis=1)
    return [part if width > 1 else part[:, 0] for part, width in zip(parts, widths, strict=True)]


def by_task(label: Label, y: Floats, logit: Floats, *, seed: int) -> dict[str, Value]:
    """The metrics of one label."""
    match label.task:
        case "binary":
            return _binary(y, logit, seed)
        case "regression":
            return _regression(y, logit, seed)
        case "count":
            return _count(y, logit, seed)
        case "multiclass":
            return _multiclass(y, logit, seed)


def sigmoid(logit: Floats) -> Floats:
    """Probabilities of logits, in double precision; extreme ones do not overflow.

    >>> sigmoid(np.array([0.0, -1000.0], np.float32)).tolist()
    [0.5, 0.0]
    """
    return np.exp(-np.logaddexp(0, -logit.astype(np.float64)))


def _binary(y: Floats, logit: Floats, seed: int) -> dict[str, Value]:
    probability = sigmoid(logit)
    said = (logit > 0).astype(np.float64)
    ratios = {
        "calibration": (probability, y),
        "precision": (y * said, said),
        "recall": (y * said, y),
        "f1": (2 * y * said, y + said),
    }
    by_ratio = {
        name: metrics.bootstrap_ratio(above, below, seed=seed, resamples=RESAMPLES)
        for name, (above, below) in ratios.items()
    }
    found = {
        "auc": metrics.bootstrap_auc(y, logit, seed=seed, resamples=RESAMPLES),
        "logloss": metrics.bootstrap_mean(metrics.row_logloss(y, logit), seed=seed, resamples=RESAMPLES),
        "ne": metrics.bootstrap_normalized_entropy(y, logit, seed=seed, resamples=RESAMPLES),
        "ece": bootstrap(metrics.expected_calibration_error, y, probability, seed=seed, resamples=RESAMPLES),
        "accuracy": metrics.bootstrap_mean((said == y).astype(np.float64), seed=seed, resamples=RESAMPLES),
        **by_ratio,
    }
    return {name: from_interval(interval) for name, interval in found.items()}


def _regression(y: Floats, prediction: Floats, seed: int) -> dict[str, Value]:
    error = prediction.astype(np.float64) - y
    return {
        "rmse": from_interval(_root(metrics.bootstrap_mean(error**2, seed=seed))),
        "mae": from_interval(metrics.bootstrap_mean(np.abs(error), seed=seed)),
    }


def _count(y: Floats, log_rate: Floats, seed: int) -> dict[str, Value]:
    rate = np.exp(log_rate.astype(np.float64))
    return {
        "poisson_deviance": from_interval(metrics.bootstrap_mean(metrics.row_poisson_deviance(y, log_rate), seed=seed)),
        "rmse": from_interval(_root(metrics.bootstrap_mean((rate - y) ** 2, seed=seed))),
    }


def _multiclass(y: Floats, logits: Floats, seed: int) -> dict[str, Value]:
    return {
        "logloss": from_interval(metrics.bootstrap_mean(metrics.row_multiclass_logloss(y, logits), seed=seed)),
        "accuracy": from_interval(metrics.bootstrap_mean((logits.argmax(1) == y).astype(np.float64), seed=seed)),
    }


def within_groups(rows: Rows, y: Floats, logit: Floats, schema: Schema, *, seed: int) -> dict[str, Value]:
    """GAUC, and NDCG within each group; without a group role GAUC alone, within each user that training knows."""
    if rows.group is None:
        if rows.user is None:
            return {}
        known = rows.user >= FIRST_ID
        return {"gauc": _gauc(y[known], logit[known], rows.user[known], seed)}
    found = {"gauc": _gauc(y, logit, rows.group, seed)}
    for k in schema.protocol.k:
        hits, relevant = lists_of_groups(y, logit, rows.group, k, seed=seed)
        found[f"ndcg@{k}"] = from_interval(metrics.bootstrap_mean(metrics.ndcg(hits, relevant, k), seed=seed))
    return found


def _gauc(y: Floats, logit: Floats, group: NDArray[np.integer[Any]], seed: int) -> Value:
    found = metrics.group_auc(y, logit, group)
    return from_interval(metrics.bootstrap_mean(found.auc, found.rows, seed=seed))


def lists_of_groups(
    y: Floats, score: Floats, group: NDArray[np.integer[Any]], k: int, *, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Each group as a list by falling score, equal scores in random order: hits [G, K] and relevant rows [G].

    >>> y, score, group = np.array([0, 1, 1, 0]), np.array([0.9, 0.5, 0.7, 0.1]), np.array([7, 7, 8, 8])
    >>> hits, relevant = lists_of_groups(y, score, group, 2, seed=0)
    >>> hits.tolist(), relevant.tolist()
    ([[False, True], [True, False]], [1, 1])
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(y)), -score, group))
    _, number, size = np.unique(group[order], return_inverse=True, return_counts=True)
    rank = np.arange(len(y)) - np.repeat(np.cumsum(size) - size, size)
    positive = y[order] > 0.5
    hits = np.zeros((len(size), k), np.bool_)
    shown = rank < k
    hits[number[shown], rank[shown]] = positive[shown]
    return hits, np.bincount(number, positive, len(size)).astype(np.int64)


def _root(interval: Interval) -> Interval:
    return interval._replace(value=np.sqrt(interval.value), low=np.sqrt(interval.low), high=np.sqrt(interval.high))
