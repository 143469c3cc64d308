"""The door: what every request passes before it reaches a handler, and what is written down when it has left.

Host and Origin, the key and its scope, the rate of the key, the size, the pace and the form of the body.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, NamedTuple, final
from urllib.parse import urlsplit

import msgspec

from weft.serve.gate import Rates
from weft.serve.journal import tell
from weft.serve.meters import Meters
from weft.serve.routes import BODIED, METHODS, OPEN, SCOPES
from weft.serve.settings import Settings
from weft.serve.strict import Malformed, check
from weft.serve.tokens import Key
from weft.serve.wire import ErrorBody, ErrorOut

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SOMEWHAT = 8  # times the longest body: longer ones are not even read away
MUTATING = ("POST", "PUT", "PATCH", "DELETE")


class Asked(NamedTuple):
    """Who asks, under which id."""

    request: str
    key: str


ASKED: ContextVar[Asked] = ContextVar("asked")


class Refused(Exception):
    """A request that goes no further.

    Attributes:
        status: The HTTP status.
        path: Where in the body, as a JSON path.
        headers: Of the answer.
    """

    def __init__(
        self, status: int, message: str, *, path: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.path, self.headers = status, path, dict(headers or {})


@final
class Door:
    """An application behind the door.

    Attributes:
        draining: No further work is taken.
    """

    def __init__(self, app: App, settings: Settings, meters: Meters) -> None:
        self._app, self._meters = app, meters
        self._limits, self._tokens, self._hosts = settings.limits, settings.tokens(), settings.known_hosts()
        self._rates = Rates(settings.limits.rate, settings.limits.burst)
        self.draining = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Take a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        started, asked = time.perf_counter(), Asked(uuid.uuid4().hex, "")
        answer = _Answer(send, asked.request)
        try:
            key = self._checked(scope)
            asked = asked._replace(key=key.name)
            ASKED.set(asked)
            inside = await self._with_body(scope, receive)
            await self._app(scope, inside, answer)
        except Refused as refused:
            await answer.refuse(refused)
        finally:
            self._write_down(scope, asked, answer.status, time.perf_counter() - started)

    def _write_down(self, scope: Mapping[str, Any], asked: Asked, status: int, seconds: float) -> None:
        path = scope["path"]
        route = path if path in SCOPES or path in OPEN else "other"
        self._meters.requests.labels(route, str(status)).inc()
        self._meters.seconds.labels(route).observe(seconds)
        tell(
            "request",
            request=asked.request,
            method=scope["method"][:16],
            route=route,
            status=status,
            milliseconds=round(seconds * 1e3, 2),
            key=asked.key,
            client=(scope.get("client") or ("",))[0],
        )

    def _checked(self, scope: MutableMapping[str, Any]) -> Key:
        headers = _headers(scope)
        path, method = scope["path"], scope["method"]
        if self.draining and path != "/healthz":
            raise Refused(503, "the service is stopping; ask another one", headers={"Retry-After": "1"})
        if method in MUTATING:
            self._check_origin(scope, headers)
        key = self._tokens.key_of(headers.get(b"authorization"))
        needed = SCOPES.get(path)
        if needed is not None:
            key = self._allowed(key, needed)
        if method not in METHODS.get(path, (method,)):
            allow = {"Allow": ", ".join(METHODS[path])}
            raise Refused(405, "the path does not have this method; see /schema", headers=allow)
        return key or Key("", frozenset())

    def _allowed(self, key: Key | None, needed: str) -> Key:
        """A key that has a scope, within its rate."""
        if key is None:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Refused(401, "a token is needed: send `Authorization: Bearer TOKEN`", headers=challenge)
        if needed not in key.scopes:
            raise Refused(403, f"the key {key.name!r} lacks the scope {needed!r}; use another one")
        wait = self._rates.wait(key.name, time.monotonic())
        if wait:
            after = {"Retry-After": str(max(1, round(wait)))}
            raise Refused(429, f"the key {key.name!r} asks too often; wait", headers=after)
        return key

    def _check_origin(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> None:
        """Refuse a name that is not ours (a page that had its name pointed at us), and pages of others."""
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_ours(f"//{host}", scope):
            raise Refused(403, f"the Host {host[:100]!r} is not one of this service; add it to the settings' `hosts`")
        origin = headers.get(b"origin")
        if origin is not None and not self._is_ours(origin.decode("latin-1"), scope):
            raise Refused(403, "the Origin is not one of this service; a page of another site may not change anything")

    def _is_ours(self, url: str, scope: Mapping[str, Any]) -> bool:
        try:
            name = urlsplit(url).hostname
        except ValueError:
            return False
        server = scope.get("server") or ("", 0)
        return name is not None and (name in self._hosts or name == server[0])

    async def _with_body(self, scope: Mapping[str, Any], receive: Receive) -> Receive:
        """Read a body, within limits and in good form; what gives it again."""
        if (scope["method"], scope["path"]) not in BODIED:
            return receive
        headers = _headers(scope)
        await self._check_length(headers, receive)
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise Refused(415, "the body must be JSON: send `Content-Type: application/json`")
        try:
            body = await asyncio.wait_for(self._read(receive), self._limits.body_seconds)
        except TimeoutError:
            raise Refused(408, "the body did not come in time; send it faster") from None
        try:
            check(body)
        except Malformed as error:
            raise Refused(400, str(error), path=error.path) from None
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    async def _check_length(self, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        """A body says how long it is before it comes, so that one in a million pieces is never taken."""
        if b"transfer-encoding" in headers or b"content-length" not in headers:
            raise Refused(411, "send the body whole, with a Content-Length", headers={"Connection": "close"})
        length, most = int(headers[b"content-length"]), self._limits.body_bytes
        if length > most:
            if length <= SOMEWHAT * most:  # who still sends does not read; let it finish, and throw that away
                await asyncio.wait([asyncio.ensure_future(_drop(receive))], timeout=self._limits.body_seconds)
            close = {"Connection": "close"}
            raise Refused(413, f"the body is longer than {most} bytes; send less at once", headers=close)

    async def _read(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Refused(400, "the client went away before the body was there")
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts)


@final
class _Answer:
    """Sends an answer, with the request's id in its head, and remembers its status."""

    def __init__(self, send: Send, request: str) -> None:
        self._send, self._request = send, request
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self._request.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-store"),
            ]
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Send an error."""
        body = error_body(refused.status, str(refused), path=refused.path, request=self._request)
        headers = [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def error_body(status: int, message: str, *, path: str | None, request: str) -> bytes:
    """An error as JSON."""
    return msgspec.json.encode(ErrorOut(error=ErrorBody(status=status, message=message, path=path, request=request)))


async def _drop(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


def _headers(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in scope["headers"]}
