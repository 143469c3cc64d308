"""The last steps against their formulas written out slowly, on lopsided numbers."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.recommend import rerank
from weft.transforms.rows import RaggedArrays, offsets_of

SETS = st.lists(st.lists(st.integers(2, 6), unique=True, max_size=3), max_size=12)


def ragged(sets: list[list[int]]) -> RaggedArrays:
    values = np.array(list(itertools.chain.from_iterable(sets)), np.int32)
    return RaggedArrays(values, offsets_of(np.array(list(map(len, sets)), np.int64)))


@given(SETS, st.integers(1, 3))
def test_a_cap_keeps_the_first_ones_of_each_value(sets: list[list[int]], most: int) -> None:
    kept = rerank.cap(ragged(sets), most).tolist()
    met: Counter[int] = Counter()
    wanted = []
    for place, values in enumerate(sets):
        if all(met[value] < most for value in values):
            met.update(values)
            wanted.append(place)
    assert kept == wanted


@given(st.lists(st.one_of(st.none(), st.integers(2, 6)), max_size=30), st.integers(1, 3))
def test_a_cap_on_single_values_is_the_same(values: list[int | None], most: int) -> None:
    sets = [[] if value is None else [value] for value in values]
    assert rerank.cap(ragged(sets), most).tolist() == rerank._cap_sets(ragged(sets), most).tolist()


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.7, 1.0])
def test_mmr_is_the_papers_argmax(balance: float) -> None:
    random = np.random.default_rng(3)
    value, vectors = random.normal(size=9), random.normal(size=(9, 4))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = [(v - min(value)) / (max(value) - min(value)) for v in value]
    chosen: list[int] = []
    for _ in range(5):

        def worth(i: int) -> float:
            if not chosen:
                return balance * relevance[i]
            return balance * relevance[i] - (1 - balance) * max(float(unit[i] @ unit[j]) for j in chosen)

        chosen.append(max((i for i in range(9) if i not in chosen), key=worth))
    order = rerank.mmr(value, lambda place: unit @ unit[place], 5, balance=balance).tolist()
    assert order[:5] == chosen
    assert order[5:] == sorted(set(range(9)) - set(chosen))


def test_mmr_takes_relevance_alone_where_balance_is_one_and_alternates_between_twins() -> None:
    value = np.array([4.0, 3.9, 3.8, 1.0])
    twins = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert rerank.mmr(value, lambda i: twins @ twins[i], 4, balance=1.0).tolist() == [0, 1, 2, 3]
    assert rerank.mmr(value, lambda i: twins @ twins[i], 2, balance=0.4).tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize("balance", [0.0, 0.4, 0.9])
def test_mix_is_stecks_greedy_choice(balance: float) -> None:
    random = np.random.default_rng(1)
    value, share = random.normal(size=8), random.dirichlet(np.ones(3) / 2, size=8)
    wanted, smoothing = np.array([0.6, 0.3, 0.1]), 0.01
    relevance = [(v - min(value)) / (max(value) - min(value)) for v in value]

    def worth(items: list[int]) -> float:
        q = [sum(share[i][g] for i in items) / len(items) for g in range(3)]
        smooth = [(1 - smoothing) * q[g] + smoothing * wanted[g] for g in range(3)]
        divergence = sum(wanted[g] * math.log(wanted[g] / smooth[g]) for g in range(3))
        return balance * sum(relevance[i] for i in items) - (1 - balance) * divergence

    chosen: list[int] = []
    for _ in range(4):
        chosen.append(max((i for i in range(8) if i not in chosen), key=lambda i: worth([*chosen, i])))
    found = rerank.mix(value, share, wanted, 4, balance=balance, smoothing=smoothing)
    assert found.tolist()[:4] == chosen
    assert sorted(found.tolist()) == list(range(8))


def test_a_mix_comes_near_to_what_the_user_wants() -> None:
    """Seventy and thirty percent of two genres, though the best ten items are all of the first."""
    share = np.repeat(np.eye(2), 20, axis=0)
    value = np.concatenate([np.linspace(10, 9, 20), np.linspace(8, 7, 20)])
    order = rerank.mix(value, share, np.array([0.7, 0.3]), 10, balance=0.02, smoothing=0.01)
    assert share[order[:10]].sum(0).tolist() == [7, 3]
    assert share[np.arange(10)].sum(0).tolist() == [10, 0]


def test_exploring_gives_each_item_its_propensity() -> None:
    """How often the first two places get each item, against the products of the propensities that were told."""
    share, pool, n, k = 0.4, 2, 6, 2
    random = np.random.default_rng(0)
    told: dict[tuple[int, ...], float] = {}
    met: Counter[tuple[int, ...]] = Counter()
    rounds = 20_000
    for _ in range(rounds):
        found = rerank.explore(n, k, share=share, pool=pool, random=random)
        pair = tuple(found.order[:k].tolist())
        met[pair] += 1
        told[pair] = float(np.prod(found.propensity[:k]))
        assert np.isnan(found.propensity[k:]).all()
        assert sorted(found.order.tolist()) == list(range(n))
    assert sum(told.values()) == pytest.approx(1.0)
    assert set(map(max, met)) <= set(range(k + pool))
    for pair, propensity in told.items():
        deviation = math.sqrt(propensity * (1 - propensity) / rounds)
        assert abs(met[pair] / rounds - propensity) < 5 * deviation


def test_exploring_is_by_the_formula_and_by_its_generator() -> None:
    first, again = (rerank.explore(30, 5, share=0.5, pool=10, random=np.random.default_rng(7)) for _ in range(2))
    assert first.order.tolist() == again.order.tolist()
    left = list(range(15))
    for place in range(5):
        item = int(first.order[place])
        wanted = (item == left[0]) * 0.5 + 0.5 / len(left)
        assert first.propensity[place] == pytest.approx(wanted)
        left.remove(item)


def test_pins_stand_where_they_are_told() -> None:
    assert rerank.pin(5, np.array([4, 2]), 1).tolist() == [4, 2, 0, 1, 3]
    assert rerank.pin(5, np.array([4, 2]), 3).tolist() == [0, 1, 4, 2, 3]
    assert rerank.pin(2, np.array([1]), 9).tolist() == [0, 1]
