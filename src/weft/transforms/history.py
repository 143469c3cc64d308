"""History: the events strictly before a moment, for counters and for the user's last values.

An event has a key (who, or who and what), a time and a value. A window of w before the time t is [t - w, t): its start
belongs to it, t itself never does, so events of one time never see each other.
Dimension key: e events, q queries.
"""

from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from weft.errors import DataError
from weft.transforms.columns import Ints, Numbers
from weft.transforms.hashing import Hashes
from weft.transforms.rows import offsets_of, ranges

FIXED_POINT = 2**20
EARLIEST = np.iinfo(np.int64).min


class Events(NamedTuple):
    """Events in order of arrival.

    Attributes:
        key: [e] uint64, never 0.
        time: [e] int64.
        value: [e] int64: fixed point (1 is 2**20) for sums and means, ids for sequences; None where rows are counted.
    """

    key: Hashes
    time: Ints
    value: Ints | None = None

    def take(self, index: NDArray[np.bool_] | Ints) -> "Events":
        """Some of the events."""
        return Events(self.key[index], self.time[index], None if self.value is None else self.value[index])


@final
class EventLog:
    """Events sorted by key, then time, then arrival."""

    def __init__(self, events: Events, *, is_sorted: bool = False) -> None:
        self._events = events if is_sorted else events.take(np.lexsort((events.time, events.key)))

    @property
    def events(self) -> Events:
        """The sorted events."""
        return self._events

    def __len__(self) -> int:
        return len(self._events.key)

    @property
    def newest(self) -> int | None:
        """The time of the newest event."""
        return int(self._events.time.max()) if len(self) else None

    def add(self, events: Events) -> "EventLog":
        """A new log with further events, which arrive after the ones here."""
        return EventLog(joined_events(self._events, events))

    def before(self, keys: Hashes, times: Ints, window: int | None = None) -> tuple[Ints, Ints]:
        """Positions start, stop [q] in the log of each key's events strictly before its time.

        Args:
            keys: [q].
            times: [q] int64, in the log's unit.
            window: Only events at most this long before; all of the past without it.
        """
        segment, known = self._segments(keys)
        stop = self._position(segment, times)
        start = self._offsets[segment]
        if window is not None:
            start = self._position(segment, np.maximum(times, EARLIEST + window) - window)
        return np.where(known, start, 0), np.where(known, stop, 0)

    def counts(self, keys: Hashes, times: Ints, window: int | None = None) -> Numbers:
        """Number of events [q]."""
        start, stop = self.before(keys, times, window)
        return (stop - start).astype(np.float64)

    def sums(self, keys: Hashes, times: Ints, window: int | None = None) -> Numbers:
        """Sum of the values [q], exact in fixed point."""
        start, stop = self.before(keys, times, window)
        return (self._totals[stop] - self._totals[start]) / FIXED_POINT

    def means(self, keys: Hashes, times: Ints, window: int | None = None) -> Numbers:
        """Mean of the values [q]; NaN where there is no event."""
        start, stop = self.before(keys, times, window)
        count = stop - start
        total = (self._totals[stop] - self._totals[start]) / FIXED_POINT
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def last(self, keys: Hashes, times: Ints, length: int) -> tuple[NDArray[np.int32], Ints]:
        """The last `length` values, oldest first: values [nnz] and offsets [q + 1]."""
        assert self._events.value is not None
        start, stop = self.before(keys, times)
        lengths = np.minimum(stop - start, length)
        values = self._events.value[ranges(stop - lengths, lengths)].astype(np.int32)
        return values, offsets_of(lengths)

    @cached_property
    def _keys(self) -> Hashes:
        keys = self._events.key
        return keys[_changes(keys)]

    @cached_property
    def _offsets(self) -> Ints:
        return np.append(np.flatnonzero(_changes(self._events.key)), len(self)).astype(np.int64)

    @cached_property
    def _times_and_places(self) -> tuple[Ints, Ints]:
        """The distinct times, and each event's segment and rank of time as one number: sorted, as the events are."""
        times, rank = np.unique(self._events.time, return_inverse=True)
        segment = np.repeat(np.arange(len(self._keys)), np.diff(self._offsets))
        return times, segment * (len(times) + 1) + rank

    @cached_property
    def _totals(self) -> Ints:
        assert self._events.value is not None
        return offsets_of(self._events.value)

    def _segments(self, keys: Hashes) -> tuple[Ints, NDArray[np.bool_]]:
        at = np.searchsorted(self._keys, keys)
        segment = np.minimum(at, max(len(self._keys) - 1, 0))
        known = self._keys[segment] == keys if len(self) else np.zeros(len(keys), bool)
        return segment, known

    def _position(self, segment: Ints, times: Ints) -> Ints:
        distinct, places = self._times_and_places
        place = segment * (len(distinct) + 1) + np.searchsorted(distinct, times)
        return np.searchsorted(places, place).astype(np.int64)


def joined_events(first: Events, second: Events) -> Events:
    """Events of `first`, then those of `second`."""
    assert (first.value is None) == (second.value is None)
    value = None if first.value is None or second.value is None else np.concatenate([first.value, second.value])
    return Events(np.concatenate([first.key, second.key]), np.concatenate([first.time, second.time]), value)


def to_fixed(values: Numbers, *, column: str) -> Ints:
    """Fixed point of finite numbers; DataError where a number is too large for it.

    >>> to_fixed(np.array([0.5, -1.0]), column="seconds")
    array([  524288, -1048576])
    """
    limit = 2.0**63 / FIXED_POINT
    if len(values) and np.abs(values).max() >= limit:
        row = int(np.argmax(np.abs(values)))
        raise DataError(f"column {column!r}: got {values[row]!r}; a counted value must lie within {limit:.0f} of zero")
    return np.rint(values * FIXED_POINT).astype(np.int64)


def _changes(keys: Hashes) -> NDArray[np.bool_]:
    return np.append(True, keys[1:] != keys[:-1])[: len(keys)]
