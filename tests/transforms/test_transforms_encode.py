"""One code path: a table, its rows one by one, and a user joined to items give the same bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.batch import Batch, Fields
from weft.errors import ArtifactError, NotFitted, UnknownColumn
from weft.schema import Categorical, Count, Cross, Dense, Label, MultiHot, Roles, Schema, Sequence
from weft.transforms.bucket import quantile_edges
from weft.transforms.columns import Keys, Lists, RawTable, as_numbers, from_values
from weft.transforms.cross import CrossVocabulary
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows, concat
from weft.transforms.scale import Scaler
from weft.transforms.vocabulary import Vocabulary

SCHEMA = Schema(
    features=(
        Dense(name="age", side="user", missing_indicator=True, buckets=(18.0, 30.0)),
        Dense(name="hour", side="context", transform="quantile", missing="zero", buckets=2),
        Categorical(name="user", side="user"),
        Categorical(name="country", side="user", hash_buckets=7),
        Categorical(name="track", side="item"),
        Categorical(name="genre", side="item", min_count=2),
        MultiHot(name="moods", side="item", weights="mood_weights"),
        MultiHot(name="tags", side="item", separator="|", shares="genre"),
        Sequence(name="searched", max_length=2, shares="track"),
        Sequence(name="recent", of="track", where="played", max_length=3),
        Cross(name="age_x_genre", of=("age.bucket", "genre")),
        Cross(name="moods_x_country", of=("moods", "country")),
        Cross(name="moods_x_tags", of=("moods", "tags"), hash_buckets=11),
        Cross(name="recent_x_track", of=("recent", "track")),
        Cross(name="country_x_hour", of=("country", "hour.bucket"), min_count=2),
        Cross(name="three", of=("genre", "age.bucket", "moods")),
        Count(name="plays", by=("user",)),
        Count(name="genre_seconds", by=("user", "genre"), of="seconds", stat="sum", window=5),
        Count(name="track_rate", by=("track",), of="played", stat="mean"),
        Count(name="at_hour", by=("user", "country"), transform="none"),
    ),
    roles=Roles(
        user="user",
        item="track",
        time="time",
        label=(Label(name="played"),),
        position="position",
        propensity="propensity",
        group="request",
        weight="weight",
    ),
)


def optional(values: Any) -> Any:
    return st.none() | values


ROW = st.fixed_dictionaries(
    {
        "user": st.integers(1, 3),
        "track": st.integers(10, 13) | st.just(99),
        "time": st.integers(0, 8),
        "played": st.integers(0, 1),
    },
    optional={
        "age": optional(st.integers(10, 40) | st.floats(-1e3, 1e3)),
        "hour": optional(st.integers(0, 23)),
        "country": optional(st.sampled_from(["nl", "de", "new", ""])),
        "genre": optional(st.sampled_from(["rock", "jazz", "folk", "unseen"])),
        "tags": optional(st.sampled_from(["rock|jazz", "folk", "", "jazz|jazz||x"])),
        "searched": optional(st.lists(optional(st.integers(9, 14)), max_size=4)),
        "seconds": optional(st.floats(0, 300)),
        "position": optional(st.integers(1, 9)),
        "propensity": st.floats(0.1, 1.0),
        "weight": st.floats(0.1, 2.0),
        "request": st.text(max_size=2),
    },
).flatmap(
    lambda row: st.lists(st.tuples(optional(st.sampled_from(["sad", "gay", "odd"])), st.floats(0, 2)), max_size=3).map(
        lambda pairs: {**row, "moods": [p[0] for p in pairs], "mood_weights": [p[1] for p in pairs]}
    )
)
TABLES = st.lists(ROW, min_size=1, max_size=8)


def vocabulary(column: Any, min_count: int = 1) -> Vocabulary:
    keys: Keys = column.keys if isinstance(column, Lists) else column
    counts = np.bincount(keys.codes[keys.codes >= 0], minlength=len(keys.values))
    return Vocabulary.from_counts(keys.values, counts, min_count)


def fit(table: RawTable, schema: Schema = SCHEMA) -> Transforms:
    """What data/fit.py does, in memory."""
    edges = {"age": np.array([18.0, 30.0]), "hour": quantile_edges(as_numbers(table["hour"], name="hour"), 2)}
    scalers = {
        f.name: Scaler.fit(f.transform, as_numbers(table[f.name], name=f.name), missing=f.missing)
        for f in schema.features
        if isinstance(f, Dense)
    }
    vocabularies = {name: vocabulary(table[name]) for name in ("user", "track", "moods")}
    vocabularies["genre"] = vocabulary(table["genre"], 2)
    transforms = Transforms(
        schema,
        vocabularies=vocabularies,
        scalers=scalers,
        edges=edges,
        user_ids=vocabularies["user"],
        item_ids=vocabularies["track"],
    ).with_history(table)
    crosses = {}
    for feature in schema.features:
        if isinstance(feature, Cross) and feature.hash_buckets is None:
            keys, counts = np.unique(transforms.cross_keys(feature.name, table), return_counts=True)
            crosses[feature.name] = CrossVocabulary.from_counts(keys, counts, feature.min_count)
    counts = {
        f.name: Scaler.fit(f.transform, transforms.count_values(f.name, table))
        for f in schema.features
        if isinstance(f, Count)
    }
    return transforms.replace(crosses=crosses, scalers=counts)


TRAIN: list[dict[str, Any]] = [
    {
        "user": 1 + i % 3,
        "track": 10 + i % 4,
        "time": i // 2,
        "played": int(i % 3 == 0),
        "age": [16, 25, 40][i % 3],
        "hour": i % 24,
        "country": ["nl", "de"][i % 2],
        "genre": ["rock", "jazz", "folk", "rock"][i % 4],
        "moods": ["sad", "gay"][: i % 3],
        "mood_weights": [0.5, 2.0][: i % 3],
        "tags": "rock|jazz",
        "searched": [10, 11],
        "seconds": 10.0 * i,
    }
    for i in range(16)
]


@pytest.fixture(scope="module")
def transforms() -> Transforms:
    return fit(from_values(SCHEMA, TRAIN))


def contents(rows: Rows) -> dict[str, Any]:
    ragged = {
        f"{name}.{part}": None if array is None else (array.dtype.str, array.tobytes())
        for name, sets in rows.ragged.items()
        for part, array in sets._asdict().items()
    }
    return {name: (c.dtype.str, c.shape, c.tobytes()) for name, c in rows.columns().items()} | ragged


def assert_same(first: Rows, second: Rows) -> None:
    one, two = contents(first), contents(second)
    assert list(one) == list(two)
    assert [name for name in one if one[name] != two[name]] == []


def padded(row: dict[str, Any]) -> dict[str, Any]:
    """Name every role, so that a row on its own has the same columns as in the table."""
    return {"position": None, "propensity": None, "weight": None, "request": None, "seconds": None, **row}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=TABLES)
def test_a_table_and_its_rows_one_by_one_give_the_same_bytes(transforms: Transforms, table: list[Any]) -> None:
    table = [padded(row) for row in table]
    whole = transforms.encode(from_values(SCHEMA, table))
    single = concat([transforms.encode(from_values(SCHEMA, [row])) for row in table])
    assert_same(whole, single)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=TABLES)
def test_reading_all_at_once_equals_reading_row_by_row_in_time_order(transforms: Transforms, table: list[Any]) -> None:
    table = sorted((padded(row) for row in table), key=lambda row: row["time"])
    offline = transforms.with_history(from_values(SCHEMA, table)).encode(from_values(SCHEMA, table))
    online, parts = transforms, []
    for row in table:
        one = from_values(SCHEMA, [row])
        parts.append(online.encode(one))
        online = online.with_history(one)
    assert_same(offline, concat(parts))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=TABLES)
def test_events_of_encoded_rows_are_those_of_the_table(transforms: Transforms, table: list[Any]) -> None:
    raw = from_values(SCHEMA, [padded(row) for row in table])
    rows = transforms.encode(raw)
    wanted = transforms.history_events(raw)
    found = transforms.events_of(rows)
    for column in ("seconds", "played"):
        found |= transforms.events_of(rows, column, as_numbers(raw[column], name=column))
    assert set(found) == set(wanted)
    for name, events in wanted.items():
        for one, two in zip(found[name], events, strict=True):
            assert (one is None) == (two is None)
            assert one is None or (one.dtype == two.dtype and one.tobytes() == two.tobytes()), name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(user=ROW, items=TABLES, time=st.integers(0, 10))
def test_join_equals_encoding_the_joined_rows(transforms: Transforms, user: Any, items: list[Any], time: int) -> None:
    mine, theirs = sides_of("user", "context"), sides_of("item")
    asked = {name: user.get(name) for name in mine}
    joined = [{**asked, **{name: item.get(name) for name in theirs}} for item in items]
    expected = transforms.encode(from_values(SCHEMA, joined), time=time)
    users = transforms.encode_side(from_values(SCHEMA, [asked]), "user", "context")
    catalogue = transforms.encode_side(from_values(SCHEMA, items), "item")
    assert_same(transforms.join(users, catalogue, time=time), expected)
    alone = transforms.encode_side(from_values(SCHEMA, [asked]), "user")
    context = transforms.encode_side(from_values(SCHEMA, [asked]), "context")
    assert_same(transforms.join(alone, catalogue, context=context, time=time), expected)
    assert_same(transforms.join(users, catalogue, context=concat([context] * len(items)), time=time), expected)
    repeated = concat([users] * len(items))
    assert_same(transforms.join(repeated, catalogue, time=np.full(len(items), time)), expected)
    full = transforms.encode(from_values(SCHEMA, joined), time=0)
    assert_same(transforms.join(full, full, time=np.full(len(items), time)), expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=TABLES, time=st.none() | st.integers(0, 10))
def test_the_users_side_alone_is_that_of_join(transforms: Transforms, table: list[Any], time: int | None) -> None:
    full = transforms.encode(from_values(SCHEMA, table), time=0)
    catalogue = transforms.encode_side(from_values(SCHEMA, table), "item")
    context = transforms.encode_side(from_values(SCHEMA, table), "context")
    alone = transforms.encode_side(from_values(SCHEMA, table), "user")
    times = None if time is None else np.full(len(table), time)
    for users, given_context in ((full, None), (alone, None), (alone, context), (full, context)):
        joined = transforms.join(users, catalogue, context=given_context, time=times)
        found = transforms.user_side(users, context=given_context, time=times)
        assert_same_batch(found.batch(), joined.batch().of(transforms.fields, "user", "context"))
        assert_same_roles(found, joined)
        assert found.sides == ("user", "context")
        assert_same(transforms.join(found, catalogue, time=times), joined)
        for i in range(len(table)):
            one = transforms.join(users.take(slice(i, i + 1)), catalogue, context=_some(given_context, i), time=time)
            pairs = transforms.pairs(found.take(slice(i, i + 1)), catalogue, time=time)
            assert pairs.sides == ("pair",)
            assert_same_batch(pairs.batch(), one.batch().of(transforms.fields, "pair"))


def _some(rows: Rows | None, i: int) -> Rows | None:
    return None if rows is None else rows.take(slice(i, i + 1))


def assert_same_batch(one: Batch, two: Batch) -> None:
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.dense, two.dense)
    assert list(one.ragged) == list(two.ragged)
    for name, sets in two.ragged.items():
        for mine, theirs in zip(one.ragged[name], sets, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.equal(mine, theirs)


def assert_same_roles(one: Rows, two: Rows) -> None:
    for name in ("user", "group", "weight", "time"):
        mine, theirs = getattr(one, name), getattr(two, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or mine.tobytes() == theirs.tobytes()


def sides_of(*sides: str) -> list[str]:
    columns = [f.name for f in SCHEMA.features if not isinstance(f, Cross | Count) and f.side in sides]
    return columns + (["mood_weights"] if "item" in sides else [])


def test_fields_stand_in_schema_order(transforms: Transforms) -> None:
    fields: Fields = transforms.fields
    assert [f.name for f in fields.ids] == [
        "age.bucket",
        "hour.bucket",
        "user",
        "country",
        "track",
        "genre",
        "age_x_genre",
        "country_x_hour",
    ]
    assert [f.name for f in fields.dense] == [
        "age",
        "age.missing",
        "hour",
        "plays",
        "genre_seconds",
        "track_rate",
        "at_hour",
    ]
    assert {f.name: (f.kind, f.table, f.side) for f in fields.ragged} == {
        "moods": ("set", "moods", "item"),
        "tags": ("set", "genre", "item"),
        "searched": ("sequence", "track", "user"),
        "recent": ("sequence", "track", "user"),
        "moods_x_country": ("set", "moods_x_country", "pair"),
        "moods_x_tags": ("set", "moods_x_tags", "item"),
        "recent_x_track": ("set", "recent_x_track", "pair"),
        "three": ("set", "three", "pair"),
    }
    assert (fields.user, fields.item, fields.users, fields.items) == ("user", "track", 5, 6)
    rows = {f.name: f.rows for f in (*fields.ids, *fields.ragged)}
    assert rows["country"] == 9
    assert rows["age.bucket"] == 5
    assert rows["moods_x_tags"] == 13
    assert rows["tags"] == rows["genre"] == transforms.vocabularies["genre"].rows


def test_ids_stay_below_the_rows_of_their_field(transforms: Transforms) -> None:
    rows = transforms.encode(from_values(SCHEMA, TRAIN))
    for i, field in enumerate(transforms.fields.ids):
        assert 0 <= rows.ids[:, i].min() <= rows.ids[:, i].max() < field.rows
    for field in transforms.fields.ragged:
        assert rows.ragged[field.name].values.max(initial=1) < field.rows
        assert rows.ragged[field.name].values.min(initial=1) > 0


def test_a_row_by_hand(transforms: Transforms) -> None:
    row = {
        "user": 2,
        "track": "11",
        "time": 7,
        "country": None,
        "genre": "unseen",
        "age": None,
        "moods": ["sad", None, "gay", "sad", "gay"],
        "mood_weights": [0.25, 9.0, 3.0, None, 4.0],
        "searched": [10, 99, 11],
        "hour": 3,
    }
    rows = transforms.encode(from_values(SCHEMA, [row]))
    fields = transforms.fields
    ids = dict(zip([f.name for f in fields.ids], rows.ids[0].tolist(), strict=True))
    dense = dict(zip([f.name for f in fields.dense], rows.dense[0].tolist(), strict=True))
    moods, track = transforms.vocabularies["moods"], transforms.vocabularies["track"]
    assert ids["age.bucket"] == ids["country"] == ids["age_x_genre"] == ids["country_x_hour"] == 0
    assert ids["genre"] == 1
    assert ids["track"] == track.id_of(11) > 1
    assert (dense["age"], dense["age.missing"]) == (0.0, 1.0)
    assert rows.ragged["moods"].values.tolist() == [moods.id_of(m) for m in ("sad", "gay", "gay")]
    assert rows.ragged["moods"].weights is not None
    assert rows.ragged["moods"].weights.tolist() == [0.25, 3.0, 4.0]
    assert rows.ragged["searched"].values.tolist() == [1, track.id_of(11)]
    assert rows.ragged["moods_x_country"].values.tolist() == []
    # User 2 has rows 1, 4, 7, 10, 13 at times 0, 2, 3, 5, 6; none was played.
    assert dense["at_hour"] == 0.0
    assert rows.ragged["recent"].values.tolist() == []
    assert transforms.count_values("plays", from_values(SCHEMA, [row])).tolist() == [5.0]
    # Track 11 is rows 1, 5, 9, 13; row 9 was played.
    assert transforms.count_values("track_rate", from_values(SCHEMA, [row])).tolist() == [0.25]


def test_a_cross_over_a_set_is_a_set_with_the_product_of_weights(transforms: Transforms) -> None:
    row = {"country": "nl", "genre": "rock", "age": 20, "moods": ["gay", "gay", "sad"], "mood_weights": [2.0, 3.0, 4.0]}
    sets = transforms.encode(from_values(SCHEMA, [row])).ragged
    assert len(sets["moods_x_country"].values) == 2
    assert sets["moods_x_country"].weights is not None
    assert sets["moods_x_country"].weights.tolist() == [2.0, 4.0]
    tagged = transforms.encode(from_values(SCHEMA, [{**row, "tags": "rock|folk"}])).ragged["moods_x_tags"]
    assert len(tagged.values) == 4


def test_derived_sequences_see_only_earlier_rows_that_were_asked_for(transforms: Transforms) -> None:
    rows = transforms.encode(from_values(SCHEMA, TRAIN))
    track, sets = transforms.vocabularies["track"], rows.ragged["recent"]
    for i, row in enumerate(TRAIN):
        past = [r for r in TRAIN if r["user"] == row["user"] and r["time"] < row["time"] and r["played"]]
        expected = [track.id_of(r["track"]) for r in past][-3:]
        assert sets.take(np.array([i])).values.tolist() == expected


def test_counts_equal_a_loop_over_the_past(transforms: Transforms) -> None:
    table = from_values(SCHEMA, TRAIN)
    seconds = transforms.count_values("genre_seconds", table)
    rate = transforms.count_values("track_rate", table)
    for i, row in enumerate(TRAIN):
        past = [r for r in TRAIN if r["time"] < row["time"]]
        same = [r for r in past if (r["user"], r["genre"]) == (row["user"], row["genre"])]
        assert seconds[i] == sum(r["seconds"] for r in same if r["time"] >= row["time"] - 5)
        played = [r["played"] for r in past if r["track"] == row["track"]]
        assert np.isnan(rate[i]) if not played else rate[i] == np.mean(played)


def test_without_a_time_everything_is_past(transforms: Transforms) -> None:
    row = {"user": 1, "track": 10}
    assert transforms.count_values("plays", from_values(SCHEMA, [row])).tolist() == [6.0]
    assert transforms.encode(from_values(SCHEMA, [row])).time is None


def test_sides_before_all_events_and_as_of(transforms: Transforms) -> None:
    table = from_values(SCHEMA, TRAIN[:4])
    users = transforms.encode_side(table, "user", "context")
    fields = transforms.fields.of("user", "context")
    assert users.ids.shape == (4, len(fields.ids))
    assert list(users.ragged) == [f.name for f in fields.ragged]
    assert len(users.ragged["recent"].values) == 0
    later = transforms.as_of(users)
    assert len(later.ragged["recent"].values) > 0
    full = transforms.as_of(transforms.encode(table), time=5)
    np.testing.assert_array_equal(transforms.as_of(users, time=5).dense[:, 3], full.dense[:, 3])
    assert users.item is None
    assert users.user is not None


def test_join_without_context_has_it_missing(transforms: Transforms) -> None:
    users = transforms.encode_side(from_values(SCHEMA, TRAIN[:1]), "user")
    items = transforms.encode_side(from_values(SCHEMA, TRAIN[:3]), "item")
    joined = transforms.join(users, items)
    assert joined.ids[:, transforms.fields.column("hour.bucket")].tolist() == [0, 0, 0]
    assert joined.user is not None
    assert joined.item is not None
    assert joined.user.tolist() == [transforms.vocabularies["user"].id_of(1)] * 3
    assert joined.item.tolist() == items.item.tolist()  # type: ignore[union-attr]
    many = transforms.join(transforms.encode_side(from_values(SCHEMA, TRAIN[:3]), "user"), items.take(np.array([1])))
    assert len(many) == 3


def test_save_and_load_give_the_same_transforms(transforms: Transforms, tmp_path: Path) -> None:
    transforms.save(tmp_path / "a")
    loaded = Transforms.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    table = from_values(SCHEMA, TRAIN)
    assert_same(loaded.encode(table), transforms.encode(table))
    assert loaded.fields == transforms.fields


def test_a_damaged_folder_is_refused(transforms: Transforms, tmp_path: Path) -> None:
    transforms.save(tmp_path / "a")
    (tmp_path / "a" / "vocabularies.0.counts.npy").unlink()
    with pytest.raises(ArtifactError, match="make the folder again"):
        Transforms.load(tmp_path / "a")
    with pytest.raises(ArtifactError, match="no readable transforms"):
        Transforms.load(tmp_path / "nothing")


def test_what_is_not_fitted_is_named() -> None:
    with pytest.raises(NotFitted, match="'age'"):
        Transforms(SCHEMA).encode(from_values(SCHEMA, TRAIN))
    pieces = fit(from_values(SCHEMA, TRAIN))._pieces() | {"user_ids": None}
    with pytest.raises(NotFitted, match="user role 'user'"):
        Transforms(SCHEMA, **pieces).encode(from_values(SCHEMA, TRAIN))


def test_a_missing_column_is_named(transforms: Transforms) -> None:
    table = from_values(SCHEMA, TRAIN)
    del table["genre"]
    with pytest.raises(UnknownColumn, match="'genre' is not in the table"):
        transforms.encode(table)


def test_a_schema_without_roles_or_history() -> None:
    schema = Schema(features=(Categorical(name="c", side="context"), Dense(name="d", side="context")))
    table = from_values(schema, [{"c": "a", "d": 1}, {"c": "b"}])
    transforms = Transforms(
        schema, vocabularies={"c": vocabulary(table["c"])}, scalers={"d": Scaler(kind="none", fill=0.5)}
    )
    rows = transforms.encode(table)
    assert rows.ids.tolist() == [[2], [3]]
    assert rows.dense.tolist() == [[1.0], [0.5]]
    assert rows.keys.shape == (2, 0)
    assert transforms.history_events(table) == {}
    assert transforms.as_of(rows) is rows
    assert transforms.fields.outputs == 1
