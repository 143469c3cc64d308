"""Transforms: everything fitted, and the one code path from raw columns to encoded rows.

Dimension key: n rows, F id columns, D dense columns, T labels, P key columns, nnz values of a ragged field.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from weft.batch import FIRST_ID, PADDING, Fields
from weft.errors import NotFitted, UnknownColumn, near
from weft.schema import UNITS_PER_SECOND, Categorical, Count, Cross, Dense, MultiHot, Schema, Sequence
from weft.transforms import folder as _folder
from weft.transforms.bucket import bucket_rows, to_buckets
from weft.transforms.columns import (
    Column,
    Ints,
    Keys,
    Lists,
    Numbers,
    RawTable,
    as_numbers,
    as_times,
    from_values,
    table_rows,
)
from weft.transforms.cross import CrossVocabulary, Part, cross
from weft.transforms.hashing import Hashes, bucket_ids, combine, hash64, hash_keys, splitmix64
from weft.transforms.history import EARLIEST, EventLog, Events, to_fixed
from weft.transforms.layout import (
    MISSING,
    Layout,
    bucketed,
    is_set,
    key_columns,
    key_side,
    make_fields,
    make_layout,
    reads_history,
    table_of,
)
from weft.transforms.rows import ALL_SIDES, RaggedArrays, Rows, offsets_of, ranges
from weft.transforms.scale import Scaler
from weft.transforms.vocabulary import Vocabulary

Values = NDArray[np.int32] | RaggedArrays
Made = Count | Sequence | Cross
Sources = list[tuple[Rows, tuple[str, ...]]]
USER_SIDES, ITEM_SIDES = ("user", "context"), ("item",)
USER_ROLES = ("user", "group", "weight")

_T = TypeVar("_T")


@final
class Transforms:
    """A schema with everything that was fitted on its train rows; never changes.

    A piece that is missing is an error only when it is needed, so that fitting can use what is there already:
    first vocabularies, edges and history, then `cross_keys` and `count_values`, then crosses and counters' scalers.

    Attributes:
        schema: What the columns mean.
        vocabularies: One a table (`Field.table`) of values; fields with `hash_buckets` have none.
        scalers: One a Dense and Count feature.
        edges: [k] float64 inner edges, one a Dense feature with `buckets`.
        crosses: One a Cross feature without `hash_buckets`.
        user_ids: The user role's values; Rows.user are its ids.
        item_ids: The item role's values; Rows.item are its ids.
        history: One log a Count and a derived Sequence.
        key_columns: The columns whose hashes are Rows.keys: keys of Counts, and the user for derived Sequences.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        vocabularies: Mapping[str, Vocabulary] | None = None,
        scalers: Mapping[str, Scaler] | None = None,
        edges: Mapping[str, Numbers] | None = None,
        crosses: Mapping[str, CrossVocabulary] | None = None,
        user_ids: Vocabulary | None = None,
        item_ids: Vocabulary | None = None,
        history: Mapping[str, EventLog] | None = None,
    ) -> None:
        self.schema = schema
        self.vocabularies = dict(vocabularies or {})
        self.scalers = dict(scalers or {})
        self.edges = dict(edges or {})
        self.crosses = dict(crosses or {})
        self.user_ids = user_ids
        self.item_ids = item_ids
        self.history = dict(history or {})
        self.key_columns = key_columns(schema)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._part_hashes: dict[str, Hashes] = {}

    @cached_property
    def fields(self) -> Fields:
        """Names, sides and rows of all fields; NotFitted if a vocabulary is missing."""
        users, items = (0 if ids is None else ids.rows for ids in (self.user_ids, self.item_ids))
        return make_fields(self.schema, self._table_rows, users, items)

    def replace(
        self,
        *,
        scalers: Mapping[str, Scaler] | None = None,
        crosses: Mapping[str, CrossVocabulary] | None = None,
        history: Mapping[str, EventLog] | None = None,
    ) -> "Transforms":
        """A copy with further pieces."""
        return Transforms(
            self.schema,
            vocabularies=self.vocabularies,
            scalers={**self.scalers, **(scalers or {})},
            edges=self.edges,
            crosses={**self.crosses, **(crosses or {})},
            user_ids=self.user_ids,
            item_ids=self.item_ids,
            history={**self.history, **(history or {})},
        )

    # Encoding

    def encode(self, table: RawTable, *, time: int | Ints | None = None) -> Rows:
        """Encode interaction rows whole; history is read strictly before each row's time.

        Args:
            table: `columns.feature_columns` must be there; role columns where they exist.
            time: Instead of the table's time column; with neither, after everything in the log.
        """
        role = self.schema.roles.time
        if time is None and role in table:
            time = as_times(table[role], name=role)
        rows = self._encode(table, ALL_SIDES, self._moments(time, table_rows(table)))
        return replace(rows, **self._roles(table), time=None if time is None else _broadcast(time, len(rows)))

    def encode_side(self, table: RawTable, *sides: str) -> Rows:
        """Encode the columns of one side or some (`"item"`, or `"user", "context"`): the rows of a catalogue.

        History features are those of a row before all events; `as_of` and `join` fill them in.
        """
        return self._encode(table, sides, _broadcast(EARLIEST, table_rows(table)))

    def as_of(self, rows: Rows, *, time: int | Ints | None = None) -> Rows:
        """The rows with their history features, and the crosses over them, as of another time (None: after all)."""
        return self._as_of(rows, time, rows.sides)

    def join(self, users: Rows, items: Rows, *, context: Rows | None = None, time: int | Ints | None = None) -> Rows:
        """Full rows of user-side and item-side rows, pairwise; a single row on either side goes with all of the other.

        Columns of users come from `users`, columns of items from `items`, the context from `context`, else from `users`
        if it is there, else it is missing; further sides of the rows are ignored. Pair crosses and all history features
        are computed as of `time` (None: after everything). The result has `user`, `item`, `group`, `weight` and `time`.
        """
        n = max(len(users), len(items))
        if np.ndim(0 if time is None else time):
            users, items = _repeated(users, n), _repeated(items, n)
        users = self._as_of(users, time, USER_SIDES)
        items = self._as_of(items, time, ITEM_SIDES)
        sources, mixed = self._user_sources(users, context)
        mixed = (*mixed, *self._layout(("pair",)).made)
        rows = self._assembled([*sources, (items, ITEM_SIDES)], n)
        roles: dict[str, Any] = {name: _stretched(getattr(users, name), n) for name in USER_ROLES}
        rows = replace(
            rows, **roles, item=_stretched(items.item, n), time=None if time is None else _broadcast(time, n)
        )
        return self._with_made(rows, mixed, self._moments(time, n)) if mixed else rows

    def user_side(self, users: Rows, *, context: Rows | None = None, time: int | Ints | None = None) -> Rows:
        """The columns of user and context as `join` makes them."""
        n = len(users)
        users = self._as_of(users, time, USER_SIDES)
        sources, mixed = self._user_sources(users, context)
        roles: dict[str, Any] = {name: getattr(users, name) for name in USER_ROLES}
        rows = replace(
            self._assembled(sources, n, USER_SIDES), **roles, time=None if time is None else _broadcast(time, n)
        )
        return self._with_made(rows, mixed, self._moments(time, n)) if mixed else rows

    def pairs(self, user: Rows, items: Rows, *, time: int | None = None) -> Rows:
        """The columns that a user row and item rows have together, as `join` makes them.

        Args:
            user: A row of user and context as of `time`, from `user_side`.
            items: Rows of the item's side.
            time: As in `join`.
        """
        n, sides = len(items), ("pair",)
        sources = [(user, USER_SIDES), (self._as_of(items, time, ITEM_SIDES), ITEM_SIDES)]
        rows = self._assembled([], n, sides)
        for source, mine in sources:
            self._take_keys(rows.keys, source, mine)
        return self._with_made(rows, self._layout(sides).made, self._moments(time, n), sources)

    # Fitting

    def history_events(self, table: RawTable, *, time: Ints | None = None) -> dict[str, Events]:
        """The events that rows of a table give each Count and derived Sequence (`time` instead of its time column).

        Needs the vocabularies of derived sequences. Rows whose key or value is missing give no event.
        """
        role = str(self.schema.roles.time)
        features = [f for f in self.schema.features if isinstance(f, Count | Sequence) and _is_read(f)]
        if not features:
            return {}
        times = as_times(_column(table, role), name=role) if time is None else time
        keys = self._keys(table, ALL_SIDES)
        return {feature.name: self._events(feature, table, keys, times) for feature in features}

    def events_of(self, rows: Rows, column: str | None = None, values: Numbers | None = None) -> dict[str, Events]:
        """`history_events` from rows that are encoded already, for the features that read one column alone.

        Args:
            rows: Full rows with their times.
            column: What a Count sums (`of`) or a Sequence asks (`where`); without it, the features that read neither.
            values: [n] the values of that column, NaN where they are missing.
        """
        assert rows.time is not None
        asked = np.ones(len(rows)) if values is None else values
        made: dict[str, Events] = {}
        for feature in self.schema.features:
            if isinstance(feature, Count) and feature.of == column:
                numbers = None if column is None else asked
                made[feature.name] = _counted_events(self._history_key(feature, rows.keys), rows.time, numbers, column)
            elif isinstance(feature, Sequence) and feature.of is not None and feature.where == column:
                ids = rows.ids[:, self._layout(rows.sides).id_at[feature.of]]
                key = self._history_key(feature, rows.keys)
                made[feature.name] = _sequence_events(key, rows.time, ids, np.equal(asked, 1))
        return made

    def with_events(self, events: Mapping[str, Events]) -> "Transforms":
        """A copy whose logs also hold further events, by feature; made in the time that adding them takes."""
        logs = {name: self.history[name].add(e) if name in self.history else EventLog(e) for name, e in events.items()}
        copy = self.replace(history=logs)
        copy._layouts, copy._part_hashes = self._layouts, self._part_hashes
        if "fields" in self.__dict__:
            copy.__dict__["fields"] = self.fields
        return copy

    def with_history(self, table: RawTable, *, time: Ints | None = None) -> "Transforms":
        """A copy whose logs also hold the events of a table."""
        return self.with_events(self.history_events(table, time=time))

    def cross_keys(self, name: str, table: RawTable, *, time: int | Ints | None = None) -> Hashes:
        """Keys of a Cross feature over rows, flat; 0 where a part is missing. For `CrossVocabulary.from_counts`."""
        feature = self.schema.feature(name)
        assert isinstance(feature, Cross)
        keys, times = self._keys_and_times(table, time)
        return self._crossed(feature, lambda part: self._values(part, table, keys, times)).hashes

    def count_values(self, name: str, table: RawTable, *, time: int | Ints | None = None) -> Numbers:
        """Unscaled values of a Count feature [n]; a mean without events is NaN. For fitting its scaler."""
        feature = self.schema.feature(name)
        assert isinstance(feature, Count)
        keys, times = self._keys_and_times(table, time)
        return self._counted(feature, keys, times)

    def cross_id(self, name: str, parts: tuple[int, ...]) -> int:
        """The id that a Cross feature gives a combination of ids of its parts."""
        feature = self.schema.feature(name)
        assert isinstance(feature, Cross)
        ids = {part: np.array([id], np.int32) for part, id in zip(feature.of, parts, strict=True)}
        return int(self._cross_ids(feature, self._crossed(feature, ids.__getitem__).hashes)[0])

    # Folders

    def save(self, folder: Path) -> None:
        """Write JSON and .npy files into a new folder; the same state gives the same bytes."""
        _folder.save(folder, self.schema, self._pieces())

    @staticmethod
    def load(folder: Path) -> "Transforms":
        """Read what `save` wrote; ArtifactError if it is damaged."""
        schema, pieces = _folder.load(folder)
        return Transforms(schema, **pieces)

    def _pieces(self) -> dict[str, Any]:
        names = ("vocabularies", "scalers", "edges", "crosses", "user_ids", "item_ids", "history")
        return {name: getattr(self, name) for name in names}

    # The parts of encoding

    def _encode(self, table: RawTable, sides: tuple[str, ...], times: Ints) -> Rows:
        layout = self._layout(sides)
        n = len(times)
        ids = np.zeros((n, len(layout.fields.ids)), np.int32)
        made = {feature.name for feature in layout.made}
        for name, column in layout.id_at.items():
            if name not in made:
                ids[:, column] = self._ids(name, table)
        ragged = {name: self._sets(name, table) for name in layout.ragged if name not in made}
        rows = Rows(
            ids=ids,
            dense=self._dense(table, layout, n),
            ragged=ragged,
            keys=self._keys(table, sides),
            user=self._role_ids("user", table) if "user" in sides else None,
            item=self._role_ids("item", table) if "item" in sides else None,
            sides=sides,
        )
        return self._with_made(rows, layout.made, times)

    def _ids(self, name: str, table: RawTable) -> NDArray[np.int32]:
        dense = bucketed(self.schema, name)
        if dense is not None:
            edges = _fitted(self.edges, dense.name, "edges")
            return to_buckets(as_numbers(_column(table, dense.name), name=dense.name), edges)
        return self._encode_keys(name, _keys_column(table, name))

    def _encode_keys(self, name: str, keys: Keys) -> NDArray[np.int32]:
        owner = table_of(self.schema, name)
        buckets = self._hash_buckets(owner)
        if buckets is None:
            return _fitted(self.vocabularies, owner, "vocabulary").encode(keys)
        ids: NDArray[np.int32] = np.append(bucket_ids(hash64(keys.values), buckets), np.int32(PADDING))[keys.codes]
        return ids

    def _sets(self, name: str, table: RawTable) -> RaggedArrays:
        lists = _column(table, name)
        assert isinstance(lists, Lists), name
        ids = self._encode_keys(name, lists.keys)
        kept = ids != PADDING
        if lists.weights is not None:
            kept &= ~np.isnan(lists.weights)
        weights = None if lists.weights is None else lists.weights[kept].astype(np.float32)
        sets = RaggedArrays(ids[kept], offsets_of(kept)[lists.offsets], weights)
        feature = self.schema.feature(name)
        return _last(sets, feature.max_length) if isinstance(feature, Sequence) else sets

    def _dense(self, table: RawTable, layout: Layout, n: int) -> NDArray[np.float32]:
        dense = np.zeros((n, len(layout.dense_at)), np.float32)
        for name, column in layout.dense_at.items():
            feature = self._dense_feature(name)
            if feature is None:
                continue
            values = as_numbers(_column(table, feature.name), name=feature.name)
            scaler = _fitted(self.scalers, feature.name, "scaler")
            dense[:, column] = scaler.apply(values) if name == feature.name else np.isnan(values)
        return dense

    def _dense_feature(self, name: str) -> Dense | None:
        names = {feature.name: feature for feature in self.schema.features}
        feature = names.get(name) or names[name.removesuffix(MISSING)]
        return feature if isinstance(feature, Dense) else None

    def _keys(self, table: RawTable, sides: tuple[str, ...]) -> Hashes:
        keys = np.zeros((table_rows(table), len(self.key_columns)), np.uint64)
        for i, name in enumerate(self.key_columns):
            if name in table and key_side(self.schema, name) in sides:
                keys[:, i] = hash_keys(_keys_column(table, name))
        return keys

    def _role_ids(self, role: str, table: RawTable) -> NDArray[np.int32] | None:
        name = getattr(self.schema.roles, role)
        if name not in table:
            return None
        ids = self.user_ids if role == "user" else self.item_ids
        if ids is None:
            raise NotFitted(f"the ids of the {role} role {name!r} are not fitted; pass `{role}_ids` to Transforms")
        return ids.encode(_keys_column(table, name))

    def _roles(self, table: RawTable) -> dict[str, Any]:
        roles = self.schema.roles
        labels = [label.name for label in roles.label]
        found: dict[str, Any] = {
            role: as_numbers(table[name], name=name).astype(np.float32)
            for role, name in (("propensity", roles.propensity), ("weight", roles.weight))
            if name is not None and name in table
        }
        if labels and all(name in table for name in labels):
            found["label"] = np.stack([as_numbers(table[name], name=name) for name in labels], 1).astype(np.float32)
        if roles.position is not None and roles.position in table:
            found["position"] = _to_positions(as_numbers(table[roles.position], name=roles.position))
        if roles.group is not None and roles.group in table:
            found["group"] = _to_groups(table[roles.group], roles.group)
        return found

    # Made of keys and of other fields

    def _with_made(self, rows: Rows, features: tuple[Made, ...], times: Ints, sources: Sources | None = None) -> Rows:
        """Fill in Counts, derived Sequences and Crosses, crosses last; writes into the arrays of `rows`.

        Their parts are columns of `rows`, or of `sources`, of which a single row goes with all.
        """
        layout = self._layout(rows.sides)
        ragged = dict(rows.ragged)

        def get(name: str) -> Values:
            if name in layout.id_at:
                return rows.ids[:, layout.id_at[name]]
            for source, sides in sources or ():
                if name in self._layout(sides).id_at:
                    ids = source.ids[:, self._layout(source.sides).id_at[name]]
                    return np.broadcast_to(ids, len(rows))
                if name in self._layout(sides).ragged:
                    return _repeated_sets(source.ragged[name], len(rows))
            return ragged[name] if name in ragged else self._absent(name, len(rows))

        for feature in features:
            if isinstance(feature, Count):
                values = self._counted(feature, rows.keys, times)
                scaler = _fitted(self.scalers, feature.name, "scaler")
                rows.dense[:, layout.dense_at[feature.name]] = scaler.apply(values)
            elif isinstance(feature, Sequence):
                ragged[feature.name] = self._derived(feature, rows.keys, times)
            else:
                crossed = self._crossed(feature, get)
                ids = self._cross_ids(feature, crossed.hashes)
                if crossed.offsets is None:
                    rows.ids[:, layout.id_at[feature.name]] = ids
                else:
                    ragged[feature.name] = RaggedArrays(ids, crossed.offsets, crossed.weights)
        return replace(rows, ragged={name: ragged[name] for name in layout.ragged if name in ragged})

    def _counted(self, feature: Count, keys: Hashes, times: Ints) -> Numbers:
        log = _fitted(self.history, feature.name, "history")
        window = None
        if feature.window is not None:
            window = max(1, round(feature.window * UNITS_PER_SECOND[self.schema.roles.time_unit]))
        read = {"count": log.counts, "sum": log.sums, "mean": log.means}[feature.stat]
        return read(self._history_key(feature, keys), times, window)

    def _derived(self, feature: Sequence, keys: Hashes, times: Ints) -> RaggedArrays:
        log = _fitted(self.history, feature.name, "history")
        return RaggedArrays(*log.last(self._history_key(feature, keys), times, feature.max_length))

    def _history_key(self, feature: Count | Sequence, keys: Hashes) -> Hashes:
        by = feature.by if isinstance(feature, Count) else (str(self.schema.roles.user),)
        return combine(*(keys[:, self.key_columns.index(name)] for name in by))

    def _events(self, feature: Count | Sequence, table: RawTable, keys: Hashes, times: Ints) -> Events:
        key = self._history_key(feature, keys)
        if isinstance(feature, Sequence):
            return _sequence_events(key, times, self._ids(str(feature.of), table), _asked(feature, table))
        numbers = None if feature.of is None else as_numbers(_column(table, feature.of), name=feature.of)
        return _counted_events(key, times, numbers, feature.of)

    def _crossed(self, feature: Cross, get: Callable[[str], Values]) -> Part:
        return cross([self._part(name, get(name)) for name in feature.of])

    def _part(self, name: str, values: Values) -> Part:
        hashes = self._hashes_of(name)
        if isinstance(values, RaggedArrays):
            return Part(hashes[values.values], values.offsets, values.weights)
        return Part(hashes[values])

    def _cross_ids(self, feature: Cross, keys: Hashes) -> NDArray[np.int32]:
        if feature.hash_buckets is not None:
            return bucket_ids(keys, feature.hash_buckets)
        return _fitted(self.crosses, feature.name, "cross vocabulary").encode(keys)

    def _hashes_of(self, name: str) -> Hashes:
        """The hash of each id of a part of a cross: of its value where there is a vocabulary, else of the id."""
        owner = table_of(self.schema, name)
        if owner not in self._part_hashes:
            self._part_hashes[owner] = self._make_hashes(owner)
        return self._part_hashes[owner]

    def _make_hashes(self, owner: str) -> Hashes:
        if owner in self.vocabularies:
            return self.vocabularies[owner].hashes()
        hashes = splitmix64(np.arange(self._table_rows(owner), dtype=np.uint64))
        hashes[PADDING] = 0
        return hashes

    def _absent(self, name: str, n: int) -> Values:
        """A part of a side that is not there: missing in every row."""
        if is_set(self.schema, name):
            return RaggedArrays(np.zeros(0, np.int32), np.zeros(n + 1, np.int64))
        return np.zeros(n, np.int32)

    def _values(self, name: str, table: RawTable, keys: Hashes, times: Ints) -> Values:
        if not is_set(self.schema, name):
            return self._ids(name, table)
        feature = self.schema.feature(name)
        if isinstance(feature, Sequence) and feature.of is not None:
            return self._derived(feature, keys, times)
        return self._sets(name, table)

    def _keys_and_times(self, table: RawTable, time: int | Ints | None) -> tuple[Hashes, Ints]:
        role = self.schema.roles.time
        if time is None and role in table:
            time = as_times(table[role], name=role)
        return self._keys(table, ALL_SIDES), self._moments(time, table_rows(table))

    # Joining

    def _as_of(self, rows: Rows, time: int | Ints | None, sides: tuple[str, ...]) -> Rows:
        mine = tuple(side for side in rows.sides if side in sides)
        made = tuple(f for f in self._layout(mine).made if reads_history(self.schema, f.name))
        if not made:
            return rows
        rows = replace(rows, ids=np.array(rows.ids), dense=np.array(rows.dense))
        return self._with_made(rows, made, self._moments(time, len(rows)))

    def _user_sources(self, users: Rows, context: Rows | None) -> tuple[Sources, tuple[Made, ...]]:
        """Where the columns of user and context come from, and what is to be made of both."""
        if context is None and "context" in users.sides:
            return [(users, USER_SIDES)], ()
        given = self._no_context if context is None else context
        return [(users, ("user",)), (given, ("context",))], self._layout(("context",)).made

    def _assembled(self, sources: Sources, n: int, all_sides: tuple[str, ...] = ALL_SIDES) -> Rows:
        full = self._layout(all_sides)
        ids = np.zeros((n, len(full.fields.ids)), np.int32)
        dense = np.zeros((n, len(full.fields.dense)), np.float32)
        keys = np.zeros((n, len(self.key_columns)), np.uint64)
        ragged: dict[str, RaggedArrays] = {}
        for rows, sides in sources:
            theirs, mine = self._layout(rows.sides), self._layout(sides)
            for name in mine.id_at:
                ids[:, full.id_at[name]] = rows.ids[:, theirs.id_at[name]]
            for name in mine.dense_at:
                dense[:, full.dense_at[name]] = rows.dense[:, theirs.dense_at[name]]
            self._take_keys(keys, rows, sides)
            ragged |= {name: _repeated_sets(rows.ragged[name], n) for name in mine.ragged}
        ordered = {name: ragged[name] for name in full.ragged if name in ragged}
        return Rows(ids=ids, dense=dense, ragged=ordered, keys=keys, sides=all_sides)

    def _take_keys(self, keys: Hashes, rows: Rows, sides: tuple[str, ...]) -> None:
        for i, column in enumerate(self.key_columns):
            if key_side(self.schema, column) in sides:
                keys[:, i] = rows.keys[:, i]

    @cached_property
    def _no_context(self) -> Rows:
        return self.encode_side(from_values(self.schema, [{}]), "context")

    # Small things

    def _layout(self, sides: tuple[str, ...]) -> Layout:
        if sides not in self._layouts:
            self._layouts[sides] = make_layout(self.schema, self.fields, sides)
        return self._layouts[sides]

    def _moments(self, time: int | Ints | None, n: int) -> Ints:
        return _broadcast(self._after_all if time is None else time, n)

    @cached_property
    def _after_all(self) -> int:
        newest = [log.newest for log in self.history.values() if log.newest is not None]
        return max(newest) + 1 if newest else 0

    def _hash_buckets(self, table: str) -> int | None:
        feature = self.schema.feature(table)
        return feature.hash_buckets if isinstance(feature, Categorical | MultiHot | Cross) else None

    def _table_rows(self, table: str) -> int:
        dense = bucketed(self.schema, table)
        if dense is not None:
            return bucket_rows(_fitted(self.edges, dense.name, "edges"))
        buckets = self._hash_buckets(table)
        if buckets is not None:
            return buckets + FIRST_ID
        if isinstance(self.schema.feature(table), Cross):
            return _fitted(self.crosses, table, "cross vocabulary").rows
        return _fitted(self.vocabularies, table, "vocabulary").rows


