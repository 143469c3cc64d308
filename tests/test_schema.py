"""The schema: what may stand in it, what the messages say, and the way to TOML and back."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import SchemaError
from weft.schema import (
    Categorical,
    ColumnSplit,
    Count,
    Cross,
    Dense,
    Feature,
    Label,
    LastSplit,
    MultiHot,
    Protocol,
    RandomSplit,
    Roles,
    Schema,
    Sequence,
    Tables,
    TimeSplit,
    dumps,
    joined_side,
    json_schema,
    load,
    loads,
)

USER = Categorical(name="user", side="user")
ITEM = Categorical(name="item", side="item")
GENRES = MultiHot(name="genres", side="item")
AGE = Dense(name="age", side="user", buckets=4)
ROLES = Roles(user="user", item="item", time="time", label=(Label(name="click"),))


def schema(*features: Feature, roles: Roles = ROLES, **more: Any) -> Schema:
    return Schema(features=(USER, ITEM, GENRES, AGE, *features), roles=roles, **more)


# ---- TOML and back ----

words = st.text(min_size=1, max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
sides = st.sampled_from(["user", "item", "context"])
scalings = st.sampled_from(["standardize", "log_standardize", "quantile", "minmax", "none"])
counts = st.integers(1, 2**40)
maybe_count = st.none() | counts
edges = st.lists(finite, unique=True, max_size=4).map(sorted).map(tuple)


def features() -> st.SearchStrategy[Feature]:
    dense = st.builds(
        Dense,
        name=words,
        side=sides,
        transform=scalings,
        missing=st.sampled_from(["mean", "zero"]),
        missing_indicator=st.booleans(),
        buckets=st.none() | counts | edges,
    )
    categorical = st.builds(Categorical, name=words, side=sides, min_count=counts, hash_buckets=maybe_count)
    multi_hot = st.builds(
        MultiHot, name=words, side=sides, weights=st.none() | words, separator=st.none() | words, min_count=counts
    )
    given_sequence = st.builds(Sequence, name=words, side=sides, max_length=counts, separator=st.none() | words)
    past_sequence = st.builds(Sequence, name=words, side=st.just("user"), of=st.just("user"), where=st.none() | words)
    cross = st.builds(Cross, name=words, of=st.just(("user", "age.bucket", "genres")), min_count=counts)
    counter = st.builds(
        Count,
        name=words,
        by=st.just(("user", "item")),
        window=st.none() | st.floats(1e-3, 1e12),
        transform=scalings,
    )
    average = st.builds(Count, name=words, by=st.just(("item",)), of=words, stat=st.sampled_from(["sum", "mean"]))
    return st.one_of(dense, categorical, multi_hot, given_sequence, past_sequence, cross, counter, average)


splits = st.one_of(
    st.builds(RandomSplit, valid=st.floats(0, 0.49), test=st.floats(0, 0.49), seed=st.integers(-(2**62), 2**62)),
    st.builds(TimeSplit, valid=st.floats(0, 0.49), test=st.floats(0, 0.49)),
    st.builds(LastSplit, valid=st.integers(0, 9), test=st.integers(0, 9)),
    st.builds(ColumnSplit, column=words),
)
protocols = st.one_of(
    st.builds(
        Protocol,
        kind=st.sampled_from(["pointwise", "full"]),
        name=st.none() | words,
        k=st.lists(counts, max_size=3).map(tuple),
        relevant=finite,
        seen=st.sampled_from(["hide", "allow"]),
    ),
    st.builds(Protocol, seen=st.just("window"), window=st.floats(1e-3, 1e12)),
    st.builds(Protocol, kind=st.just("candidates"), candidates=words),
)
presets = st.dictionaries(words, st.dictionaries(words, st.booleans() | finite | st.lists(counts) | words))


def free(features: list[Feature]) -> list[Feature]:
    """The features whose names, and the names made from them, do not meet each other or the fixed ones."""
    taken = {"user", "item", "genres", "age", "click"}
    result = []
    for feature in features:
        names = {feature.name, f"{feature.name}.bucket", f"{feature.name}.missing"}
        if not names & taken:
            taken |= names
            result.append(feature)
    return result


@pytest.mark.parametrize("presets", [{}, {"bars": {"train": {"l2": 0.1}}}])
def test_a_feature_may_be_pasted_below_the_text_of_a_schema(presets: dict[str, Any]) -> None:
    text = dumps(Schema(features=(USER, ITEM), roles=ROLES, presets=presets))
    pasted = loads(text + '\n[[features]]\nkind = "cross"\nname = "both"\nof = ["user", "item"]\n')
    assert pasted.features == (USER, ITEM, Cross(name="both", of=("user", "item")))
    assert loads(dumps(Schema(features=()))) == Schema(features=())


@given(st.lists(features(), max_size=4), splits, protocols, presets, st.none() | words)
def test_toml_and_back_is_the_same_schema(
    extra: list[Feature], split: Any, protocol: Protocol, presets: dict[str, Any], name: str | None
) -> None:
    tables = Tables(interactions=("a.parquet", "b.parquet"), items="items.csv")
    whole = schema(*free(extra), split=split, protocol=protocol, presets=presets, name=name, tables=tables)
    assert loads(dumps(whole)) == whole
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Schema) == whole


def test_the_text_is_the_one_a_person_would_write() -> None:
    text = """
