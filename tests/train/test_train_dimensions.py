"""Field widths by FDO: the widths of scikit-learn's PCA, the edges, and the road from a run to a smaller one."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from sklearn.decomposition import PCA

import weft
from camps_for_tests import interactions, songs
from weft import cli
from weft.batch import FIRST_ID
from weft.data.store import Store
from weft.errors import ConfigError, Unsupported
from weft.models import config as options_of
from weft.models import create, embeddings
from weft.models._dimensions import cumulative_variance, smallest_width, tables_of
from weft.runs import SavedRun
from weft.testing import tiny
from weft.train.dimensions import dimensions

SETS = ("train.epochs=1", "hidden=[8]", "embedding_dim=6")


def table(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows far from zero whose columns vary by different amounts."""
    rng = np.random.default_rng(seed)
    spread = 3.0 ** -np.arange(width)
    return torch.from_numpy(5 + rng.normal(size=(rows, width)) * spread @ rng.normal(size=(width, width)))


@pytest.mark.parametrize("keep", [0.5, 0.8, 0.9, 0.95, 0.99, 0.9999])
@pytest.mark.parametrize(("rows", "width"), [(40, 6), (4, 6), (300, 1), (2, 3)])
def test_the_width_is_that_of_scikit_learn(rows: int, width: int, keep: float) -> None:
    vectors = table(rows, width)
    pca = PCA(n_components=keep, svd_solver="full").fit(vectors.numpy())
    cumulative = cumulative_variance(vectors)
    assert smallest_width(cumulative, keep) == pca.n_components_
    whole = PCA(svd_solver="full").fit(vectors.numpy()).explained_variance_ratio_.cumsum()
    np.testing.assert_allclose(cumulative, whole, rtol=1e-9)


def test_the_columns_are_centred() -> None:
    vectors = table(40, 6)
    torch.testing.assert_close(cumulative_variance(vectors + 1_000), cumulative_variance(vectors))
    off = vectors - vectors.mean(0) + torch.tensor([100.0, 0, 0, 0, 0, 0])
    uncentred = torch.linalg.svdvals(off).square().cumsum(0)
    assert abs(cumulative_variance(off)[0] - uncentred[0] / uncentred[-1]) > 0.01


def test_trap_6_a_field_of_three_values_keeps_at_most_three() -> None:
    for rows in (1, 2, 3):
        vectors = torch.eye(3, 16, dtype=torch.float64)[:rows]
        assert 1 <= smallest_width(cumulative_variance(vectors), 1.0) <= rows


def test_at_least_one_and_at_most_the_width() -> None:
    alike = torch.ones(9, 4)
    assert smallest_width(cumulative_variance(alike), 1.0) == 1
    assert smallest_width(cumulative_variance(torch.empty(0, 4)), 0.95) == 1
    assert smallest_width(cumulative_variance(table(50, 4)), 1.0) == 4


def test_a_share_that_is_met_exactly_is_enough() -> None:
    vectors = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert smallest_width(cumulative_variance(vectors), 0.9) == 1
    assert smallest_width(cumulative_variance(vectors), 0.9 + 1e-6) == 2


def test_padding_unknown_and_first_order_weights_are_left_out() -> None:
    fields, _ = tiny()
    model = create("deepfm", fields, {"embedding_dim": 1, "hidden": [4]}, seed=0)
    found = tables_of(model, options_of("deepfm", {"embedding_dim": 1}))
    assert {name: [len(part) for part in parts] for name, parts in found.items()} == {
        name: [rows - FIRST_ID] for name, rows in fields.tables().items()
    }


@pytest.mark.parametrize("kind", ["pal", "watch_next"])
def test_what_stands_around_a_model_has_no_part_in_its_widths(kind: str) -> None:
    fields, _ = tiny()
    plain = {"embedding_dim": 4, "hidden": [4]}
    wrapped = {**plain, "position": {"kind": kind}}
    inside = tables_of(create("dcn_v2", fields, plain, seed=0), options_of("dcn_v2", plain))
    around = tables_of(create("dcn_v2", fields, wrapped, seed=0), options_of("dcn_v2", wrapped))
    assert {name: len(parts) for name, parts in around.items()} == dict.fromkeys(inside, 1)
    for name, (table,) in around.items():
        assert table.shape == inside[name][0].shape


@pytest.fixture(scope="module")
def run(camps: Store, tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    out = tmp_path_factory.mktemp("dimensions") / "run"
    return weft.train(camps, "dcn_v2", out=out, sets=(*SETS, "train.learning_rate=0.02", "train.epochs=6"), seed=1)


def test_the_widths_of_a_run_are_those_of_its_weights(run: SavedRun) -> None:
    found = dimensions(run, keep=0.9)
    (layer,) = embeddings(run.load_model())
    for one in found.tables:
        vectors = layer.table(one.name)[FIRST_ID:].double().numpy()
        assert one.after == PCA(n_components=0.9, svd_solver="full").fit(vectors).n_components_
        assert (one.rows, one.before) == layer.table(one.name).shape
    assert list(found.widths) == list(run.fields.tables())
    assert dimensions(run, keep=0.99).parameters_after >= found.parameters_after


def test_from_a_run_to_a_smaller_one(run: SavedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dims.toml"
    assert cli.run(["dimensions", str(run.path), "--keep", "0.8", "--out", str(file)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "widths that keep 0.8 of the variance" in text
    assert f"next: weft train STORE --model dcn_v2 --config {file}" in text
    said = tomllib.loads(file.read_text())
    assert list(said) == ["widths"]

    assert cli.run(["dimensions", str(run.path), "--keep", "0.8", "--out", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "dcn_v2"
    assert {one["name"]: one["after"] for one in found["tables"]} == said["widths"]

    for model in ("dcn_v2", "deepfm"):
        out = tmp_path / model
        again = weft.train(run.config.store, model, out=out, config=file, sets=SETS, seed=1)
        assert again.config.options["widths"] == said["widths"]
    smaller = SavedRun.open(tmp_path / "dcn_v2").report.parameters
    assert smaller == found["parameters_after"] < found["parameters"] == run.report.parameters
    assert weft.evaluate(tmp_path / "dcn_v2").metrics["auc"].value is not None


def test_an_older_file_is_replaced(run: SavedRun, tmp_path: Path) -> None:
    file = tmp_path / "dims.toml"
    for keep in (0.99, 0.5):
        dimensions(run, keep=keep).save(file)
    assert tomllib.loads(file.read_text())["widths"] == dimensions(run, keep=0.5).widths
    assert [path.name for path in tmp_path.iterdir()] == ["dims.toml"]


@pytest.mark.parametrize("model", ["lr", "mf", "popularity"])
def test_models_without_widths_are_refused(camp_runs: dict[str, SavedRun], model: str) -> None:
    with pytest.raises(Unsupported, match=f"model '{model}' has no option `widths`.* train a model that embeds"):
        dimensions(camp_runs[model])


def test_a_run_without_tables_is_refused(camps: Store, tmp_path: Path) -> None:
    schema = replace(camps.schema, features=(camps.schema.feature("year"),))
    store = weft.prepare(schema, tmp_path / "store", interactions=interactions(), items=songs())
    run = weft.train(store, "dcn_v2", out=tmp_path / "run", sets=SETS)
    with pytest.raises(Unsupported, match="has no table of categories"):
        dimensions(run)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match=f"above 0 and at most 1, got {keep:g}"):
        dimensions("nowhere", keep=keep)
