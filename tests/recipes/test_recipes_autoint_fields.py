"""recipes/autoint_fields.py: its road on a small folder in the form of MovieLens-1M, and its arithmetic."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from weft.runs import SavedRun

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "autoint_fields.py"
USERS, MOVIES = 40, 30


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("autoint_fields_recipe", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_ml_1m(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    movies = (f"{k}::Movie {k} ({1930 + k * 2})::Comedy{'|Drama' * (k % 2)}" for k in range(1, MOVIES + 1))
    users = (f"{k}::{'FM'[k % 2]}::{18 + k % 7}::{k % 21}::{k % 9}" for k in range(1, USERS + 1))
    rows = [(user, movie) for user in range(1, USERS + 1) for movie in rng.permutation(MOVIES)[:15] + 1]
    ratings = (f"{u}::{m}::{1 + 4 * ((u + m) % 2)}::{978300000 + 97 * (u + m)}" for u, m in rows)
    for name, lines in (("movies", movies), ("users", users), ("ratings", ratings)):
        (folder / f"{name}.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")


def test_the_road(recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ml_1m(tmp_path / "raw" / "ml-1m")
    monkeypatch.setenv("WEFT_DATA", str(tmp_path / "raw"))
    sets = ("embedding_dim=4", "attention_dim=4", "num_layers=2", "train.epochs=1", "train.batch_size=128")
    forms = {"paper": ((0, 1), sets), "code": ((0,), (*sets, *recipe.CODE))}
    study = recipe.study(tmp_path / "work", forms=forms)
    assert list(study) == ["paper", "code"]
    assert SavedRun.open(tmp_path / "work" / "code" / "seed-0" / "run").config.options["layer_norm"]
    found = study["paper"]
    assert set(found["fields"]) == {"gender", "age", "occupation", "zip", "release", "genres", "request_time"}
    for name in ("all layers", "first layer"):
        assert len(found[name]) == 7 * 6 // 2
        means = [np.mean(one["attention"]) for one in found[name]]
        assert means == sorted(means, reverse=True)
        assert 0 < min(means) <= max(means) < 1
    text = "\n".join(recipe.page(study))
    assert "2999, 2 seeds: test AUC 0." in text
    assert "layer norm) on MovieLens-1M without ids, users 1 to 2999, 1 seed: test AUC 0." in text
    assert "Published pairs among 21, first layer: gender × genres is " in text

    monkeypatch.delenv("WEFT_DATA")
    assert recipe.study(tmp_path / "work", forms=forms) == study


def test_attention_is_the_mean_of_maps_and_directions(recipe: ModuleType) -> None:
    def drawn(title: str, values: list[list[float]], rows: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
        return {"title": title, "rows": rows, "values": values}

    maps = [
        drawn("attention of layer 1, head 1", [[0.9, 0.1], [0.3, 0.7]]),
        drawn("attention of layer 1, head 2", [[0.5, 0.5], [0.7, 0.3]], ("b", "a")),
        drawn("attention of layer 2, head 1", [[0.0, 1.0], [1.0, 0.0]]),
    ]
    attention = recipe._attention({"maps": maps}, ("a", "b"), "attention of layer 1,")
    assert attention == pytest.approx((0.1 + 0.3 + 0.5 + 0.7) / 4)


def test_ranks_are_counted_in_each_seed(recipe: ModuleType) -> None:
    pairs = [{"pair": ["a", "b"], "attention": [0.3, 0.2]}, {"pair": ["a", "c"], "attention": [0.1, 0.25]}]
    assert recipe._ranks(pairs) == {("a", "b"): [1, 2], ("a", "c"): [2, 1]}


def test_published_pairs_are_bold_wherever_they_stand(recipe: ModuleType) -> None:
    pairs = [
        {"pair": ["age", "zip"], "attention": [0.4, 0.2]},
        *({"pair": list(pair), "attention": [0.1, 0.1]} for pair in recipe.PUBLISHED),
    ]
    worth = {"age": [0.02, 0.04], "user_id": [0.0, 0.0]}
    fields = ["age", "gender", "genres", "zip"]
    found = {"rows": 5, "auc": [0.8, 0.8], "fields": fields, "all layers": pairs, "first layer": pairs}
    lines = recipe.page({"paper": {**found, "importance": worth}})
    assert "| age × zip | 0.3000 ± 0.1414 | 1, 1 |" in lines
    assert "| **age × genres** | 0.1000 ± 0.0000 | 3, 3 |" in lines
    assert lines[-1] == "What shuffling a field costs in AUC: age 0.0300 ± 0.0141."
    assert any("age × genres is 3. (attention 0.1000 ± 0.0000)" in line for line in lines)