def _is_read(feature: Count | Sequence) -> bool:
    return isinstance(feature, Count) or feature.of is not None


def _counted_events(key: Hashes, times: Ints, numbers: Numbers | None, column: str | None) -> Events:
    happened = key != 0
    if numbers is None:
        return Events(key[happened], times[happened])
    happened = happened & ~np.isnan(numbers)
    return Events(key[happened], times[happened], to_fixed(numbers[happened], column=str(column)))


def _sequence_events(key: Hashes, times: Ints, ids: NDArray[np.int32], asked: NDArray[np.bool_]) -> Events:
    happened = (key != 0) & (ids != PADDING) & asked
    return Events(key[happened], times[happened], ids[happened].astype(np.int64))


def _asked(feature: Sequence, table: RawTable) -> NDArray[np.bool_]:
    if feature.where is None:
        return np.ones(table_rows(table), bool)
    return np.equal(as_numbers(_column(table, feature.where), name=feature.where), 1)


def _fitted(pieces: Mapping[str, _T], name: str, what: str) -> _T:
    if name not in pieces:
        raise NotFitted(f"the {what} of {name!r} is not fitted; fit it on the train rows and pass it to Transforms")
    return pieces[name]


def _column(table: RawTable, name: str) -> Column:
    if name not in table:
        raise UnknownColumn(f"column {name!r} is not in the table; {near(name, table)}")
    return table[name]


