"""The schema: what each column of a table is, whose it is and how it is treated.

A schema is a frozen value; it owns no weights and no fitted state. It is written as TOML beside the tables:

    [tables]
    interactions = "plays.parquet"
    items = "tracks.parquet"

    [[features]]
    kind = "categorical"
    name = "user_id"
    side = "user"

    [roles]
    user = "user_id"
    item = "track_id"
    label = [{ name = "played", task = "binary" }]

How a model pools or attends to a feature is the model's Config, not the schema's.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from weft.errors import SchemaError, near

Side = Literal["user", "item", "context"]
Task = Literal["binary", "regression", "count", "multiclass"]
Scaling = Literal["standardize", "log_standardize", "quantile", "minmax", "none"]
TimeUnit = Literal["s", "ms", "us"]

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, lt=1.0)]

UNITS_PER_SECOND: dict[str, int] = {"s": 1, "ms": 1_000, "us": 1_000_000}


class _Struct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Dense(_Struct, frozen=True, tag="dense", tag_field="kind"):
    """A number a row, scaled by statistics of the train rows.

    Attributes:
        name: The column.
        side: Whose property it is.
        transform: `log_standardize` takes log(1 + x - min(0, smallest x in train)) first; `quantile` maps to [0, 1].
        missing: What a missing value becomes, before scaling: the train mean, or zero.
        missing_indicator: Adds a second dense column `NAME.missing` that is 1 where the value is missing.
        buckets: Also yields a categorical field `NAME.bucket`: a number of quantile buckets, or their inner edges.
    """

    name: Name
    side: Side
    transform: Scaling = "standardize"
    missing: Literal["mean", "zero"] = "mean"
    missing_indicator: bool = False
    buckets: Positive | tuple[float, ...] | None = None


class Categorical(_Struct, frozen=True, tag="categorical", tag_field="kind"):
    """One value a row out of a vocabulary that is fitted on the train rows.

    Attributes:
        name: The column.
        side: Whose property it is.
        min_count: Values seen in fewer train rows share the id "unknown".
        hash_buckets: No vocabulary: xxh3_64 of the UTF-8 text, seed 0, modulo this number.
        shares: Name of the feature whose vocabulary and embedding table this one uses.
    """

    name: Name
    side: Side
    min_count: Positive = 1
    hash_buckets: Positive | None = None
    shares: str | None = None


class MultiHot(_Struct, frozen=True, tag="multi_hot", tag_field="kind"):
    """A set of values a row: a list column, or text with a separator.

    Attributes:
        name: The column.
        side: Whose property it is.
        weights: A list column of the same lengths with one weight a value.
        separator: Splits a text column into values.
        min_count: Values seen in fewer train rows share the id "unknown".
        hash_buckets: No vocabulary: the value's hash modulo this number.
        shares: Name of the feature whose vocabulary and embedding table this one uses.
    """

    name: Name
    side: Side
    weights: str | None = None
    separator: str | None = None
    min_count: Positive = 1
    hash_buckets: Positive | None = None
    shares: str | None = None


class Sequence(_Struct, frozen=True, tag="sequence", tag_field="kind"):
    """The user's last values in time order, oldest first: given in a list column, or derived from earlier rows.

    Attributes:
        name: The column, or the name of the derived feature.
        side: Whose property it is.
        max_length: Older values are dropped.
        of: Derive: the categorical feature whose values of the user's rows strictly before this row are taken.
        where: With `of`: only rows in which this 0/1 column is 1.
        separator: Splits a given text column into values.
        min_count: For a given sequence with its own vocabulary.
        shares: Name of the feature whose vocabulary and embedding table this one uses (derived: `of`, always).
    """

    name: Name
    side: Side = "user"
    max_length: Positive = 50
    of: str | None = None
    where: str | None = None
    separator: str | None = None
    min_count: Positive = 1
    shares: str | None = None


class Cross(_Struct, frozen=True, tag="cross", tag_field="kind"):
    """The AND of two or more features, as one categorical field; a set or sequence crossed yields a set.

    Attributes:
        name: Name of the new field.
        of: The parts: categorical, bucketised dense (`NAME.bucket`), multi-hot or sequence features.
        min_count: Combinations seen in fewer train rows share the id "unknown".
        hash_buckets: No vocabulary: the combination's hash modulo this number.
    """

    name: Name
    of: Annotated[tuple[str, ...], Meta(min_length=2)]
    min_count: Positive = 1
    hash_buckets: Positive | None = None


class Count(_Struct, frozen=True, tag="count", tag_field="kind"):
    """A point-in-time counter: a number read from the rows strictly before this row's time.

    Attributes:
        name: Name of the new dense column.
        by: The key columns (categorical): the user, or the user and the genre.
        of: The column that is summed or averaged; without it rows are counted.
        stat: `count` of rows, `sum` or `mean` of the column `of`.
        window: Seconds before the row that count; without it all of the past.
        transform: As for Dense; a mean with no earlier row is a missing value.
    """

    name: Name
    by: Annotated[tuple[str, ...], Meta(min_length=1)]
    of: str | None = None
    stat: Literal["count", "sum", "mean"] = "count"
    window: Annotated[float, Meta(gt=0)] | None = None
    transform: Scaling = "log_standardize"


Feature = Dense | Categorical | MultiHot | Sequence | Cross | Count


class Tables(_Struct, frozen=True):
    """Where the tables lie, relative to the schema file; several files are read one after the other.

    `friends` are pairs of users who know each other, in either order: the column of the user role, and `friend`.
    """

    interactions: str | tuple[str, ...]
    users: str | None = None
    items: str | None = None
    friends: str | None = None


class Label(_Struct, frozen=True):
    """A column to predict. `classes` is the number of classes of a multiclass label, whose values are 0..classes-1."""

    name: Name
    task: Task = "binary"
    classes: Annotated[int, Meta(ge=2)] | None = None


class Roles(_Struct, frozen=True):
    """Which columns mean what. `user`, `item` and `label` are needed for most tasks, the others where they exist.

    Attributes:
        label: The columns to predict.
        user: Who; never hashed.
        item: What; never hashed.
        time: When: integers since 1970 in `time_unit`, or a datetime column.
        time_unit: Seconds, milliseconds or microseconds.
        position: Where the item was shown, counted from 1.
        propensity: The probability with which the logging policy showed it.
        group: Rows that were shown together (a request), for metrics within groups.
        weight: The weight of the row in the loss.
        title: The column of the item table that a person reads.
    """

    label: tuple[Label, ...] = ()
    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "s"
    position: str | None = None
    propensity: str | None = None
    group: str | None = None
    weight: str | None = None
    title: str | None = None


class RandomSplit(_Struct, frozen=True, tag="random", tag_field="kind"):
    """Shares of the rows, drawn without replacement from a seed."""

    valid: Share = 0.1
    test: Share = 0.1
    seed: int = 0


class TimeSplit(_Struct, frozen=True, tag="time", tag_field="kind"):
    """The newest share of rows is the test split, the newest of the rest the validation split; ties stay together."""

    valid: Share = 0.1
    test: Share = 0.1


class LastSplit(_Struct, frozen=True, tag="last", tag_field="kind"):
    """Each user's newest rows are the test split, the ones before them the validation split."""

    valid: Annotated[int, Meta(ge=0)] = 1
    test: Annotated[int, Meta(ge=0)] = 1


