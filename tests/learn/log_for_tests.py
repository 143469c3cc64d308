"""A log as a service would have written it, without the service."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from camps_for_tests import FIRST_USER, SONGS, USERS
from weft.recommend.recommender import Recommender
from weft.serve.features import pack
from weft.serve.live import Live
from weft.serve.store import Event, EventStore, Request, now

NAMES = [str(FIRST_USER + user) for user in range(USERS)]
ALL_SONGS = [f"song-{song}" for song in range(SONGS)]
_numbers = itertools.count()


def turned(user: str, item: str) -> bool:
    """The camps are gone: everybody likes the first eight songs now."""
    return item != "song-new" and int(item.rpartition("-")[2]) < 8


def live(store: EventStore, path: Path | str) -> Live:
    """A bundle as a service would have it."""
    return Live(Recommender.load(path), store, window=0.0)


def visit(
    store: EventStore,
    live: Live,
    users: Iterable[str],
    plays: Callable[[str, str], bool] = turned,
    *,
    k: int = 12,
    songs: Sequence[str] = ALL_SONGS,
    seed: int = 0,
) -> None:
    """Each user has k songs, drawn evenly, put in order by the service, and plays some of them."""
    rng = np.random.default_rng(seed)
    for user in users:
        recommender = live.current()[0]
        answer = recommender.rank(user, rng.choice(np.array(songs, object), k, replace=False).tolist())
        items = [str(item.id) for item in answer.items]
        moment, id = now(), f"request-{next(_numbers)}"
        request = Request(
            id=id,
            user=user,
            time=moment,
            bundle=live.base.bundle_id,
            shown=tuple((item, 1.0) for item in items),
            features=pack(recommender.features(recommender.user_rows(user), items)),
        )
        store.add_request(request)
        events = [_event("impression", user, item, id, moment) for item in items]
        events += [_event("play", user, item, id, moment) for item in items if plays(user, item)]
        store.add_events(events).result()


def pleasing(path: Path | str) -> int:
    """How many of the four songs that a bundle recommends to each user would be played now."""
    recommender = Recommender.load(path)
    answers = recommender.recommend_many(NAMES, k=4, seen="allow")
    return sum(turned(str(answer.user), str(item.id)) for answer in answers for item in answer.items)


def _event(kind: str, user: str, item: str, request: str, moment: int) -> Event:
    values = {"liked": 1.0} if kind == "play" else {}
    return Event(
        id=f"event-{next(_numbers)}", kind=kind, user=user, item=item, time=moment, request=request, values=values
    )
