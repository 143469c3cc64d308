"""Bundles: one folder with all that serving needs; what is mixed or damaged is refused by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from music_for_recommend import Music

import weft
from weft import artifacts
from weft.data import catalog
from weft.errors import ArtifactError, ConfigError, StaleModel, Unsupported
from weft.metrics import expected_calibration_error
from weft.recommend.bundle import Bundle, bundle
from weft.recommend.index import HNSW
from weft.recommend.pipeline import Cap, Explore, Mmr, Only, Pipeline, Rank, Seen, Source, dumps
from weft.recommend.recommender import Recommender
from weft.runs import SavedRun


@pytest.fixture(scope="module")
def made(music: Music, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    runs = [music.runs[name] for name in ("mf", "popularity", "lr", "dcn_v2")]
    return bundle(runs, tmp_path_factory.mktemp("bundles") / "made", calibrate="isotonic")


def copied(made: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "copy"))


def test_what_lies_in_a_bundle(made: Bundle, music: Music) -> None:
    assert made.manifest["kind"] == "bundle"
    assert made.manifest["store"]["id"] == music.store.id
    assert {name: run["id"] for name, run in made.manifest["runs"].items()} == {
        name: SavedRun.open(music.runs[name]).id for name in ("mf", "popularity", "lr", "dcn_v2")
    }
    assert made.manifest["indexes"]["mf"]["recall"] == 1.0
    files = set(made.manifest["files"])
    assert {"pipeline.toml", "calibrator.json", "catalogue/item_positives.npy", "transforms/transforms.json"} <= files
    for name in ("mf", "lr", "dcn_v2"):
        for file in ("run.toml", "weights.safetensors", "optimizer.safetensors", "state.json", "report.json"):
            assert f"runs/{name}/{file}" in files
        assert made.runs[name] == SavedRun.open(music.runs[name]).config
    assert "runs/mf/index/vectors.npy" in files
    for name, facts in made.manifest["files"].items():
        assert artifacts.sha256(made.path / name) == facts["sha256"]


def test_without_a_pipeline_retrievers_and_sources_propose_and_rankers_rank(made: Bundle, music: Music) -> None:
    assert made.pipeline == Pipeline(
        sources=(Source(run="mf"), Source(run="popularity")), ranking=(Rank(run="lr"), Rank(run="dcn_v2"))
    )
    assert made.summary().startswith("mf (exact index, recall 1.000), popularity (its own lists) -> lr, dcn_v2 -> ")


def test_rankers_alone_propose_exactly_and_give_the_runs_own_list(music: Music, tmp_path: Path) -> None:
    made = bundle([music.runs["lr"]], tmp_path / "bundle")
    assert made.pipeline == Pipeline(sources=(Source(run="lr"),))
    served, run = Recommender.of(made), Recommender.load(music.runs["lr"])
    for user in (run.most_active_user(), *music.plays["user_id"].unique().to_list()[:3]):
        assert served.recommend(user).items == run.recommend(user).items
    both = bundle([music.runs["lr"], music.runs["dcn_v2"]], tmp_path / "both")
    assert both.pipeline == Pipeline(sources=(Source(run="lr"),), ranking=(Rank(run="dcn_v2"),))


def test_a_bundle_of_all_stages_finds_what_the_last_ranker_puts_first(made: Bundle, music: Music) -> None:
    """All 300 tracks pass the sources (quota 500), so that the list is the exact one of dcn_v2."""
    served, run = Recommender.of(made), Recommender.load(music.runs["dcn_v2"])
    user = run.most_active_user()
    assert [item.id for item in served.recommend(user).items] == [item.id for item in run.recommend(user).items]


def test_the_training_state_can_be_left_out(music: Music, tmp_path: Path) -> None:
    made = bundle([music.runs["mf"]], tmp_path / "small", train_state=False)
    files = set(made.manifest["files"])
    assert "runs/mf/weights.safetensors" in files
    assert not {"runs/mf/optimizer.safetensors", "runs/mf/state.json"} & files


def test_the_source_runs_can_be_continued_from_the_bundle(made: Bundle, music: Music) -> None:
    """Weights and optimizer state are those of the run, byte for byte."""
    for name in ("mf", "dcn_v2"):
        for file in ("weights.safetensors", "optimizer.safetensors", "state.json", "run.toml"):
            assert (made.path / "runs" / name / file).read_bytes() == (music.runs[name] / file).read_bytes()


@pytest.mark.parametrize(
    "name", ["runs/lr/weights.safetensors", "pipeline.toml", "runs/mf/index/vectors.npy", "catalogue/items/ids.npy"]
)
def test_a_damaged_file_is_refused_by_name(made: Bundle, tmp_path: Path, name: str) -> None:
    folder = copied(made, tmp_path)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=name):
        Recommender.load(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}' is missing"):
        Recommender.load(folder)


def test_files_of_another_bundle_are_refused_by_name(made: Bundle, music: Music, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    other = bundle([music.runs["mf"]], tmp_path / "other")
    shutil.copy(other.path / "pipeline.toml", folder / "pipeline.toml")
    with pytest.raises(ArtifactError, match=r"pipeline\.toml' differs"):
        Bundle.load(folder)
    shutil.copy(made.path / "pipeline.toml", folder / "pipeline.toml")
    (folder / "runs" / "lr" / "parts-of-another.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"parts-of-another.* is not one of this bundle"):
        Bundle.load(folder)


def test_runs_of_different_stores_are_not_mixed(music: Music, tmp_path: Path) -> None:
    data = catalog.get("music", tmp_path / "data", options={"rows": 1_000, "seed": 1})
    store = weft.prepare(data / "schema.toml", tmp_path / "store")
    run = weft.train(store, "popularity", out=tmp_path / "popularity")
    with pytest.raises(StaleModel, match=r"mf.*popularity.*trained on different stores"):
        bundle([music.runs["mf"], run.path], tmp_path / "bundle")
    with pytest.raises(StaleModel, match="another store than"):
        bundle([music.runs["mf"]], tmp_path / "bundle", store=store.path)
    assert not (tmp_path / "bundle").exists()


MF = (Source(run="mf"),)


@pytest.mark.parametrize(
    ("names", "pipeline", "words"),
    [
        (
            ("mf",),
            Pipeline(sources=(Source(run="mff"),)),
            r"`sources\[0\].run`: no run is named 'mff'; did you mean mf",
        ),
        (("mf", "lr"), Pipeline(sources=MF), "does not use the run 'lr'"),
        (("mf",), Pipeline(sources=MF, ranking=(Rank(run="lr"),)), r"`ranking\[0\].run`: no run is named 'lr'"),
        (
            ("mf",),
            Pipeline(sources=MF, final=(Cap(feature="artst", most=1),)),
            r"`final\[0\].feature`.*'artst'; .*artist",
        ),
        (
            ("mf",),
            Pipeline(sources=MF, final=(Cap(feature="country", most=1),)),
            "no item feature of values.*'country'",
        ),
        (
            ("mf",),
            Pipeline(sources=MF, final=(Mmr(by="atist"),)),
            r"`final\[0\].by`: no run and no item feature.*artist",
        ),
        (
            ("mf", "lr"),
            Pipeline(sources=MF, ranking=(Rank(run="lr"),), final=(Mmr(by="lr"),)),
            "'lr' has no item vectors",
        ),
        (("mf",), Pipeline(sources=MF, filters=(Only(feature="genre", values=("jaz",)),)), "no value 'jaz'.*jazz"),
        (("mf",), Pipeline(sources=(Source(run="mf", index=HNSW(floor=1.0)),)), "`sources.0..index`"),
    ],
)
def test_pipelines_and_runs_that_do_not_fit(
    music: Music, tmp_path: Path, names: tuple[str, ...], pipeline: Pipeline, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        bundle([music.runs[name] for name in names], tmp_path / "bundle", pipeline=pipeline)
    assert not (tmp_path / "bundle").exists()


def test_a_run_goes_by_its_models_name_where_that_says_which(music: Music, tmp_path: Path) -> None:
    runs = [shutil.copytree(music.runs["mf"], tmp_path / name) for name in ("night", "day")]
    by_model = Pipeline(sources=(Source(run="mf"),), final=(Mmr(by="mf"),))
    made = bundle(runs[:1], tmp_path / "one", pipeline=by_model)
    assert made.pipeline == Pipeline(sources=(Source(run="night"),), final=(Mmr(by="night"),))
    with pytest.raises(ConfigError, match="night, day are all of the model 'mf'; name one"):
        bundle(runs, tmp_path / "two", pipeline=by_model)
    with pytest.raises(ConfigError, match="two runs are named 'mf'"):
        bundle([music.runs["mf"], shutil.copytree(music.runs["mf"], tmp_path / "deep" / "mf")], tmp_path / "two")
    with pytest.raises(ConfigError, match="`runs` is empty"):
        bundle([], tmp_path / "none")


def test_scores_of_a_calibrated_bundle_are_probabilities(made: Bundle, music: Music, tmp_path: Path) -> None:
    """On the test rows, which neither training nor the calibrator has seen, against a model made overconfident."""
    assert made.calibrator is not None
    rows = music.store.split("test")
    assert rows.label is not None
    scores = 4 * made.members["dcn_v2"].scorer.rows(rows)
    before = expected_calibration_error(rows.label[:, 0], 1 / (1 + np.exp(-scores)))
    after = expected_calibration_error(rows.label[:, 0], made.calibrator.apply(scores / 4))
    assert after < 0.06 < before
    served = Recommender.of(made)
    answer = served.recommend(served.most_active_user(), k=50)
    raw = Recommender.load(music.runs["dcn_v2"]).recommend(served.most_active_user(), k=50)
    assert answer.calibrated
    assert [item.id for item in answer.items] == [item.id for item in raw.items]
    np.testing.assert_allclose(
        [item.score for item in answer.items],
        made.calibrator.apply(np.array([item.score for item in raw.items])),
        rtol=1e-4,
    )


def test_calibrating_needs_one_binary_score(music: Music, tmp_path: Path) -> None:
    runs = [music.runs["mf"], music.runs["popularity"]]
    with pytest.raises(ConfigError, match=r"several sources without a ranker.*add \[\[ranking\]\]"):
        bundle(runs, tmp_path / "bundle", calibrate="platt")
    made = bundle(runs[:1], tmp_path / "alone", calibrate="platt")
    assert Recommender.of(made).recommend("nobody").calibrated is False


def test_a_pipeline_file_is_the_same_as_its_value(music: Music, tmp_path: Path) -> None:
    value = Pipeline(
        sources=(Source(run="mf", quota=50),),
        filters=(Seen(seen="hide"),),
        final=(Cap(feature="artist", most=1), Explore(share=0.5, pool=10)),
    )
    (tmp_path / "p.toml").write_text(dumps(value), encoding="utf-8")
    by_file = bundle([music.runs["mf"]], tmp_path / "file", pipeline=tmp_path / "p.toml")
    by_value = bundle([music.runs["mf"]], tmp_path / "value", pipeline=value)
    assert by_file.pipeline == by_value.pipeline == value
    assert by_file.id == by_value.id


def test_loading_a_bundle_loads_neither_tables_nor_training(made: Bundle) -> None:
    code = (
        "import sys\n"
        "from weft.recommend.recommender import Recommender\n"
        f"recommender = Recommender.load({str(made.path)!r})\n"
        "assert recommender.recommend(recommender.most_active_user(), trace=True).trace\n"
        "rooms = ('polars', 'pandas', 'pyarrow', 'weft.data', 'weft.train', 'weft.losses', 'weft.metrics')\n"
        "found = [name for name in rooms if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_folder_that_is_in_the_way(made: Bundle, music: Music) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        bundle([music.runs["mf"]], made.path)
    assert json.loads((made.path / "manifest.json").read_bytes())["id"] == made.id


def test_a_run_without_users_or_items_is_no_part_of_a_bundle(tmp_path: Path) -> None:
    table = pl.DataFrame({"x": [0, 1] * 20, "y": [0, 1] * 20})
    schema = weft.Schema(
        features=(weft.Categorical(name="x", side="user"),), roles=weft.Roles(label=(weft.Label(name="y"),))
    )
    store = weft.prepare(schema, tmp_path / "store", interactions=table)
    run = weft.train(store, "lr", out=tmp_path / "lr", sets=["train.epochs=1"])
    with pytest.raises(Unsupported, match="recommending needs `user` and `item`"):
        bundle([run.path], tmp_path / "bundle")


FEW = ("train.epochs=1", "train.batch_size=256")


@pytest.mark.parametrize(
    ("model", "sets"),
    [
        ("lightgcn", ("embedding_dim=4",)),
        ("graphsage", ("embedding_dim=4",)),
        ("split", ("embedding_dim=4", "hidden=[8]")),
        ("lr", ("position.kind=pal",)),
        ("mlp", ("embedding_dim=4", "hidden=[8]", "pooling=target")),
    ],
)
def test_bundles_of_graphs_of_parts_and_of_wrapped_models_answer_as_their_runs(
    music: Music, tmp_path: Path, model: str, sets: tuple[str, ...]
) -> None:
    run = weft.train(music.store, model, out=tmp_path / model, sets=[*FEW, *sets], precision="fp32")
    made = bundle([run.path], tmp_path / "bundle")
    served, alone = Recommender.of(made), Recommender.load(run.path)
    user = served.most_active_user()
    met = {alone.items.name_of(int(item)) for item in np.flatnonzero(music.store.catalogue.counts)}
    for options in ({"seen": "hide"}, {"allow": [*met]}):
        found, wanted = (each.recommend(user, k=300, **options).items for each in (served, alone))
        scores = {item.id: item.score for item in wanted}
        assert {item.id for item in found} <= scores.keys()
        assert {item.id for item in found} >= scores.keys() & met
        np.testing.assert_allclose([i.score for i in found], [scores[i.id] for i in found], rtol=1e-4, atol=1e-5)
    assert not [name for name in made.manifest["files"] if "edges" in name]
    if model == "graphsage":
        person = {"user_id": "just here", "age": 30, "country": "Japan", "gender": "other", "device": "phone"}
        assert served.with_users([person]).recommend("just here").items
