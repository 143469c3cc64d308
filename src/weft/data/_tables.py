"""Interactions joined with the columns of their user and item: three tables as one, clean, chunk by chunk."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import polars as pl

from weft.data import _clean
from weft.data._clean import Place
from weft.data.read import Chunk, Source
from weft.errors import SchemaError, UnknownColumn, near
from weft.schema import ColumnSplit, Count, Cross, MultiHot, Schema
from weft.transforms.columns import ColumnSpec, RawTable, table_columns

CELLS = 16_000_000  # of a chunk
LEAST_ROWS, MOST_ROWS = 16_384, 524_288

Role = Literal["user", "item"]
ROLES: tuple[Role, ...] = ("user", "item")

log = logging.getLogger("weft")


class Piece(NamedTuple):
    """Consecutive interactions with clean columns.

    Attributes:
        frame: The rows.
        start: Row number of the first one, over all files.
    """

    frame: pl.DataFrame
    start: int


class Tables:
    """Interactions, users and items, read as the schema says.

    Attributes:
        schema: What the columns mean.
        specs: The columns to encode, and what each must be turned into.
        columns: All columns that are read: also weights of sets and the title.
        side_frames: The clean tables of users and items, by role: the id column first, then their columns.
    """

    def __init__(
        self, schema: Schema, interactions: Source, users: Source | None = None, items: Source | None = None
    ) -> None:
        self.schema = schema
        self.specs = _specs(schema)
        self._weights = {f.weights: f.name for f in schema.features if isinstance(f, MultiHot) and f.weights}
        self.columns = {**self.specs, **_further_columns(schema, self._weights)}
        self._interactions = interactions
        self._sources: dict[Role, Source] = {}
        for role, source in zip(ROLES, (users, items), strict=True):
            if source is not None:
                self._sources[role] = source
                source.require([self.id_column(role)])
        self._homes = {name: self._home(name) for name in self.columns}
        self._texts = self._text_columns()
        self._rules = _clean.rules(schema)
        self._required = _clean.required_columns(schema)
        self.side_frames = {role: self._side_frame(role) for role in self._sources}
        self._note_ignored()

    def __len__(self) -> int:
        """Number of interactions."""
        return len(self._interactions)

    @property
    def name(self) -> str:
        """What messages call the interactions."""
        return self._interactions.name

    def id_column(self, role: Role) -> str:
        """The column of the user's or item's id; SchemaError if the schema has none."""
        name = self.schema.roles.user if role == "user" else self.schema.roles.item
        if name is None:
            raise SchemaError(f"a table of {role}s is joined by id; set `{role}` in [roles] or leave the table out")
        return name

    def home(self, name: str) -> Role | None:
        """The side table in which a column stands; None for the interactions."""
        return self._homes[name]

    def file_of(self, name: str) -> str:
        """What messages call the table in which a column stands."""
        role = self._homes[name]
        return self._interactions.name if role is None else self._sources[role].name

    def side_specs(self, role: Role) -> dict[str, ColumnSpec]:
        """The columns to encode that belong to a user or item, the id first where there is one."""
        name = self.schema.roles.user if role == "user" else self.schema.roles.item
        mine = [column for column in self.specs if self._side(column) == role]
        return {column: self.specs[column] for column in dict.fromkeys(([name] if name else []) + mine)}

    def side_columns(self, role: Role) -> list[str]:
        """All columns of a user or item: those of `side_specs`, weights of sets, and the item's title."""
        weights = [column for column, owner in self._weights.items() if self._side(owner) == role]
        title = [self.schema.roles.title] if self.schema.roles.title is not None and role == "item" else []
        return list(dict.fromkeys([*self.side_specs(role), *weights, *title]))

    def chunks(self, names: Sequence[str] | None = None, *, rows: int | None = None) -> Iterator[Piece]:
        """All interactions in order with some columns (all without an argument), those of users and items joined.

        At most `rows` rows at a time; without it as many as fit a fixed number of cells.
        """
        names = list(self.columns if names is None else names)
        joined: list[Role] = [role for role in self._sources if any(self._homes[name] == role for name in names)]
        own = [name for name in names if self._homes[name] is None]
        own = list(dict.fromkeys(own + [self.id_column(role) for role in joined]))
        start = 0
        for chunk in self._interactions.chunks(self._with_list_columns(own), rows or _chunk_rows(len(names))):
            frame = self._clean_frame(chunk, own)
            for role in joined:
                frame = self._join(frame, role, names)
            yield Piece(frame.select(names), start)
            start += chunk.frame.height

    def column_chunks(self, name: str) -> Iterator[Chunk]:
        """One column of the interactions as it is."""
        return self._interactions.chunks([name], MOST_ROWS)

    def raw(self, frame: pl.DataFrame) -> RawTable:
        """The columns of a clean frame as NumPy arrays; those that the frame lacks are left out."""
        return _clean.to_raw(frame, {name: spec for name, spec in self.specs.items() if name in frame.columns})

    def _home(self, name: str) -> Role | None:
        title = name == self.schema.roles.title and name not in self.specs and "item" in self._sources
        if name in self._interactions.columns and not title:
            return None
        for role, source in self._sources.items():
            if name in source.columns and (title or self._side(name) == role):
                return role
        tables = [self._interactions, *self._sources.values()]
        known = sorted({column for table in tables for column in table.columns})
        raise UnknownColumn(
            f"no column {name!r}, which the schema names, in {' or '.join(repr(t.name) for t in tables)}; "
            f"{near(name, known)}"
        )

    def _side(self, name: str) -> str | None:
        name = self._weights.get(name, name)
        found = (f.side for f in self.schema.features if f.name == name and not isinstance(f, Cross | Count))
        return next(found, None)

    def _text_columns(self) -> set[str]:
        """Key columns whose type differs from file to file or table to table: all of them are read as text."""
        tables = [self._interactions, *self._sources.values()]
        mixed = set()
        for name, spec in self.columns.items():
            types = [kind for table in tables for kind in table.types(name)]
            if spec.kind in ("keys", "lists") and len({_clean.keeps_integers(kind) for kind in types}) > 1:
                mixed.add(name)
        return mixed

    def _with_list_columns(self, names: list[str]) -> list[str]:
        return list(dict.fromkeys(names + [self._weights[name] for name in names if name in self._weights]))

    def _clean_frame(self, chunk: Chunk, names: Sequence[str]) -> pl.DataFrame:
        return pl.DataFrame({name: self._clean_column(chunk, name) for name in names})

    def _clean_column(self, chunk: Chunk, name: str) -> pl.Series:
        place = Place(chunk.file, name, chunk.start)
        if name in self._weights:
            return _clean.clean_weights(chunk.frame[name], self._clean_column(chunk, self._weights[name]), place)
        spec = self.columns[name]
        values = _clean.clean(chunk.frame[name], spec, place, self.schema.roles.time_unit)
        if name in self._rules and spec.kind == "numbers":
            _clean.check_rule(values, self._rules[name], place)
        if name in self._required:
            place.refuse(values.is_null(), values, "this column may have no missing value; fill it or drop the row")
        if name in self._texts:
            return values.cast(pl.List(pl.String) if spec.kind == "lists" else pl.String)
        return values

    def _side_frame(self, role: Role) -> pl.DataFrame:
        key = self.id_column(role)
        names = [key, *(name for name in self.columns if self._homes[name] == role)]
        chunks = self._sources[role].read(self._with_list_columns(names))
        parts = [self._clean_frame(chunk, names) for chunk in chunks]
        frame = pl.concat(parts)
        _refuse_repeated(frame[key], Place(self._sources[role].name, key))
        return frame

    def _join(self, frame: pl.DataFrame, role: Role, names: Sequence[str]) -> pl.DataFrame:
        key = self.id_column(role)
        wanted = [key, *(name for name in names if self._homes[name] == role)]
        return frame.join(self.side_frames[role].select(wanted), on=key, how="left", maintain_order="left")

    def _note_ignored(self) -> None:
        known = {*self.columns, self.schema.split.column if isinstance(self.schema.split, ColumnSplit) else ""}
        for source in (self._interactions, *self._sources.values()):
            ignored = sorted(set(source.columns) - known)
            if ignored:
                log.info("%s: columns that the schema does not name are ignored: %s", source.name, ", ".join(ignored))


def _specs(schema: Schema) -> dict[str, ColumnSpec]:
    specs = table_columns(schema)
    roles = schema.roles
    for name, kind in ((roles.time, "time"), (roles.weight, "numbers"), (roles.propensity, "numbers")):
        if name is not None and specs[name].kind != kind:
            raise SchemaError(
                f"the column {name!r} is a role of kind {kind} and a feature of another kind; copy the column"
            )
    return specs


def _further_columns(schema: Schema, weights: Mapping[str, str]) -> dict[str, ColumnSpec]:
    columns = {name: ColumnSpec("lists") for name in weights}
    if schema.roles.title is not None:
        columns[schema.roles.title] = ColumnSpec("keys")
    return columns


def _chunk_rows(columns: int) -> int:
    return min(max(CELLS // max(1, columns), LEAST_ROWS), MOST_ROWS)


def _refuse_repeated(ids: pl.Series, place: Place) -> None:
    repeated = ~ids.is_first_distinct()
    place.refuse(repeated, ids, "an id may stand once in this table; keep one of its rows")
