"""The last steps of a pipeline, compiled for a catalogue: each makes a new list of one user's list.

Dimension key: N items of a list, G values of a feature, E width of vectors, I items of the catalogue.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.recommend import rerank
from weft.recommend.pipeline import Boost, Cap, Explore, Final, Mix, Mmr, Pin
from weft.recommend.values import having, id_of, values_of
from weft.transforms.encode import Transforms
from weft.transforms.rows import RaggedArrays, Rows, rows_of

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]

PINNED, BOOSTED, DRAWN = 1, 2, 4


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The items of one user, best first.

    Attributes:
        ids: [N] of the item catalogue.
        score: [N] what the last ranker says; shown.
        value: [N] what the order is made by: the score, and boosts.
        propensity: [N] float64, the probability with which the place got its item; nan where nothing is drawn.
        mark: [N] uint8, PINNED, BOOSTED and DRAWN together.
    """

    ids: Ints
    score: NDArray[np.float32]
    value: NDArray[np.float64]
    propensity: NDArray[np.float64]
    mark: NDArray[np.uint8]

    @staticmethod
    def of(ids: Ints, score: NDArray[np.float32]) -> "Listed":
        """Scored items as they come from ranking."""
        n = len(ids)
        return Listed(
            ids=ids,
            score=score,
            value=score.astype(np.float64),
            propensity=np.full(n, np.nan),
            mark=np.zeros(n, np.uint8),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: Ints | slice) -> "Listed":
        """Some of the items, in the order of `places`."""
        return Listed(
            ids=self.ids[places],
            score=self.score[places],
            value=self.value[places],
            propensity=self.propensity[places],
            mark=self.mark[places],
        )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the last steps must know of a request.

    Attributes:
        k: Length of the list.
        random: Where chance comes from.
        had: The items that the user has had, as the protocol counts them.
        allowed: Which of some items the filters let this user see.
        score: The last ranker's scores of further items.
    """

    k: int
    random: np.random.Generator
    had: Callable[[], NDArray[np.integer[Any]]]
    allowed: Callable[[Ints], NDArray[np.bool_]]
    score: Callable[[Ints], NDArray[np.float32]]


Step = Callable[[Listed, Wish], Listed]


def compiled(
    step: Final,
    items: Rows,
    transforms: Transforms,
    item_id: Callable[[str | int], int],
    vectors: Callable[[str], Vectors | None],
) -> Step:
    """A last step ready to run.

    Args:
        step: As in the pipeline.
        items: The catalogue's rows of the item's side.
        transforms: For features and values.
        item_id: External id to id of the catalogue.
        vectors: Unit vectors [I, E] of a run by its name; None where no run has that name.
    """
    match step:
        case Boost():
            sets = values_of(items, transforms, step.feature)
            wanted = [id_of(transforms, step.feature, value, item_id(value)) for value in step.values]
            count = 1 + int(max(*wanted, sets.values.max(initial=0)))
            return _boost(step, having(sets, np.array(wanted), count))
        case Cap():
            return _cap(step, values_of(items, transforms, step.feature))
        case Mmr():
            unit_IE = vectors(step.by)
            near = _by_values(values_of(items, transforms, step.by)) if unit_IE is None else _by_vectors(unit_IE)
            return _mmr(step, near)
        case Mix():
            return _mix(step, values_of(items, transforms, step.feature))
        case Explore():
            return _explore(step)
        case Pin():
            return _pin(step, np.array([item_id(item) for item in step.items], np.int64))


def _boost(step: Boost, has: NDArray[np.bool_]) -> Step:
    def boost(listed: Listed, wish: Wish) -> Listed:
        lifted = has[listed.ids]
        value = listed.value + step.add * lifted
        mark = listed.mark | np.where(lifted, BOOSTED, 0).astype(np.uint8)
        return replace(listed, value=value, mark=mark).take(np.argsort(-value, kind="stable"))

    return boost


def _cap(step: Cap, sets: RaggedArrays) -> Step:
    return lambda listed, wish: listed.take(rerank.cap(sets.take(listed.ids), step.most))


Near = Callable[[Ints], Callable[[int], NDArray[np.floating[Any]]]]


def _mmr(step: Mmr, near: Near) -> Step:
    def mmr(listed: Listed, wish: Wish) -> Listed:
        head = _depth(listed, step.depth, wish.k)
        order = rerank.mmr(head.value, near(head.ids), wish.k, balance=step.balance)
        return _with_tail(listed, order)

    return mmr


def _by_vectors(unit_IE: Vectors) -> Near:
    def near(ids: Ints) -> Callable[[int], NDArray[np.floating[Any]]]:
        unit_NE = unit_IE[ids]
        return lambda place: unit_NE @ unit_NE[place]

    return near


def _by_values(sets: RaggedArrays) -> Near:
    """Cosine of the indicators of values: the share of common ones, 0 where an item has none."""

    def near(ids: Ints) -> Callable[[int], NDArray[np.floating[Any]]]:
        mine = sets.take(ids)
        lengths = np.diff(mine.offsets)
        column = np.unique(mine.values, return_inverse=True)[1]
        unit_NG = np.zeros((len(ids), 1 + int(column.max(initial=0))), np.float32)
        unit_NG[rows_of(mine.offsets), column] = 1 / np.sqrt(np.repeat(lengths, lengths))
        return lambda place: unit_NG @ unit_NG[place]

    return near


def _mix(step: Mix, sets: RaggedArrays) -> Step:
    def mix(listed: Listed, wish: Wish) -> Listed:
        values, wanted_G = _shares(sets.take(wish.had().astype(np.int64)))
        if not len(values):
            return listed
        head = _depth(listed, step.depth, wish.k)
        share_NG = _shares_of(sets.take(head.ids), values)
        smoothing, balance = step.smoothing, step.balance
        return _with_tail(
            listed, rerank.mix(head.value, share_NG, wanted_G, wish.k, balance=balance, smoothing=smoothing)
        )

    return mix


def _shares(sets: RaggedArrays) -> tuple[Ints, NDArray[np.float64]]:
    """The values of some items, and how much of them each has when an item is one in all."""
    lengths = np.diff(sets.offsets)
    weight = 1.0 / np.repeat(lengths, lengths)
    values, column = np.unique(sets.values, return_inverse=True)
    share = np.bincount(column, weight, len(values))
    return values.astype(np.int64), share / max(share.sum(), 1e-12)


def _shares_of(sets: RaggedArrays, values: Ints) -> NDArray[np.float64]:
    """How much of each item [N, G] belongs to some values (ascending)."""
    lengths = np.diff(sets.offsets)
    column = np.searchsorted(values, sets.values).clip(max=len(values) - 1)
    counts = values[column] == sets.values
    share = np.zeros((len(lengths), len(values)))
    share[rows_of(sets.offsets)[counts], column[counts]] = (1.0 / np.repeat(lengths, lengths))[counts]
    return share


def _explore(step: Explore) -> Step:
    def explore(listed: Listed, wish: Wish) -> Listed:
        found = rerank.explore(len(listed), wish.k, share=step.share, pool=step.pool, random=wish.random)
        taken = listed.take(found.order)
        mark = taken.mark | np.where(found.drawn, DRAWN, 0).astype(np.uint8)
        return replace(taken, propensity=found.propensity, mark=mark)

    return explore


def _pin(step: Pin, wanted: Ints) -> Step:
    def pin(listed: Listed, wish: Wish) -> Listed:
        mine = wanted[wish.allowed(wanted)]
        further = mine[~np.isin(mine, listed.ids)]
        if len(further):
            listed = joined(listed, Listed.of(further, wish.score(further)))
        place = {item: at for at, item in enumerate(listed.ids.tolist())}
        places = np.array([place[item] for item in mine.tolist()], np.int64)
        pinned = replace(listed, mark=_marked(listed.mark, places, PINNED))
        pinned = replace(pinned, propensity=_certain(pinned.propensity, places))
        return pinned.take(rerank.pin(len(pinned), places, step.at))

    return pin


def _marked(mark: NDArray[np.uint8], places: Ints, bit: int) -> NDArray[np.uint8]:
    marked = mark.copy()
    marked[places] |= bit
    return marked


def _certain(propensity: NDArray[np.float64], places: Ints) -> NDArray[np.float64]:
    """Pinned items stand where they stand with certainty, where anything else is drawn."""
    if np.isnan(propensity).all():
        return propensity
    certain = propensity.copy()
    certain[places] = 1.0
    return certain


def joined(first: Listed, second: Listed) -> Listed:
    """The items of one list, then those of another."""
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in Listed.__dataclass_fields__}
    return Listed(**{name: np.concatenate(pair) for name, pair in pairs.items()})


def _depth(listed: Listed, depth: int | None, k: int) -> Listed:
    return listed if depth is None else listed.take(slice(0, max(depth, k)))


def _with_tail(listed: Listed, order: Ints) -> Listed:
    """The head in a new order, and what stood behind it."""
    return listed.take(np.append(order, np.arange(len(order), len(listed))))
