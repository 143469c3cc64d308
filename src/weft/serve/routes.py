"""The paths of the service: what each takes and gives, the scope it needs, and the OpenAPI page made from that."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from weft.serve import wire
from weft.serve.tokens import Scope


class Route(NamedTuple):
    """A path under one method.

    Attributes:
        method: GET, POST, PUT or DELETE.
        path: As it is asked for.
        name: Of the operation, and of the method of `Service` that answers.
        scope: What a key needs; None is open to all.
        summary: One sentence.
        answer: The type of the answer; bytes is Prometheus' text, dict is any JSON.
        body: The type of the body.
        query: The type whose fields are the parameters after `?`.
        example: A body, or parameters.
        errors: The further statuses that it can give, beside those of the door.
    """

    method: str
    path: str
    name: str
    scope: Scope | None
    summary: str
    answer: Any
    body: type[Struct] | None = None
    query: type[Struct] | None = None
    example: Mapping[str, Any] = MappingProxyType({})
    errors: tuple[int, ...] = ()


_EVENT = {"event": "e-1", "kind": "play", "user": "user-7", "item": "track-1", "request": "r-1", "position": 1}
ROUTES = (
    Route(
        "POST",
        "/v1/recommend",
        "recommend",
        "read",
        "The k best items for a user.",
        wire.ListOut,
        wire.RecommendRequest,
        example={"user": "user-7", "k": 10, "surface": "home", "filters": {"deny": ["track-1"]}},
        errors=(409,),
    ),
    Route(
        "POST",
        "/v1/rank",
        "rank",
        "read",
        "Given items in the order in which a user would like them.",
        wire.ListOut,
        wire.RankRequest,
        example={"user": "user-7", "candidates": ["track-1", "track-2"]},
        errors=(409,),
    ),
    Route(
        "POST",
        "/v1/similar",
        "similar",
        "read",
        "The items that are nearest to an item.",
        wire.SimilarOut,
        wire.SimilarRequest,
        example={"item": "track-1", "k": 5},
        errors=(404, 409),
    ),
    Route(
        "GET",
        "/v1/explain",
        "explain",
        "read",
        "Why an item is or is not in a user's list, and what the ranker reads of the two.",
        wire.ExplainOut,
        query=wire.ExplainQuery,
        example={"user": "user-7", "item": "track-1"},
        errors=(404,),
    ),
    Route(
        "POST",
        "/v1/events",
        "events",
        "ingest",
        "Keep what users did; answered when it is on disk.",
        wire.EventsOut,
        wire.EventsRequest,
        example={"events": [_EVENT]},
    ),
    Route(
        "PUT",
        "/v1/items",
        "put_items",
        "ingest",
        "Add items, or change them; they can be recommended at once where a tower can embed them.",
        wire.DoneOut,
        wire.ItemsRequest,
        example={"items": [{"id": "track-new", "columns": {"title": "New"}}]},
        errors=(409,),
    ),
    Route(
        "DELETE",
        "/v1/items",
        "delete_items",
        "ingest",
        "Take an item out of all lists.",
        wire.DoneOut,
        query=wire.IdQuery,
        example={"id": "track-new"},
    ),
    Route(
        "PUT",
        "/v1/users",
        "put_users",
        "ingest",
        "Add users, or change them.",
        wire.DoneOut,
        wire.UsersRequest,
        example={"users": [{"id": "user-new", "columns": {}}]},
        errors=(409,),
    ),
    Route(
        "DELETE",
        "/v1/users",
        "delete_users",
        "ingest",
        "Delete a user with all that is kept of the user: columns, events, requests.",
        wire.DoneOut,
        query=wire.IdQuery,
        example={"id": "user-new"},
    ),
    Route(
        "POST",
        "/v1/bundles/activate",
        "activate",
        "admin",
        "Put another bundle into service; answered when all processes serve it.",
        wire.BundleOut,
        wire.ActivateRequest,
        example={"bundle": "bundle-2", "reason": "AUC up by 0.01"},
        errors=(409,),
    ),
    Route(
        "POST",
        "/v1/bundles/rollback",
        "rollback",
        "admin",
        "Go back to the bundle that was in service before.",
        wire.BundleOut,
        wire.RollbackRequest,
        example={"reason": "complaints"},
        errors=(409,),
    ),
    Route("GET", "/healthz", "health", None, "Whether the process lives.", wire.HealthOut),
    Route("GET", "/readyz", "ready", None, "Whether the process can answer.", wire.ReadyOut, errors=(503,)),
    Route("GET", "/metrics", "metrics", "read", "What Prometheus reads.", bytes),
    Route("GET", "/schema", "schema", "read", "This page.", dict),
)
SCOPES: dict[str, Scope] = {route.path: route.scope for route in ROUTES if route.scope is not None}
BODIED = {(route.method, route.path) for route in ROUTES if route.body is not None}
METHODS = {path: sorted(route.method for route in ROUTES if route.path == path) for path in (r.path for r in ROUTES)}
OPEN = tuple(route.path for route in ROUTES if route.scope is None)

_MEANINGS = {
    400: "The request is not as it should be; `path` says where.",
    401: "A token is missing or unknown.",
    403: "The key lacks the scope, or Host or Origin is not ours.",
    404: "Nobody knows that.",
    408: "The body did not come in time.",
    409: "It does not fit the bundle in service, such as a column that its schema does not have.",
    411: "The body has no Content-Length.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    429: "The key asks too often.",
    503: "Not now: too many requests wait, the store cannot write, or no bundle is loaded.",
}


def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 page."""
    types = [wire.ErrorOut, *(t for route in ROUTES for t in (route.body, route.answer) if _is_struct(t))]
    _, components = msgspec.json.schema_components(dict.fromkeys(types), ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "weft", "version": version, "description": "Recommendations, and what users make of them."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _operation(route: Route) -> dict[str, Any]:
    door = () if route.scope is None else (400, 401, 403, 429, 503)
    bodied = (408, 411, 413, 415) if route.body is not None else ()
    statuses = sorted({*door, *bodied, *route.errors})
    made: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            "200": {"description": "Done.", "content": _content(route.answer)},
            **{str(s): {"description": _MEANINGS[s], "content": _content(wire.ErrorOut)} for s in statuses},
        },
    }
    if route.path == "/readyz":
        made["responses"]["503"]["content"] = _content(route.answer)
    if route.scope is not None:
        made |= {"security": [{"token": []}], "x-scope": route.scope}
    if route.body is not None:
        content = {"application/json": {**_content(route.body)["application/json"], "example": route.example}}
        made["requestBody"] = {"required": True, "content": content}
    if route.query is not None:
        made["parameters"] = _parameters(route.query, route.example)
    return made


def _content(kind: Any) -> dict[str, Any]:
    if kind is bytes:
        return {"text/plain": {"schema": {"type": "string"}}}
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"} if _is_struct(kind) else {"type": "object"}
    return {"application/json": {"schema": schema}}


def _parameters(query: type[Struct], example: Mapping[str, Any]) -> list[dict[str, Any]]:
    whole = msgspec.json.schema(query)
    fields = whole["$defs"][query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": True, "schema": schema, "example": example[name]}
        for name, schema in fields.items()
    ]