class ColumnSplit(_Struct, frozen=True, tag="column", tag_field="kind"):
    """A column says it: its values are `train`, `valid` and `test`."""

    column: Name = "split"


Split = RandomSplit | TimeSplit | LastSplit | ColumnSplit


class Protocol(_Struct, frozen=True):
    """How a model is judged; its name stands beside every number.

    Attributes:
        kind: `pointwise` scores the rows as they are; `full` ranks the whole catalogue for each user;
            `candidates` ranks a given list for each user.
        name: What the protocol is called in reports.
        k: List lengths of the ranking metrics.
        relevant: A row whose first label is at least this is relevant.
        seen: What happens to items that the user has had before: hidden, allowed, or hidden for `window` seconds.
        window: Seconds, with `seen = "window"`.
        seen_from: Every row makes its item seen, or only relevant rows (an impression is not a play).
        candidates: A table with a user column and a list column `candidates`, for kind `candidates`.
    """

    kind: Literal["pointwise", "full", "candidates"] = "pointwise"
    name: str | None = None
    k: tuple[Positive, ...] = (10,)
    relevant: float = 0.5
    seen: Literal["hide", "allow", "window"] = "hide"
    window: Annotated[float, Meta(gt=0)] | None = None
    seen_from: Literal["rows", "relevant"] = "rows"
    candidates: str | None = None


