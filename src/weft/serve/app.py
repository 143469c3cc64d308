"""The application: routes to methods of the service, mistakes to sentences, behind the door."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response
from litestar import route as litestar_route
from litestar.exceptions import HTTPException
from msgspec import Struct

from weft.errors import Unavailable, WeftError
from weft.recommend.recommender import Recommender
from weft.serve.door import ASKED, App, Door, Refused, error_body
from weft.serve.engine import Engine
from weft.serve.gate import Gate
from weft.serve.journal import tell
from weft.serve.live import Recommends
from weft.serve.meters import CONTENT_TYPE, Meters
from weft.serve.routes import ROUTES, Route, openapi
from weft.serve.service import Service
from weft.serve.settings import Settings
from weft.serve.store import EventStore
from weft.serve.wire import HealthOut, ReadyOut

JSON = "application/json"
POLL = 0.2  # seconds between two looks at the store's pointer

Given = Request[Any, Any, Any]


def make_app(settings: Settings, *, load: Callable[[Path], Recommends] = Recommender.load) -> Door:
    """The application of one worker; it opens the store and loads the bundle when it starts.

    Args:
        settings: All of it.
        load: A recommender from a bundle's folder.
    """
    meters = Meters()
    service: list[Service] = []  # filled when the application starts

    @asynccontextmanager
    async def life(app: Litestar) -> AsyncIterator[None]:
        opened = await asyncio.to_thread(_open, settings, meters, load)
        service.append(opened)
        poll = asyncio.create_task(_poll(opened))
        try:
            yield
        finally:
            door.draining = True
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
            await asyncio.to_thread(_close, service.pop())

    page = msgspec.json.encode(openapi(version("weft")))

    def handler(route: Route) -> Any:
        async def handle(request: Given) -> Response[Any]:
            if route.name == "health":
                return _json(HealthOut())
            if route.name == "ready":
                return _ready(service, door)
            if route.name == "schema":
                return Response(page, media_type=JSON)
            if not service:
                raise Unavailable("the service is starting; try again later")
            if route.name == "metrics":
                service[0].meters.inside.set(service[0].gate.inside)
                return Response(meters.page(), media_type=CONTENT_TYPE)
            return _json(await getattr(service[0], route.name)(await _body(route, request)))

        handle.__name__ = route.name
        return litestar_route(route.path, http_method=[route.method], status_code=200, include_in_schema=False)(handle)  # type: ignore[list-item]

    app = Litestar(
        [handler(route) for route in ROUTES],
        lifespan=[life],
        exception_handlers={Refused: _refused, HTTPException: _http, WeftError: _weft, Exception: _fault},
        openapi_config=None,
        logging_config=None,
    )
    door = Door(cast(App, app), settings, meters)
    return door


def _open(settings: Settings, meters: Meters, load: Callable[[Path], Recommends]) -> Service:
    bundle = Path(settings.bundle).resolve()
    store = EventStore(settings.store_url)
    limits = settings.limits
    engine = Engine(store, bundle.parent, load, window=limits.outcome_seconds)
    engine.start(bundle)
    meters.generation.set(engine.serving.generation.seq)
    gate = Gate(threads=settings.threads, waiting=limits.waiting, patience=limits.patience)
    return Service(engine, store, gate, meters, limits)


def _close(service: Service) -> None:
    service.gate.close()
    service.store.close()


async def _poll(service: Service) -> None:
    """Follow the store's pointer until the application stops."""
    while True:
        await asyncio.sleep(POLL)
        try:
            await asyncio.to_thread(service.engine.follow)
            service.meters.generation.set(service.engine.serving.generation.seq)
        except WeftError as error:
            tell("the bundle in service cannot be followed", reason=str(error))


async def _body(route: Route, request: Given) -> Struct:
    """What was sent, as the route's type; Refused names the path of what is wrong."""
    try:
        if route.body is not None:
            return _decoded(await request.body(), route.body)
        assert route.query is not None
        given: Mapping[str, list[str]] = request.query_params.dict()
        twice = sorted(name for name, values in given.items() if len(values) > 1)
        if twice:
            raise Refused(400, f"`{twice[0]}` is given twice; give it once", path=f"$.{twice[0]}")
        return msgspec.convert({name: values[0] for name, values in given.items()}, type=route.query)
    except msgspec.DecodeError as error:
        message, _, path = str(error).partition(" - at `")
        raise Refused(400, message, path=path.removesuffix("`") or "$") from None


def _decoded(body: bytes, kind: type[Struct]) -> Struct:
    """A body as a type; JSON does not tell 7.0 from 7, so a whole number may stand where an integer is wanted."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        try:
            value = msgspec.json.decode(body)
        except msgspec.DecodeError:  # the first error says where
            raise error from None
        return msgspec.convert(_whole(value), kind)


def _whole(value: Any) -> Any:
    """A value with its whole numbers as integers."""
    match value:
        case dict():
            return {key: _whole(inner) for key, inner in value.items()}
        case list():
            return [_whole(inner) for inner in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _ready(service: list[Service], door: Door) -> Response[Any]:
    if door.draining or not service or not service[0].engine.is_ready:
        return _json(ReadyOut(status="draining" if door.draining else "loading"), status=503)
    there = service[0].engine.serving.generation
    return _json(ReadyOut(status="ready", bundle=there.bundle, generation=there.seq))


def _json(value: Struct, status: int = 200) -> Response[Any]:
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON)


# Mistakes


def _error(status: int, message: str, *, path: str | None = None, headers: Mapping[str, str] | None = None) -> Any:
    asked = ASKED.get(None)
    body = error_body(status, message, path=path, request="" if asked is None else asked.request)
    return Response(body, status_code=status, media_type=JSON, headers=dict(headers or {}))


def _refused(request: Given, error: Refused) -> Any:
    return _error(error.status, str(error), path=error.path, headers=error.headers)


def _http(request: Given, error: HTTPException) -> Any:
    """What Litestar refuses itself: an unknown path, a method that a path does not have."""
    words = {404: "there is no such path; see /schema", 405: "the path does not have this method; see /schema"}
    return _error(error.status_code, words.get(error.status_code, error.detail), headers=error.headers)


def _weft(request: Given, error: WeftError) -> Any:
    if isinstance(error, Unavailable):
        return _error(503, str(error), headers={"Retry-After": "1"})
    return _error(409, str(error), path="$")


def _fault(request: Given, error: Exception) -> Any:
    tell("a fault of weft", error=error, request=ASKED.get().request)
    return _error(500, "a fault of weft; the log has it under this request's id")
