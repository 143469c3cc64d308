"""A bundle's recommender and what happened since it was made: new items and users, the past of each user, counters.

The log is the truth. Before each request the log is read on from where it was left, whoever wrote there, and the
history of the transforms grows by the new events; so an answer knows every event that was acknowledged before it.

An impression is a row of the table of interactions, dated as it was shown. It counts as a row at once; sums and
sequences learn of a play or like at once too. A mean has to know of the impressions that nothing followed, so it takes
each row when the row's window has closed. Once all windows have closed, the history is that of a table of impressions
with their outcomes, to the byte.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, final

import numpy as np

from weft.errors import Unavailable
from weft.recommend.answers import Item, Recommendation
from weft.recommend.names import Names
from weft.schema import Count, Schema
from weft.schema import Protocol as Judging
from weft.serve.features import unpack
from weft.serve.rows import closed, in_unit, outcome_columns, outcomes_of, place_of
from weft.serve.store import Event, EventStore, Request, now, user_hash
from weft.transforms.catalogue import Catalogue
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, concat

AT_ONCE = 5_000
LOOK = 1.0  # seconds between two looks for rows whose window has closed
NOBODY = "\x00forgotten"

Raw = Mapping[str, Any]


class Recommends(Protocol):
    """What the service asks of a recommender: immutable, safe for threads."""

    @property
    def bundle_id(self) -> str:
        """The id of the bundle's manifest."""

    @property
    def schema(self) -> Schema:
        """What the columns mean."""

    @property
    def transforms(self) -> Transforms:
        """What was fitted, and the history."""

    @property
    def catalogue(self) -> Catalogue:
        """Users and items, arrivals included."""

    @property
    def users(self) -> Names:
        """External ids of users."""

    @property
    def items(self) -> Names:
        """External ids of items."""

    def recommend(
        self,
        user: str | int,
        *,
        k: int = 10,
        seen: str | None = None,
        rows: Rows | None = None,
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
        had: Sequence[str | int] = (),
        trace: bool = False,
    ) -> Recommendation:
        """The k best items."""

    def rank(self, user: str | int, candidates: Sequence[str | int], *, rows: Rows | None = None) -> Recommendation:
        """Some items, best first."""

    def warm(self) -> None:
        """Answer once, so that what is computed at first need is there."""

    def similar(self, item: str | int, *, k: int = 10) -> Sequence[Item]:
        """The nearest items."""

    def user_rows(self, user: str | int, context: Raw | None = None) -> Rows:
        """The one row of a user's side and of the context."""

    def features(self, rows: Rows, items: Sequence[str | int]) -> Rows:
        """Full rows of that row with each item, with keys, as the ranker reads them."""

    def with_items(self, items: Sequence[Raw]) -> "Recommends":
        """A copy with further items."""

    def without_items(self, ids: Sequence[str | int]) -> "Recommends":
        """A copy without some items."""

    def with_users(self, users: Sequence[Raw]) -> "Recommends":
        """A copy with further users."""

    def with_transforms(self, transforms: Transforms) -> "Recommends":
        """A copy with a longer history."""


