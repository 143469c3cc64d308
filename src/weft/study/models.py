"""Tables over the registry of models, for `weft models`."""

import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.models import config, entry, names, option_names
from weft.train.recipe import PRESETS, Recipe


def describe_model(name: str) -> dict[str, Any]:
    """All that is known of one model: its registry entry, its options with defaults, the recipe's, the presets."""
    facts = entry(name)._asdict()
    return {
        **{key: value for key, value in facts.items() if key not in ("model", "config", "presets")},
        "options": msgspec.to_builtins(config(name, {})),
        "train": msgspec.to_builtins(Recipe()),
        "presets": {preset: _of_model(name, values) for preset, values in {**PRESETS, **entry(name).presets}.items()},
    }


def _of_model(name: str, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a preset that a model takes, those of training as `train.KEY`."""
    options = {key: value for key, value in preset.items() if key in option_names(name)}
    return options | {f"train.{key}": value for key, value in preset.get("train", {}).items()}


def render_models(console: Console, *, as_json: bool) -> None:
    """Print one line a model, or a JSON array of everything."""
    if as_json:
        sys.stdout.write(msgspec.json.encode([describe_model(name) for name in names()]).decode() + "\n")
        return
    table = Table("model", "for", "paper", "when to choose it")
    for name in names():
        model = entry(name)
        table.add_row(name, ", ".join(model.phases), model.paper, model.choose)
    console.print(table)


def render_model(name: str, console: Console, *, as_json: bool) -> None:
    """Print one model: prose, options, presets; or one JSON object."""
    facts = describe_model(name)
    if as_json:
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
        return
    for key, value in facts.items():
        if key not in ("options", "train", "presets"):
            text = ", ".join(value) if isinstance(value, tuple | list) else value
            console.print(f"{key}: {text}", highlight=False, markup=False)
    console.print(_settings("options of the model (--set KEY=VALUE)", facts["options"]))
    console.print(_settings("options of training (--set train.KEY=VALUE)", facts["train"]))
    for preset, values in facts["presets"].items():
        console.print(_settings(f"preset {preset} (--preset {preset})", values))


def _settings(title: str, values: dict[str, Any]) -> Table:
    table = Table("key", "value", title=title, title_justify="left")
    for key, value in values.items():
        table.add_row(key, Text(str(value)))
    return table
