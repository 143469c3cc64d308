"""Training rows out of the log: what was shown, as the model saw it, joined with what the user did then.

A row is an impression. Its features are those that were logged when the answer was made; its outcomes are the plays,
likes and skips of the same user and item inside a window after it. It is ready when the window has closed by the
store's own clock, which never falls along the log; so who reads on from the offset of the last rows gets every row
once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.schema import UNITS_PER_SECOND, Count, Schema
from weft.schema import Sequence as SequenceFeature
from weft.serve.features import unpack
from weft.serve.store import Event, EventStore, Request, now
from weft.transforms.hashing import hash64
from weft.transforms.rows import Rows, concat

MICROSECONDS = 1_000_000
AT_ONCE = 5_000

NAMES = {
    "play": ("play", "played", "plays", "click", "clicked", "click_event"),
    "like": ("like", "liked", "likes", "favourite", "favorite"),
    "skip": ("skip", "skipped", "skips"),
}
"""The columns that an event of a kind sets to 1, where the schema has them."""


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Rows that are ready.

    Attributes:
        offset: The `seq` up to which the log is read; the next reading goes on from here.
        rows: Encoded, with label, position, propensity, user, item, group and time; None when there is no row.
        users: [n] external ids, for values that the vocabularies do not have yet.
        items: [n] external ids.
        bundles: [n] id of the bundle that showed the item.
        explored: [n] whether the list was left to chance.
        values: [n] by column: the outcomes that are no labels (seconds listened), 0 where nothing was told.
        skipped: Impressions that were read and gave no row: quarantined, or not in any answer that was logged.
    """

    offset: int
    rows: Rows | None
    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()
    explored: tuple[bool, ...] = ()
    values: Mapping[str, NDArray[np.float64]]
    skipped: int = 0


def outcome_columns(schema: Schema) -> tuple[str, ...]:
    """The columns of a table that only become known after the row was shown: labels, what Counts sum, Sequences ask."""
    features = {feature.name for feature in schema.features}
    counted = [f.of for f in schema.features if isinstance(f, Count)]
    asked = [f.where for f in schema.features if isinstance(f, SequenceFeature)]
    names = [label.name for label in schema.roles.label] + [name for name in (*counted, *asked) if name is not None]
    return tuple(name for name in dict.fromkeys(names) if name not in features)


def outcomes_of(event: Event, schema: Schema) -> dict[str, float]:
    """What an event says of the outcome columns: its own values, and 1 for the columns named after its kind.

    A play also sets the first label where no column is named after any kind.
    """
    columns = outcome_columns(schema)
    named = {column: kind for kind, names in NAMES.items() for column in columns if column in names}
    if not named and schema.roles.label:
        named = {schema.roles.label[0].name: "play"}
    found = {column: 1.0 for column, kind in named.items() if kind == event.kind}
    return found | {name: value for name, value in event.values.items() if name in columns}


class Shown(NamedTuple):
    """An impression whose window has closed, the answer that it belongs to, and what followed it, by column."""

    event: Event
    request: Request
    outcome: dict[str, float]


class Closed(NamedTuple):
    """Impressions whose windows have closed since an offset.

    Attributes:
        offset: The next reading goes on from here.
        shown: In the order of the log.
        skipped: Impressions left out: quarantined, or not in any answer that was logged.
    """

    offset: int
    shown: list[Shown]
    skipped: int


def closed(
    store: EventStore,
    schema: Schema,
    *,
    since: int = 0,
    window: float,
    clock: int | None = None,
    limit: int = AT_ONCE,
) -> Closed:
    """The impressions after an offset whose window has closed, out of at most `limit` events.

    Args:
        store: The log.
        schema: Of the bundles that answered.
        since: Offset of the reading before; 0 from the start.
        window: Seconds after an impression in which what the user does counts for it.
        clock: Now, microseconds since 1970.
        limit: Events to read.
    """
    end = (now() if clock is None else clock) - round(window * MICROSECONDS)
    read = [event for event in store.events(since, limit=limit) if event.received <= end]
    if not read:
        return Closed(since, [], 0)
    impressions = [event for event in read if event.kind == "impression"]
    requests = store.requests([event.request for event in impressions if event.request is not None])
    usable = [(event, request) for event in impressions if (request := _answer(event, requests)) is not None]
    outcomes = store.outcomes([event for event, _ in usable])
    results = _results([event for event, _ in usable], outcomes, schema, round(window * MICROSECONDS))
    shown = [Shown(event, request, result) for (event, request), result in zip(usable, results, strict=True)]
    return Closed(read[-1].seq, shown, len(impressions) - len(shown))


