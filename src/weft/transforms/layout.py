"""Where each feature stands: tables, fields, sides and columns, all of it read from the schema."""

from collections.abc import Callable
from typing import NamedTuple

from weft.batch import DenseField, Field, Fields
from weft.schema import Categorical, Count, Cross, Dense, MultiHot, Schema, Sequence

BUCKET = ".bucket"
MISSING = ".missing"


def table_of(schema: Schema, name: str) -> str:
    """The embedding table, and so the vocabulary, of a field: its own name unless it shares.

    A derived sequence uses the table of the feature it is derived from.
    """
    if bucketed(schema, name) is not None:
        return name
    match schema.feature(name):
        case Sequence(of=str() as of):
            return table_of(schema, of)
        case Categorical(shares=str() as shares) | MultiHot(shares=str() as shares) | Sequence(shares=str() as shares):
            return shares
        case _:
            return name


def bucketed(schema: Schema, name: str) -> Dense | None:
    """The dense feature that a field `NAME.bucket` is made of; None for any other field."""
    if not name.endswith(BUCKET) or any(feature.name == name for feature in schema.features):
        return None
    feature = schema.feature(name.removesuffix(BUCKET))
    return feature if isinstance(feature, Dense) else None


def is_set(schema: Schema, name: str) -> bool:
    """Whether a field, or a part of a cross, has several values a row."""
    if bucketed(schema, name) is not None:
        return False
    feature = schema.feature(name)
    if isinstance(feature, Cross):
        return any(is_set(schema, part) for part in feature.of)
    return isinstance(feature, MultiHot | Sequence)


def reads_history(schema: Schema, name: str) -> bool:
    """Whether a feature is read from earlier rows: a Count, a derived Sequence, a Cross over one."""
    if bucketed(schema, name) is not None:
        return False
    match schema.feature(name):
        case Count():
            return True
        case Sequence(of=of):
            return of is not None
        case Cross(of=parts):
            return any(reads_history(schema, part) for part in parts)
        case _:
            return False


def key_columns(schema: Schema) -> tuple[str, ...]:
    """The columns that keys of history are made of: those of Counts, and the user for derived Sequences."""
    columns: dict[str, None] = {}
    for feature in schema.features:
        if isinstance(feature, Count):
            columns |= dict.fromkeys(feature.by)
        elif isinstance(feature, Sequence) and feature.of is not None:
            columns[str(schema.roles.user)] = None
    return tuple(columns)


def key_side(schema: Schema, column: str) -> str:
    """Whose property a key column is."""
    roles = {schema.roles.user: "user", schema.roles.item: "item"}
    return roles.get(column) or schema.side_of(column)


def make_fields(schema: Schema, rows: Callable[[str], int], users: int, items: int) -> Fields:
    """What models must know; `rows` gives the number of ids of a table, `users` and `items` those of the roles."""
    features = {feature.name for feature in schema.features}
    label = schema.roles.label[0] if schema.roles.label else None
    return Fields(
        ids=_fields(schema, _id_names(schema), rows),
        dense=tuple(_dense_fields(schema)),
        ragged=_fields(schema, [f.name for f in schema.features if is_set(schema, f.name)], rows),
        outputs=label.classes if label and label.classes else max(1, len(schema.roles.label)),
        task=label.task if label else "binary",
        relevant=schema.protocol.relevant,
        user=schema.roles.user if schema.roles.user in features else None,
        item=schema.roles.item if schema.roles.item in features else None,
        users=users,
        items=items,
    )


class Layout(NamedTuple):
    """The columns of rows of some sides.

    Attributes:
        fields: The fields of these sides.
        id_at: Name of an id field to its column.
        dense_at: Name of a dense column to its place.
        ragged: Names of the ragged fields.
        made: The Counts, derived Sequences and Crosses among them, crosses last: made of keys and other fields.
    """

    fields: Fields
    id_at: dict[str, int]
    dense_at: dict[str, int]
    ragged: tuple[str, ...]
    made: tuple[Count | Sequence | Cross, ...]


def make_layout(schema: Schema, all_fields: Fields, sides: tuple[str, ...]) -> Layout:
    """The columns of rows of some sides."""
    fields = all_fields.of(*sides)
    return Layout(
        fields=fields,
        id_at={field.name: i for i, field in enumerate(fields.ids)},
        dense_at={field.name: i for i, field in enumerate(fields.dense)},
        ragged=tuple(field.name for field in fields.ragged),
        made=made_features(schema, sides),
    )


def made_features(schema: Schema, sides: tuple[str, ...]) -> tuple[Count | Sequence | Cross, ...]:
    """The Counts, derived Sequences and Crosses of some sides, crosses last."""
    mine = [feature for feature in schema.features if schema.side_of(feature.name) in sides]
    read = [f for f in mine if isinstance(f, Count) or (isinstance(f, Sequence) and f.of is not None)]
    return (*read, *(f for f in mine if isinstance(f, Cross)))


def _id_names(schema: Schema) -> list[str]:
    names = []
    for feature in schema.features:
        if isinstance(feature, Dense) and feature.buckets is not None:
            names.append(feature.name + BUCKET)
        elif isinstance(feature, Categorical | Cross) and not is_set(schema, feature.name):
            names.append(feature.name)
    return names


def _fields(schema: Schema, names: list[str], rows: Callable[[str], int]) -> tuple[Field, ...]:
    return tuple(_field(schema, name, table_of(schema, name), rows) for name in names)


def _field(schema: Schema, name: str, table: str, rows: Callable[[str], int]) -> Field:
    side = schema.side_of(name)
    feature = None if bucketed(schema, name) is not None else schema.feature(name)
    cross = isinstance(feature, Cross)
    if not is_set(schema, name):
        return Field(name=name, side=side, rows=rows(table), table=table, cross=cross)
    if isinstance(feature, Sequence):
        length = feature.max_length
        return Field(name=name, side=side, rows=rows(table), table=table, kind="sequence", max_length=length)
    return Field(name=name, side=side, rows=rows(table), table=table, kind="set", cross=cross)


def _dense_fields(schema: Schema) -> list[DenseField]:
    found = []
    for feature in schema.features:
        if isinstance(feature, Dense | Count):
            found.append(DenseField(name=feature.name, side=schema.side_of(feature.name)))
        if isinstance(feature, Dense) and feature.missing_indicator:
            found.append(DenseField(name=feature.name + MISSING, side=feature.side))
    return found
