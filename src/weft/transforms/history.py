"""History: the events strictly before a moment, for counters and for the user's last values.

An event has a key (who, or who and what), a time and a value. A window of w before the time t is [t - w, t): its start
belongs to it, t itself never does, so events of one time never see each other.
Dimension key: e events, q queries.
"""

from functools import cached_property, reduce
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from weft.errors import DataError
from weft.transforms.columns import Ints, Numbers
from weft.transforms.hashing import Hashes
from weft.transforms.rows import offsets_of, ranges

FIXED_POINT = 2**20
EARLIEST = np.iinfo(np.int64).min
SHORT = 1_024  # events of a layer that is sorted anew with whatever comes
GROWTH = 4  # times a layer is at least as long as the next younger one


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
    """Events by key, then time, then arrival; never changes.

    It is kept in layers, each sorted, the older first and much longer than the younger: adding a few events to many
    sorts the few, and each event is sorted again only as often as its layer grows by a factor.
    """

    def __init__(self, events: Events, *, is_sorted: bool = False) -> None:
        self._layers: tuple[_Layer, ...] = (_Layer(events if is_sorted else _sorted(events)),)

    @cached_property
    def events(self) -> Events:
        """The events, sorted."""
        first, *rest = (layer.events for layer in self._layers)
        return _sorted(reduce(joined_events, rest, first)) if rest else first

    def __len__(self) -> int:
        return sum(map(len, self._layers))

    @cached_property
    def newest(self) -> int | None:
        """The time of the newest event."""
        return max((int(layer.events.time.max()) for layer in self._layers if len(layer)), default=None)

    def add(self, events: Events) -> "EventLog":
        """A new log with further events, which arrive after the ones here."""
        layers = [*self._layers, _Layer(_sorted(events))]
        while len(layers) > 1 and len(layers[-2]) <= max(SHORT, GROWTH * len(layers[-1])):
            young = layers.pop()
            layers[-1] = _Layer(_sorted(joined_events(layers[-1].events, young.events)))
        log = EventLog.__new__(EventLog)
        log._layers = tuple(layers)
        return log

    def counts(self, keys: Hashes, times: Ints, window: int | None = None) -> Numbers:
        """Number of events [q] strictly before each time, at most `window` of the log's units before."""
        return self._count(keys, times, window).astype(np.float64)

    def sums(self, keys: Hashes, times: Ints, window: int | None = None) -> Numbers:
        """Sum of the values [q], exact in fixed point."""
        return self._total(keys, times, window) / FIXED_POINT

    def means(self, keys: Hashes, times: Ints, window: int | None = None) -> Numbers:
        """Mean of the values [q]; NaN where there is no event."""
        count = self._count(keys, times, window)
        return np.where(count > 0, self.sums(keys, times, window) / np.maximum(count, 1), np.nan)

    def last(self, keys: Hashes, times: Ints, length: int) -> tuple[NDArray[np.int32], Ints]:
        """The last `length` values, oldest first: values [nnz] and offsets [q + 1]."""
        tails = [layer.tail(keys, times, length) for layer in self._layers]
        if len(tails) == 1:
            return tails[0].value.astype(np.int32), offsets_of(np.bincount(tails[0].query, minlength=len(keys)))
        query, time, value = (np.concatenate(parts) for parts in zip(*tails, strict=True))
        order = np.lexsort((time, query))
        lengths = np.bincount(query, minlength=len(keys))
        kept = np.minimum(lengths, length)
        at = ranges(np.cumsum(lengths) - kept, kept)
        return value[order[at]].astype(np.int32), offsets_of(kept)

    def _count(self, keys: Hashes, times: Ints, window: int | None) -> Ints:
        return sum((layer.count(keys, times, window) for layer in self._layers), np.zeros(len(keys), np.int64))

    def _total(self, keys: Hashes, times: Ints, window: int | None) -> Ints:
        return sum((layer.total(keys, times, window) for layer in self._layers), np.zeros(len(keys), np.int64))


class _Tail(NamedTuple):
    """The last events of queries: whose, when, what [nnz], by query, then time, then arrival."""

    query: Ints
    time: Ints
    value: Ints


@final
class _Layer:
    """Events sorted by key, then time, then arrival."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def __len__(self) -> int:
        return len(self.events.key)

    def count(self, keys: Hashes, times: Ints, window: int | None) -> Ints:
        """Number of events [q]."""
        start, stop = self._before(keys, times, window)
        return stop - start

    def total(self, keys: Hashes, times: Ints, window: int | None) -> Ints:
        """Sum of the values [q], in fixed point."""
        start, stop = self._before(keys, times, window)
        found: Ints = self._totals[stop] - self._totals[start]
        return found

    def tail(self, keys: Hashes, times: Ints, length: int) -> _Tail:
        """The last `length` events of each query, oldest first."""
        assert self.events.value is not None
        start, stop = self._before(keys, times, None)
        lengths = np.minimum(stop - start, length)
        at = ranges(stop - lengths, lengths)
        return _Tail(np.repeat(np.arange(len(keys)), lengths), self.events.time[at], self.events.value[at])

    def _before(self, keys: Hashes, times: Ints, window: int | None) -> tuple[Ints, Ints]:
        """Positions start, stop [q] of each key's events strictly before its time, at most `window` before."""
        segment, known = self._segments(keys)
        stop = self._position(segment, times)
        start = self._offsets[segment]
        if window is not None:
            start = self._position(segment, np.maximum(times, EARLIEST + window) - window)
        return np.where(known, start, 0), np.where(known, stop, 0)

    @cached_property
    def _keys(self) -> Hashes:
        keys = self.events.key
        return keys[_changes(keys)]

    @cached_property
    def _offsets(self) -> Ints:
        return np.append(np.flatnonzero(_changes(self.events.key)), len(self)).astype(np.int64)

    @cached_property
    def _times_and_places(self) -> tuple[Ints, Ints]:
        """The distinct times, and each event's segment and rank of time as one number: sorted, as the events are."""
        times, rank = np.unique(self.events.time, return_inverse=True)
        segment = np.repeat(np.arange(len(self._keys)), np.diff(self._offsets))
        return times, segment * (len(times) + 1) + rank

    @cached_property
    def _totals(self) -> Ints:
        assert self.events.value is not None
        return offsets_of(self.events.value)

    def _segments(self, keys: Hashes) -> tuple[Ints, NDArray[np.bool_]]:
        at = np.searchsorted(self._keys, keys)
        segment = np.minimum(at, max(len(self._keys) - 1, 0))
        known = self._keys[segment] == keys if len(self) else np.zeros(len(keys), bool)
        return segment, known

    def _position(self, segment: Ints, times: Ints) -> Ints:
        distinct, places = self._times_and_places
        place = segment * (len(distinct) + 1) + np.searchsorted(distinct, times)
        return np.searchsorted(places, place).astype(np.int64)


def _sorted(events: Events) -> Events:
    return events.take(np.lexsort((events.time, events.key)))


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
