"""The spilled AUC equals the one in memory to the last bit."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.metrics import StreamingAuc, auc

ROWS = st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=1, max_size=60)


@given(ROWS, st.integers(1, 9), st.integers(1, 13))
@settings(max_examples=60, deadline=None)
def test_any_ties_any_memory_any_chunks(rows: list[tuple[bool, int]], max_rows: int, chunk: int) -> None:
    label, score = (np.array(column) for column in zip(*rows, strict=True))
    with StreamingAuc(max_rows) as streaming:
        for start in range(0, len(rows), chunk):
            streaming.update(label[start : start + chunk], score[start : start + chunk])
        value = streaming.value()
    expected = auc(label, score)
    assert value == expected or (math.isnan(value) and math.isnan(expected))


@pytest.mark.parametrize("decimals", [1, 12])
@pytest.mark.parametrize("max_rows", [500, 1000, 100_000])
def test_many_rows(decimals: int, max_rows: int) -> None:
    generator = np.random.default_rng(0)
    label = generator.random(5000) < 0.03
    score = generator.normal(label, 1.0).round(decimals)
    with StreamingAuc(max_rows) as streaming:
        for start in range(0, 5000, 777):
            streaming.update(label[start : start + 777], score[start : start + 777])
        assert streaming.value() == auc(label, score)


def peak_memory(parts: int) -> int:
    """Bytes at the highest while `parts` x 5000 rows are streamed."""
    generator = np.random.default_rng(0)
    tracemalloc.start()
    with StreamingAuc(max_rows=5000) as streaming:
        for _ in range(parts):
            streaming.update(generator.random(5000) < 0.1, generator.random(5000))
        assert 0.45 < streaming.value() < 0.55
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows() -> None:
    peak_memory(2)  # what NumPy imports at first use is not counted
    assert peak_memory(40) < 1.2 * peak_memory(4)


def test_rows_may_follow_a_value() -> None:
    label, score = np.array([0, 1, 0, 1, 1]), np.array([0.3, 0.2, 0.2, 0.9, 0.3], np.float32)
    with StreamingAuc(max_rows=2) as streaming:
        streaming.update(label[:3], score[:3])
        assert streaming.value() == auc(label[:3], score[:3])
        assert streaming.value() == auc(label[:3], score[:3])
        streaming.update(label[3:], score[3:])
        assert streaming.value() == auc(label, score)


def test_equal_numbers_of_two_float_types_are_a_tie() -> None:
    with StreamingAuc(max_rows=1) as streaming:
        streaming.update(np.array([1]), np.array([0.1], np.float32))
        streaming.update(np.array([0]), np.array([0.1], np.float32).astype(np.float64))
        assert streaming.value() == 0.5


def test_the_caller_may_reuse_its_arrays() -> None:
    label, score = np.array([True, False]), np.array([1.0, 0.0])
    with StreamingAuc() as streaming:
        streaming.update(label, score)
        label[:], score[:] = False, 7.0
        assert streaming.value() == 1


def test_runs_lie_in_the_given_folder_until_closed(tmp_path: Path) -> None:
    streaming = StreamingAuc(max_rows=2, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    streaming.update(np.array([0, 1, 1, 0, 1]), np.arange(5))
    assert len(list(tmp_path.rglob("*.run"))) == 2
    streaming.close()
    assert not list(tmp_path.iterdir())
    assert math.isnan(streaming.value())
    streaming.close()


def test_an_error_inside_leaves_no_file(tmp_path: Path) -> None:
    def stream() -> None:
        with StreamingAuc(1, tmp_path) as streaming:
            streaming.update(np.array([0]), np.array([1.0]))
            assert len(list(tmp_path.rglob("*.run"))) == 1
            streaming.update(np.array([0]), np.array([np.nan]))

    with pytest.raises(ValueError, match="got nan at row 0"):
        stream()
    assert not list(tmp_path.iterdir())


def test_no_room_for_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_rows` must be at least 1, got 0"):
        StreamingAuc(max_rows=0)
