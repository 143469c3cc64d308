"""Crosses found: planted pairs come first, noise is not named, nothing but the judging reads validation rows."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec.structs import replace
from rich.console import Console

from weft import cli
from weft import schema as schemas
from weft.data import catalog
from weft.data.store import Store, prepare
from weft.errors import ConfigError, Unsupported
from weft.schema import Categorical, Cross, Dense, Label, MultiHot, RandomSplit, Roles, Schema
from weft.study import crosses as module
from weft.study.crosses import Candidate, Found, Gain, find_crosses, path_gains
from weft.train.run import train
from weft.transforms.rows import RaggedArrays

GAIN = Gain(value=0.02, low=0.01, high=0.03)


def make_store(folder: Path, frame: pl.DataFrame, *, label: Label, valid: float = 0.1) -> Store:
    """Text is a category, a list a set, a float a number without buckets."""
    features = []
    for name, kind in frame.schema.items():
        if name == label.name:
            continue
        feature = Dense if kind == pl.Float64 else MultiHot if isinstance(kind, pl.List) else Categorical
        features.append(feature(name=name, side="context"))
    schema = Schema(name="world", features=tuple(features), roles=Roles(label=(label,)), split=RandomSplit(valid=valid))
    return prepare(schema, folder / "store", interactions=frame)


def planted(rows: int = 6000, *, seed: int = 0, strength: float = 1.5) -> pl.DataFrame:
    """A pair of categories and a pair of numbers say more than each alone; `a` also speaks for itself."""
    draw = np.random.default_rng(seed)
    a, b, c = (draw.integers(6, size=rows) for _ in range(3))
    x, z = draw.normal(size=(2, rows))
    logit = strength * (2 * ((a + b) % 2) - 1) + strength * np.sign(x * z) + 0.5 * (a > 2)
    label = (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    texts = {name: [f"{name}{v}" for v in values] for name, values in (("a", a), ("b", b), ("c", c))}
    return pl.DataFrame({**texts, "x": x, "z": z, "label": label})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("planted"), planted(), label=Label(name="label"))


@pytest.fixture(scope="module")
def found(store: Store) -> Found:
    return find_crosses(store, top=4)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("music")
    catalog.get("music", folder / "data", options={"rows": 40_000})
    return prepare(folder / "data" / "schema.toml", folder / "store")


def test_the_planted_pairs_of_the_music_world_are_found(music: Store) -> None:
    found = find_crosses(music, top=10)
    helpful = [candidate.of for candidate in found.candidates if candidate.helps]
    assert set(helpful[:3]) == {
        ("country", "artist_origin"),
        ("tempo.bucket", "hour"),
        ("age.bucket", "genre"),
    }


def test_planted_pairs_are_found_and_nothing_else(found: Found) -> None:
    assert {candidate.of for candidate in found.candidates if candidate.sure} == {("a", "b"), ("x.bucket", "z.bucket")}
    assert [candidate.helps for candidate in found.candidates] == [True, True, False, False]
    numbers = next(candidate for candidate in found.candidates if candidate.of[0] == "x.bucket")
    assert numbers.buckets == {"x": 8, "z": 8}
    assert numbers.combinations == 64
    assert numbers.name == "x x z"
    assert found.metric == "logloss"
    assert (found.train_rows, found.valid_rows) == (4800, 600)


def test_gains_beyond_the_others_add_up_to_what_all_of_them_gain(store: Store, found: Found) -> None:
    search = module._Search.open(store, 0)
    with module._bars(None) as bars:
        base = search.polished(search.wide_scores(bars))
    loss = search.task.loss(search.y_valid_B, base.valid_B).mean()
    assert found.loss == pytest.approx(loss)
    sure = [candidate for candidate in found.candidates if candidate.sure]
    for candidate in sure:
        base = base.plus(search._fitted(search._crossed(candidate.of), base, search.weight_B))
    after = search.task.loss(search.y_valid_B, base.valid_B).mean()
    assert sum(candidate.beyond.value for candidate in sure) == pytest.approx(loss - after)
    for candidate in found.candidates[len(sure) :]:
        more = base.plus(search._fitted(search._crossed(candidate.of), base, search.weight_B))
        found_after = search.task.loss(search.y_valid_B, more.valid_B).mean()
        assert candidate.beyond.value == pytest.approx(after - found_after)
    assert found.candidates[0].alone == found.candidates[0].beyond


def test_lr_on_a_store_with_the_crosses_gains_what_was_said(tmp_path: Path, store: Store, found: Found) -> None:
    """The judge holds the other weights; here all of them are trained."""
    buckets = {name: count for candidate in found.candidates[:2] for name, count in candidate.buckets.items()}
    features = tuple(replace(f, buckets=buckets[f.name]) if f.name in buckets else f for f in store.schema.features)
    plain = replace(store.schema, features=features)
    crossed = schemas.loads(schemas.dumps(plain) + "\n" + found.toml())
    sets = ("train.learning_rate=0.01", "train.batch_size=256", "train.monitor=logloss", "train.l2=0.001")
    losses = [
        train(
            prepare(schema, tmp_path / f"store{len(schema.features)}", interactions=planted()),
            "lr",
            out=tmp_path / f"run{len(schema.features)}",
            sets=sets,
        ).validation["logloss"]
        for schema in (plain, crossed)
    ]
    said = sum(candidate.beyond.value for candidate in found.candidates if candidate.sure)
    assert losses[0] - losses[1] == pytest.approx(said, rel=0.15)


def test_the_lines_are_a_schemas(store: Store, found: Found) -> None:
    buckets = {name: count for candidate in found.candidates[:2] for name, count in candidate.buckets.items()}
    features = tuple(replace(f, buckets=buckets[f.name]) if f.name in buckets else f for f in store.schema.features)
    text = schemas.dumps(replace(store.schema, features=features, presets={}))
    pasted = schemas.loads(text + "\n" + found.toml())
    made = {f.of: f for f in pasted.features if isinstance(f, Cross)}
    assert set(made) == {candidate.of for candidate in found.candidates if candidate.helps}
    assert {f.min_count for f in made.values()} == {module.MIN_COUNT}
    assert "# x: buckets = 8" in found.toml()


def test_noise_has_no_cross(tmp_path: Path) -> None:
    store = make_store(tmp_path, planted(strength=0.0), label=Label(name="label"))
    found = find_crosses(store, top=3)
    assert [candidate.sure for candidate in found.candidates] == [False, False, False]
    text = io.StringIO()
    found.render(Console(file=text, width=150))
    assert text.getvalue().count("doubtful") == 3
    assert "none helps" in text.getvalue()


def test_validation_rows_choose_nothing(store: Store) -> None:
    """Other labels and other rows for validation: the same candidates in the same order."""
    search = module._Search.open(store, 0)
    turned = dataclasses.replace(search, y_valid_B=1 - search.y_valid_B, valid=search.valid.take(slice(0, 50)))
    with module._bars(None) as bars:
        chosen = []
        for each in (search, turned):
            scores = module._Scores(each.wide_scores(bars).train_B, search.y_valid_B * 0)
            base = each.polished(scores)
            pool = each.candidates(base, bars)
            chosen.append((pool, each.choose(pool, base, 3, bars)))
    assert chosen[0] == chosen[1]
    assert chosen[0][1].sure


def test_two_searches_are_equal(store: Store, found: Found) -> None:
    assert find_crosses(store, top=4) == found


@pytest.mark.parametrize("task", ["regression", "count"])
def test_other_tasks(tmp_path: Path, task: str) -> None:
    draw = np.random.default_rng(1)
    frame = planted(3000)
    odd = frame.select(pl.col("a", "b").str.slice(1).cast(pl.Int64)).sum_horizontal().to_numpy() % 2
    noise = draw.normal(size=3000)
    label = 5.0 + 2 * odd + noise if task == "regression" else draw.poisson(1 + 3 * odd).astype(float)
    store = make_store(tmp_path, frame.with_columns(label=pl.Series(label)), label=Label(name="label", task=task))
    found = find_crosses(store, top=1)
    assert [candidate.of for candidate in found.candidates] == [("a", "b")]
    assert found.candidates[0].helps
    assert found.metric == {"regression": "squared error", "count": "Poisson deviance"}[task]


def test_a_set_is_a_part(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    frame = planted(4000, strength=0.0)
    tags = [sorted(set(draw.integers(5, size=draw.integers(0, 4)).tolist())) for _ in range(4000)]
    a = frame["a"].str.slice(1).cast(pl.Int64).to_list()
    logit = np.array([2.5 * ((0 in t) != (v % 2)) for t, v in zip(tags, a, strict=True)]) - 1.2
    label = (draw.random(4000) < 1 / (1 + np.exp(-logit))).astype(int)
    frame = frame.with_columns(label=pl.Series(label), tags=pl.Series([[f"t{v}" for v in t] for t in tags]))
    found = find_crosses(make_store(tmp_path, frame, label=Label(name="label")), top=1)
    assert [candidate.of for candidate in found.candidates] == [("a", "tags")]
    assert found.candidates[0].helps


@pytest.mark.parametrize(
    "of", [("country", "artist_origin"), ("age.bucket", "genres"), ("age.bucket", "device", "genre")]
)
def test_the_ids_are_those_of_prepare(music: Store, tmp_path: Path, of: tuple[str, ...]) -> None:
    """Up to their names: the same rows share an id, the same ones are unknown or missing."""
    cross = Cross(name="made", of=of, min_count=module.MIN_COUNT)
    data = music.path.parent / "data"
    schema = replace(music.schema, features=(*music.schema.features, cross), tables=None)
    tables = {name: pl.read_parquet(data / f"{name}.parquet") for name in ("interactions", "users", "items")}
    made = prepare(schema, tmp_path / "store", **tables)
    crossed = module._Search.open(music, 0)._crossed(of)
    assert crossed.size == next(f.rows for f in (*made.fields.ids, *made.fields.ragged) if f.name == "made")
    for split, cells in (("train", crossed.train), ("valid", crossed.valid)):
        rows = made.split(split)
        if "made" in rows.ragged:
            ids = rows.ragged["made"].values
        else:
            ids = rows.ids[:, made.fields.column("made")]
            ids = ids[ids != 0]
        pairs = {*zip(ids.tolist(), cells.cell_V.tolist(), strict=True)}
        assert len(pairs) == len({theirs for theirs, _ in pairs}) == len({ours for _, ours in pairs})
        assert all((theirs == 1) == (ours == 1) for theirs, ours in pairs)


def nulls(*, indicator: bool) -> tuple[Schema, pl.DataFrame]:
    """A fifth of `x` is missing, `z` is there in every row."""
    frame = planted(3000)
    lacks = pl.Series(np.random.default_rng(3).random(len(frame)) < 0.2)
    frame = frame.with_columns(x=pl.when(lacks).then(None).otherwise(pl.col("x")))
    features = (
        *(Categorical(name=name, side="context") for name in "abc"),
        Dense(name="x", side="context", missing_indicator=indicator),
        Dense(name="z", side="context"),
    )
    schema = Schema(name="nulls", features=features, roles=Roles(label=(Label(name="label"),)), split=RandomSplit())
    return schema, frame


def test_the_ids_are_those_of_prepare_where_numbers_are_missing(tmp_path: Path) -> None:
    schema, frame = nulls(indicator=True)
    search = module._Search.open(prepare(schema, tmp_path / "plain", interactions=frame), 0)
    assert search.notes == ()
    features = tuple(replace(f, buckets=module.BUCKETS) if isinstance(f, Dense) else f for f in schema.features)
    of = ("x.bucket", "z.bucket")
    made = replace(schema, features=(*features, Cross(name="made", of=of, min_count=module.MIN_COUNT)))
    store = prepare(made, tmp_path / "made", interactions=frame)
    crossed = search._crossed(of)
    for split, cells in (("train", crossed.train), ("valid", crossed.valid)):
        rows = store.split(split)
        ids = rows.ids[:, store.fields.column("made")]
        assert (rows.ids[:, store.fields.column("x.bucket")] == 0).mean() > 0.1
        np.testing.assert_array_equal(np.flatnonzero(ids), cells.row_V)
        pairs = {*zip(ids[ids != 0].tolist(), cells.cell_V.tolist(), strict=True)}
        assert len(pairs) == len({theirs for theirs, _ in pairs}) == len({ours for _, ours in pairs})
        part = search.parts["x.bucket"]
        mine = part.train if split == "train" else part.valid
        np.testing.assert_array_equal(mine, rows.ids[:, store.fields.column("x.bucket")])


def test_numbers_whose_missing_values_cannot_be_told_are_left_out_and_named(tmp_path: Path) -> None:
    schema, frame = nulls(indicator=False)
    store = prepare(schema, tmp_path / "store", interactions=frame)
    search = module._Search.open(store, 0)
    assert set(search.parts) == {"a", "b", "c", "z.bucket"}
    found = find_crosses(store, top=1)
    assert found.notes == search.notes
    (note,) = found.notes
    assert note.startswith("no buckets are proposed for x, whose missing values")
    text = io.StringIO()
    found.render(Console(file=text, width=400))
    assert note in text.getvalue()
    assert json.loads(found.json())["notes"] == [note]
    few = replace(schema, features=tuple(f for f in schema.features if f.name in ("a", "x")))
    with pytest.raises(Unsupported, match="1 of the features can be one; no buckets are proposed for x"):
        find_crosses(prepare(few, tmp_path / "few", interactions=frame))


def weighted(folder: Path) -> Store:
    """`a` with `b` decides the label where rows weigh much; where they weigh little, the other way round."""
    frame = planted(6000, strength=0.0).drop("x", "z")
    draw = np.random.default_rng(4)
    odd = frame.select(pl.col("a", "b").str.slice(1).cast(pl.Int64)).sum_horizontal().to_numpy() % 2
    light = draw.random(6000) < 0.6
    label = (draw.random(6000) < np.where(odd == light, 0.1, 0.9)).astype(int)
    frame = frame.with_columns(label=pl.Series(label), weight=pl.Series(np.where(light, 0.05, 2.0)))
    features = tuple(Categorical(name=name, side="context") for name in "abc")
    roles = Roles(label=(Label(name="label"),), weight="weight")
    return prepare(
        Schema(name="weighted", features=features, roles=roles, split=RandomSplit(valid=0.2)),
        folder / "store",
        interactions=frame,
    )


def test_gains_on_validation_are_those_of_weighted_rows(tmp_path: Path) -> None:
    store = weighted(tmp_path)
    found = find_crosses(store, top=1)
    (only,) = found.candidates
    assert only.of == ("a", "b")
    assert only.helps
    search = module._Search.open(store, 0)
    with module._bars(None) as bars:
        base = search.polished(search.wide_scores(bars))
    after = base.plus(search._fitted(search._crossed(only.of), base, search.weight_B))
    rows = store.split("valid")
    losses = [search.task.loss(rows.label[:, 0], scores.valid_B) for scores in (base, after)]
    weight = rows.weight.astype(float)
    assert found.loss == pytest.approx((weight * losses[0]).sum() / weight.sum())
    assert only.alone.value == pytest.approx((weight * (losses[0] - losses[1])).sum() / weight.sum())
    assert only.alone.low < only.alone.value < only.alone.high
    assert (losses[0] - losses[1]).mean() < 0 < only.alone.low


def test_rows_of_no_weight_choose_nothing(store: Store) -> None:
    """The sure gain of rows that weigh 0 or 1 is that of those that weigh 1: mean less two standard errors."""
    search = module._Search.open(store, 0)
    draw = np.random.default_rng(5)
    count = len(search.train)
    some_B = draw.random(count) < 0.3
    before, after = (module._Scores(draw.normal(size=count), np.zeros(0)) for _ in range(2))
    weighty = dataclasses.replace(search, weight_B=some_B.astype(float))
    gain_B = (search.task.loss(search.y_B, before.train_B) - search.task.loss(search.y_B, after.train_B))[some_B]
    want = gain_B.mean() - 2 * gain_B.std() / np.sqrt(len(gain_B))
    every = np.ones(count, bool)
    assert weighty._sure_gain(before, after, every) == pytest.approx(want)
    assert search._sure_gain(before, after, some_B) == pytest.approx(want)


def test_weights_of_a_cross_are_the_most_likely_ones(music: Store) -> None:
    """The gradient of the loss with its ridge is nought, for one value a row and for sets; a set's row is a mean."""
    search = module._Search.open(music, 0)
    base = module._Scores(np.full(len(search.train), -0.3), np.full(len(search.valid), -0.3))
    for of in (("country", "artist_origin"), ("age.bucket", "genres")):
        crossed = search._crossed(of)
        added = search._fitted(crossed, base, search.weight_B)
        weight_C, *_ = np.linalg.lstsq(_matrix(crossed.train, crossed.size), added.train_B)
        p = 1 / (1 + np.exp(-(base.train_B + added.train_B)))
        ridge = module.SMOOTHING * (p * (1 - p)).mean()
        gradient = _matrix(crossed.train, crossed.size).T @ (p - search.y_B) + ridge * weight_C
        assert np.abs(gradient).max() < 0.02 * np.abs(crossed.train.spread(search.y_B - 0.4, crossed.size)).max()
        np.testing.assert_allclose(added.valid_B, _matrix(crossed.valid, crossed.size) @ weight_C, atol=1e-6)


