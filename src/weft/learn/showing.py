"""`weft demo --serve`: the demo's bundle behind HTTP, and a list that changes because of three events."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.table import Table

from weft.errors import Unavailable
from weft.learn.simulate import Client
from weft.recommend.bundle import bundle
from weft.recommend.recommender import Recommender
from weft.serve.app import make_app
from weft.serve.server import listen, server_config
from weft.serve.settings import Settings
from weft.study.demo import SERVED

PLAYED = 3


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A service in a thread of this process, on a free port; its URL."""
    server = uvicorn.Server(server_config(settings, lambda: make_app(settings)))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise Unavailable("the service did not start; its log says why")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def show(folder: Path, console: Console, *, k: int = 10) -> tuple[list[str], list[str]]:
    """Serve the demo's bundle, ask, play the first three tracks, ask again; the titles of both lists."""
    console.rule("6. the same over HTTP, with feedback")
    place = folder / SERVED
    shutil.rmtree(place, ignore_errors=True)
    made = bundle([folder / "dcn_v2"], place / "music")
    user = Recommender.of(made).most_active_user()
    settings = Settings(bundle=str(place / "music"), level="error")
    with serving(settings) as url, closing(Client(url)) as client:
        first = client.recommend(int(user), k, {}, seen=None)
        client.tell(int(user), first.request, first.tracks[:PLAYED], [True] * PLAYED)
        second = client.recommend(int(user), k, {}, seen=None)
    table = Table("place", f"first list of user {user}", f"after playing its first {PLAYED}")
    for at, pair in enumerate(zip(first.titles, second.titles, strict=True), 1):
        table.add_row(str(at), *pair)
    console.print(table)
    return first.titles, second.titles