class Schema(_Struct, frozen=True):
    """What the columns of a table mean. Checked when made; raises SchemaError with the mend."""

    features: tuple[Feature, ...]
    roles: Roles = Roles()
    tables: Tables | None = None
    split: Split = RandomSplit()
    protocol: Protocol = Protocol()
    presets: dict[str, dict[str, Any]] = {}
    name: str | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _check_names(self)
        for feature in self.features:
            _check_feature(self, feature)
        _check_roles(self)
        _check_split(self)
        _check_protocol(self)

    def feature(self, name: str) -> Feature:
        """The feature called `name`; SchemaError with near names if there is none."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise SchemaError(f"no feature is named {name!r}; {near(name, (f.name for f in self.features))}")

    def side_of(self, name: str) -> str:
        """Whose property a feature or part is: user, item, context, or pair where parts of user and item meet."""
        feature = self.feature(name.removesuffix(".bucket") if _is_bucket(self, name) else name)
        if isinstance(feature, Cross):
            return joined_side(self.side_of(part) for part in feature.of)
        if isinstance(feature, Count):
            return joined_side(self._key_side(key) for key in feature.by)
        return feature.side

    def _key_side(self, key: str) -> str:
        if key == self.roles.user:
            return "user"
        if key == self.roles.item:
            return "item"
        return self.side_of(key)


def joined_side(sides: Any) -> str:
    """The side of something made of parts: context counts as the user's side; user and item together are a pair.

    >>> joined_side(["user", "context"]), joined_side(["user", "item"]), joined_side(["context"])
    ('context', 'pair', 'context')
    """
    found = set(sides)
    if len(found) == 1:
        return str(found.pop())
    return "pair" if found & {"item", "pair"} else "context"


def _is_bucket(schema: Schema, name: str) -> bool:
    return name.endswith(".bucket") and all(f.name != name for f in schema.features)


def _check_types(schema: Schema) -> None:
    """A schema made in Python obeys the rules of one read from a file; lists become tuples."""
    for field in msgspec.structs.fields(Schema):
        try:
            plain = msgspec.to_builtins(getattr(schema, field.name))
            value = msgspec.convert(plain, field.type)
        except (msgspec.ValidationError, SchemaError, TypeError) as error:
            raise SchemaError(f"`{field.name}`: {error}") from error
        msgspec.structs.force_setattr(schema, field.name, value)


def _check_names(schema: Schema) -> None:
    names = [name for feature in schema.features for name in _names_of(feature)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SchemaError(f"feature names must be unique, {twice[0]!r} stands twice in `features`; rename one of them")


def _names_of(feature: Feature) -> list[str]:
    """A feature's own name and the names of the fields that are made from it."""
    names = [feature.name]
    if isinstance(feature, Dense) and feature.buckets is not None:
        names.append(f"{feature.name}.bucket")
    if isinstance(feature, Dense) and feature.missing_indicator:
        names.append(f"{feature.name}.missing")
    return names


def _check_feature(schema: Schema, feature: Feature) -> None:
    match feature:
        case Dense():
            _check_edges(feature)
        case Categorical() | MultiHot():
            _check_vocabulary(feature)
            _check_shares(schema, feature.name, feature.shares)
        case Sequence():
            _check_sequence(schema, feature)
        case Cross():
            _check_cross(schema, feature)
        case Count():
            _check_count(schema, feature)


def _check_edges(feature: Dense) -> None:
    if not isinstance(feature.buckets, tuple):
        return
    increasing = all(low < high for low, high in pairwise(feature.buckets))
    if not increasing or not all(map(math.isfinite, feature.buckets)):
        raise SchemaError(
            f"feature {feature.name!r}: `buckets` must be finite and strictly increasing edges, "
            f"got {list(feature.buckets)}; sort them"
        )


def _check_vocabulary(feature: Categorical | MultiHot) -> None:
    if feature.hash_buckets is not None and feature.shares is not None:
        raise SchemaError(
            f"feature {feature.name!r}: `hash_buckets` and `shares` exclude each other: "
            f"the ids are those of {feature.shares!r}; remove one"
        )


def _check_shares(schema: Schema, name: str, shares: str | None) -> None:
    if shares is None:
        return
    other = schema.feature(shares)
    if shares == name or not isinstance(other, Categorical | MultiHot) or other.shares is not None:
        raise SchemaError(
            f"feature {name!r}: `shares` must name another categorical or multi-hot feature that owns its vocabulary, "
            f"got {shares!r}"
        )


def _check_sequence(schema: Schema, feature: Sequence) -> None:
    _check_shares(schema, feature.name, feature.shares)
    if feature.of is None:
        if feature.where is not None:
            raise SchemaError(f"sequence {feature.name!r}: `where` needs `of`; add `of` or remove `where`")
        return
    if not isinstance(schema.feature(feature.of), Categorical):
        raise SchemaError(f"sequence {feature.name!r}: `of` must name a categorical feature, got {feature.of!r}")
    if feature.side != "user":
        raise SchemaError(f"sequence {feature.name!r} is derived from the user's rows: `side` must be 'user'")
    _check_has_past(schema, feature.name, "user", "time")


def _check_cross(schema: Schema, feature: Cross) -> None:
    for part in feature.of:
        bucketed = _is_bucket(schema, part)
        other = schema.feature(part.removesuffix(".bucket") if bucketed else part)
        if isinstance(other, Dense) and bucketed and other.buckets is not None:
            continue
        if not isinstance(other, Categorical | MultiHot | Sequence):
            raise SchemaError(
                f"cross {feature.name!r}: part {part!r} must be categorical, multi-hot, a sequence or a bucket; "
                "give a dense feature `buckets` and name it NAME.bucket"
            )