def _matrix(cells: module._Cells, size: int) -> np.ndarray:
    matrix = np.zeros((cells.rows, size))
    for cell, row, share in zip(cells.cell_V, cells.row_V, cells.share_V, strict=True):
        matrix[row, cell] += share
    return matrix


def test_a_missing_value_has_no_weight_and_a_set_the_mean() -> None:
    part = module.Part(np.array([5, 6, 7], np.uint64), np.array([0, 2, 2, 3]), np.array([1.0, 3.0, 2.0], np.float32))
    cells = module._Cells.of(part, np.array([2, 3, 0]))
    np.testing.assert_allclose(cells.read(np.array([9.0, 9.0, 1.0, 2.0])), [0.25 + 1.5, 0.0, 0.0])
    np.testing.assert_allclose(cells.spread(np.array([4.0, 5.0, 6.0]), 4), [0.0, 0.0, 1.0, 3.0])
    one = module._Cells.of(module.Part(np.array([5, 0], np.uint64)), np.array([2, 0]))
    np.testing.assert_allclose(one.read(np.array([9.0, 9.0, 1.0])), [1.0, 0.0])


def test_gains_of_paths_written_out() -> None:
    leaf = {"leaf_value": 1.0}
    third = {"split_feature": 2, "split_gain": 5.0, "left_child": leaf, "right_child": leaf}
    again = {"split_feature": 0, "split_gain": 3.0, "left_child": leaf, "right_child": third}
    second = {"split_feature": 1, "split_gain": 7.0, "left_child": again, "right_child": leaf}
    tree = {"split_feature": 0, "split_gain": 100.0, "left_child": second, "right_child": third}
    want = [((0, 1), 7.0), ((0, 1), 3.0), ((0, 2), 5.0), ((1, 2), 5.0), ((0, 1, 2), 5.0), ((0, 2), 5.0)]
    assert list(path_gains(tree)) == want


