"""The registry: every architecture by name, with what a person needs to choose one."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec
import torch
from msgspec import Struct
from torch import nn

from weft.batch import Fields, Graph
from weft.errors import ConfigError, near

M = TypeVar("M", bound=type[nn.Module])


class Entry(NamedTuple):
    """What the registry knows of an architecture.

    Attributes:
        name: As in `--model NAME`.
        model: The class, made from `(fields, config)`, or `(fields, config, graph)` where it reads a graph.
        config: Its options, a frozen Struct.
        kinds: Of ranker, retriever, fitted, source.
        phases: Of candidate generation, ranking, final ranking.
        paper: Authors, venue, title.
        url: Of the paper.
        year: Of the paper.
        strengths: One sentence.
        weaknesses: One sentence.
        choose: When to choose it, one sentence.
        loss: What `train.loss = auto` trains it with: the loss of the labels' tasks (`task`), or one of a retriever.
        presets: Recipes of its own by name, such as `paper`: options of the model, and under `train` of the recipe.
    """

    name: str
    model: type[nn.Module]
    config: type[Struct]
    kinds: tuple[str, ...]
    phases: tuple[str, ...]
    paper: str
    url: str
    year: int
    strengths: str
    weaknesses: str
    choose: str
    loss: str = "task"
    presets: Mapping[str, Mapping[str, Any]] = {}


class Wrapper(NamedTuple):
    """A network around any model, asked for by a table of its name among the options, such as `position.kind=pal`.

    Attributes:
        config: The options in that table, a frozen Struct.
        wrap: `(model, fields, config)` to the wrapped model.
    """

    config: type[Struct]
    wrap: Callable[[nn.Module, Fields, Any], nn.Module]


_ENTRIES: dict[str, Entry] = {}
_WRAPPERS: dict[str, Wrapper] = {}
INSIDE_OUT = ("tasks", "position")  # wrappers in the order in which they go around a model


def register(name: str, **facts: Any) -> Callable[[M], M]:
    """Class decorator: add a model with its inner `Config` and the remaining facts of `Entry`."""

    def add(model: M) -> M:
        if name in _ENTRIES:
            raise ConfigError(
                f"a model named {name!r} is already registered by {_ENTRIES[name].model.__module__}; "
                "choose another name"
            )
        _ENTRIES[name] = Entry(name=name, model=model, config=vars(model)["Config"], **facts)
        return model

    return add


def register_wrapper(name: str) -> Callable[[M], M]:
    """Class decorator: add a wrapper, made from `(model, fields, config)`, with its inner `Config`."""
    assert name in INSIDE_OUT, name

    def add(model: M) -> M:
        _WRAPPERS[name] = Wrapper(vars(model)["Config"], model)
        return model

    return add


def option_names(name: str) -> tuple[str, ...]:
    """The options that a model takes: its own, and the tables of the wrappers."""
    return (*entry(name).config.__struct_fields__, *_WRAPPERS)


def wrappers() -> dict[str, type[Struct]]:
    """The options of what can stand around a model, by the name of their table, inside out."""
    _load_all()
    return {table: _WRAPPERS[table].config for table in INSIDE_OUT if table in _WRAPPERS}


def names(kind: str | None = None) -> tuple[str, ...]:
    """The registered names in alphabetical order, of one kind or all."""
    _load_all()
    return tuple(sorted(name for name, entry in _ENTRIES.items() if kind is None or kind in entry.kinds))


def entry(name: str) -> Entry:
    """The entry of a name; ConfigError with the nearest names if there is none."""
    _load_all()
    if name not in _ENTRIES:
        raise ConfigError(f"there is no model named {name!r}; {near(name, _ENTRIES)}")
    return _ENTRIES[name]


def name_of(model: nn.Module) -> str:
    """The registered name of a model's class."""
    return next(name for name in names() if entry(name).model is type(model))


def representing() -> tuple[str, ...]:
    """The models whose representation other heads can read; their own head gives any number of outputs."""
    return tuple(name for name in names("ranker") if hasattr(entry(name).model, "represent"))


def config(name: str, options: Mapping[str, Any] | None = None) -> Struct:
    """A model's own options, checked: ConfigError names the path of what is unknown or out of range."""
    for key in options or {}:
        if key not in option_names(name):
            raise ConfigError(f"model {name!r} has no option {key!r}; {near(key, option_names(name))}")
    own = {key: value for key, value in (options or {}).items() if key not in _WRAPPERS}
    return _checked(own, entry(name).config, f"options of model {name!r}")


def complete(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All options of a model, checked, with their defaults; a wrapper's table only where it is given."""
    own: dict[str, Any] = msgspec.to_builtins(config(name, options))
    return own | {table: msgspec.to_builtins(wanted) for table, wanted in _around(options or {}).items()}


def reads_graph(name: str) -> bool:
    """Whether a model is made from a graph too: its class says `reads_graph = True`."""
    return getattr(entry(name).model, "reads_graph", False) is True


def create(
    name: str,
    fields: Fields,
    options: Mapping[str, Any] | Struct | None = None,
    *,
    seed: int | None = None,
    graph: Graph | None = None,
) -> nn.Module:
    """Build a model, and what its options ask for around it.

    Args:
        name: A registered name.
        fields: What the model may know of the store.
        options: Values that differ from the defaults, or a whole Config.
        seed: Draws the starting weights; without it they come from torch's generator.
        graph: Of the train rows, for a model that reads one; it can be loaded and serve without, but not train.

    Raises:
        ConfigError: If the name or an option does not exist, or a value is out of range.
        Unsupported: If the architecture cannot work on these fields.
    """
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return create(name, fields, options, graph=graph)
    own = options if isinstance(options, Struct) else config(name, options)
    model = entry(name).model(fields, own, graph) if reads_graph(name) else entry(name).model(fields, own)
    if isinstance(options, Struct):
        return model
    for table, wanted in _around(options or {}).items():
        model = _WRAPPERS[table].wrap(model, fields, wanted)
    return model


def _around(options: Mapping[str, Any]) -> dict[str, Struct]:
    """The options of the wrappers that are asked for, inside out."""
    return {
        table: _checked(options[table], _WRAPPERS[table].config, f"options of `{table}`")
        for table in INSIDE_OUT
        if table in options and table in _WRAPPERS
    }


def _checked(values: Any, cls: type[Struct], what: str) -> Struct:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what} must be a table, got {values!r}; write TABLE.KEY=value")
    for key in values:
        if key not in cls.__struct_fields__:
            raise ConfigError(f"{what}: there is no {key!r}; {near(key, cls.__struct_fields__)}")
    try:
        return msgspec.convert(dict(values), cls)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{what}: {error}") from error


@cache
def _load_all() -> None:
    """Import every model file, which registers it."""
    package = importlib.import_module("weft.models")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"weft.models.{module.name}")
