"""A service that runs in a thread of the tests, over real sockets."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from weft.recommend.recommender import Recommender
from weft.serve.app import make_app
from weft.serve.door import Door
from weft.serve.server import listen, server_config
from weft.serve.settings import Settings

TOKENS = """
[[tokens]]
name = "shop"
scopes = ["read"]
token = "a-token-that-reads-things"

[[tokens]]
name = "feed"
scopes = ["ingest"]
token = "a-token-that-feeds-things"

[[tokens]]
name = "boss"
scopes = ["read", "ingest", "admin"]
token = "a-token-that-rules-things"
"""
READ, INGEST, ADMIN = ({"Authorization": f"Bearer a-token-that-{verb}-things"} for verb in ("reads", "feeds", "rules"))


@dataclass(frozen=True)
class Served:
    """A running service: its address, its application, and a client that may do everything."""

    url: str
    port: int
    door: Door
    client: httpx.Client
    server: uvicorn.Server

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)


@contextmanager
def served(
    settings: Settings, *, load: Callable[[Path], Any] = Recommender.load, headers: dict[str, str] | None = None
) -> Iterator[Served]:
    """Serve with some settings on a free port until the block ends."""
    door = make_app(settings, load=load)
    server = uvicorn.Server(server_config(settings, lambda: door))
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started, "the service did not start"
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
        yield Served(url, port, door, client, server)
    server.should_exit = True
    thread.join(30)
    listening.close()
    assert not thread.is_alive()