def test_a_part_that_decides_another_is_crossed_with_others_only(music: Store) -> None:
    search = module._Search.open(music, 0)
    assert search.decided["artist"] == ["artist_origin"]
    assert {"artist", "artist_origin", "genre", "year.bucket", "tempo.bucket"} <= set(search.decided["track_id"])
    assert {"age.bucket", "country", "device", "gender"} <= set(search.decided["user_id"])
    assert search.decided["hour"] == search.decided["genres"] == []
    assert not search._is_new(("track_id", "artist"))
    assert not search._is_new(("country", "track_id", "artist"))
    assert search._is_new(("country", "artist_origin"))


def test_trees_prefer_the_finer_part_so_the_coarser_one_is_a_candidate_too(music: Store) -> None:
    search = module._Search.open(music, 0)
    assert search._with_coarser([("country", "artist"), ("genre", "hour")]) == [
        ("country", "artist"),
        ("genre", "hour"),
        ("country", "artist_origin"),
    ]
    more = search._with_coarser([("user_id", "artist"), ("genre", "hour"), ("device", "hour")])
    assert len(more) == 9
    assert ("user_id", "artist_origin") in more


def test_a_cross_that_the_schema_has_is_not_proposed(tmp_path: Path) -> None:
    frame = planted(3000).drop("x", "z")
    plain = make_store(tmp_path / "plain", frame, label=Label(name="label"))
    cross = Cross(name="mine", of=("b", "a"))
    schema = replace(plain.schema, features=(*plain.schema.features, cross))
    store = prepare(schema, tmp_path / "store", interactions=frame)
    assert "mine" not in module._Search.open(store, 0).parts
    assert ("a", "b") not in [candidate.of for candidate in find_crosses(store).candidates]


