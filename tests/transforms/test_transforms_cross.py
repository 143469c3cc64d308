from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from weft.transforms.cross import CrossVocabulary, Part, cross
from weft.transforms.hashing import combine
from weft.transforms.rows import offsets_of

HASHES = st.integers(0, 4)
SETS = st.lists(st.lists(st.tuples(st.integers(1, 4), st.floats(0.5, 2, width=16)), max_size=3), min_size=3, max_size=3)


def one(values: list[int]) -> Part:
    return Part(np.array(values, np.uint64))


def several(rows: list[list[tuple[int, float]]], *, weighted: bool) -> Part:
    flat = [pair for row in rows for pair in row]
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    weights = np.array([w for _, w in flat], np.float32) if weighted else None
    return Part(np.array([h for h, _ in flat], np.uint64), offsets, weights)


def key(*hashes: int) -> int:
    combined = np.array(hashes[:1], np.uint64)
    for part in hashes[1:]:
        combined = combine(combined, np.array([part], np.uint64))
    return int(combined[0])


@given(SETS, st.lists(HASHES, min_size=3, max_size=3), SETS, st.booleans())
def test_a_cross_over_sets_equals_the_product_of_each_row(
    first: list[list[tuple[int, float]]], middle: list[int], last: list[list[tuple[int, float]]], weighted: bool
) -> None:
    crossed = cross([several(first, weighted=True), one(middle), several(last, weighted=weighted)])
    assert crossed.offsets is not None
    assert crossed.weights is not None
    for i in range(3):
        expected: dict[int, float] = {}
        for (a, v), (b, w) in product(first[i], last[i]):
            if middle[i]:
                expected.setdefault(key(a, middle[i], b), v * w if weighted else v)
        at = slice(crossed.offsets[i], crossed.offsets[i + 1])
        assert crossed.hashes[at].tolist() == list(expected)
        assert crossed.weights[at].tolist() == list(expected.values())


def test_a_cross_of_single_values_is_one_key_a_row() -> None:
    crossed = cross([one([1, 0, 2]), one([3, 3, 0])])
    assert crossed.offsets is None
    assert crossed.hashes.tolist() == [key(1, 3), 0, 0]


def test_cross_vocabulary_orders_by_count_then_key() -> None:
    keys = np.array([9, 0, 5, 7, 2**64 - 1], np.uint64)
    vocabulary = CrossVocabulary.from_counts(keys, np.array([1, 50, 3, 3, 9]), 2)
    assert vocabulary.keys.tolist() == [2**64 - 1, 5, 7]
    assert vocabulary.rows == 5
    assert vocabulary.encode(keys).tolist() == [1, 0, 3, 4, 2]


def test_an_empty_cross_vocabulary_knows_nothing() -> None:
    vocabulary = CrossVocabulary.from_counts(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assert vocabulary.encode(np.array([0, 5], np.uint64)).tolist() == [0, 1]
