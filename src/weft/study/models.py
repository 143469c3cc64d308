"""What the registry knows of the models: for `weft models`, and as the page docs/models.md."""

import inspect
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.models import Entry, entry, names, option_names, search_space
from weft.models._registry import wrappers
from weft.models._search import Choice, Range
from weft.train.recipe import PRESETS, Recipe

PHASES = ("candidate generation", "ranking", "final ranking")
OF_PHASE = {
    "candidate generation": "Find some hundred items out of all of them, fast; in a small catalogue any model can, "
    "scoring every item.",
    "ranking": "Score hundreds of candidates for a user with more features.",
    "final ranking": "Order the last tens as well as can be; a row may cost more.",
}
WRITER = "python scripts/write_models_page.py"


class Option(Struct, frozen=True, kw_only=True):
    """One key that `--set` takes.

    Attributes:
        default: Its value without a wish; None also where there is no default.
        allowed: Which values it takes, in words.
        meaning: What it does.
    """

    default: Any
    allowed: str
    meaning: str


def describe_model(name: str) -> dict[str, Any]:
    """All that is known of one model: its registry entry, options, wrappers, search space and presets."""
    found = entry(name)
    facts = {key: value for key, value in found._asdict().items() if key not in ("model", "config", "presets")}
    own = options_of(found.config)
    presets = sorted({**PRESETS, **found.presets}, key=lambda preset: (preset not in PRESETS, preset))
    return {
        **facts,
        "options": {key: option.default for key, option in own.items()},
        "about": {key: [option.allowed, option.meaning] for key, option in own.items()},
        "train": msgspec.to_builtins(Recipe()),
        "space": {key: in_words(dimension) for key, dimension in search_space(found.config).items()},
        "wrappers": {table: msgspec.to_builtins(options_of(around)) for table, around in wrappers().items()},
        "presets": {preset: _preset(found, preset) for preset in presets},
    }


def options_of(config: type[Struct]) -> dict[str, Option]:
    """The options of a Config, as its fields, its annotations and its docstrings tell them."""
    (reference,), components = msgspec.json.schema_components([config])
    schema = components[reference["$ref"].rpartition("/")[2]]["properties"]
    meanings = _meanings(config)
    return {
        field.name: Option(
            default=schema[field.encode_name].get("default"),
            allowed=_allowed(schema[field.encode_name]),
            meaning=meanings.get(field.name, ""),
        )
        for field in msgspec.structs.fields(config)
    }


def in_words(dimension: Range | Choice) -> str:
    """What a search may choose from.

    >>> in_words(Range(1, 4)), in_words(Range(1e-3, 0.1, log=True)), in_words(Choice(("a", (8, 8))))
    ('1 to 4', '0.001 to 0.1, by the logarithm', '"a" or [8, 8]')
    """
    if isinstance(dimension, Choice):
        return " or ".join(json.dumps(value) for value in dimension.options)
    return f"{dimension.low:g} to {dimension.high:g}{', by the logarithm' if dimension.log else ''}"


def by_phase(wanted: Iterable[str]) -> dict[str, list[Entry]]:
    """Models under the phase that each is made for, older ones first."""
    entries = sorted((entry(name) for name in wanted), key=lambda e: (PHASES.index(_home(e)), e.year, e.name))
    return {phase: list(found) for phase, found in groupby(entries, key=_home)}


def render_models(console: Console, *, as_json: bool) -> None:
    """Print some lines a model, under the phases, or a JSON array of everything."""
    if as_json:
        sys.stdout.write(msgspec.json.encode([describe_model(name) for name in names()]).decode() + "\n")
        return
    for phase, entries in by_phase(names()).items():
        console.print(f"{phase}: {OF_PHASE[phase]}", highlight=False, markup=False)
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
        table.add_column(no_wrap=True, min_width=10)
        table.add_column()
        for found in entries:
            table.add_row(Text(found.name, style="bold"), Text(_origin(found)))
            for mark, text in (("+", found.strengths), ("-", found.weaknesses), ("choose it", found.choose)):
                table.add_row(Text(mark, justify="right"), Text(text))
            table.add_row()
        console.print(table)
    console.print("weft models NAME shows options, presets and what a search varies", highlight=False, markup=False)


def render_model(name: str, console: Console, *, as_json: bool) -> None:
    """Print one model: prose, options, wrappers, search space, presets; or one JSON object."""
    facts = describe_model(name)
    if as_json:
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
        return
    for key in ("name", "kinds", "phases", "loss", "paper", "url", "year", "strengths", "weaknesses", "choose"):
        value = facts[key]
        text = ", ".join(value) if isinstance(value, tuple | list) else value
        if text:
            console.print(f"{key}: {text}", highlight=False, markup=False)
    _print("options of the model (--set KEY=VALUE)", _options(entry(name).config), console)
    _print("options of training (--set train.KEY=VALUE)", _options(Recipe), console)
    for table, around in wrappers().items():
        _print(f"around the model (--set {table}.KEY=VALUE)", _options(around), console)
    _print("what a search varies (weft compare --tune)", facts["space"].items(), console)
    for preset, values in facts["presets"].items():
        _print(f"preset {preset} (--preset {preset})", values.items(), console)