def test_only_a_sample_of_many_rows_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 100)
    first, second = (module._Search.open(store, seed).train for seed in (0, 1))
    assert len(first) == 100
    assert not np.array_equal(first.ids, second.ids)


def test_what_cannot_be_searched_is_a_sentence(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="`top` must be 1 or more, got 0"):
        find_crosses(store, top=0)
    frame = planted(300)
    classes = frame.with_columns(label=pl.Series(np.arange(300) % 3))
    three = make_store(tmp_path / "classes", classes, label=Label(name="label", task="multiclass", classes=3))
    with pytest.raises(Unsupported, match="the first label is multiclass"):
        find_crosses(three)
    alone = make_store(tmp_path / "alone", frame.select("a", "label"), label=Label(name="label"))
    with pytest.raises(Unsupported, match="a cross needs two parts, and 1 of the features"):
        find_crosses(alone)
    none = make_store(tmp_path / "none", frame, label=Label(name="label"), valid=0.0)
    with pytest.raises(Unsupported, match="train and validation rows"):
        find_crosses(none)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match=r"LightGBM, which is not installed; pip install 'weft\[tune\]'"):
        find_crosses(store)


def test_the_command_prints_a_table_and_lines_or_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["crosses", str(store.path), "--top", "1"]) == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert "[[features]]" in said
    assert cli.run(["crosses", str(store.path), "--top", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (only,) = answer["candidates"]
    assert only["helps"] is True
    assert set(only["beyond"]) == {"value", "low", "high"}
    assert answer["toml"].startswith(("[[features]]", "# "))


def test_only_those_that_help_are_lines() -> None:
    doubt = Gain(value=0.01, low=-0.001, high=0.02)
    good = Candidate(of=('say "x"', "b"), combinations=4, buckets={}, alone=doubt, beyond=GAIN, sure=True)
    bad = Candidate(of=("c", "d"), combinations=4, buckets={}, alone=GAIN, beyond=doubt, sure=True)
    lucky = Candidate(of=("e", "f"), combinations=4, buckets={}, alone=GAIN, beyond=GAIN, sure=False)
    found = Found(data="d", metric="logloss", loss=0.5, train_rows=9, valid_rows=9, candidates=(good, bad, lucky))
    assert found.toml().count("[[features]]") == 1
    assert 'of = ["say \\"x\\"", "b"]' in found.toml()


def test_ragged_parts_are_hashed_by_id() -> None:
    part = module._PartIds(RaggedArrays(np.array([2, 0], np.int32), np.array([0, 1, 2])), np.zeros(0), 4)
    hashed = part.hashed(part.train)
    assert hashed.hashes[1] == 0
    assert hashed.hashes[0] != 0
