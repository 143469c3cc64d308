"""Metrics of single rows: AUC and its relatives, losses, errors, and what a threshold decides.

Binary metrics take logits, never probabilities; labels are 0 and 1 of any number type or booleans.
A metric that is not defined (an AUC with one class, a mean of nothing) is nan, without a warning. Scores that are not
finite, labels that are not allowed and lengths that differ raise ValueError.

Dimension key: N rows, G groups of rows, C classes.
"""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, final

import numpy as np

from weft.metrics._checks import (
    Array,
    Booleans,
    Floats,
    Integers,
    at_least_one,
    binary,
    finite,
    mean,
    numbers,
    ratio,
    require,
    same_length,
)


class _Ties(NamedTuple):
    """Rows of equal score joined, in ascending order of the score."""

    score: Array
    positives: Array
    negatives: Array


_RUN = np.dtype([("score", np.float64), ("positives", np.int64), ("negatives", np.int64)])


class GroupAuc(NamedTuple):
    """AUC of each group, in ascending order of the group.

    Attributes:
        group: G distinct values of the grouping column.
        auc: G values; nan where a group has one class only.
        rows: How many rows each group has.
    """

    group: Array
    auc: Floats
    rows: Integers


def run_starts(*keys: Array) -> Integers:
    """Where a new run of equal keys starts, in arrays that are sorted together.

    >>> run_starts(np.array([1, 1, 2, 2]), np.array([5, 5, 5, 6])).tolist()
    [0, 2, 3]
    """
    first = np.zeros(len(keys[0]), np.bool_)
    first[:1] = True
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(first)


