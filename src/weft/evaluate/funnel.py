"""Where a pipeline loses what its users would have liked: each relevant item is lost at one stage, or shown.

An item that a user likes later is lost in the catalogue where that does not have it, at the filters where they take it
away, and at the sources where none proposes it. A ranker loses what it does not keep, the last one also what it does
not bring into the first k; without a ranker the sources do. The last steps lose what they push out of the first k.

Dimension key: U users, N items of a list, P pairs of a user and a relevant item, S stages.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.batch import FIRST_ID, PADDING

Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]

NOWHERE = np.iinfo(np.int64).max
COMPARED_AT_ONCE = 1 << 24


class Latency(Struct, frozen=True, kw_only=True):
    """Milliseconds that requests of one user took."""

    median: float
    p95: float


class Step(Struct, frozen=True, kw_only=True):
    """What a stage leaves of the relevant items.

    Attributes:
        name: Such as `ranking.dcn_v2`.
        kind: Of stage.
        left: Relevant items that are still there behind it.
        top: Of these, those in the first k of its order; None before there is an order.
        lost: Relevant items that are not shown because of it.
        items: Mean length of its lists; None before there are lists.
        milliseconds: Of its work; of the sources, of merging them.
    """

    name: str
    kind: Literal["catalogue", "filters", "sources", "ranking", "final"]
    left: int
    top: int | None = None
    lost: int
    items: float | None = None
    milliseconds: Latency | None = None


class Finds(Struct, frozen=True, kw_only=True):
    """What a source proposes.

    Attributes:
        name: Such as `sources.two_tower`.
        found: Relevant items among its proposals.
        recall: Their share of those that the filters leave; None when these are none.
        alone: Relevant items that no other source proposes.
        top: Relevant items in its first k.
        items: Mean number of its proposals.
        milliseconds: Of its work.
    """

    name: str
    found: int
    recall: float | None
    alone: int
    top: int
    items: float
    milliseconds: Latency | None = None


class Funnel(Struct, frozen=True, kw_only=True):
    """The way of the relevant items through a pipeline: `relevant` is `shown` and what all steps lose.

    Attributes:
        k: Length of the lists.
        users: Those with relevant items.
        relevant: Pairs of a user and an item that is relevant and that the protocol lets be found.
        shown: Of these, those in the lists.
        steps: In order.
        sources: Each for itself.
        milliseconds: Of a whole request.
    """

    k: int
    users: int
    relevant: int
    shown: int
    steps: tuple[Step, ...]
    sources: tuple[Finds, ...]
    milliseconds: Latency | None = None

    def verdict(self) -> str:
        """Where most is lost, in a sentence."""
        worst = sorted((step for step in self.steps if step.lost), key=lambda step: -step.lost)[:2]
        lost = " and ".join(f"{step.lost:,} at {step.name}" for step in worst)
        shown = f"of {self.relevant:,} relevant items {self.shown:,} are in the first {self.k}"
        return f"{shown}; most are lost here: {lost}" if worst else shown

    def render(self, console: Console) -> None:
        """Print the stages and the sources as tables, and the verdict."""
        titles = ("relevant items, stage by stage", "relevant items that each source finds")
        for title, table in zip(titles, (self.stage_table(), self.source_table()), strict=True):
            shown = Table(title=Text(title), title_justify="left")
            for place, name in enumerate(table[0]):
                shown.add_column(Text(name), justify="right" if place else "left", no_wrap=True)
            for row in table[1:]:
                shown.add_row(*map(Text, row))
            console.print(shown)
        console.print(self.verdict(), highlight=False, markup=False, soft_wrap=True)

    def stage_table(self) -> list[list[str]]:
        """A line a stage, below the names of the columns."""
        rows = [
            [step.name, *map(_whole, (step.left, step.top, step.lost)), _mean(step.items), *_times(step.milliseconds)]
            for step in self.steps
        ]
        return [
            ["stage", "left", f"first {self.k}", "lost", "items", *TIMES],
            ["relevant", f"{self.relevant:,}", *[""] * 5],
            *rows,
            [f"first {self.k}", *[f"{self.shown:,}"] * 2, "", "", *_times(self.milliseconds)],
        ]

    def source_table(self) -> list[list[str]]:
        """A line a source, below the names of the columns."""
        rows = [
            [
                source.name,
                _whole(source.found),
                "-" if source.recall is None else f"{source.recall:.3f}",
                *map(_whole, (source.alone, source.top)),
                _mean(source.items),
                *_times(source.milliseconds),
            ]
            for source in self.sources
        ]
        return [["source", "found", "recall", "alone", f"first {self.k}", "items", *TIMES], *rows]


TIMES = ("ms", "95 %")


def _whole(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _mean(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"


def _times(latency: Latency | None) -> list[str]:
    return ["", ""] if latency is None else [f"{latency.median:.2f}", f"{latency.p95:.2f}"]


class Way(NamedTuple):
    """What became of the relevant items of some users.

    Attributes:
        known: [P] whether the catalogue has the item.
        passes: [P] whether it does and the filters let the user see it.
        place_SP: [S, P] where it stands in the list of each stage, from 0; NOWHERE where it does not.
        items: [S] items of all lists of each stage.
        users: How many.
    """

    known: Mask
    passes: Mask
    place_SP: NDArray[np.int64]
    items: NDArray[np.int64]
    users: int


def way(lists: Sequence[Ints], user: Ints, item: Ints, hidden: Sequence[Ints], available: Mask | None) -> Way:
    """Follow relevant items through the stages.

    Args:
        lists: [U, N] of each stage, what came out of it in its order; 0 behind the last.
        user: [P] place of the user among them.
        item: [P] id of the item catalogue; 1 where the catalogue does not know it.
        hidden: [U] the items that the filters take from each user.
        available: Whether anybody may be shown each item; None is all.
    """
    known = item >= FIRST_ID
    passes = known & (True if available is None else available[item])
    for place, taken in enumerate(hidden):
        mine = user == place
        passes[mine] &= ~np.isin(item[mine], taken)
    return Way(
        known=known,
        passes=passes,
        place_SP=np.stack([_places(ids, user, item) for ids in lists]),
        items=np.array([(ids != PADDING).sum() for ids in lists]),
        users=len(hidden),
    )


def _places(ids_UN: Ints, user: Ints, item: Ints) -> NDArray[np.int64]:
    found = np.full(len(item), NOWHERE)
    step = max(1, COMPARED_AT_ONCE // max(1, ids_UN.shape[1]))
    for start in range(0, len(item) if ids_UN.size else 0, step):
        part = slice(start, start + step)
        same_PN = ids_UN[user[part]] == item[part, None]
        found[part] = np.where(same_PN.any(1), same_PN.argmax(1), NOWHERE)
    return found


def joined(ways: Sequence[Way]) -> Way:
    """The ways of several groups of users through the same stages."""
    return Way(
        known=np.concatenate([part.known for part in ways]),
        passes=np.concatenate([part.passes for part in ways]),
        place_SP=np.concatenate([part.place_SP for part in ways], axis=1),
        items=np.sum([part.items for part in ways], axis=0),
        users=sum(part.users for part in ways),
    )


def funnel(
    names: Sequence[str],
    kinds: Sequence[str],
    found: Way,
    k: int,
    times: dict[str, Latency] | None = None,
    whole: Latency | None = None,
) -> Funnel:
    """Count what each stage leaves and loses.

    Args:
        names: Of the stages.
        kinds: source, merge, ranking or final, in this order; without merging there is one source.
        found: The way of the relevant items.
        k: Length of the lists.
        times: Of each stage, by its name.
        whole: Time of a whole request.
    """
    times = {} if times is None else times
    sources = [place for place, kind in enumerate(kinds) if kind == "source"]
    listed = [place for place, kind in enumerate(kinds) if kind in ("ranking", "final")]
    proposed = kinds.index("merge") if "merge" in kinds else sources[-1]
    stages = [proposed, *listed]
    there = found.place_SP[stages] < NOWHERE
    top = found.place_SP[stages] < k
    lost = _lost(there, top, found.passes, rankers=kinds.count("ranking"))
    steps = [
        Step(name="catalogue", kind="catalogue", left=int(found.known.sum()), lost=int((~found.known).sum())),
        Step(
            name="filters",
            kind="filters",
            left=int(found.passes.sum()),
            lost=int((found.known & ~found.passes).sum()),
        ),
    ]
    for at, stage in enumerate(stages):
        steps.append(
            Step(
                name="sources" if at == 0 else names[stage],
                kind="sources" if at == 0 else "ranking" if kinds[stage] == "ranking" else "final",
                left=int(there[at].sum()),
                top=int(top[at].sum()),
                lost=int((lost == at).sum()),
                items=float(found.items[stage] / found.users),
                milliseconds=times.get(names[stage]) if at or "merge" in kinds else None,
            )
        )
    return Funnel(
        k=k,
        users=found.users,
        relevant=len(found.known),
        shown=int(top[-1].sum()),
        steps=tuple(steps),
        sources=tuple(_finds(names, found, place, sources, k, times) for place in sources),
        milliseconds=whole,
    )


def _finds(
    names: Sequence[str], found: Way, place: int, sources: Sequence[int], k: int, times: dict[str, Latency]
) -> Finds:
    there_SP = found.place_SP[sources] < NOWHERE
    mine = found.place_SP[place] < NOWHERE
    left = int(found.passes.sum())
    return Finds(
        name=names[place],
        found=int(mine.sum()),
        recall=float(mine.sum() / left) if left else None,
        alone=int((mine & (there_SP.sum(0) == 1)).sum()),
        top=int((found.place_SP[place] < k).sum()),
        items=float(found.items[place] / found.users),
        milliseconds=times.get(names[place]),
    )


def _lost(there: Mask, top: Mask, passes: Mask, *, rankers: int) -> NDArray[np.int64]:
    """The place of the stage [P] that loses each pair: 0 the sources, then rankers and last steps; -1 where none does.

    Args:
        there: [S, P] whether the item is in the list of the stage.
        top: [S, P] whether it is in the first k of it.
        passes: [P] whether the filters let it through.
        rankers: How many of the stages behind the first are rankers.
    """
    lost = np.full(len(passes), -1, np.int64)
    open_ = passes & ~top[-1]
    for stage in range(rankers + 1):
        gone = open_ & ~there[stage]
        lost[gone], open_ = stage, open_ & ~gone
    below = open_ & ~top[rankers]
    lost[below], open_ = rankers, open_ & ~below
    for stage in range(rankers + 1, len(top)):
        pushed = open_ & top[stage - 1] & ~top[stage]
        lost[pushed] = stage
    return lost
