"""The gate: what a candidate must show before it serves.

Each run that was trained is judged against itself as it serves, on the same rows: rankers of a binary label by the
normalised entropy, other models by the AUC of the relevant rows. The gain's interval is a paired bootstrap over rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from weft.batch import FIRST_ID
from weft.errors import WeftError
from weft.learn.step import learns
from weft.metrics.bootstrap import Interval, replicates, weighted_auc, weighted_normalized_entropy
from weft.recommend.answers import Item
from weft.recommend.bundle import Bundle
from weft.recommend.member import Member
from weft.recommend.recommender import Recommender
from weft.recommend.resolve import scored_by
from weft.transforms.rows import Rows

RESAMPLES = 200


class Bounds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a candidate may be from what serves.

    Attributes:
        margin: The most that the lower end of the gain may lie below 0 on the newest rows.
        old_margin: The same on the old test rows: the world moves, so they may lose more.
        calibration: The sum of the predicted probabilities over the sum of the labels must lie between 1 over this and
            this, unless it comes nearer to 1 than it is now.
        canaries: Users whose lists must be whole.
        k: Length of these lists.
    """

    margin: float = 0.005
    old_margin: float = 0.05
    calibration: float = 1.5
    canaries: int = 20
    k: int = 10


class Check(NamedTuple):
    """One question that the gate asked."""

    name: str
    passed: bool
    said: str


class Verdict(NamedTuple):
    """All of them."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        wrong = [check for check in self.checks if not check.passed]
        return "; ".join(f"{check.name}: {check.said}" for check in wrong or self.checks)


class Judged(NamedTuple):
    """The same rows as two bundles encode them."""

    name: str
    serving: Rows
    candidate: Rows
    margin: float


def judge(serving: Bundle, candidate: Bundle, on: Sequence[Judged], bounds: Bounds) -> Verdict:
    """Ask everything.

    Args:
        serving: What is in service.
        candidate: What may take over.
        on: The newest rows first, then older ones.
        bounds: How far it may be from what serves.
    """
    checks: list[Check] = []
    for name, member in candidate.members.items():
        if learns(member.config):
            last = name == scored_by(candidate.pipeline)
            checks += _of_run(serving.members[name], member, on, bounds, probability=last)
    checks.append(_canaries(candidate, bounds))
    return Verdict(tuple(checks))


def _of_run(old: Member, new: Member, on: Sequence[Judged], bounds: Bounds, *, probability: bool) -> list[Check]:
    checks: list[Check] = []
    for place, judged in enumerate(on):
        try:
            before, after = (_scores(m, rows) for m, rows in ((old, judged.serving), (new, judged.candidate)))
        except WeftError as error:
            return [*checks, Check(f"scores of {new.name}", False, str(error))]
        assert judged.candidate.label is not None
        label = judged.candidate.label[:, 0]
        ranks = _is_binary(new) and not new.is_retriever
        relevant = (label >= new.scorer.transforms.schema.protocol.relevant).astype(np.float64)
        checks.append(_gain(f"{new.name} on {judged.name}", relevant, before, after, judged.margin, ranks=ranks))
        if place == 0 and ranks and probability:
            checks.append(_calibration(new.name, relevant, before, after, bounds.calibration))
    return checks


def _scores(member: Member, rows: Rows) -> NDArray[np.float64]:
    scores = member.scorer.rows(rows)
    return (scores if scores.ndim == 1 else scores[:, 0]).astype(np.float64)


def _is_binary(member: Member) -> bool:
    labels = member.scorer.transforms.schema.roles.label
    return bool(labels) and labels[0].task == "binary"


def _gain(
    name: str,
    label: NDArray[np.float64],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    margin: float,
    *,
    ranks: bool,
) -> Check:
    if not 0 < label.sum() < len(label):
        return Check(name, False, f"all {len(label):,} rows have one label, so nothing can be judged")
    gain = gained(label, before, after, ranks=ranks)
    metric = "NE" if ranks else "AUC"
    said = f"{metric} gain {gain.value:+.5f} ({gain.low:+.5f} to {gain.high:+.5f}) on {gain.count:,} rows"
    passed = gain.low >= -margin
    return Check(name, passed, said if passed else f"{said}, and {-margin} is the least that its lower end may be")


def gained(
    label: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64], *, ranks: bool
) -> Interval:
    """What scores gain over others on the same rows: the fall of the normalised entropy, or the rise of the AUC."""
    of, sign = (weighted_normalized_entropy, -1.0) if ranks else (weighted_auc, 1.0)
    metrics = [of(label, before), of(label, after)]
    drawn = sign * np.diff(replicates(metrics, seed=0, resamples=RESAMPLES), axis=1)[:, 0]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(sign * (metrics[1].value - metrics[0].value), float(low), float(high), len(label))


def _calibration(
    name: str, label: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64], most: float
) -> Check:
    old, new = (float(_sigmoid(score).sum() / label.sum()) for score in (before, after))
    nearer = abs(np.log(new)) <= abs(np.log(old))
    said = f"predicted over observed {new:.3f}, {old:.3f} before"
    passed = bool(nearer or 1 / most <= new <= most)
    return Check(f"calibration of {name}", passed, said if passed else f"{said}, and {most} times is the most")


def _canaries(bundle: Bundle, bounds: Bounds) -> Check:
    """Lists of some users of the catalogue and of a stranger: not empty, no item twice, finite scores."""
    recommender = Recommender.of(bundle)
    ids = np.arange(FIRST_ID, len(bundle.catalogue.users))
    drawn = np.random.default_rng(0).permutation(ids)[: bounds.canaries]
    users = [recommender.users.name_of(int(id)) for id in drawn]
    try:
        for user in (*users, "\x00a stranger"):
            wrong = _wrong(recommender.recommend(user, k=bounds.k, seen="allow").items)
            if wrong:
                return Check("canaries", False, f"user {user!r}: {wrong}")
    except WeftError as error:
        return Check("canaries", False, str(error))
    return Check("canaries", True, f"{len(users) + 1} lists are whole")


def _wrong(items: Sequence[Item]) -> str | None:
    scores, names = np.array([item.score for item in items]), [item.id for item in items]
    if not items:
        return "the list is empty"
    if len(set(names)) < len(names):
        return "an item stands in the list twice"
    return None if np.isfinite(scores).all() else "a score is not finite"


def _sigmoid(score: NDArray[np.float64]) -> NDArray[np.float64]:
    probability: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * score))
    return probability