def models_page() -> str:
    """The page docs/models.md."""
    groups = by_phase(names())
    lines = [
        "# Models",
        "",
        f"<!-- Written from the registry by `{WRITER}`; change the model's file, not this page. -->",
        "",
        "`weft train STORE --model NAME` trains a model, `weft compare STORE --models all` finds out which one is best",
        "on your data, and `weft models NAME` shows every option. Each model stands below the phase of a",
        "recommender that it is made for: models that can search below candidate generation, others below their last.",
        "",
        "## Which one",
    ]
    for phase, entries in groups.items():
        lines += ["", f"**{_title(phase)}.** {OF_PHASE[phase]}", "", "| model | year | choose it |", "|---|---|---|"]
        lines += [f"| [{e.name}](#{e.name}) | {e.year or '-'} | {_cell(e.choose)} |" for e in entries]
    for phase, entries in groups.items():
        lines += ["", f"## {_title(phase)}"]
        for found in entries:
            lines += ["", *_section(found)]
    for table, around in wrappers().items():
        lines += ["", f"## Around a model: `{table}`", "", *_wrapper_section(table, around)]
    return "\n".join(lines) + "\n"


def _home(found: Entry) -> str:
    """Candidate generation for a model that can search, which few can; else the last phase that it serves."""
    searches = PHASES[0] in found.phases
    return PHASES[0] if searches else max(found.phases, key=PHASES.index)


def _title(phase: str) -> str:
    return phase[0].upper() + phase[1:]


def _origin(found: Entry) -> str:
    """The paper with its year.

    >>> _origin(entry("popularity")), _origin(entry("fm"))
    ('a baseline without a paper', 'Rendle, ICDM 2010, Factorization Machines')
    """
    if not found.year:
        return "a baseline without a paper" if found.paper == "none" else found.paper
    return found.paper if str(found.year) in found.paper else f"{found.paper} ({found.year})"


def _section(found: Entry) -> list[str]:
    origin = _origin(found)
    paper = f"[{origin}]({found.url})" if found.url else origin[0].upper() + origin[1:]
    space = ", ".join(f"`{key}`" for key in search_space(found.config))
    return [
        f"### {found.name}",
        "",
        f"{paper}.",
        "",
        f"* Kind: {', '.join(found.kinds)}. Phases: {', '.join(found.phases)}. Loss: `{found.loss}`.",
        f"* Strengths: {found.strengths}",
        f"* Weaknesses: {found.weaknesses}",
        f"* Choose it: {found.choose}",
        *([f"* Presets of its own: {', '.join(f'`{preset}`' for preset in found.presets)}."] if found.presets else []),
        *([f"* A search varies {space}."] if space else []),
    ]


def _wrapper_section(table: str, around: type[Struct]) -> list[str]:
    rows = [
        f"| `{table}.{key}` | {_cell(_default(option))} | {_cell(option.allowed)} | {_cell(option.meaning)} |"
        for key, option in options_of(around).items()
    ]
    return ["| `--set` | default | allowed | what it does |", "|---|---|---|---|", *rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _default(option: Option) -> str:
    return "-" if option.default is None else json.dumps(option.default)


def _preset(found: Entry, preset: str) -> dict[str, Any]:
    """The settings of a preset that a model takes, the common ones under its own, those of training as `train.KEY`."""
    layers = [table[preset] for table in (PRESETS, found.presets) if preset in table]
    settings: dict[str, Any] = {}
    for layer in layers:
        settings |= {key: value for key, value in layer.items() if key in option_names(found.name)}
        settings |= {f"train.{key}": value for key, value in layer.get("train", {}).items()}
    return {key: "inf" if value == math.inf else value for key, value in settings.items()}


def _meanings(config: type[Struct]) -> dict[str, str]:
    """What the sections `Attributes` of a Config and its bases say of each option."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        section = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _allowed(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in words.

    >>> _allowed({"type": "integer", "minimum": 1}), _allowed({"anyOf": [{"type": "null"}, {"enum": ["a", "b"]}]})
    ('whole number, >= 1', 'a or b')
    """
    if "anyOf" in schema:
        return " or ".join(_allowed(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of ({_allowed(schema['items'])})" if isinstance(schema.get("items"), dict) else "list"
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[bound]:g}" for bound, sign in bounds.items() if bound in schema]
    return ", ".join([words.get(schema.get("type", ""), "table"), *limits])


def _options(config: type[Struct]) -> list[tuple[str, ...]]:
    options = options_of(config).items()
    return [(key, _default(option), f"{option.meaning} ({option.allowed})") for key, option in options]


def _print(title: str, rows: Iterable[Sequence[Any]], console: Console) -> None:
    console.print(f"\n{title}", highlight=False, markup=False)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    for row in rows:
        table.add_row(*(Text(cell if isinstance(cell, str) else json.dumps(cell)) for cell in row))
    console.print(table if table.row_count else "  nothing")
