import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import DataError
from weft.transforms import history
from weft.transforms.history import EARLIEST, FIXED_POINT, EventLog, Events, joined_events, to_fixed

EVENTS = st.lists(st.tuples(st.integers(1, 3), st.integers(-3, 6), st.integers(-5, 5)), max_size=20)
QUERY = st.tuples(st.integers(1, 4), st.integers(-4, 8))


def events(rows: list[tuple[int, int, int]]) -> Events:
    key, time, value = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    return Events(key.astype(np.uint64), time, value * FIXED_POINT)


def asked(rows: list[tuple[int, int]]) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], np.ndarray]:  # type: ignore[type-arg]
    return np.array([row[0] for row in rows], np.uint64), np.array([row[1] for row in rows], np.int64)


@given(EVENTS, st.lists(QUERY, min_size=1, max_size=5), st.none() | st.integers(1, 4))
def test_a_log_equals_a_loop(rows: list[tuple[int, int, int]], queries: list[tuple[int, int]], window: int) -> None:
    log = EventLog(events(rows))
    keys, times = asked(queries)
    counts, sums, means = (read(keys, times, window) for read in (log.counts, log.sums, log.means))
    for i, (key, time) in enumerate(queries):
        start = -100 if window is None else time - window
        past = [value for k, t, value in rows if k == key and start <= t < time]
        assert counts[i] == len(past)
        assert sums[i] == sum(past)
        assert np.isnan(means[i]) if not past else means[i] == pytest.approx(np.mean(past))


@given(EVENTS, QUERY, st.integers(1, 4))
def test_the_last_values_stand_oldest_first_in_order_of_arrival(
    rows: list[tuple[int, int, int]], query: tuple[int, int], length: int
) -> None:
    log = EventLog(Events(*events(rows)[:2], np.arange(len(rows))))
    values, offsets = log.last(*asked([query]), length)
    past = sorted((t, i) for i, (k, t, _) in enumerate(rows) if k == query[0] and t < query[1])
    assert values.tolist() == [i for _, i in past][-length:]
    assert offsets.tolist() == [0, len(values)]


@given(EVENTS, EVENTS)
def test_adding_later_equals_reading_at_once(
    first: list[tuple[int, int, int]], second: list[tuple[int, int, int]]
) -> None:
    at_once = EventLog(events(first + second))
    added = EventLog(events(first)).add(events(second))
    for one, two in zip(at_once.events, added.events, strict=True):
        assert one is not None
        assert two is not None
        assert one.tobytes() == two.tobytes()


@given(st.lists(EVENTS, min_size=1, max_size=6), st.lists(QUERY, min_size=1, max_size=5), st.none() | st.integers(1, 4))
def test_layers_answer_as_one(
    parts: list[list[tuple[int, int, int]]], queries: list[tuple[int, int]], window: int
) -> None:
    """The bytes of every answer are those of a log that is sorted at once; layers are made short to have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "SHORT", 0)
        patch.setattr(history, "GROWTH", 0)
        layered = EventLog(events(parts[0]))
        for part in parts[1:]:
            layered = layered.add(events(part))
    whole = EventLog(events([row for part in parts for row in part]))
    assert len(layered) == len(whole)
    assert layered.newest == whole.newest
    keys, times = asked(queries)
    for name in ("counts", "sums", "means"):
        one, two = (getattr(log, name)(keys, times, window) for log in (layered, whole))
        assert one.tobytes() == two.tobytes()
    for one, two in zip(layered.last(keys, times, 3), whole.last(keys, times, 3), strict=True):
        assert one.dtype == two.dtype
        assert one.tobytes() == two.tobytes()


def test_single_events_are_added_without_sorting_all() -> None:
    many = 200_000
    log = EventLog(Events(np.arange(1, many + 1, dtype=np.uint64), np.arange(many)))
    for place in range(300):
        grown = log.add(Events(np.array([7], np.uint64), np.array([many + place])))
        assert grown._layers[0] is log._layers[0]
        log = grown
    assert log.counts(*asked([(7, many + 100)])).tolist() == [101]


def test_a_window_holds_its_start_and_never_its_end() -> None:
    log = EventLog(events([(1, 10, 1), (1, 15, 2), (1, 20, 4)]))
    key = np.array([1], np.uint64)
    assert [log.sums(key, np.array([t]), 10)[0] for t in (10, 11, 20, 21, 25, 26, 30, 31)] == [0, 1, 3, 6, 6, 4, 4, 0]


def test_ties_in_time_never_see_each_other() -> None:
    log = EventLog(events([(1, 5, 1), (1, 5, 2), (1, 6, 4)]))
    assert log.counts(*asked([(1, 5), (1, 6), (1, 7)])).tolist() == [0, 2, 3]


def test_the_earliest_moment_has_no_past_with_any_window() -> None:
    log = EventLog(events([(1, EARLIEST + 1, 1)]))
    assert log.counts(*asked([(1, EARLIEST)]), 10**12).tolist() == [0]


def test_an_empty_log_answers() -> None:
    log = EventLog(events([]))
    assert log.newest is None
    assert log.counts(*asked([(1, 5)])).tolist() == [0]
    assert np.isnan(log.means(*asked([(1, 5)]), 3)).all()
    assert log.last(*asked([(1, 5)]), 3)[1].tolist() == [0, 0]


def test_events_without_values_are_counted() -> None:
    key, time, _ = events([(1, 1, 0), (2, 1, 0)])
    log = EventLog(Events(key, time)).add(Events(key, time + 1))
    assert log.counts(*asked([(1, 2), (2, 3)])).tolist() == [1, 2]
    assert joined_events(Events(key, time), Events(key, time)).value is None


def test_numbers_too_large_for_fixed_point_are_refused() -> None:
    assert to_fixed(np.array([0.25, -3.0]), column="x").tolist() == [FIXED_POINT // 4, -3 * FIXED_POINT]
    assert to_fixed(np.zeros(0), column="x").tolist() == []
    with pytest.raises(DataError, match=r"'seconds'.*1e\+20"):
        to_fixed(np.array([1.0, 1e20]), column="seconds")
