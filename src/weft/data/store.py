"""The store: what `prepare` makes of tables and a schema, and what training and evaluation read.

A folder with a manifest:

    schema.toml  fields.json  transforms/
    missing.json                                train rows in which each number is missing, for `describe`
    train/  valid/  test/                       encoded rows, memory-mapped
    users/  items/  titles/                     catalogues: row i is id i, rows 0 and 1 are missing in every column
    seen/  item_counts.npy  item_positives.npy  what each user has had, and how often each item was met
    friends.npy                                 pairs of users who know each other, where there is such a table
    candidates/                                 the lists of the protocol kind `candidates`
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft import artifacts
from weft import schema as schemas
from weft.batch import FIRST_ID, Fields
from weft.data._clean import Place, clean_keys, clean_lists, flat, lengths, to_keys, to_raw
from weft.data._tables import ROLES, Role, Tables
from weft.data.fit import fit
from weft.data.read import open_table
from weft.data.split import NAMES, TRAIN, Assignment, assign
from weft.errors import ArtifactError, ConfigError, SchemaError, near
from weft.schema import Dense, Schema
from weft.transforms.catalogue import Catalogue, Seen
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, RowsWriter
from weft.transforms.vocabulary import Vocabulary

KIND = "store"
SCHEMA, FIELDS, TRANSFORMS, CANDIDATES = "schema.toml", "fields.json", "transforms", "candidates"
MISSING, FRIENDS = "missing.json", "friends.npy"
LISTS = "candidates"  # the column of the table of candidate lists
FRIEND = "friend"  # the column beside the user's in the table of friends
NOTHING: dict[str, pl.DataType] = {
    "keys": pl.Int64(),
    "numbers": pl.Float64(),
    "time": pl.Int64(),
    "lists": pl.List(pl.Int64),
}

log = logging.getLogger("weft")

Ints = NDArray[np.integer[Any]]


def prepare(
    schema: Schema | str | Path,
    out: str | Path,
    *,
    interactions: Any = None,
    users: Any = None,
    items: Any = None,
    candidates: Any = None,
    friends: Any = None,
    overwrite: bool = False,
) -> "Store":
    """Turn tables into a store: assign splits, fit on the train rows, encode everything.

    The interactions are streamed. What is held in memory: a chunk of at most 16 million cells; the distinct values of
    each vocabulary; the tables of users and items, or the newest train row of each; and of every interaction some
    numbers: its split (1 byte), with both a user and an item role what each user has had (under 80 bytes at the peak),
    with a split by time or by last row its time and user, and the events of Counts and derived Sequences.

    Args:
        schema: A schema or the path of a schema file; the tables that it names are relative to the file.
        out: The folder to write.
        interactions: A path, several paths or a frame, instead of the table that the schema names.
        users: The same for the table of users.
        items: The same for the table of items.
        candidates: The same for the table of candidate lists.
        friends: The same for the table of friends.
        overwrite: Replace a store that is at `out` already.

    Raises:
        SchemaError: The schema contradicts itself or the tables.
        DataError: A table holds values that cannot be used; the message names file, column, row and the mend.
        ArtifactError: Something is at `out` already.
    """
    target = Path(out)
    if not overwrite:
        artifacts.refuse_existing(target, KIND)
    given = Given(interactions, users, items, candidates, friends)
    schema, named = _named(schema)
    with _replacing(target, overwrite) as place:
        _write(schema, given.over(named), place)
    return Store.open(target)


class Given(NamedTuple):
    """Tables as paths or frames; None where there is none."""

    interactions: Any = None
    users: Any = None
    items: Any = None
    candidates: Any = None
    friends: Any = None

    def over(self, other: "Given") -> "Given":
        """These tables, and those of `other` where these have none."""
        return Given(*(mine if mine is not None else theirs for mine, theirs in zip(self, other, strict=True)))


def _named(schema: Schema | str | Path) -> tuple[Schema, Given]:
    """A schema and the tables that it names."""
    if isinstance(schema, Schema):
        return schema, _paths(schema, Path())
    return schemas.load(schema), _paths(schemas.load(schema), Path(schema).parent)


def _paths(schema: Schema, base: Path) -> Given:
    candidates = schema.protocol.candidates
    tables = schema.tables
    lists = None if candidates is None else base / candidates
    if tables is None:
        return Given(candidates=lists)
    many = (tables.interactions,) if isinstance(tables.interactions, str) else tables.interactions
    paths = [base / name for name in many]
    users, items, friends = (
        None if name is None else base / name for name in (tables.users, tables.items, tables.friends)
    )
    return Given(paths, users, items, lists, friends)


@contextmanager
def _replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """Give the path to write: `target`, or a neighbour that takes its place once it is whole."""
    if not (overwrite and target.exists() and any(target.iterdir())):
        yield target
        return
    artifacts.read_manifest(target, KIND)
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    yield fresh
    shutil.rmtree(target)
    fresh.rename(target)


def _write(schema: Schema, given: Given, target: Path) -> None:
    if given.interactions is None:
        raise SchemaError("no table of interactions; name it under [tables] of the schema or pass `interactions`")
    tables = Tables(
        schema,
        open_table(given.interactions, "interactions"),
        None if given.users is None else open_table(given.users, "users"),
        None if given.items is None else open_table(given.items, "items"),
    )
    assigned = assign(tables)
    transforms = fit(tables, assigned)
    counts = np.bincount(assigned, minlength=len(NAMES)).tolist()
    with artifacts.new_folder(target, KIND, rows=dict(zip(NAMES, counts, strict=True)), name=schema.name) as folder:
        (folder / SCHEMA).write_text(schemas.dumps(schema), encoding="utf-8")
        (folder / FIELDS).write_bytes(msgspec.json.encode(transforms.fields))
        transforms.save(folder / TRANSFORMS)
        gathered = _write_rows(tables, assigned, transforms, folder)
        (folder / MISSING).write_bytes(msgspec.json.encode(gathered.missing))
        _catalogue(tables, transforms, gathered).save(folder)
        if given.friends is not None:
            np.save(folder / FRIENDS, _friends(schema, transforms, given.friends))
        if schema.protocol.kind == "candidates":
            _write_candidates(schema, transforms, given.candidates, folder / CANDIDATES)


class Store:
    """A prepared data set.

    Attributes:
        path: The folder.
        id: Hash of everything in it.
        rows: Number of rows of each split.
        schema: What the columns mean.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.id: str = manifest["id"]
        self.rows: dict[str, int] = manifest["rows"]
        self.schema = schemas.load(path / SCHEMA)

    @staticmethod
    def open(path: str | Path, *, verify: bool = False) -> "Store":
        """Open a store; with `verify` every file is checked against its hash.

        Raises:
            ArtifactError: The folder is no store, or damaged.
        """
        folder = Path(path)
        check = artifacts.verify if verify else artifacts.read_manifest
        return Store(folder, check(folder, KIND))

    @cached_property
    def fields(self) -> Fields:
        """What a model must know."""
        return msgspec.json.decode((self.path / FIELDS).read_bytes(), type=Fields)

    @cached_property
    def missing(self) -> dict[str, int]:
        """Train rows in which each Dense feature is missing; after encoding they cannot be told any more."""
        return msgspec.json.decode((self.path / MISSING).read_bytes(), type=dict[str, int])

    @cached_property
    def transforms(self) -> Transforms:
        """Everything fitted."""
        return Transforms.load(self.path / TRANSFORMS)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Users, items, titles, and what each user has had."""
        return Catalogue.load(self.path)

    @property
    def users(self) -> Rows:
        """The rows of the user's side; row i is id i."""
        return self.catalogue.users

    @property
    def items(self) -> Rows:
        """The rows of the item's side; row i is id i."""
        return self.catalogue.items

    def split(self, name: str) -> Rows:
        """The rows of train, valid or test, memory-mapped."""
        if name not in NAMES:
            raise ConfigError(f"there is no split {name!r}; {near(name, NAMES)}")
        return Rows.load(self.path / name)

    @cached_property
    def friends(self) -> Ints | None:
        """Pairs of users who know each other, [2, S] ids of the catalogue, each once; None without such a table."""
        path = self.path / FRIENDS
        return np.load(path) if path.is_file() else None

    def candidates(self) -> tuple[Ints, Ints]:
        """Users [U] and their candidates [U, C] as ids of the catalogues; -1 is no candidate.

        Raises:
            ArtifactError: The store was prepared without candidate lists.
        """
        folder = self.path / CANDIDATES
        if not folder.is_dir():
            raise ArtifactError(
                f"the store {str(self.path)!r} has no candidate lists; "
                "prepare it with a schema whose protocol names them"
            )
        return np.load(folder / "users.npy"), np.load(folder / "items.npy")