@final
class Live:
    """A recommender that follows the log.

    Attributes:
        base: The recommender as its bundle has it.
    """

    def __init__(self, base: Recommends, store: EventStore, *, window: float = 1_800.0) -> None:
        self.base, self._store, self._window = base, store, window
        self._lock = threading.Lock()
        self._means = means_of(base.schema)
        self._start()

    def current(self) -> tuple[Recommends, list[str]]:
        """The recommender as of now, and `store` where the log cannot be read, so that it is as of some time ago."""
        try:
            if self._is_behind():
                with self._lock:
                    self._follow()
        except Unavailable:
            return self._now, ["store"]
        return self._now, []

    def _is_behind(self) -> bool:
        closing = bool(self._means) and time.monotonic() > self._look
        if closing:
            return True
        event, change = self._store.ends()
        return event > self._seq or change > self._change

    def knows(self, item: str | int) -> bool:
        """Whether an item is of the bundle, or was put beside it."""
        ids = self.base.transforms.item_ids
        assert ids is not None
        of_bundle = ids.value_of(ids.id_of(item)) is not None
        return str(item) in self._added or (of_bundle and str(item) not in self._taken)

    def user(self, user: str | int) -> str | int:
        """The user, or an id that nobody has for one who was forgotten."""
        return NOBODY if user_hash(str(user)) in self._forgotten else user

    def had(self, user: str | int, seen: str | None) -> list[str]:
        """The items that the log hides from a user, by the rule of the schema or by another `seen`."""
        protocol = self.base.schema.protocol
        rule = seen or protocol.seen
        if rule == "allow":
            return []
        events = [e for e in self._store.events_of(str(user)) if self._counts(e, protocol)]
        if rule == "window" and protocol.window is not None:
            since = now() - round(protocol.window * 1_000_000)
            events = [event for event in events if event.time >= since]
        return list(dict.fromkeys(event.item for event in events))

    def _counts(self, event: Event, protocol: Judging) -> bool:
        """Whether an event makes its item seen: any does, or only one whose first label is relevant."""
        if protocol.seen_from == "rows":
            return True
        labels = self.base.schema.roles.label
        return bool(labels) and outcomes_of(event, self.base.schema).get(labels[0].name, -np.inf) >= protocol.relevant

    # Following the log

    def _start(self) -> None:
        """Begin with the bundle, and take in all that the store has."""
        self._seq, self._closed, self._look = 0, 0, 0.0
        self._change = self._store.newest_change()
        self._added: frozenset[str] = frozenset()
        self._taken: frozenset[str] = frozenset()
        self._forgotten = self._store.forgotten()
        self._now = self.base
        self._put(self._store.items(), self._store.users())
        self._follow()

    def _follow(self) -> None:
        self._follow_changes()
        while events := self._store.events(self._seq, limit=AT_ONCE):
            self._now = self._with_events(self._now, events)
            self._seq = events[-1].seq
        if self._means:
            self._close()

    def _close(self) -> None:
        """Give the means the rows whose window has closed."""
        while True:
            found = closed(self._store, self.base.schema, since=self._closed, window=self._window)
            if found.offset == self._closed:
                break
            shown = [one for one in found.shown if self.knows(one.event.item)]
            if shown:
                rows = self._rows(self._now, [one.event for one in shown])
                told = [one.outcome for one in shown]
                self._now = self._now.with_transforms(with_means(self._now.transforms, rows, told, self._means))
            self._closed = found.offset
        self._look = time.monotonic() + LOOK

    def _follow_changes(self) -> None:
        """Take in what was written to items and users; who was forgotten takes part of the history along."""
        changes = self._store.changes(self._change)
        if any(change.kind == "forget" for change in changes):
            self._start()
        elif changes:
            ids = {kind: sorted({c.id for c in changes if c.kind == kind}) for kind in ("item", "user")}
            self._put(self._store.items(ids["item"]), self._store.users(ids["user"]))
            self._forgotten = self._store.forgotten()
            self._change = changes[-1].seq

    def _put(self, items: Mapping[str, Raw | None], users: Mapping[str, Raw]) -> None:
        roles = self.base.schema.roles
        there = {id: {**columns, str(roles.item): id} for id, columns in items.items() if columns is not None}
        gone = [id for id, columns in items.items() if columns is None]
        recommender = self._now
        if there:
            recommender = recommender.with_items(list(there.values()))
        if gone:
            recommender = recommender.without_items(gone)
        if users:
            recommender = recommender.with_users([{**columns, str(roles.user): id} for id, columns in users.items()])
        self._added = (self._added | frozenset(there)) - frozenset(gone)
        self._taken = (self._taken | frozenset(gone)) - frozenset(there)
        self._now = recommender

    def _with_events(self, recommender: Recommends, events: Sequence[Event]) -> Recommends:
        usable = [event for event in events if not event.quarantined and self.knows(event.item)]
        if not usable or not recommender.transforms.history:
            return recommender
        rows = self._rows(recommender, usable)
        return recommender.with_transforms(grown(recommender.transforms, rows, usable))

    def _rows(self, recommender: Recommends, events: Sequence[Event]) -> Rows:
        """Full rows of events: those that this bundle logged with its answer; the others are made now."""
        requests = self._store.requests([event.request for event in events if event.request is not None])
        answers = [_answer(event, requests) for event in events]
        mine = [at for at, a in enumerate(answers) if a is not None and a.bundle == self.base.bundle_id]
        rest = [at for at in range(len(events)) if at not in set(mine)]
        parts = []
        if mine:
            parts.append(_logged([events[at] for at in mine], [answers[at] for at in mine]))
        if rest:
            parts.append(_made(recommender, [events[at] for at in rest], [answers[at] for at in rest]))
        rows = concat(parts).take(np.argsort(np.array(mine + rest)))
        times = [event.time if a is None else a.time for event, a in zip(events, answers, strict=True)]
        return replace(rows, time=np.array([in_unit(time, self.base.schema) for time in times]))