def training_rows(
    store: EventStore,
    schema: Schema,
    *,
    since: int = 0,
    window: float,
    bundles: Collection[str] | None = None,
    clock: int | None = None,
    limit: int = AT_ONCE,
) -> TrainingRows:
    """Rows to learn from: those of `closed` with the features that were logged.

    Args:
        store: The log.
        schema: Of the bundles that answered.
        since: Offset of the rows before; 0 from the start.
        window: Seconds after an impression in which what the user does counts for it.
        bundles: Only what these bundles showed, whose ids mean the same; None where all do.
        clock: Now, microseconds since 1970.
        limit: Events to read; fewer than `limit` are left when the offset stays.
    """
    found = closed(store, schema, since=since, window=window, clock=clock, limit=limit)
    kept = [shown for shown in found.shown if bundles is None or shown.request.bundle in bundles]
    skipped = found.skipped + len(found.shown) - len(kept)
    if not kept:
        return TrainingRows(offset=found.offset, rows=None, values={}, skipped=skipped)
    labels = [label.name for label in schema.roles.label]
    label = np.array([[shown.outcome.get(name, 0.0) for name in labels] for shown in kept], np.float32)
    others = [name for name in outcome_columns(schema) if name not in labels]
    return TrainingRows(
        offset=found.offset,
        rows=replace(concat([_row(shown, schema) for shown in kept]), label=label.reshape(len(kept), len(labels))),
        users=tuple(shown.event.user for shown in kept),
        items=tuple(shown.event.item for shown in kept),
        bundles=tuple(shown.request.bundle for shown in kept),
        explored=tuple(shown.request.explored for shown in kept),
        values={name: np.array([shown.outcome.get(name, 0.0) for shown in kept]) for name in others},
        skipped=skipped,
    )


def place_of(request: Request, item: str) -> int | None:
    """Where a request's answer had an item, from 0."""
    return next((place for place, (shown, _) in enumerate(request.shown) if shown == item), None)


def in_unit(time: int, schema: Schema) -> int:
    """Microseconds since 1970 in the schema's unit."""
    return time * UNITS_PER_SECOND[schema.roles.time_unit] // MICROSECONDS


def _answer(event: Event, requests: Mapping[str, Request]) -> Request | None:
    request = requests.get(event.request or "")
    usable = request is not None and not event.quarantined and request.user == event.user
    return request if usable and request is not None and place_of(request, event.item) is not None else None


def _row(shown: Shown, schema: Schema) -> Rows:
    event, request = shown.event, shown.request
    place = place_of(request, event.item)
    assert place is not None
    row = unpack(request.features).take(np.array([place]))
    propensity = event.propensity if event.propensity is not None else request.shown[place][1]
    return replace(
        row,
        label=None,
        weight=None,
        time=np.array([in_unit(request.time, schema)]),
        position=np.array([event.position if event.position is not None else place + 1], np.int32),
        propensity=np.array([1.0 if propensity is None else propensity], np.float32),
        group=hash64(np.array([request.id], object)).view(np.int64),
    )


def _results(
    impressions: Iterable[Event], outcomes: Sequence[Event], schema: Schema, window: int
) -> list[dict[str, float]]:
    """What followed each impression; of several events on one column the greatest value holds."""
    by_pair: dict[tuple[str, str], list[Event]] = {}
    for event in outcomes:
        by_pair.setdefault((event.user, event.item), []).append(event)
    return [_result(event, by_pair.get((event.user, event.item), ()), schema, window) for event in impressions]


def _result(impression: Event, outcomes: Iterable[Event], schema: Schema, window: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for event in outcomes:
        elsewhere = None not in (event.request, impression.request) and event.request != impression.request
        if elsewhere or not 0 <= event.time - impression.time <= window:
            continue
        for name, value in outcomes_of(event, schema).items():
            found[name] = max(value, found.get(name, value))
    return found
