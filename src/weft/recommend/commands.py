"""What the command `recommend` needs besides the recommender: contexts as text, users as a file."""

import time
from collections.abc import Iterator, Sequence
from typing import TextIO

import msgspec
from rich.console import Console

from weft.errors import ConfigError, DataError
from weft.recommend.recommender import Recommender
from weft.schema import Dense, Schema

SAID_EVERY = 5.0  # seconds


def parse_context(pairs: Sequence[str], schema: Schema) -> dict[str, object]:
    """Features of a request given as name=value; numbers where the feature is one."""
    numbers = {feature.name for feature in schema.features if isinstance(feature, Dense)}
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"`--context` takes name=value, got {pair!r}")
        found[name] = _number(name, value) if name in numbers else value
    return found


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"`--context`: the feature {name!r} is a number, got {value!r}") from error


def user_lines(path: str) -> Iterator[str]:
    """The user ids of a file, one a line, read as they are taken; DataError when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the users file {path!r}: {error}; give a text file with one id a line") from error


def print_many(
    recommender: Recommender, users: str, *, k: int, seen: str | None, out: TextIO, console: Console
) -> None:
    """Answer the users of a file as JSON lines, and say on the console how many a second."""
    start = said = time.perf_counter()
    count = 0
    encode = msgspec.json.encode
    for count, answer in enumerate(recommender.recommend_many(user_lines(users), k=k, seen=seen), 1):
        out.write(encode(answer).decode() + "\n")
        if time.perf_counter() - said > SAID_EVERY:
            said = time.perf_counter()
            console.print(f"{count:,} users, {count / (said - start):,.0f} a second")
    seconds = time.perf_counter() - start
    console.print(f"{count:,} users in {seconds:.1f} s, {count / max(seconds, 1e-9):,.0f} a second")