# Encoding


class _Met(NamedTuple):
    """Interactions in the order of the table: ids of the catalogues, time, split, whether it is relevant."""

    user: Ints
    item: Ints
    time: Ints
    split: Assignment
    relevant: NDArray[np.bool_]

    def take(self, kept: NDArray[np.bool_]) -> "_Met":
        """Some of them."""
        return _Met(self.user[kept], self.item[kept], self.time[kept], self.split[kept], self.relevant[kept])


class _Gathered:
    """What is kept of all rows while they are encoded chunk by chunk.

    Attributes:
        newest: For each role, the newest train row of each id.
        missing: For each Dense feature, the train rows in which it is missing.
    """

    def __init__(self, tables: Tables) -> None:
        self._threshold = tables.schema.protocol.relevant
        self._met: list[_Met] = []
        self.newest = {role: _Newest(tables, role) for role in _roles(tables)}
        self.missing = {f.name: 0 for f in tables.schema.features if isinstance(f, Dense)}

    def add(self, frame: pl.DataFrame, rows: Rows, parts: Assignment) -> None:
        """Add a chunk: its clean columns, its encoded rows and their splits."""
        met = _met(rows, parts, self._threshold)
        self._met.append(met.take(met.item >= FIRST_ID))
        train = pl.Series(parts == TRAIN)
        for name in self.missing:
            self.missing[name] += int((frame[name].is_null() & train).sum())
        for newest in self.newest.values():
            newest.add(frame.select(newest.columns).filter(train))

    def met(self) -> _Met:
        """All interactions with an item of the catalogue; to be asked once, the chunks are let go."""
        parts, self._met = self._met, []
        return _Met(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _write_rows(tables: Tables, assigned: Assignment, transforms: Transforms, folder: Path) -> _Gathered:
    gathered = _Gathered(tables)
    with ExitStack() as stack:
        writers = [stack.enter_context(RowsWriter(folder / name)) for name in NAMES]
        for piece in tables.chunks():
            parts = assigned[piece.start : piece.start + piece.frame.height]
            rows = transforms.encode(tables.raw(piece.frame))
            for code, writer in enumerate(writers):
                writer.add(rows if (parts == code).all() else rows.take(np.flatnonzero(parts == code)))
            gathered.add(piece.frame, rows, parts)
    return gathered


def _met(rows: Rows, parts: Assignment, threshold: float) -> _Met:
    none = np.zeros(len(rows), np.int32)
    return _Met(
        none if rows.user is None else rows.user,
        none if rows.item is None else rows.item,
        np.zeros(len(rows), np.int64) if rows.time is None else rows.time,
        parts,
        np.ones(len(rows), np.bool_) if rows.label is None else rows.label[:, 0] >= threshold,
    )


def _roles(tables: Tables) -> list[Role]:
    roles = tables.schema.roles
    return [role for role in ROLES if (roles.user if role == "user" else roles.item) is not None]


# Catalogues


class _Newest:
    """The columns of a side from the newest train row of each id; of one time the later row is newer."""

    def __init__(self, tables: Tables, role: Role) -> None:
        self._id = tables.id_column(role)
        self._time = tables.schema.roles.time
        columns = [name for name in tables.side_columns(role) if tables.home(name) is None]
        self.columns = list(dict.fromkeys([self._id, *columns, *([self._time] if self._time else [])]))
        self.frame = pl.DataFrame()

    def add(self, train: pl.DataFrame) -> None:
        """Add the `columns` of train rows that follow those before."""
        rows = pl.concat([self.frame, train]) if self.frame.height else train
        if self._time is not None:
            rows = rows.sort(self._time, maintain_order=True)
        self.frame = rows.unique(subset=self._id, keep="last", maintain_order=True)


def _catalogue(tables: Tables, transforms: Transforms, gathered: _Gathered) -> Catalogue:
    frames = {role: _side_frame(tables, transforms, role, kept.frame) for role, kept in gathered.newest.items()}
    met = gathered.met()
    items = _ids(transforms, "item")
    title = tables.schema.roles.title
    train = met.split == TRAIN
    return Catalogue(
        users=_encoded(tables, transforms, "user", frames.get("user")),
        items=_encoded(tables, transforms, "item", frames.get("item")),
        titles=_titles(frames["item"][title]) if title is not None and "item" in frames else None,
        seen=_seen(met, _ids(transforms, "user")),
        counts=np.bincount(met.item[train], minlength=items),
        positives=np.bincount(met.item[train & met.relevant], minlength=items),
    )


def _ids(transforms: Transforms, role: Role) -> int:
    vocabulary = transforms.user_ids if role == "user" else transforms.item_ids
    return FIRST_ID if vocabulary is None else vocabulary.rows


def _side_frame(tables: Tables, transforms: Transforms, role: Role, newest: pl.DataFrame) -> pl.DataFrame:
    """The columns of a side by id: two rows of nothing, then one row an id of the role's vocabulary.

    A column comes from the side's own table where it is there, else from the newest train row of the id.
    """
    vocabulary = transforms.user_ids if role == "user" else transforms.item_ids
    assert vocabulary is not None
    key = tables.id_column(role)
    kind = pl.String if vocabulary.values.dtype == object else pl.Int64
    frame = pl.DataFrame({key: pl.Series([None] * FIRST_ID + vocabulary.values.tolist(), dtype=kind)})
    for part in (newest, tables.side_frames.get(role)):
        if part is not None and part.height:
            columns = [name for name in part.columns if name == key or name not in frame.columns]
            frame = frame.join(part.select(columns).cast({key: kind}), on=key, how="left", maintain_order="left")
    return frame


def _encoded(tables: Tables, transforms: Transforms, role: Role, frame: pl.DataFrame | None) -> Rows:
    specs = tables.side_specs(role)
    if frame is None:
        frame = pl.DataFrame(schema={name: NOTHING[spec.kind] for name, spec in specs.items()}).clear(FIRST_ID)
    table = to_raw(frame, specs) or {"": np.zeros(FIRST_ID)}  # a side without any column still has its reserved rows
    return transforms.encode_side(table, role)


def _titles(titles: pl.Series) -> NDArray[np.object_]:
    return titles.cast(pl.String).fill_null("").to_numpy().astype(object)


def _seen(met: _Met, users: int) -> Seen:
    known = np.flatnonzero((met.user >= FIRST_ID) & (met.item >= FIRST_ID))
    order = known[np.lexsort((met.time[known], met.user[known]))]
    offsets = np.zeros(users + 1, np.int64)
    np.cumsum(np.bincount(met.user[order], minlength=users), out=offsets[1:])
    return Seen(offsets, met.item[order], met.time[order], met.split[order], met.relevant[order])


# Friends


def _friends(schema: Schema, transforms: Transforms, table: Any) -> Ints:
    """The pairs as ids of the catalogue, the lower first, each once; without users that have no train row."""
    user = schema.roles.user
    if user is None or transforms.user_ids is None:
        raise SchemaError(
            "a table of friends is given and the schema does not say who users are; set `user` in [roles]"
        )
    source = open_table(table, "friends")
    parts = source.read([user, FRIEND])
    sides = [
        pl.concat([clean_keys(part.frame[column], Place(part.file, column, part.start)) for part in parts])
        for column in (user, FRIEND)
    ]
    ids = [transforms.user_ids.encode(to_keys(side)) for side in sides]
    pairs = np.sort(np.stack(ids), axis=0).astype(np.int64)
    known = (pairs[0] >= FIRST_ID) & (pairs[0] != pairs[1])
    strangers = int((pairs[0] < FIRST_ID).sum())
    if strangers:
        log.warning("%s: %d pairs with a user without a train row are left out", source.name, strangers)
    return np.unique(pairs[:, known], axis=1)


# Candidate lists


def _write_candidates(schema: Schema, transforms: Transforms, table: Any, folder: Path) -> None:
    source = open_table(table, "candidates")
    user = schema.roles.user if schema.roles.user in source.columns else "user"
    parts = source.read([user, LISTS])
    users = pl.concat([clean_keys(part.frame[user], Place(part.file, user, part.start)) for part in parts])
    lists = pl.concat([clean_lists(part.frame[LISTS], Place(part.file, LISTS, part.start), None) for part in parts])
    assert transforms.user_ids is not None
    assert transforms.item_ids is not None
    ids = transforms.user_ids.encode(to_keys(users))
    if (ids < FIRST_ID).any():
        log.warning("%s: %d users without a train row are left out", source.name, (ids < FIRST_ID).sum())
    folder.mkdir()
    np.save(folder / "users.npy", ids[ids >= FIRST_ID])
    np.save(folder / "items.npy", _padded(lists, transforms.item_ids)[ids >= FIRST_ID])


def _padded(lists: pl.Series, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """The lists as ids [U, C]; -1 where a value is missing or a list is shorter than the longest."""
    keys = to_keys(flat(lists))
    sizes = lengths(lists).to_numpy()
    found = np.full((len(lists), sizes.max(initial=0)), -1, np.int32)
    found[np.arange(found.shape[1]) < sizes[:, None]] = np.where(keys.codes < 0, -1, vocabulary.encode(keys))
    return found