def auc(label: Array, score: Array, weight: Array | None = None) -> float:
    r"""Area under the ROC curve, exact; equal scores count half.

    .. math:: \frac{\sum_{p, n} w_p w_n ([s_p > s_n] + \tfrac12 [s_p = s_n])}{\sum_p w_p \sum_n w_n}

    The Mann-Whitney statistic; without weights it is counted in integers. nan when there is one class only.

    Args:
        label: N zeros and ones.
        score: N finite numbers; only their order matters.
        weight: N finite numbers >= 0.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    positive, score = _labels_and_scores(label, score)
    if weight is None:
        return _counted_auc(np.sort(score[positive]), np.sort(score[~positive]))
    ties = _weighted_ties(score, positive, weight)
    return auc_of_ties(ties.positives, ties.negatives)


def _counted_auc(positives: Array, negatives: Array) -> float:
    """AUC of sorted scores: each positive beats the negatives below it, and half of those equal to it."""
    below = np.searchsorted(negatives, positives, side="left").sum().item()
    below_or_equal = np.searchsorted(negatives, positives, side="right").sum().item()
    return ratio(below + below_or_equal, 2 * len(positives) * len(negatives))


def auc_of_ties(positives: Array, negatives: Array) -> float:
    """AUC from the weight of positives and of negatives at each distinct score, in ascending order of the score."""
    pairs = positives.sum().item() * negatives.sum().item()
    return ratio(_twice_wins(positives, negatives, 0), 2 * pairs)


def _twice_wins(positives: Array, negatives: Array, below: int) -> float:
    """Twice the weight of pairs won, `below` being the negatives under all these scores; int in, int out."""
    twice: int | float = (positives * (2 * (below + np.cumsum(negatives)) - negatives)).sum().item()
    return twice


def _labels_and_scores(label: Array, score: Array) -> tuple[Booleans, Array]:
    positive, score = binary("label", label), finite("score", score)
    same_length(label=positive, score=score)
    return positive, score


def _weighted_ties(score: Array, positive: Booleans, weight: Array) -> _Ties:
    weight = finite("weight", weight).astype(np.float64)
    require(weight >= 0, "weight", weight, "be 0 or more", "drop these rows or mend the weights.")
    same_length(label=positive, weight=weight)
    return _ties(score, positive * weight, ~positive * weight)


def _ties(score: Array, positives: Array, negatives: Array) -> _Ties:
    """Sort by score and add up equal scores; booleans become counts."""
    if not len(score):
        return _Ties(score, positives.astype(np.int64), negatives.astype(np.int64))
    order = np.argsort(score)
    score = score[order]
    starts = run_starts(score)
    kind = np.result_type(positives.dtype, np.int64)
    added = (np.add.reduceat(counts[order], starts, dtype=kind) for counts in (positives, negatives))
    return _Ties(score[starts], *added)


@final
class StreamingAuc:
    """The exact AUC of any number of rows in bounded memory.

    Rows are held until there are `max_rows`; then they are sorted, equal scores are joined, and the run is written to
    a temporary folder. `value` merges the runs block by block. Equal to `auc` of all rows to the last bit.
    Memory is about 100 bytes for each of `max_rows`. Use it as a context manager, or call `close`.

    >>> with StreamingAuc(max_rows=2) as streaming:
    ...     streaming.update(np.array([0, 1, 0]), np.array([0.1, 0.4, 0.4]))
    ...     streaming.update(np.array([1]), np.array([0.8]))
    ...     streaming.value()
    0.875
    """

    def __init__(self, max_rows: int = 10_000_000, folder: Path | None = None) -> None:
        """Start without rows.

        Args:
            max_rows: How many rows are held in memory before they are written.
            folder: Where the temporary folder is made; None is the system's place for such.
        """
        at_least_one("max_rows", max_rows)
        self._max_rows = max_rows
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._held: list[tuple[Booleans, Floats]] = []
        self._rows = 0
        self._runs: list[Path] = []

    def update(self, label: Array, score: Array) -> None:
        """Add rows: N zeros and ones, N finite scores. Raises ValueError as `auc` does."""
        positive, score = _labels_and_scores(label, score)
        for start in range(0, len(score), self._max_rows):
            rows = slice(start, start + self._max_rows)
            self._hold(positive[rows].copy(), score[rows].astype(np.float64))

    def value(self) -> float:
        """The AUC of all rows so far; nan when there is one class only. More rows may follow."""
        twice_wins: float = 0
        positives, negatives = 0, 0
        for ties in self._merged():
            twice_wins += _twice_wins(ties.positives, ties.negatives, negatives)
            positives += int(ties.positives.sum())
            negatives += int(ties.negatives.sum())
        return ratio(twice_wins, 2 * positives * negatives)

    def close(self) -> None:
        """Delete the temporary folder and forget all rows."""
        if self._temporary is not None:
            self._temporary.cleanup()
        self._temporary, self._held, self._rows, self._runs = None, [], 0, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, positive: Booleans, score: Floats) -> None:
        self._held.append((positive, score))
        self._rows += len(score)
        if self._rows >= self._max_rows:
            self._spill()

    def _spill(self) -> None:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="weft-auc-", dir=self._folder)
        path = Path(self._temporary.name) / f"{len(self._runs)}.run"
        ties = self._held_ties()
        run = np.empty(len(ties.score), _RUN)
        for name, column in ties._asdict().items():
            run[name] = column
        run.tofile(path)
        self._runs.append(path)
        self._held, self._rows = [], 0

    def _held_ties(self) -> _Ties:
        positive = np.concatenate([np.zeros(0, np.bool_), *(positive for positive, _ in self._held)])
        return _ties(np.concatenate([np.zeros(0), *(score for _, score in self._held)]), positive, ~positive)

    def _merged(self) -> Iterator[_Ties]:
        if not self._runs:
            return iter([self._held_ties()])
        if self._held:
            self._spill()
        return _merge(self._runs, self._max_rows)


def _merge(runs: list[Path], max_rows: int) -> Iterator[_Ties]:
    """Tie groups of all runs joined, in ascending order, in parts of at most about `max_rows`."""
    bounds = _part_bounds(runs, max(1, max_rows // (3 * len(runs))))
    ends = [np.searchsorted(_read(run)["score"], bounds, side="right") for run in runs]
    starts = [np.append(0, end[:-1]) for end in ends]
    for part in range(len(bounds)):
        rows = [(start[part], end[part]) for start, end in zip(starts, ends, strict=True)]
        joined = np.concatenate([_read(run, *place) for run, place in zip(runs, rows, strict=True)])
        yield _ties(joined["score"], joined["positives"], joined["negatives"])


def _read(run: Path, start: int = 0, end: int | None = None) -> Array:
    """Rows `start` to `end` of a run, or all from `start` on."""
    return np.fromfile(run, _RUN, -1 if end is None else end - start, offset=start * _RUN.itemsize)


def _part_bounds(runs: list[Path], step: int) -> Floats:
    """Highest score of each part.

    Of R runs every `step`-th score and the last are sampled, and of the sorted samples every R-th is a bound. A run has
    each score once, so that a part holds at most 2 R samples and thus 3 R `step` rows.
    """
    scores = (_read(run)["score"] for run in runs)
    samples = np.sort(np.concatenate([np.append(score[step - 1 :: step], score[-1]) for score in scores]))
    return np.unique(np.append(samples[len(runs) - 1 :: len(runs)], samples[-1]))


def group_auc(label: Array, score: Array, group: Array) -> GroupAuc:
    """AUC within each group, for example within each user; one sort, no loop over groups.

    Args:
        label: N zeros and ones.
        score: N finite numbers.
        group: N values of any type that can be sorted.

    >>> group_auc(np.array([1, 0, 1, 1]), np.array([2, 1, 0, 5]), np.array(["a", "a", "b", "b"])).auc.tolist()
    [1.0, nan]
    """
    positive, score, group = *_labels_and_scores(label, score), np.asarray(group)
    same_length(label=positive, group=group)
    if not len(score):
        return GroupAuc(group, np.zeros(0), np.zeros(0, np.int64))
    order = np.lexsort((score, group))
    group = group[order]
    tie_starts = run_starts(group, score[order])
    positives = np.add.reduceat(positive[order], tie_starts, dtype=np.int64)
    negatives = np.diff(tie_starts, append=len(order)) - positives
    group_starts = run_starts(group[tie_starts])
    twice_wins, pairs = _group_wins(positives, negatives, group_starts)
    auc_G = np.divide(twice_wins, 2 * pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    starts = tie_starts[group_starts]
    return GroupAuc(group[starts], auc_G, np.diff(starts, append=len(order)))


def _group_wins(positives: Integers, negatives: Integers, group_starts: Integers) -> tuple[Integers, Integers]:
    """Of each group: twice the pairs won, and the pairs."""
    below = np.cumsum(negatives) - negatives
    below -= np.repeat(below[group_starts], np.diff(group_starts, append=len(negatives)))
    twice_wins = np.add.reduceat(positives * (2 * below + negatives), group_starts)
    return twice_wins, np.add.reduceat(positives, group_starts) * np.add.reduceat(negatives, group_starts)


def gauc(label: Array, score: Array, group: Array, weight: Literal["rows", "equal"] = "rows") -> float:
    """Mean of the AUC within each group; groups with one class are left out, nan when none is left.

    Zhu et al., KDD 2017, https://arxiv.org/abs/1703.02091, equation (3), there weighted by impressions, as `rows` is.

    Args:
        label: N zeros and ones.
        score: N finite numbers.
        group: N values, for example users.
        weight: `rows` weights a group by its rows, `equal` gives each group the same weight.

    >>> gauc(np.array([1, 0, 0, 1]), np.array([2, 1, 3, 0]), np.array([7, 7, 8, 8]))
    0.5
    """
    if weight not in ("rows", "equal"):
        raise ValueError(f"`weight` must be 'rows' or 'equal', got {weight!r}; pass one of them.")
    groups = group_auc(label, score, group)
    defined = ~np.isnan(groups.auc)
    weights = groups.rows[defined] if weight == "rows" else np.ones(defined.sum())
    return ratio((groups.auc[defined] * weights).sum(), weights.sum())


def row_logloss(label: Array, logit: Array) -> Floats:
    r"""Logloss of each row, :math:`\ln(1 + e^z) - y z`, stable for logits of any size.

    >>> row_logloss(np.array([1, 0]), np.array([1000.0, 1000.0])).tolist()
    [0.0, 1000.0]
    """
    positive, logit = _labels_and_logits(label, logit)
    signed = np.where(positive, -logit, logit)
    return np.logaddexp(0.0, signed)


def _labels_and_logits(label: Array, logit: Array) -> tuple[Booleans, Floats]:
    positive, logit = binary("label", label), finite("logit", logit).astype(np.float64)
    same_length(label=positive, logit=logit)
    return positive, logit


def logloss(label: Array, logit: Array) -> float:
    """Mean logloss of N logits against N zeros and ones, in nats.

    >>> round(logloss(np.array([1, 0]), np.array([0.0, 0.0])), 4)
    0.6931
    """
    return mean(row_logloss(label, logit))


def entropy(rate: float) -> float:
    """Entropy in nats of a coin that shows 1 with probability `rate`; 0 when the rate is nan.

    >>> round(entropy(0.5), 4), entropy(0.0)
    (0.6931, 0.0)
    """
    shares = np.array([rate, 1 - rate])
    shares = shares[shares > 0]
    return float(abs(shares @ np.log(shares)))


def normalized_entropy(label: Array, logit: Array) -> float:
    """Logloss divided by the logloss of a model that knows the base rate only; nan with one class.

    He et al., ADKDD 2014, https://doi.org/10.1145/2648584.2648589, equation (1). Below 1 is better than the base rate.

    >>> normalized_entropy(np.array([1, 0]), np.array([0.0, 0.0]))
    1.0
    """
    return ratio(logloss(label, logit), entropy(mean(binary("label", label))))


def rmse(label: Array, prediction: Array) -> float:
    """Root of the mean squared error of N predictions.

    >>> rmse(np.array([1, 2]), np.array([4, 6])) == 12.5**0.5
    True
    """
    return math.sqrt(mean(_errors(label, prediction) ** 2))


def mae(label: Array, prediction: Array) -> float:
    """Mean absolute error of N predictions.

    >>> mae(np.array([1, 2]), np.array([4, 6]))
    3.5
    """
    return mean(np.abs(_errors(label, prediction)))


def _errors(label: Array, prediction: Array) -> Floats:
    label, prediction = finite("label", label), finite("prediction", prediction)
    same_length(label=label, prediction=prediction)
    return prediction.astype(np.float64) - label.astype(np.float64)


def _decided(label: Array, logit: Array, threshold: float) -> tuple[Booleans, Booleans]:
    positive, logit = _labels_and_logits(label, logit)
    predicted: Booleans = logit > threshold
    return positive, predicted


def accuracy(label: Array, logit: Array, threshold: float = 0.0) -> float:
    """Share of rows that fall on the side of the threshold where they belong; a logit at it counts as 0.

    >>> accuracy(np.array([1, 0, 0]), np.array([1.0, -1.0, 1.0])) == 2 / 3
    True
    """
    positive, predicted = _decided(label, logit, threshold)
    return mean(positive == predicted)


def precision(label: Array, logit: Array, threshold: float = 0.0) -> float:
    """Share of ones among the rows above the threshold; nan when no row is.

    >>> precision(np.array([1, 0, 1]), np.array([1.0, 1.0, -1.0]))
    0.5
    """
    positive, predicted = _decided(label, logit, threshold)
    return mean(positive[predicted])


def recall(label: Array, logit: Array, threshold: float = 0.0) -> float:
    """Share of the ones that lie above the threshold; nan when there is no one.

    >>> recall(np.array([1, 0, 1]), np.array([1.0, 1.0, -1.0]))
    0.5
    """
    positive, predicted = _decided(label, logit, threshold)
    return mean(predicted[positive])


def f1(label: Array, logit: Array, threshold: float = 0.0) -> float:
    """Harmonic mean of precision and recall; nan when no row is a one or lies above the threshold.

    >>> f1(np.array([1, 0, 1]), np.array([1.0, 1.0, -1.0]))
    0.5
    """
    positive, predicted = _decided(label, logit, threshold)
    return ratio(2 * (positive & predicted).sum(), positive.sum() + predicted.sum())


def row_poisson_deviance(count: Array, log_rate: Array) -> Floats:
    r"""Poisson deviance of each row, :math:`2 (y \ln(y / \mu) - y + \mu)` with :math:`\mu = e^{z}`.

    A rate beyond the range of double precision gives infinity.

    >>> row_poisson_deviance(np.array([0, 1]), np.array([0.0, 0.0])).tolist()
    [2.0, 0.0]
    """
    count = finite("count", count).astype(np.float64)
    log_rate = finite("log_rate", log_rate).astype(np.float64)
    same_length(count=count, log_rate=log_rate)
    require(count >= 0, "count", count, "be 0 or more", "a Poisson task has counts as labels.")
    log_count = np.log(np.where(count > 0, count, 1.0))
    with np.errstate(over="ignore"):
        deviance: Floats = 2 * (count * (log_count - log_rate) - count + np.exp(log_rate))
    return deviance


def poisson_deviance(count: Array, log_rate: Array) -> float:
    """Mean Poisson deviance of N logarithms of rates against N counts.

    >>> poisson_deviance(np.array([0, 1]), np.array([0.0, 0.0]))
    1.0
    """
    return mean(row_poisson_deviance(count, log_rate))


def _classes(label: Array, logits: Array) -> tuple[Integers, Floats]:
    label, logits = numbers("label", label), finite("logits", logits, 2).astype(np.float64)
    same_length(label=label, logits=logits)
    allowed = f"be whole numbers in 0..{logits.shape[1] - 1} (the classes)"
    classes = np.arange(logits.shape[1])
    require(np.isin(label, classes), "label", label, allowed, "encode the classes or give `logits` more columns.")
    return label.astype(np.int64), logits


def row_multiclass_logloss(label: Array, logits: Array) -> Floats:
    r"""Logloss of each row, :math:`\ln \sum_c e^{z_c} - z_y`, for N classes and N x C logits.

    >>> row_multiclass_logloss(np.array([0, 1]), np.array([[1000.0, 0.0], [1000.0, 0.0]])).tolist()
    [0.0, 1000.0]
    """
    label, logits = _classes(label, logits)
    loss: Floats = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(label)), label]
    return loss


def multiclass_logloss(label: Array, logits: Array) -> float:
    """Mean logloss of N x C logits against N classes, in nats.

    >>> round(multiclass_logloss(np.array([2]), np.zeros((1, 3))), 4)
    1.0986
    """
    return mean(row_multiclass_logloss(label, logits))


def multiclass_accuracy(label: Array, logits: Array) -> float:
    """Share of rows whose class has the highest logit; among equal logits the first class is taken.

    >>> multiclass_accuracy(np.array([2, 0]), np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]))
    0.5
    """
    label, logits = _classes(label, logits)
    return mean(logits.argmax(axis=1) == label)
