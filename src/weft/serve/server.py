"""The server: uvicorn with our limits, as one process or several behind one socket."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from weft.errors import ConfigError
from weft.recommend.recommender import Recommender
from weft.serve import journal
from weft.serve.app import make_app
from weft.serve.engine import install
from weft.serve.meters import SHARED
from weft.serve.settings import Settings
from weft.serve.store import EventStore

HUNG = 60  # seconds without an answer after which a worker is replaced; one that loads answers late, not never


def serve(settings: Settings) -> None:
    """Serve a bundle until the process is told to stop; requests that run then end first.

    Raises:
        ConfigError: The service would be open to other machines without a token, or the address is taken.
        ArtifactError: The bundle is damaged or missing.
        Unavailable: The store does not answer.
    """
    settings.tokens()
    bundle = Path(settings.bundle).resolve()
    id = Recommender.load(bundle).bundle_id
    store = EventStore(settings.store_url)
    install(store, bundle, id)
    store.close()
    journal.start(settings.level)
    config = server_config(settings, partial(application, settings))
    with listen(settings.host, settings.port) as listening:
        port = listening.getsockname()[1]
        journal.tell("listening", host=settings.host, port=port, bundle=id, workers=settings.workers)
        if settings.workers == 1:
            uvicorn.Server(config).run(sockets=[listening])
            return
        with tempfile.TemporaryDirectory(prefix="weft-meters-") as folder:
            os.environ[SHARED] = folder
            Multiprocess(config, sockets=[listening]).run()


def application(settings: Settings) -> Any:
    """The application of one process."""
    journal.start(settings.level)
    torch.set_num_threads(1)  # a team of threads for each thread that works on requests: slower than one alone
    return make_app(settings)


def server_config(settings: Settings, make: Callable[[], Any]) -> uvicorn.Config:
    """What uvicorn needs to know; `make` gives each process its application."""
    limits = settings.limits
    return uvicorn.Config(
        make,
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=partial(Patient, seconds=limits.header_seconds),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=5,
        timeout_worker_healthcheck=HUNG,
        timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; ConfigError when the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be listened on ({error}); choose another --port or --host") from None
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else head and body of an answer lie 40 ms apart
    listening.set_inheritable(True)
    return listening


@final
class Patient(H11Protocol):
    """HTTP with a bound on how long a client may take for its headers, from the first byte of the connection on."""

    def __init__(self, *args: Any, seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for headers."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on waiting unless the headers are there; the first byte of a further request starts anew."""
        waited = self._clock is not None
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
        elif not waited:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._rest()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._clock = self.loop.call_later(self._seconds, self._give_up)

    def _rest(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _give_up(self) -> None:
        self._clock = None
        if not self.transport.is_closing():
            self.transport.close()
