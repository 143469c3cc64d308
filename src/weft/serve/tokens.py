"""Who may ask: bearer tokens with scopes, of which only hashes are kept."""

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, final

import msgspec
from msgspec import Meta, Struct

from weft.errors import ConfigError

Scope = Literal["read", "ingest", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "ingest", "admin")
SHORTEST = 16


class _Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token of the file: itself, or its SHA-256 in hex."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    token: str | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    tokens: Annotated[tuple[_Entry, ...], Meta(min_length=1)]


class Key(NamedTuple):
    """Who asks: a name for the log, and what it may do."""

    name: str
    scopes: frozenset[str]


EVERYONE = Key("local", frozenset(SCOPES))


@final
class Tokens:
    """The keys of a service by the SHA-256 of their tokens. Without any, everyone may do everything."""

    def __init__(self, keys: tuple[tuple[bytes, Key], ...]) -> None:
        self._keys = keys

    def key_of(self, authorization: bytes | None) -> Key | None:
        """The key of an Authorization header; None when it is missing or unknown.

        The hash of what was given is compared with each hash in constant time, all of them always.
        """
        if not self._keys:
            return EVERYONE
        kind, _, token = (authorization or b"").partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        matches = [key for digest, key in self._keys if hmac.compare_digest(digest, given)]
        return matches[0] if matches and kind.lower() == b"bearer" else None


def read_tokens(path: str | Path) -> Tokens:
    """The tokens of a TOML file.

        [[tokens]]
        name = "shop"
        scopes = ["read", "ingest"]
        token = "..."            # or sha256 = "...", so that the file holds no secret

    Raises:
        ConfigError: The file cannot be read, a token is too short, or two are the same.
    """
    try:
        entries = msgspec.toml.decode(Path(path).read_bytes(), type=_File).tokens
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"cannot read the token file {str(path)!r}: {error}; give TOML with [[tokens]] of name, scopes and token"
        ) from error
    keys = tuple((_digest(entry), Key(entry.name, frozenset(entry.scopes))) for entry in entries)
    if len({digest for digest, _ in keys}) < len(keys):
        raise ConfigError(f"two tokens of {str(path)!r} are the same; give each key its own")
    return Tokens(keys)


def _digest(entry: _Entry) -> bytes:
    if (entry.token is None) == (entry.sha256 is None):
        raise ConfigError(f"token {entry.name!r}: give either `token` or `sha256`")
    if entry.sha256 is not None:
        return bytes.fromhex(entry.sha256)
    assert entry.token is not None
    if len(entry.token) < SHORTEST:
        raise ConfigError(f"token {entry.name!r} is shorter than {SHORTEST} characters; draw a longer one at random")
    return hashlib.sha256(entry.token.encode()).digest()