name = "plays"
[tables]
interactions = "plays.parquet"
[roles]
user = "user"
item = "item"
label = [{ name = "played" }]
[[features]]
kind = "categorical"
name = "user"
side = "user"
[[features]]
kind = "dense"
name = "age"
side = "user"
buckets = [18, 30.5]
[presets.bars]
l2 = 0.05
"""
    read = loads(text)
    assert read.feature("age") == Dense(name="age", side="user", buckets=(18.0, 30.5))
    assert read.roles.label == (Label(name="played", task="binary"),)
    assert read.presets == {"bars": {"l2": 0.05}}
    assert loads(dumps(read)) == read


def test_load_reads_a_file_and_names_it_when_it_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(dumps(schema()))
    assert load(path) == schema()
    path.write_text("features = 3")
    with pytest.raises(SchemaError, match=r"schema\.toml: .*`\$\.features`"):
        load(path)
    with pytest.raises(SchemaError, match=r"cannot read the schema .*none\.toml"):
        load(tmp_path / "none.toml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SchemaError, match="cannot read the schema"):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features = [", "schema: "),
        ("features = []\ncolour = 'red'", "unknown field `colour`"),
        ("[[features]]\nkind = 'dense'\nname = 'a'\nside = 'user'\nscale = 'log'", r"unknown field `scale`.*\$\.feat"),
        ("[[features]]\nkind = 'number'\nname = 'a'\nside = 'user'", r"'number'.*features\[0\]\.kind"),
        ("[[features]]\nkind = 'dense'\nname = 'a'\nside = 'users'", r"'users'.*\.side"),
        ("[[features]]\nkind = 'dense'\nname = ''\nside = 'user'", r"length >= 1.*\.name"),
        ("[[features]]\nkind = 'dense'\nname = 'a'\nside = 'user'\nbuckets = 0", r">= 1.*\.buckets"),
        ("features = []\n[split]\nkind = 'random'\ntest = 1.5", r"< 1\.0.*\.split\.test"),
        ("features = []\n[roles]\nlabel = [{ name = 'a', task = 'rank' }]", r"'rank'.*\.task"),
    ],
)
def test_a_wrong_file_names_the_place(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        loads(text)


# ---- what contradicts itself ----

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"features": [Dense(name="item", side="item")]}, "'item' stands twice"),
    ({"features": [Categorical(name="age.bucket", side="user")]}, r"'age\.bucket' stands twice"),
    (
        {"features": [Dense(name="d", side="user", missing_indicator=True), Dense(name="d.missing", side="user")]},
        r"'d\.missing' stands twice",
    ),
    ({"features": [Dense(name="d", side="user", buckets=(2.0, 1.0))]}, r"'d'.*got \[2\.0, 1\.0\]"),
    ({"features": [Dense(name="d", side="user", buckets=(1.0, 1.0))]}, r"strictly increasing.*\[1\.0, 1\.0\]"),
    ({"features": [Dense(name="d", side="user", buckets=(0.0, math.inf))]}, r"finite.*inf"),
    ({"features": [Dense(name="d", side="users")]}, r"`features`: .*'users'.*\$\[4\]\.side"),
    ({"features": [object()]}, "`features`: .*object"),
    ({"features": [Categorical(name="c", side="user", shares="itme")]}, "'itme'; did you mean item"),
    ({"features": [Categorical(name="c", side="user", shares="c")]}, "'c'.*owns its vocabulary, got 'c'"),
    ({"features": [Categorical(name="c", side="user", shares="age")]}, "'c'.*got 'age'"),
    (
        {
            "features": [
                Categorical(name="c", side="user", shares="d"),
                Categorical(name="d", side="user", shares="item"),
            ]
        },
        "'c'.*owns its vocabulary, got 'd'",
    ),
    ({"features": [Categorical(name="c", side="user", shares="item", hash_buckets=9)]}, "'c'.*exclude each other"),
    ({"features": [MultiHot(name="m", side="user", shares="item", hash_buckets=9)]}, "'m'.*those of 'item'"),
    ({"features": [Sequence(name="s", where="click")]}, "'s': `where` needs `of`"),
    ({"features": [Sequence(name="s", of="age")]}, "'s': `of` must name a categorical feature, got 'age'"),
    ({"features": [Sequence(name="s", of="item", side="item")]}, "'s'.*`side` must be 'user'"),
    ({"features": [Sequence(name="s", of="item")], "roles": Roles(user="user")}, "'s'.*set `time` in"),
    ({"features": [Sequence(name="s", of="item")], "roles": Roles(time="time")}, "'s'.*set `user` in"),
    ({"features": [Cross(name="x", of=("user", "age"))]}, "'x': part 'age' must be"),
    ({"features": [Cross(name="x", of=("user", "items"))]}, "'items'; did you mean item"),
    (
        {"features": [Dense(name="d", side="user"), Cross(name="x", of=("user", "d.bucket"))]},
        r"'x': part 'd\.bucket' must be .* give a dense feature `buckets`",
    ),
    ({"features": [Cross(name="x", of=("user",))]}, r"`features`: .*length >= 2.*\.of"),
    ({"features": [Count(name="n", by=("user",), of="click")]}, "'n': `of` names the column"),
    ({"features": [Count(name="n", by=("user",), stat="mean")]}, "'n': `of` names the column"),
    ({"features": [Count(name="n", by=("genres",))]}, "'n': `by` must name .*got 'genres'"),
    ({"features": [Count(name="n", by=("user",))], "roles": Roles(user="user")}, "'n'.*set `time`"),
    ({"roles": Roles(user="item")}, "user role 'item' must have side = 'user', got 'item'"),
    ({"roles": Roles(item="genres")}, "item role 'genres' must be a categorical feature"),
    (
        {"features": [Categorical(name="h", side="user", hash_buckets=5)], "roles": Roles(user="h")},
        "user role 'h' must .*never hashed",
    ),
    ({"roles": Roles(label=(Label(name="age"),))}, "label 'age' is also a feature"),
    ({"roles": Roles(label=(Label(name="a"), Label(name="a")))}, r"label names must be unique, got \['a', 'a'\]"),
    ({"roles": Roles(label=(Label(name="a", task="multiclass"),))}, "label 'a': `classes` goes with"),
    ({"roles": Roles(label=(Label(name="a", classes=3),))}, "label 'a': `classes` goes with"),
    ({"roles": Roles(), "split": TimeSplit()}, "split kind 'time' needs `time`"),
    ({"roles": Roles(time="time"), "split": LastSplit()}, "split kind 'last' needs `user` and `time`"),
    ({"split": RandomSplit(valid=0.5, test=0.6)}, r"below 1, got 0\.5 \+ 0\.6"),
    ({"protocol": Protocol(seen="window")}, "`window` .* goes with seen = 'window'"),
    ({"protocol": Protocol(window=5.0)}, "`window` .* goes with seen = 'window'"),
    ({"roles": Roles(), "protocol": Protocol(kind="full")}, "protocol kind 'full' needs `user` and `item`"),
    ({"protocol": Protocol(kind="candidates")}, "protocol kind 'candidates' needs `candidates`"),
]


@pytest.mark.parametrize(("parts", "message"), MISTAKES)
def test_a_contradiction_is_refused_with_its_name(parts: dict[str, Any], message: str) -> None:
    arguments = dict(parts)
    with pytest.raises(SchemaError, match=message):
        schema(*arguments.pop("features", ()), **arguments)


def test_a_mistake_in_a_file_says_the_same_words() -> None:
    text = dumps(schema()).replace('item = "item"', 'item = "genres"')
    with pytest.raises(SchemaError, match=r"plays\.toml: the item role 'genres' must be"):
        loads(text, source="plays.toml")


def test_lists_given_in_python_become_tuples() -> None:
    made = Schema(features=[USER, ITEM, Cross(name="x", of=["user", "item"])], roles=Roles(label=[Label(name="y")]))
    assert made == loads(dumps(made))
    assert isinstance(made.features, tuple)


def test_a_schema_is_frozen() -> None:
    with pytest.raises(AttributeError):
        schema().name = "other"  # type: ignore[misc]


# ---- questions ----


def test_feature_by_name() -> None:
    assert schema().feature("age") is not None
    with pytest.raises(SchemaError, match="'aeg'; did you mean age"):
        schema().feature("aeg")


@pytest.mark.parametrize(
    ("feature", "side"),
    [
        (Cross(name="x", of=("user", "age.bucket")), "user"),
        (Cross(name="x", of=("item", "genres")), "item"),
        (Cross(name="x", of=("user", "genres")), "pair"),
        (Cross(name="x", of=("hour", "user")), "context"),
        (Cross(name="x", of=("hour", "item")), "pair"),
        (Count(name="x", by=("user",)), "user"),
        (Count(name="x", by=("user", "item")), "pair"),
        (Count(name="x", by=("item", "maker")), "item"),
    ],
)
def test_the_side_of_what_is_made_of_parts(feature: Cross | Count, side: str) -> None:
    made = schema(Categorical(name="hour", side="context"), Categorical(name="maker", side="item"), feature)
    assert made.side_of("x") == side


def test_a_role_that_is_no_feature_has_its_own_side() -> None:
    made = Schema(features=(Count(name="n", by=("u", "i")),), roles=Roles(user="u", item="i", time="t"))
    assert made.side_of("n") == "pair"


def test_a_pair_stays_a_pair() -> None:
    assert joined_side(["user", "pair"]) == "pair"


# ---- JSON Schema ----


def test_json_schema_knows_every_feature() -> None:
    kinds = {"Dense", "Categorical", "MultiHot", "Sequence", "Cross", "Count"}
    assert kinds <= set(json_schema()["$defs"])


def test_docs_hold_the_json_schema() -> None:
    written = json.loads((Path(__file__).parent.parent / "docs" / "schema.json").read_text())
    assert written == json.loads(json.dumps(json_schema())), (
        "docs/schema.json is old: run python scripts/write_schema_json.py"
    )
