"""What a search may vary: each Config declares its own options in `SPACE`, keys as in `--set`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct


class Range(NamedTuple):
    """Numbers from low to high, both possible: integers where both are, evenly spread or by their logarithm."""

    low: float
    high: float
    log: bool = False


class Choice(NamedTuple):
    """One of some values."""

    options: tuple[Any, ...]


Space = Mapping[str, Range | Choice]


def search_space(config: type[Struct]) -> dict[str, Range | Choice]:
    """The options of a Config that a search may vary, those of its bases included; the nearest declaration wins.

    >>> from typing import ClassVar
    >>> class Base(Struct):
    ...     SPACE: ClassVar[Space] = {"depth": Range(1, 4)}
    >>> class Config(Base):
    ...     SPACE: ClassVar[Space] = {"structure": Choice(("parallel", "stacked"))}
    >>> sorted(search_space(Config))
    ['depth', 'structure']
    """
    found: dict[str, Range | Choice] = {}
    for cls in reversed(config.__mro__):
        found |= vars(cls).get("SPACE", {})
    return found
