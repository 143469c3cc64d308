"""Each relevant item is lost at one stage or shown, and what is counted is what a slow walk of each item tells."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from weft.evaluate import funnel as module
from weft.evaluate.funnel import Funnel, Latency, Step, funnel, joined, way

Lists = list[list[int]]

SOURCES = 2
KINDS = {
    (False, 0): ["source"],
    (False, 2): ["source", "ranking", "final", "final"],
    (True, 0): ["source", "source", "merge"],
    (True, 1): ["source", "source", "merge", "ranking", "final"],
    (True, 2): ["source", "source", "merge", "ranking", "ranking", "final", "final"],
}


def lost_slowly(item: int, lists: Lists, kinds: list[str], k: int, *, hidden: bool) -> str:
    """The name of the stage that loses an item of one user, told as the module's docstring tells it."""
    if item < 2:
        return "catalogue"
    if hidden:
        return "filters"
    at = [kind for kind in kinds if kind != "source" or "merge" not in kinds]
    mine = lists[-len(at) :]
    if item in mine[-1][:k]:
        return "shown"
    rankers = [i for i, kind in enumerate(at) if kind == "ranking"]
    for i in [0, *rankers]:
        if item not in mine[i]:
            return f"{at[i]} {i}"
    last = rankers[-1] if rankers else 0
    if item not in mine[last][:k]:
        return f"{at[last]} {last}"
    pushes = [i for i in range(last + 1, len(at)) if item in mine[i - 1][:k] and item not in mine[i][:k]]
    return f"{at[pushes[-1]]} {pushes[-1]}"


def table(lists: Lists) -> NDArray[np.int64]:
    width = max(map(len, lists))
    return np.array([[*row, *[0] * (width - len(row))] for row in lists]).reshape(len(lists), width)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), shape=st.sampled_from(sorted(KINDS)), users=st.integers(1, 3), k=st.integers(1, 4))
def test_counts_are_those_of_a_slow_walk(data: st.DataObject, shape: tuple[bool, int], users: int, k: int) -> None:
    kinds = KINDS[shape]
    everything = list(range(2, 10))
    hidden = [data.draw(st.sets(st.sampled_from(everything))) for _ in range(users)]
    unavailable = data.draw(st.none() | st.sets(st.sampled_from(everything)))
    relevant = [data.draw(st.lists(st.sampled_from([1, *everything]), max_size=6)) for _ in range(users)]
    stages: list[Lists] = []
    for place, kind in enumerate(kinds):
        rows = []
        for user in range(users):
            if kind == "source":
                free = [i for i in everything if i not in hidden[user] and i not in (unavailable or set())]
            elif kind == "merge":
                free = sorted(set(stages[0][user]) | set(stages[1][user]))
            else:
                free = stages[place - 1][user]
            row = data.draw(st.permutations(free))
            shortest = len(row) if kind == "merge" else min(len(row), k) if kind == "final" else 0
            rows.append(row[: data.draw(st.integers(shortest, len(row)))])
        stages.append(rows)
    available = None if unavailable is None else np.array([i not in unavailable for i in range(10)])
    names = [f"{kind} {place}" for place, kind in enumerate(kinds)]
    pairs = [(user, item) for user in range(users) for item in relevant[user]]
    followed = way(
        [table(rows) for rows in stages],
        np.array([user for user, _ in pairs], int),
        np.array([item for _, item in pairs], int),
        [np.array(sorted(mine), int) for mine in hidden],
        available,
    )
    found = funnel(names, kinds, followed, k)
    offset = SOURCES if "merge" in kinds else 0
    wanted = [
        lost_slowly(
            item,
            [rows[user] for rows in stages],
            kinds,
            k,
            hidden=item in hidden[user] or item in (unavailable or set()),
        )
        for user, item in pairs
    ]
    assert found.shown == wanted.count("shown")
    named = ["catalogue", "filters", *(f"{kind} {i}" for i, kind in enumerate(kinds[offset:]))]
    assert [step.lost for step in found.steps] == [wanted.count(name) for name in named]
    assert found.relevant == found.shown + sum(step.lost for step in found.steps) == len(pairs)
    assert found.steps[-1].top == found.shown
    for place, source in enumerate(found.sources):
        mine = [item in stages[place][user] for user, item in pairs]
        others = [
            any(item in stages[other][user] for other in range(len(found.sources)) if other != place)
            for user, item in pairs
        ]
        assert source.found == sum(mine)
        assert source.alone == sum(a and not b for a, b in zip(mine, others, strict=True))
        assert source.top == sum(item in stages[place][user][:k] for user, item in pairs)
        assert source.items == pytest.approx(np.mean([len(row) for row in stages[place]]))


def test_groups_of_users_and_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [np.array([[5, 4, 3], [2, 3, 0]]), np.array([[3, 5, 0], [2, 0, 0]])]
    user, item = np.array([0, 0, 1, 1]), np.array([3, 4, 2, 1])
    whole = way(lists, user, item, [np.array([4]), np.array([], int)], None)
    parts = [
        way([ids[:1] for ids in lists], user[:2], item[:2], [np.array([4])], None),
        way([ids[1:] for ids in lists], np.array([0, 0]), item[2:], [np.array([], int)], None),
    ]
    monkeypatch.setattr(module, "COMPARED_AT_ONCE", 1)
    again = way(lists, user, item, [np.array([4]), np.array([], int)], None)
    for one in (joined(parts), again):
        for mine, theirs in zip(one, whole, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_verdict_names_the_worst_stages() -> None:
    lost = {"catalogue": 1, "filters": 0, "sources": 40, "ranking.dcn_v2": 7}
    steps = tuple(Step(name=name, kind="sources", left=0, lost=count) for name, count in lost.items())
    found = Funnel(k=10, users=3, relevant=50, shown=2, steps=steps, sources=(), milliseconds=Latency(median=1, p95=2))
    words = "of 50 relevant items 2 are in the first 10; most are lost here: 40 at sources and 7 at ranking.dcn_v2"
    assert found.verdict() == words
    console = Console(file=io.StringIO(), width=200)
    found.render(console)
    assert isinstance(console.file, io.StringIO)
    assert words in console.file.getvalue()
