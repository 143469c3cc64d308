"""The claims of recipes/position.py at a size that tests can pay for."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "position.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("position_recipe", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_pal_finds_the_curve_and_the_order_where_the_policy_does_not_know_relevance(
    recipe: ModuleType, tmp_path: Path
) -> None:
    kinds = {kind: recipe.KINDS[kind] for kind in ("plain", "pal")}
    found = recipe.on_music(tmp_path, 0.0, rows=40_000, kinds=kinds)
    plain, pal = found["kinds"]["plain"], found["kinds"]["pal"]
    assert pal["gain"]["low"] > 0.004
    np.testing.assert_allclose(pal["curve"], found["planted"], atol=0.13)
    assert abs(pal["mean"] - found["relevance"]) < 0.15, "P(play | seen)"
    assert plain["mean"] < 0.25, "P(play), which is mostly not seen"


def test_where_relevance_confounds_position_the_randomised_rows_are_the_cure(
    recipe: ModuleType, tmp_path: Path
) -> None:
    kinds = {kind: recipe.KINDS[kind] for kind in ("plain", "pal", "pal, curve of the randomised rows")}
    found = recipe.on_music(tmp_path, -0.8, rows=40_000, kinds=kinds)
    _, pal, cured = found["kinds"].values()
    assert pal["curve"][-1] > 3 * found["planted"][-1], "good tracks stand low, so low places seem to be looked at"
    assert all(
        interval["low"] - 0.02 <= planted <= interval["high"] + 0.02
        for interval, planted in zip(found["randomised"][1:], found["planted"][1:], strict=True)
    )
    assert cured["gain"]["low"] > pal["gain"]["value"], "both gains are paired with the plain ranker's order"
    assert cured["gain"]["low"] > 0.004


def test_the_tables_are_made_of_what_was_found(recipe: ModuleType) -> None:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 3}
    music = {
        "correlation": -0.4,
        "rows": 1_000,
        "requests": 10,
        "relevance": 0.5,
        "planted": [0.1 * i for i in range(10)],
        "kinds": {
            "plain": {"ndcg": interval, "gain": interval, "mean": 0.1, "curve": []},
            "pal": {"ndcg": interval, "gain": interval, "mean": 0.2, "curve": [1.0] * 10},
        },
    }
    policy = {"ips": interval, "clipped": interval, "snips": interval, "rows": 10.0}
    bandit = {
        "policies": {"uniform, its own log": policy | {"clicks": 2}, "best": policy | {"clicks": 0}},
        "curve": [interval] * 3,
        "learned": [1.0, 0.9, 0.8],
        "arms": 34,
        "rows": 5_000,
        "train_clicks": 17,
    }
    lines = recipe.page({"music": [music], "bandit": bandit})
    assert (
        "| -0.4 | pal | 0.5000 [0.4000, 0.6000] | +0.5000 [+0.4000, +0.6000] | 0.200 | 1.000 | 1.000 | 1.000 |" in lines
    )
    assert any(line.startswith("| best | 0 clicks, so below 30.0%") for line in lines)
    widths = {line.count("|") for line in lines[2:7]}
    assert len(widths) == 1
