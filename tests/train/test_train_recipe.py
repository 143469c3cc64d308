"""How settings lie over each other, and what is said of wrong ones."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from weft.errors import ConfigError
from weft.models import _registry as registry
from weft.train.recipe import Recipe, parse, recipe_from, resolve

DATA: dict[str, dict[str, Any]] = {
    "bars": {"embedding_dim": 10, "dropout": 0.4, "train": {"l2": 0.05}},
    "quick": {"train": {"epochs": 1}},
}


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("dropout = 0.3\nhidden = [32]\n[train]\nl2 = 0.02\nepochs = 7\n")
    options, recipe = resolve("dcn_v2", presets=DATA, preset="bars", config=file, sets=["train.epochs=3", "hidden=[8]"])
    assert (options["embedding_dim"], options["dropout"], list(options["hidden"])) == (10, 0.3, [8])
    assert (options["embedding_std"], options["batch_norm"]) == (1e-4, True)
    assert (recipe.l2, recipe.epochs, recipe.batch_size, recipe.patience) == (0.02, 3, 4096, 2)


def test_bars_is_the_common_loop() -> None:
    recipe = resolve("mlp", preset="bars").recipe
    assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size, recipe.clip) == ("adam", 1e-3, 4096, 10.0)
    assert (recipe.plateau_factor, recipe.min_learning_rate, recipe.patience, recipe.min_delta) == (0.1, 1e-6, 2, 1e-6)


def test_a_preset_leaves_out_what_the_model_lacks() -> None:
    options, recipe = resolve("lr", presets=DATA, preset="bars")
    assert "hidden" not in options
    assert recipe.l2 == 0.05
    assert resolve("popularity", presets=DATA, preset="bars").recipe.l2 == 0.05


def test_a_preset_of_the_data_alone() -> None:
    assert resolve("lr", presets=DATA, preset="quick").recipe.epochs == 1


def test_options_are_complete_and_plain() -> None:
    options, _ = resolve("dcn_v2")
    given = {key: value for key, value in options.items() if value is not None}
    again = registry.config("dcn_v2", msgspec.toml.decode(msgspec.toml.encode(given)))
    assert again == registry.config("dcn_v2")
    assert "num_cross" in options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": ["hiden=[8]"]}, "did you mean hidden"),
        ({"sets": ["train.epoch=3"]}, r"no setting 'train.epoch'; did you mean epochs"),
        ({"sets": ["train.epochs=many"]}, r"Expected `int`, got `str` - at `train.epochs`"),
        ({"sets": ["train.epochs=0"]}, r"train.epochs"),
        ({"sets": ["train.optimizer=ftrl"]}, r"train.optimizer"),
        ({"sets": ["dropout"]}, "written key=value, got 'dropout'"),
        ({"sets": ["train=3"]}, "must be a table"),
        ({"sets": ["dropout=high"]}, "dropout"),
        ({"preset": "bar"}, "did you mean bars"),
        ({"presets": {"bars": {"dropot": 0.1}}, "preset": "bars"}, r"no model has an option 'dropot'; did you"),
        ({"config": "nowhere.toml"}, "nowhere.toml"),
    ],
)
def test_wrong_settings_are_named_with_the_mend(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("dcn_v2", **arguments)


def test_an_unknown_model_has_neighbours() -> None:
    with pytest.raises(ConfigError, match="did you mean dcn_v2"):
        resolve("dcnv2", preset="bars")


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("a=1", {"a": 1}),
        ("a = true", {"a": True}),
        ("a=inf", {"a": float("inf")}),
        ("a='x'", {"a": "x"}),
        ("a=two words", {"a": "two words"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=1\nb=2", {"a": "1\nb=2"}),
        ("position.kind=pal", {"position": {"kind": "pal"}}),
    ],
)
def test_parse(text: str, layer: dict[str, Any]) -> None:
    assert parse(text) == layer


def test_a_recipe_survives_toml() -> None:
    """What is None is left out of run.toml, so None must be the default wherever it is allowed."""
    recipe = Recipe(clip=float("inf"), wide_optimizer="ftrl", l2=0.1)
    plain = {key: value for key, value in msgspec.to_builtins(recipe).items() if value is not None}
    assert recipe_from(msgspec.toml.decode(msgspec.toml.encode(plain))) == recipe
