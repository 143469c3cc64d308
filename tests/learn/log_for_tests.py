"""A log as a service would have written it, without the service."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

from camps_for_tests import FIRST_USER, USERS
from weft.recommend.recommender import Recommender
from weft.serve.features import pack
from weft.serve.live import Live
from weft.serve.store import Event, EventStore, Request, now

NAMES = [str(FIRST_USER + user) for user in range(USERS)]
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
    plays: Callable[[str, str], bool],
    *,
    k: int = 12,
) -> int:
    """Each user is shown k items and plays some of them; how many were played."""
    played = 0
    for user in users:
        recommender = live.current()[0]
        answer = recommender.recommend(user, k=k, seen="allow")
        items = [str(item.id) for item in answer.items]
        moment, id = now(), f"request-{next(_numbers)}"
        request = Request(
            id=id,
            user=user,
            time=moment,
            bundle=live.base.bundle_id,
            shown=tuple((item, 1.0) for item in items),
            features=pack(recommender.features(user, items)),
        )
        store.add_request(request)
        events = [_event("impression", user, item, id, moment) for item in items]
        events += [_event("play", user, item, id, moment) for item in items if plays(user, item)]
        played += len(events) - len(items)
        store.add_events(events).result()
    return played


def _event(kind: str, user: str, item: str, request: str, moment: int) -> Event:
    return Event(
        id=f"event-{next(_numbers)}", kind=kind, user=user, item=item, time=moment, request=request, values=_of(kind)
    )


def _of(kind: str) -> dict[str, float]:
    return {"liked": 1.0} if kind == "play" else {}