def _check_count(schema: Schema, feature: Count) -> None:
    if (feature.stat == "count") != (feature.of is None):
        raise SchemaError(
            f"count {feature.name!r}: `of` names the column that is summed or averaged; "
            "give it with stat = 'sum' or 'mean', leave it out with stat = 'count'"
        )
    known = {f.name for f in schema.features if isinstance(f, Categorical)} | {schema.roles.user, schema.roles.item}
    for key in feature.by:
        if key not in known:
            raise SchemaError(
                f"count {feature.name!r}: `by` must name categorical features or the user or item role, got {key!r}"
            )
    _check_has_past(schema, feature.name, "time")


def _check_has_past(schema: Schema, name: str, *roles: str) -> None:
    for role in roles:
        if getattr(schema.roles, role) is None:
            raise SchemaError(f"feature {name!r} looks at earlier rows: set `{role}` in [roles]")


def _check_roles(schema: Schema) -> None:
    _check_identity_roles(schema)
    _check_labels(schema)


def _check_split(schema: Schema) -> None:
    split = schema.split
    if schema.roles.time is None and isinstance(split, TimeSplit):
        raise SchemaError("split kind 'time' needs `time` in [roles]")
    if isinstance(split, LastSplit) and (schema.roles.user is None or schema.roles.time is None):
        raise SchemaError("split kind 'last' needs `user` and `time` in [roles]")
    if isinstance(split, RandomSplit | TimeSplit) and split.valid + split.test >= 1:
        raise SchemaError(
            f"split: `valid` + `test` must be below 1, got {split.valid} + {split.test}; leave rows to train on"
        )


def _check_protocol(schema: Schema) -> None:
    if (schema.protocol.seen == "window") != (schema.protocol.window is not None):
        raise SchemaError("protocol: `window` (seconds) goes with seen = 'window', and only with it")
    if schema.protocol.kind != "pointwise" and (schema.roles.user is None or schema.roles.item is None):
        raise SchemaError(f"protocol kind {schema.protocol.kind!r} needs `user` and `item` in [roles]")
    if schema.protocol.kind == "candidates" and schema.protocol.candidates is None:
        raise SchemaError("protocol kind 'candidates' needs `candidates`, the table of each user's candidates")


def _check_identity_roles(schema: Schema) -> None:
    for role in ("user", "item"):
        name = getattr(schema.roles, role)
        feature = next((f for f in schema.features if f.name == name), None)
        if feature is None:
            continue
        if not isinstance(feature, Categorical) or feature.hash_buckets is not None or feature.shares is not None:
            raise SchemaError(
                f"the {role} role {name!r} must be a categorical feature with its own vocabulary, never hashed"
            )
        if feature.side != role:
            raise SchemaError(f"the {role} role {name!r} must have side = {role!r}, got {feature.side!r}")


def _check_labels(schema: Schema) -> None:
    used = {f.name for f in schema.features}
    names = [label.name for label in schema.roles.label]
    if len(set(names)) < len(names):
        raise SchemaError(f"label names must be unique, got {names}; remove one")
    for label in schema.roles.label:
        if label.name in used:
            raise SchemaError(f"label {label.name!r} is also a feature: a model would read its own answer; remove one")
        if (label.task == "multiclass") != (label.classes is not None):
            raise SchemaError(f"label {label.name!r}: `classes` goes with task = 'multiclass', and only with it")


def loads(text: str, *, source: str = "schema") -> Schema:
    """Read a schema from TOML text; SchemaError names the path of what is wrong."""
    try:
        return msgspec.toml.decode(text, type=Schema)
    except (msgspec.DecodeError, SchemaError) as error:
        raise SchemaError(f"{source}: {error}") from error


def dumps(schema: Schema) -> str:
    """Write a schema as TOML text, each feature under its own [[features]]; `loads(dumps(s)) == s`."""
    plain = msgspec.to_builtins(schema)
    features = plain["features"]
    head = {key: plain[key] for key in ("name", "tables", "roles", "split", "protocol") if key in plain}
    blocks = [_toml(head if features else {**head, "features": []})]
    blocks += [f"[[features]]\n{_toml(feature)}" for feature in features]
    blocks += [_toml({"presets": plain["presets"]})] if plain.get("presets") else []
    return "\n".join(block for block in blocks if block)


def _toml(values: dict[str, Any]) -> str:
    return msgspec.toml.encode(values).decode()


def load(path: str | Path) -> Schema:
    """Read a schema file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"cannot read the schema {str(path)!r}: {error}; give the path of a schema.toml") from error
    return loads(text, source=str(path))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a schema file, for editors; `docs/schema.json` is written from it."""
    return msgspec.json.schema(Schema)
