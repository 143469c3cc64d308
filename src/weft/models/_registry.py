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

from weft.batch import Fields
from weft.errors import ConfigError, near

M = TypeVar("M", bound=type[nn.Module])


class Entry(NamedTuple):
    """What the registry knows of an architecture.

    Attributes:
        name: As in `--model NAME`.
        model: The class, made from `(fields, config)`.
        config: Its options, a frozen Struct.
        kinds: Of ranker, retriever, fitted, source.
        phases: Of candidate generation, ranking, final ranking.
        paper: Authors, venue, title.
        url: Of the paper.
        year: Of the paper.
        strengths: One sentence.
        weaknesses: One sentence.
        choose: When to choose it, one sentence.
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
    presets: Mapping[str, Mapping[str, Any]] = {}


_ENTRIES: dict[str, Entry] = {}


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


def config(name: str, options: Mapping[str, Any] | None = None) -> Struct:
    """The options of a model, checked: ConfigError names the path of what is unknown or out of range."""
    cls = entry(name).config
    for key in options or {}:
        if key not in cls.__struct_fields__:
            raise ConfigError(f"model {name!r} has no option {key!r}; {near(key, cls.__struct_fields__)}")
    try:
        return msgspec.convert(dict(options or {}), cls)
    except msgspec.ValidationError as error:
        raise ConfigError(f"options of model {name!r}: {error}") from error


def create(
    name: str, fields: Fields, options: Mapping[str, Any] | Struct | None = None, *, seed: int | None = None
) -> nn.Module:
    """Build a model.

    Args:
        name: A registered name.
        fields: What the model may know of the store.
        options: Values that differ from the defaults, or a whole Config.
        seed: Draws the starting weights; without it they come from torch's generator.

    Raises:
        ConfigError: If the name or an option does not exist, or a value is out of range.
        Unsupported: If the architecture cannot work on these fields.
    """
    cls = entry(name).model
    settings = options if isinstance(options, Struct) else config(name, options)
    if seed is None:
        return cls(fields, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(fields, settings)


@cache
def _load_all() -> None:
    """Import every model file, which registers it."""
    package = importlib.import_module("weft.models")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"weft.models.{module.name}")
