"""The music world's users against a running service: who comes, what they are shown, what they play.

The service is asked over HTTP, as a product would ask it. Its clock is the real one; the days of the world pass as fast
as the service answers, and the hour and weekday of a visit go along as its context.
"""

import http.client
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from weft.data.music import Listeners, MusicConfig, Visit
from weft.errors import ConfigError, Unavailable
from weft.metrics.bootstrap import Interval, bootstrap_mean, paired_difference

SLATE, ROWS_AT_ONCE = 10, 500


class Day(Struct, frozen=True, kw_only=True):
    """A day of the simulation.

    Attributes:
        day: From 1.
        plays: Plays of each request.
        bundles: Ids of the bundles that answered.
    """

    day: int
    plays: tuple[int, ...]
    bundles: tuple[str, ...]

    @property
    def rate(self) -> Interval:
        """Plays per request, with an interval over requests."""
        return bootstrap_mean(np.array(self.plays), seed=0)


class Gain(NamedTuple):
    """How many more plays a request of one service had than the same visit of another: per day, and of all days."""

    days: tuple[Interval, ...]
    whole: Interval


class Answer(NamedTuple):
    """A list.

    Attributes:
        request: Id of the request.
        tracks: Ids, the best first.
        titles: Theirs.
        bundle: Id of the bundle that answered.
    """

    request: str
    tracks: list[int]
    titles: list[str]
    bundle: str


@final
class Client:
    """Asks one service; the connection stays open.

    Args:
        url: Such as http://127.0.0.1:8000.
        token: One with the scopes read, ingest and admin, where the service wants tokens.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"`URL` must be that of a service, got {url!r}; write for example http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection, self.url = kind(parts.hostname, parts.port, timeout=60), url
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, body: Any) -> Any:
        """The answer to a request; Unavailable when there is none or it is an error."""
        data = msgspec.json.encode(body)
        for is_last in (False, True):
            try:
                self._connection.request(method, path, data, self._headers)
                answer = self._connection.getresponse()
                said = answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # the service lets idle connections go; a second failure is a real one
                if is_last:
                    raise Unavailable(f"{self.url} does not answer ({error}); start `weft serve`") from error
        if answer.status >= 300:
            raise Unavailable(f"{self.url}{path} answered {answer.status}: {said.decode(errors='replace')[:300]}")
        return msgspec.json.decode(said)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def recommend(self, user: int, k: int, context: Mapping[str, Any], *, seen: str | None = "allow") -> Answer:
        """A list for a user; tracks heard before may come again unless `seen` says otherwise."""
        body = {"user": user, "k": k, "context": context, "filters": {"seen": seen}, "surface": "simulation"}
        answer = self.ask("POST", "/v1/recommend", body)
        items = answer["items"]
        return Answer(
            answer["request"], [int(item["id"]) for item in items], [str(i["title"]) for i in items], answer["bundle"]
        )

    def tell(self, user: int, request: str, tracks: Sequence[int], played: Sequence[bool]) -> None:
        """What was shown and what was played."""
        common = {"user": user, "request": request}
        shown = [{"kind": "impression", "item": t, "position": p, **common} for p, t in enumerate(tracks, 1)]
        heard = [{"kind": "play", "item": t, **common} for t, one in zip(tracks, played, strict=True) if one]
        events = [{"event": uuid.uuid4().hex, **event} for event in (*shown, *heard)]
        self.ask("POST", "/v1/events", {"events": events})

    def add(self, tracks: Sequence[Mapping[str, Any]]) -> None:
        """New tracks."""
        rows = [{"id": t["track_id"], "columns": {k: v for k, v in t.items() if k != "track_id"}} for t in tracks]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self.ask("PUT", "/v1/items", {"items": rows[start : start + ROWS_AT_ONCE]})


def simulate(
    clients: Sequence[Client],
    config: MusicConfig,
    *,
    days: int = 7,
    requests: int = 300,
    turn: float = 1.0,
    added: int = 20,
    seed: int = 0,
    hear: Callable[[Sequence[Day]], None] = lambda days: None,
) -> tuple[tuple[Day, ...], ...]:
    """The same visits to one service or several.

    Args:
        clients: The services.
        config: Of the world that the bundle was trained on.
        days: How many.
        requests: Visits of a day.
        turn: Radians by which tastes turn in a week.
        added: Tracks that are put into the service over the days.
        seed: Of visits and plays.
        hear: Is told of each day when it is over, one `Day` a service; learning can be done there.

    Returns:
        For each service its days.
    """
    worlds = [Listeners(config, turn=turn, added=added, seed=seed) for _ in clients]
    found: list[list[Day]] = [[] for _ in clients]
    for day in range(days):
        new = slice(added * day // days, added * (day + 1) // days)
        for place, (client, world) in enumerate(zip(clients, worlds, strict=True)):
            if world.arrivals[new]:
                client.add(world.arrivals[new])
            found[place].append(_day(client, world, day, requests))
        hear([mine[-1] for mine in found])
    return tuple(tuple(mine) for mine in found)


def _day(client: Client, world: Listeners, day: int, requests: int) -> Day:
    plays: list[int] = []
    bundles: dict[str, None] = {}
    for number in range(requests):
        visit: Visit = world.visit(day + number / requests)
        answer = client.recommend(visit.user, SLATE, {"hour": visit.hour, "weekday": visit.weekday})
        played = world.plays(visit, answer.tracks)
        client.tell(visit.user, answer.request, answer.tracks, played)
        plays.append(sum(played))
        bundles[answer.bundle] = None
    return Day(day=day + 1, plays=tuple(plays), bundles=tuple(bundles))


def gain(learning: Sequence[Day], frozen: Sequence[Day]) -> Gain:
    """What learning gains over a frozen copy on the same visits, with intervals over visits."""
    pairs = [(np.array(a.plays), np.array(b.plays)) for a, b in zip(learning, frozen, strict=True)]
    mine, theirs = (np.concatenate(plays) for plays in zip(*pairs, strict=True))
    return Gain(tuple(paired_difference(a, b, seed=0) for a, b in pairs), paired_difference(mine, theirs, seed=0))


def render(services: Mapping[str, Sequence[Day]], console: Console) -> None:
    """Plays per request by day, a column a service, and what the first gains over the second."""
    table = Table("day", *services, *(["gain"] if len(services) > 1 else []))
    first, *others = services.values()
    found = gain(first, others[0]) if others else None
    for place, day in enumerate(first):
        cells = [_said(days[place].rate) for days in services.values()]
        table.add_row(str(day.day), *cells, *([] if found is None else [_said(found.days[place], "+")]))
    console.print(table)
    if found is not None:
        console.print(f"gain over all days: {_said(found.whole, '+')}", highlight=False)
    console.print("plays per request, 95 % intervals over requests", highlight=False)


def _said(value: Interval, sign: str = "") -> str:
    return f"{value.value:{sign}.3f} ({value.low:{sign}.3f} to {value.high:{sign}.3f})"
