"""Ids that come after training: vocabularies grow by frequency, and full ones give places to what is met more often.

Tables of the user's and the item's own id grow; a value keeps its id as long as it has one, so that rows that were
logged before go on to mean the same. All other vocabularies stay as they were fitted.

Dimension key: n rows, v values of a vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from weft.batch import FIRST_ID, UNKNOWN, Field
from weft.schema import Sequence as SequenceFeature
from weft.transforms.encode import Transforms
from weft.transforms.history import EventLog
from weft.transforms.layout import table_of
from weft.transforms.rows import Rows
from weft.transforms.vocabulary import Vocabulary

Side = Literal["user", "item"]
Waiting = dict[str, dict[str, int]]

SIDES: tuple[Side, ...] = ("user", "item")
WAITING_MOST = 10_000  # values of a table that are remembered although they have no id yet
KEPT, OF = 7, 8  # the share of a value's count that a round leaves


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who gets an id.

    Attributes:
        least: Rows that a value must have been met in.
        most: Values of a table; beyond them a value gets the id of one that is met less often.
    """

    least: int = 3
    most: int = 1_000_000


class Grown(NamedTuple):
    """What came of it.

    Attributes:
        transforms: With the longer vocabularies.
        waiting: By table, the rows in which values without an id were met so far.
        admitted: Values that got an id, by table.
        evicted: Values that lost theirs, by table.
    """

    transforms: Transforms
    waiting: Waiting
    admitted: dict[str, int]
    evicted: dict[str, int]


def grown(transforms: Transforms, met: Mapping[Side, Sequence[str]], waiting: Waiting, policy: Policy) -> Grown:
    """Vocabularies after some rows.

    The catalogues take every value that was met and evict none; tables of features go by the policy.

    Args:
        transforms: Before.
        met: The external ids of users and of items, one a row.
        waiting: What `Grown` said the last time.
        policy: Who gets an id.
    """
    vocabularies, left = dict(transforms.vocabularies), dict(waiting)
    admitted, evicted = {}, {}
    for side in SIDES:
        name = getattr(transforms.fields, side)
        table = None if name is None else table_of(transforms.schema, name)
        if table is None or table not in vocabularies:
            continue
        before = vocabularies[table]
        after, left[table] = admit(before, met[side], waiting.get(table, {}), policy)
        evicted[table] = int((after.values[: len(before)] != before.values).sum())
        admitted[table] = len(after) - len(before) + evicted[table]
        vocabularies[table] = after
    made = Transforms(
        transforms.schema,
        vocabularies=vocabularies,
        scalers=transforms.scalers,
        edges=transforms.edges,
        crosses=transforms.crosses,
        user_ids=_with_all(transforms.user_ids, met["user"]),
        item_ids=_with_all(transforms.item_ids, met["item"]),
        history=transforms.history,
    )
    return Grown(made.replace(history=_history(transforms, made)), left, admitted, evicted)


def admit(
    vocabulary: Vocabulary, met: Sequence[str], waiting: Mapping[str, int], policy: Policy
) -> tuple[Vocabulary, dict[str, int]]:
    """A vocabulary after some rows, and the values that wait for an id with the rows they were met in.

    Counts age: a round leaves seven eighths of them. A newcomer takes a place that is free, else that of the value with
    the lowest count, if its own is higher and the other was not met now.

    >>> full = Vocabulary(np.array([7, 8]), np.array([80, 2]))
    >>> after, waiting = admit(full, ["9", "9", "9", "7", "5"], {}, Policy(least=2, most=2))
    >>> after.values.tolist(), after.counts.tolist(), waiting
    ([7, 9], [71, 3], {'5': 1})
    """
    names, counts = np.unique(np.array(met, object).astype(str), return_counts=True)
    values, fit = _typed(names.tolist(), vocabulary.values.dtype)
    counts = counts[fit]
    ids = vocabulary.encode_values(values)
    known = ids >= FIRST_ID
    kept = vocabulary.counts * KEPT // OF
    kept[ids[known] - FIRST_ID] += counts[known]
    new = dict(waiting)
    for value, count in zip(values[~known].tolist(), counts[~known].tolist(), strict=True):
        new[str(value)] = new.get(str(value), 0) + count
    ranked = sorted((-count, name) for name, count in new.items() if count >= policy.least)
    room = max(policy.most - len(vocabulary), 0)
    inside = [(name, -count) for count, name in ranked[:room]]
    met_now = np.zeros(len(vocabulary), bool)
    met_now[ids[known] - FIRST_ID] = True
    places = _given_up(kept, met_now, [-count for count, _ in ranked[room:]])
    instead = [(name, -count) for count, name in ranked[room : room + len(places)]]
    longer = _replaced(Vocabulary(vocabulary.values, kept), places, instead, inside)
    for name, _ in (*inside, *instead):
        del new[name]
    most = sorted(new.items(), key=lambda pair: (-pair[1], pair[0]))[:WAITING_MOST]
    return longer, dict(most)


