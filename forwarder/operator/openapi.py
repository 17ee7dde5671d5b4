"""The operator's API described for machines, in OpenAPI 3.1. A test holds it to the routes that exist.

Absent: the page, which is for people.
"""

from collections.abc import Mapping
from typing import Any

from forwarder.operator.schemas import ROUTE, STATE, TEXT, WHOLE, schemas

Json = dict[str, Any]


def document(version: str, also: Mapping[str, Any] | None = None) -> Json:
    """Return the whole document; `also` are paths of what is served beside the API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "forwarder, operator API",
            "version": version,
            "description": "Loopback by default. With FORWARDER_OPERATOR_TOKEN set, every request needs the token.",
        },
        "security": [{}, {"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
            "responses": {"Error": _answer("What is wrong, and what to do.", "Error")},
        },
        "paths": _merged(_reading(), _acting()) | dict(also or {}),
    }


def _reading() -> Json:
    return {
        "/metrics": {
            "get": {
                "summary": "Metrics for Prometheus",
                "responses": {"200": {"description": "Text format.", "content": {"text/plain": {"schema": TEXT}}}},
            }
        },
        "/api/status": _get("State of both routes, the books and the spool", "Status"),
        "/api/events": _get("List events, newest first (oldest first with `after`)", "EventPage", _filters()),
        "/api/events/{sequence}": _get("One event with its payload and its attempts", "EventDetail", [_SEQUENCE]),
        "/api/event-types": _get("Event types seen, last seen first", "EventTypes", [_query("route", ROUTE), _LIMIT]),
        "/api/reasons": _get(
            "Settled events grouped by reason, largest first",
            "Reasons",
            [_query("route", ROUTE), _query("state", STATE, "dead unless said"), _LIMIT],
        ),
        "/api/audit": _get("Who did what, newest first", "Audit", [_LIMIT]),
        "/api/settings": _get("Effective settings with their source, secrets masked", "Settings"),
        "/api/links": _get("Links between events and what they start at Courier, pinned ones first", "Links"),
        "/api/openapi.json": _get("This document", "Document"),
    }


def _acting() -> Json:
    paths = {
        "/api/replay": _post("Make settled events pending again", "Replayed", body="Replay"),
        "/api/discard": _post("Mark dead events as discarded; they stay in the books", "Discarded", body="Selection"),
    }
    paths["/api/links"] = _post("Add and remove links, all or none", "LinksChanged", body="LinksChange")
    for act in ("pause", "resume"):
        paths[f"/api/routes/{{route}}/{act}"] = _post(
            f"{act.capitalize()} a route, also over a restart",
            "RouteState",
            parameters=[{"name": "route", "in": "path", "required": True, "schema": ROUTE}],
        )
    return paths


def _merged(reading: Json, acting: Json) -> Json:
    """Return both; a path that is read and changed keeps both of its methods."""
    return reading | {path: reading.get(path, {}) | methods for path, methods in acting.items()}


def _get(summary: str, schema: str, parameters: list[Json] | None = None) -> Json:
    return {
        "get": {
            "summary": summary,
            "parameters": parameters or [],
            "responses": {"200": _answer(summary, schema), "default": {"$ref": "#/components/responses/Error"}},
        }
    }


def _post(summary: str, schema: str, *, body: str = "", parameters: list[Json] | None = None) -> Json:
    described: Json = {
        "summary": summary,
        "description": "Answers 403 when the request comes from another origin.",
        "parameters": parameters or [],
        "responses": {"200": _answer(summary, schema), "default": {"$ref": "#/components/responses/Error"}},
    }
    if body:
        described["requestBody"] = {"required": True, "content": _json_content(body)}
    return {"post": described}


def _answer(description: str, schema: str) -> Json:
    return {"description": description, "content": _json_content(schema)}


def _json_content(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _query(name: str, schema: Json, description: str = "") -> Json:
    return {"name": name, "in": "query", "schema": schema} | ({"description": description} if description else {})


_LIMIT: Json = _query("limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50})
_SEQUENCE: Json = {"name": "sequence", "in": "path", "required": True, "schema": WHOLE}


def _filters() -> list[Json]:
    time = "ISO 8601, or milliseconds since 1970"
    return [
        _query("route", ROUTE),
        _query("state", STATE),
        *(_query(name, TEXT, "exact") for name in ("event", "user_id", "message_id", "reason")),
        _query("text", TEXT, "part of the payload; scans a bounded number of the newest, see `is_cut`"),
        _query("from", TEXT, f"inclusive; {time}"),
        _query("to", TEXT, f"exclusive; {time}"),
        _query("before", WHOLE, "strictly older sequences: the next page"),
        _query("after", WHOLE, "strictly newer sequences: to follow"),
        _LIMIT,
    ]
