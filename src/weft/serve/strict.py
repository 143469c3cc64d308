"""JSON as it should be, or an error that says where: no key twice, no endless nesting, no NaN, nothing cut short."""

import json
import re
from typing import Any

from weft.errors import DataError

DEPTH = 32
_TOKEN = re.compile(r'[ \t\r\n]*(?:([{}\[\],:])|("(?:[^"\\\x00-\x1f]|\\.)*")|([^{}\[\],:"\s]+))')


class Malformed(DataError):
    """A body that is no JSON as we take it.

    Attributes:
        path: Where, as a JSON path.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class _Twice(ValueError):
    pass


def check(body: bytes) -> None:
    """Raise Malformed unless a body is one JSON value, with no key twice in an object and at most 32 levels deep."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not UTF-8 (byte {error.start})", _path_of_end(body[: error.start])) from None
    try:
        json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
        if "\\u" not in text and text.count("[") + text.count("{") <= DEPTH:
            return
    except (ValueError, RecursionError):
        pass
    _walk(text)


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Twice


def _refuse(constant: str) -> None:
    raise _Twice


def _path_of_end(body: bytes) -> str:
    """The path at which a text that is good so far ends."""
    try:
        _walk(body.decode())
    except Malformed as error:
        return error.path
    return "$"


class _Level:
    """An object or list that is open: its keys or how many values it had, and where it stands."""

    def __init__(self, is_object: bool, path: str) -> None:
        self.keys: set[str] | None = set() if is_object else None
        self.path, self.child, self.count = path, path, 0
        self.wants_key = is_object

    def next(self) -> str:
        """The path of the value that comes."""
        return self.child if self.keys is not None else f"{self.path}[{self.count}]"


def _walk(text: str) -> None:
    """Read a text slowly and raise Malformed at the first thing that is wrong; return where there is nothing."""
    levels: list[_Level] = []
    position, path = 0, "$"
    while match := _TOKEN.match(text, position):
        mark, string, word = match.groups()
        top = levels[-1] if levels else None
        path = top.next() if top else "$"
        if mark in ("{", "["):
            if len(levels) >= DEPTH:
                raise Malformed(f"the body is more than {DEPTH} levels deep", path)
            levels.append(_Level(mark == "{", path))
        elif mark in ("}", "]") and levels:
            levels.pop()
        elif mark == "," and top:
            top.count, top.wants_key = top.count + 1, top.keys is not None
        elif string and top and top.keys is not None and top.wants_key:
            _add_key(top, string)
        elif string:
            _read(string, path)
        elif word:
            _check_word(word, path)
        position = match.end()
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "pos", position)
        path = levels[-1].next() if levels else "$"
        raise Malformed(f"the body is not JSON ({getattr(error, 'msg', error)}, character {at})", path) from None


def _add_key(level: _Level, string: str) -> None:
    assert level.keys is not None
    key = _read(string, level.path)
    level.child = f"{level.path}.{key[:100]}"
    level.wants_key = False
    if key in level.keys:
        raise Malformed(f"the key {key[:100]!r} stands twice in one object", level.child)
    level.keys.add(key)


def _read(string: str, path: str) -> str:
    """A text out of its JSON form."""
    try:
        text = str(json.loads(string))
        text.encode()
    except UnicodeEncodeError:
        raise Malformed("half of a surrogate pair is no text", path) from None
    except ValueError:
        raise Malformed("the body is not JSON (a text cannot be read)", path) from None
    return text


def _check_word(word: str, path: str) -> None:
    try:
        json.loads(word, parse_constant=_refuse)
    except ValueError:
        raise Malformed(f"the body is not JSON ({word[:40]!r} is no JSON value)", path) from None