def _answer(event: Event, requests: Mapping[str, Request]) -> Request | None:
    """The answer that an event belongs to, if it is logged and has the item."""
    request = requests.get(event.request or "")
    return None if request is None or place_of(request, event.item) is None else request


def _logged(events: Sequence[Event], answers: Sequence[Request | None]) -> Rows:
    """The rows of events as they were logged; each answer is read once."""
    starts: dict[str, int] = {}
    parts: list[Rows] = []
    places: list[int] = []
    for event, answer in zip(events, answers, strict=True):
        assert answer is not None
        if answer.id not in starts:
            starts[answer.id] = sum(map(len, parts))
            parts.append(_bare(unpack(answer.features)))
        place = place_of(answer, event.item)
        assert place is not None
        places.append(starts[answer.id] + place)
    return concat(parts).take(np.array(places))


def _made(recommender: Recommends, events: Sequence[Event], answers: Sequence[Request | None]) -> Rows:
    """The rows of events as the bundle sees them now, with the keys that were logged.

    Another bundle's ids may mean something else here; its keys are hashes of the values, the context's among them.
    """
    users = np.array([recommender.users.id_of(event.user) for event in events])
    items = np.array([recommender.items.id_of(event.item) for event in events])
    catalogue = recommender.catalogue
    rows = _bare(recommender.transforms.join(catalogue.users.take(users), catalogue.items.take(items)))
    keys = np.array(rows.keys)
    for at, (event, answer) in enumerate(zip(events, answers, strict=True)):
        logged = None if answer is None else _logged([event], [answer]).keys[0]
        if logged is not None and len(logged) == keys.shape[1]:
            keys[at] = logged
    return replace(rows, keys=keys)


def _bare(rows: Rows) -> Rows:
    """Rows without what only some have."""
    roles = ("label", "weight", "position", "propensity", "group", "user", "item", "time")
    none: dict[str, Any] = dict.fromkeys(roles)
    return replace(rows, **none)


def grown(transforms: Transforms, rows: Rows, events: Sequence[Event]) -> Transforms:
    """Transforms whose history also has some events, row i being that of event i.

    What followed an impression is dated as the impression is, as in a table of them with their outcomes.
    """
    shown = np.array([event.kind == "impression" for event in events])
    made = transforms
    later = {feature.name for feature in means_of(transforms.schema)}
    if shown.any():
        made = made.with_events(transforms.events_of(rows.take(shown)))
    told = [outcomes_of(event, transforms.schema) for event in events]
    for column in dict.fromkeys(name for outcome in told for name in outcome):
        at = np.array([place for place, outcome in enumerate(told) if column in outcome])
        values = np.array([told[place][column] for place in at.tolist()])
        told_now = transforms.events_of(rows.take(at), column, values)
        made = made.with_events({name: e for name, e in told_now.items() if name not in later})
    return made


def means_of(schema: Schema) -> tuple[Count, ...]:
    """The Counts that are means of what is known only after a row was shown."""
    known_later = outcome_columns(schema)
    return tuple(f for f in schema.features if isinstance(f, Count) and f.stat == "mean" and f.of in known_later)


def with_means(
    transforms: Transforms, rows: Rows, outcomes: Sequence[Mapping[str, float]], means: Sequence[Count]
) -> Transforms:
    """Transforms whose means also have some rows that are over, row i with outcome i; what is not told is 0."""
    for mean in means:
        values = np.array([outcome.get(str(mean.of), 0.0) for outcome in outcomes])
        made = transforms.events_of(rows, mean.of, values)
        transforms = transforms.with_events({mean.name: made[mean.name]})
    return transforms