def translated(rows: Rows, old: Transforms, new: Transforms) -> Rows:
    """Rows with the ids that other transforms of the same schema give the same values; 1 where they have none."""
    here, maps = new.fields.of(*rows.sides), _Maps(old, new)
    ids = np.array(rows.ids)
    for column, field in enumerate(here.ids):
        ids[:, column] = maps.of(field)[ids[:, column]]
    ragged = {f.name: rows.ragged[f.name] for f in here.ragged if f.name in rows.ragged}
    for field in here.ragged:
        if field.name in ragged:
            sets = ragged[field.name]
            ragged[field.name] = sets._replace(values=maps.of(field)[sets.values])
    user, item = (
        None if column is None else _role_map(before, after)[_within(column, before)]
        for column, before, after in (
            (rows.user, old.user_ids, new.user_ids),
            (rows.item, old.item_ids, new.item_ids),
        )
    )
    return replace(rows, ids=ids, ragged=ragged, user=user, item=item)


def named(rows: Rows, transforms: Transforms, names: Mapping[Side, Sequence[str]]) -> Rows:
    """Full rows whose users and items have the ids of their names, which they may have got only now."""
    ids = np.array(rows.ids)
    roles: dict[Side, NDArray[np.int32]] = {}
    for side in SIDES:
        values = np.array(names[side], object)
        vocabulary = transforms.user_ids if side == "user" else transforms.item_ids
        assert vocabulary is not None
        roles[side] = vocabulary.encode_values(values)
        name = getattr(transforms.fields, side)
        own = None if name is None else transforms.vocabularies.get(table_of(transforms.schema, name))
        if own is not None:
            ids[:, transforms.fields.column(name)] = own.encode_values(values)
    return replace(rows, ids=ids, user=roles["user"], item=roles["item"])


class _Maps:
    """The new id of each old one, by table."""

    def __init__(self, old: Transforms, new: Transforms) -> None:
        self._old, self._new = old, new
        self._made: dict[str, NDArray[np.int32]] = {}

    def of(self, field: Field) -> NDArray[np.int32]:
        """For the table of a field; the same ids where it has no vocabulary that grows."""
        if field.table not in self._made:
            before, after = (t.vocabularies.get(field.table) for t in (self._old, self._new))
            known = before is not None and after is not None and not field.cross
            self._made[field.table] = _role_map(before, after) if known else np.arange(field.rows, dtype=np.int32)
        return self._made[field.table]


def _role_map(before: Vocabulary | None, after: Vocabulary | None) -> NDArray[np.int32]:
    assert before is not None
    assert after is not None
    return np.concatenate([np.array([0, UNKNOWN], np.int32), after.encode_values(before.values)])


def _within(ids: NDArray[np.int32], vocabulary: Vocabulary | None) -> NDArray[np.int32]:
    """Ids of arrivals, which lie behind a vocabulary, as unknown."""
    assert vocabulary is not None
    return np.where(ids < vocabulary.rows, ids, np.int32(UNKNOWN))


def _with_all(vocabulary: Vocabulary | None, met: Sequence[str]) -> Vocabulary:
    assert vocabulary is not None
    values, _ = _typed(sorted(set(met)), vocabulary.values.dtype)
    new = values[vocabulary.encode_values(values) == UNKNOWN]
    return Vocabulary(np.append(vocabulary.values, new), np.append(vocabulary.counts, np.zeros(len(new), np.int64)))


def _typed(names: Sequence[str], kind: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Names as values of a vocabulary, and which of them can be one."""
    if kind.hasobject:
        return np.array(names, object), np.ones(len(names), bool)
    fit = np.array([name.lstrip("-").isdecimal() and len(name) < 19 for name in names], bool)
    return np.array([int(name) for name, fine in zip(names, fit.tolist(), strict=True) if fine], np.int64), fit


def _given_up(kept: NDArray[np.int64], met_now: NDArray[np.bool_], wanted: Sequence[int]) -> list[int]:
    """The places that values give up for others of the counts `wanted`, which fall."""
    order = [place for place in np.argsort(kept, kind="stable")[: len(wanted) + met_now.sum()] if not met_now[place]]
    pairs = zip(order, wanted, strict=False)
    return [int(place) for place, count in pairs if count > kept[place]]


def _replaced(
    vocabulary: Vocabulary, places: Sequence[int], instead: Sequence[tuple[str, int]], more: Sequence[tuple[str, int]]
) -> Vocabulary:
    values, counts = np.array(vocabulary.values), np.array(vocabulary.counts)
    kind = values.dtype
    values[list(places)] = _typed([name for name, _ in instead], kind)[0]
    counts[list(places)] = [count for _, count in instead]
    added = _typed([name for name, _ in more], kind)[0]
    return Vocabulary(np.append(values, added), np.append(counts, np.array([count for _, count in more], np.int64)))


def _history(old: Transforms, new: Transforms) -> dict[str, EventLog]:
    """The logs of derived sequences with the new ids; the others hold no ids."""
    changed: dict[str, EventLog] = {}
    maps = _Maps(old, new)
    fields = {field.name: field for field in new.fields.ragged}
    for feature in new.schema.features:
        if isinstance(feature, SequenceFeature) and feature.of is not None and feature.name in old.history:
            events = old.history[feature.name].events
            assert events.value is not None
            value = maps.of(fields[feature.name])[events.value].astype(np.int64)
            changed[feature.name] = EventLog(events._replace(value=value), is_sorted=True)
    return changed
