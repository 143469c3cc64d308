"""What a service may be told: where it listens, who may ask, how much."""

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from weft.errors import ConfigError
from weft.serve.tokens import Tokens, read_tokens

Positive = Annotated[int, Meta(ge=1)]
Span = Annotated[float, Meta(gt=0)]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may be asked.

    Attributes:
        body_bytes: Of a request.
        header_bytes: Of a request's line and headers.
        header_seconds: In which the headers must have come.
        body_seconds: In which the body must have come.
        connections: At once, in a worker.
        threads: Requests that a worker works on at once; the cores that fall to a worker without it.
        waiting: Requests that wait for a thread; further ones get 503.
        patience: Seconds after which a request that still waits gets 503.
        rate: Requests a second of one key, in a worker; None is no limit.
        burst: Requests that a key may save up.
        events_hourly: Events of one user within an hour; None is no cap.
        outcome_seconds: In which what a user does counts for what was shown.
        drain_seconds: In which requests that run may end when the service stops.
    """

    body_bytes: Positive = 1_048_576
    header_bytes: Positive = 16_384
    header_seconds: Span = 5.0
    body_seconds: Span = 10.0
    connections: Positive = 1_000
    threads: Positive | None = None
    waiting: Annotated[int, Meta(ge=0)] = 64
    patience: Span = 1.0
    rate: Span | None = None
    burst: Positive = 100
    events_hourly: Positive | None = 10_000
    outcome_seconds: Span = 1_800.0
    drain_seconds: Span = 10.0


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a service.

    Attributes:
        bundle: The bundle to start with; further ones are looked for beside it.
        store: A path or a URL; `serve.db` beside the bundle without it.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        token_file: TOML with [[tokens]]; without it anyone on this machine may do anything, and only this machine.
        workers: Processes.
        hosts: Names under which the service is called, beside those of this machine.
        limits: How much may be asked.
        level: Of the log.
    """

    bundle: str
    store: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8_000
    token_file: str | None = None
    workers: Positive = 1
    hosts: tuple[str, ...] = ()
    limits: Limits = Limits()
    level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def store_url(self) -> str:
        """The store's path or URL."""
        return self.store or str(Path(self.bundle).resolve().with_name("serve.db"))

    @property
    def threads(self) -> int:
        """Requests that a worker works on at once."""
        return self.limits.threads or max(1, (os.cpu_count() or 1) // self.workers)

    def tokens(self) -> Tokens:
        """Who may ask; ConfigError where the service would be open to other machines."""
        if self.token_file is not None:
            return read_tokens(self.token_file)
        if not is_loopback(self.host):
            raise ConfigError(
                f"`host` {self.host!r} can be reached from other machines and there is no `token_file`; "
                "give --token-file, or listen on 127.0.0.1"
            )
        return Tokens(())

    def known_hosts(self) -> frozenset[str]:
        """The names that a Host header may have."""
        return frozenset(name.lower() for name in (*LOOPBACK, self.host, socket.gethostname(), *self.hosts))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_limits(path: str | Path) -> Limits:
    """Limits from a TOML file; ConfigError names the path of what is wrong."""
    try:
        return msgspec.toml.decode(Path(path).read_bytes(), type=Limits)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read the limits {str(path)!r}: {error}; see `weft serve --help`") from error
