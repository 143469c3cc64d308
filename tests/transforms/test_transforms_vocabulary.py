import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weft.transforms.columns import Keys
from weft.transforms.hashing import bucket_ids, combine, hash64, hash_keys, splitmix64
from weft.transforms.vocabulary import Vocabulary

HOSTILE = ["", "\x00", "a\x00b", "\ud800", "é", "e\u0301", " ", "../../x", "7", "07", "-0", "9" * 30, "\U0001f600"]


def texts(values: list[str]) -> NDArray[np.object_]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_values_stand_by_descending_count_then_value() -> None:
    vocabulary = Vocabulary.from_counts(texts(["b", "a", "c", "d"]), np.array([2, 2, 5, 1]), 2)
    assert vocabulary.values.tolist() == ["c", "a", "b"]
    assert vocabulary.counts.tolist() == [5, 2, 2]
    assert vocabulary.rows == 5
    keys = Keys(np.array([0, -1, 1, 2, 3]), texts(["a", "c", "d", "new"]))
    assert vocabulary.encode(keys).tolist() == [3, 0, 2, 1, 1]
    assert [vocabulary.value_of(i) for i in range(5)] == [None, None, "c", "a", "b"]


def test_integers_and_their_text_are_the_same_value() -> None:
    numbers = Vocabulary.from_counts(np.array([7, -3, 0]), np.array([3, 2, 1]))
    text = Vocabulary.from_counts(texts(["7", "-3", "0"]), np.array([3, 2, 1]))
    asked = [7, -3, 0, 8]
    for vocabulary in (numbers, text):
        assert vocabulary.encode_values(np.array(asked)).tolist() == [2, 3, 4, 1]
        assert vocabulary.encode_values(texts([str(n) for n in asked])).tolist() == [2, 3, 4, 1]
        assert vocabulary.id_of(7) == vocabulary.id_of("7") == 2
    np.testing.assert_array_equal(numbers.hashes(), text.hashes())


@pytest.mark.parametrize("text", ["07", "+7", " 7", "7.0", "-0", "", "٧", "9" * 19, "9" * 400])
def test_text_that_is_no_canonical_integer_is_unseen(text: str) -> None:
    vocabulary = Vocabulary.from_counts(np.array([7, 0, 2**63 - 1, -(2**63)]), np.ones(4, np.int64))
    assert vocabulary.id_of(text) == 1
    assert vocabulary.id_of(str(2**63 - 1)) > 1
    assert vocabulary.id_of(str(-(2**63))) > 1


@given(st.lists(st.text() | st.sampled_from(HOSTILE), unique=True))
def test_hostile_text_survives_arrays(values: list[str]) -> None:
    vocabulary = Vocabulary.from_counts(texts(values), np.ones(len(values), np.int64))
    arrays = vocabulary.to_arrays()
    assert all(array.dtype != object for array in arrays.values())
    loaded = Vocabulary.from_arrays(arrays)
    assert loaded.values.tolist() == vocabulary.values.tolist()
    assert loaded.encode_values(texts(values)).tolist() == vocabulary.encode_values(texts(values)).tolist()
    assert sorted(loaded.encode_values(texts(values)).tolist()) == list(range(2, len(values) + 2))
    assert len(hash64(texts(values))) == len(values)


def test_lone_surrogates_are_values_like_others() -> None:
    vocabulary = Vocabulary.from_counts(texts(["\ud800", "\udfff"]), np.array([2, 1]))
    assert Vocabulary.from_arrays(vocabulary.to_arrays()).id_of("\udfff") == 3


@pytest.mark.parametrize("values", [texts([]), np.zeros(0, np.int64)])
def test_an_empty_vocabulary_knows_nothing(values: NDArray[np.object_]) -> None:
    vocabulary = Vocabulary.from_arrays(Vocabulary.from_counts(values, np.zeros(0, np.int64)).to_arrays())
    assert vocabulary.rows == 2
    assert vocabulary.encode(Keys(np.array([0, -1, 1]), np.array([4, 5]))).tolist() == [1, 0, 1]
    assert vocabulary.encode(Keys(np.array([0, -1]), texts(["x"]))).tolist() == [1, 0]
    assert vocabulary.values.dtype == values.dtype


def test_min_count_zero_keeps_values_without_a_row() -> None:
    assert Vocabulary.from_counts(np.array([4, 5]), np.array([0, 1]), 0).values.tolist() == [5, 4]


def test_known_answers_of_xxh3() -> None:
    answers = {"": 0x2D06800538D394C2, "a": 0xE6C632B61E964E1F, "abc": 0x78AF5F94892F3950}
    assert hash64(texts(list(answers))).tolist() == list(answers.values())
    long = "weft " * 100
    assert hash64(texts([long])).tolist() == [xxhash.xxh3_64_intdigest(long.encode(), seed=0)]
    assert hash64(np.array([12])).tolist() == hash64(texts(["12"])).tolist()


def test_known_answers_of_splitmix() -> None:
    state, golden = 1234567, 0x9E3779B97F4A7C15
    states = np.array([0, state, (state + golden) % 2**64], np.uint64)
    assert splitmix64(states).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317, 3203168211198807973]


def test_a_combination_depends_on_order_and_is_missing_with_any_part() -> None:
    a, b = hash64(texts(["a"])), hash64(texts(["b"]))
    assert combine(a) == a
    assert combine(a, b) != combine(b, a)
    assert combine(a, np.zeros(1, np.uint64)) == 0
    assert combine(np.zeros(1, np.uint64), b) == 0
    assert combine(a, b).tolist() == [int(splitmix64(splitmix64(a) + b)[0])]


def test_bucket_ids_start_at_two() -> None:
    hashes = np.array([0, 1, 5, 2**64 - 1], np.uint64)
    assert bucket_ids(hashes, 5).tolist() == [0, 3, 2, 2 + (2**64 - 1) % 5]


def test_missing_keys_hash_to_zero() -> None:
    assert hash_keys(Keys(np.array([-1, 0]), texts(["a"]))).tolist() == [0, 0xE6C632B61E964E1F]