def _keys_column(table: RawTable, name: str) -> Keys:
    column = _column(table, name)
    assert isinstance(column, Keys), f"column {name!r} must be Keys, got {type(column).__name__}"
    return column


def _to_positions(numbers: Numbers) -> NDArray[np.int32]:
    return np.clip(np.nan_to_num(numbers), 0, np.iinfo(np.int32).max).astype(np.int32)


def _to_groups(column: Column, name: str) -> Ints:
    return hash_keys(column).view(np.int64) if isinstance(column, Keys) else as_times(column, name=name)


def _broadcast(time: int | Ints, n: int) -> Ints:
    return np.broadcast_to(np.asarray(time, np.int64), n)


def _last(sets: RaggedArrays, length: int) -> RaggedArrays:
    lengths = np.minimum(np.diff(sets.offsets), length)
    at = ranges(sets.offsets[1:] - lengths, lengths)
    return RaggedArrays(sets.values[at], offsets_of(lengths), None if sets.weights is None else sets.weights[at])


def _repeated(rows: Rows, n: int) -> Rows:
    return rows.take(np.zeros(n, np.int64)) if len(rows) == 1 else rows


def _repeated_sets(sets: RaggedArrays, n: int) -> RaggedArrays:
    if len(sets.offsets) - 1 == n:
        return sets
    assert len(sets.offsets) == 2, f"join needs one row or {n}, got {len(sets.offsets) - 1}"
    weights = None if sets.weights is None else np.tile(sets.weights, n)
    return RaggedArrays(np.tile(sets.values, n), np.arange(n + 1) * len(sets.values), weights)


def _stretched(column: NDArray[Any] | None, n: int) -> NDArray[Any] | None:
    return None if column is None else np.broadcast_to(column, n)
