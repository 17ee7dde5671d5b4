"""The operator's API described for machines, in OpenAPI 3.1. A test holds it to the routes that exist.

Absent: the page, which is for people.
"""

from typing import Any

from forwarder.model import RouteName, State

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer", "minimum": 0}
_MOMENT: Json = {"type": ["string", "null"], "format": "date-time"}
_FLAG: Json = {"type": "boolean"}
_ROUTE: Json = {"type": "string", "enum": [route.value for route in RouteName]}
_STATE: Json = {"type": "string", "enum": [state.value for state in State]}


def document(version: str) -> Json:
    """Return the whole document."""
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
            "schemas": _schemas(),
            "responses": {"Error": _answer("What is wrong, and what to do.", "Error")},
        },
        "paths": _merged(_reading(), _acting()),
    }


def _reading() -> Json:
    return {
        "/metrics": {
            "get": {
                "summary": "Metrics for Prometheus",
                "responses": {"200": {"description": "Text format.", "content": {"text/plain": {"schema": _TEXT}}}},
            }
        },
        "/api/status": _get("State of both routes, the books and the spool", "Status"),
        "/api/events": _get("List events, newest first (oldest first with `after`)", "EventPage", _filters()),
        "/api/events/{sequence}": _get("One event with its payload and its attempts", "EventDetail", [_SEQUENCE]),
        "/api/event-types": _get("Event types seen, last seen first", "EventTypes", [_query("route", _ROUTE), _LIMIT]),
        "/api/reasons": _get(
            "Settled events grouped by reason, largest first",
            "Reasons",
            [_query("route", _ROUTE), _query("state", _STATE, "dead unless said"), _LIMIT],
        ),
        "/api/audit": _get("Who did what, newest first", "Audit", [_LIMIT]),
        "/api/settings": _get("Effective settings with their source, secrets masked", "Settings"),
        "/api/links": _get("Links between events and what they start at Courier, pinned ones first", "Links"),
        "/api/openapi.json": _get("This document", "Document"),
    }


def _acting() -> Json:
    paths = {
        "/api/replay": _post("Make settled events pending again", "Replayed", body="Selection"),
        "/api/discard": _post("Mark dead events as discarded; they stay in the books", "Discarded", body="Selection"),
    }
    paths["/api/links"] = _post("Add and remove links, all or none", "LinksChanged", body="LinksChange")
    for act in ("pause", "resume"):
        paths[f"/api/routes/{{route}}/{act}"] = _post(
            f"{act.capitalize()} a route, also over a restart",
            "RouteState",
            parameters=[{"name": "route", "in": "path", "required": True, "schema": _ROUTE}],
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
_SEQUENCE: Json = {"name": "sequence", "in": "path", "required": True, "schema": _WHOLE}


def _filters() -> list[Json]:
    time = "ISO 8601, or milliseconds since 1970"
    return [
        _query("route", _ROUTE),
        _query("state", _STATE),
        *(_query(name, _TEXT, "exact") for name in ("event", "user_id", "message_id", "reason")),
        _query("text", _TEXT, "part of the payload; scans a bounded number of the newest, see `is_cut`"),
        _query("from", _TEXT, f"inclusive; {time}"),
        _query("to", _TEXT, f"exclusive; {time}"),
        _query("before", _WHOLE, "strictly older sequences: the next page"),
        _query("after", _WHOLE, "strictly newer sequences: to follow"),
        _LIMIT,
    ]


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _event_fields() -> Json:
    return {
        "sequence": _WHOLE,
        "route": _ROUTE,
        "state": _STATE,
        **dict.fromkeys(("event", "type", "message_id", "user_id", "source"), _TEXT),
        **dict.fromkeys(("received_at", "settled_at", "retry_at"), _MOMENT),
        "attempts": _WHOLE,
        "reason": _TEXT,
        "is_discarded": _FLAG,
        "size_bytes": _WHOLE,
    }


def _schemas() -> Json:
    maybe_text: Json = {"type": ["string", "null"]}
    maybe_number: Json = {"type": ["number", "null"]}
    maybe_whole: Json = {"type": ["integer", "null"]}
    counts = dict.fromkeys(("accepted", "pending", "delivered", "filtered", "unmapped", "dead"), _WHOLE)
    stop = _object(scope=_TEXT, state=_TEXT, reason=_TEXT, since=_MOMENT, next_try_at=_MOMENT)
    attempt = _object(
        at=_MOMENT, duration_ms=_WHOLE, operation=_TEXT, status=maybe_whole, outcome=_TEXT, reason=_TEXT, answer=_TEXT
    )
    route = _object(
        name=_ROUTE,
        state={"type": "string", "enum": ["running", "paused", "held", "backing_off", "off"]},
        since=_MOMENT,
        reason=_TEXT,
        stops=_list(stop),
        in_flight=_WHOLE,
        concurrency_limit=_WHOLE,
        retrying=_WHOLE,
        unsettled_bytes=_WHOLE,
        oldest_age_s=maybe_number,
        books={"oneOf": [_object(**counts, is_balanced=_FLAG), {"type": "null"}]},
    )
    spool = _object(
        size_bytes=_WHOLE,
        cap_bytes=_WHOLE,
        is_accepting=_FLAG,
        refusal=_TEXT,
        corrupt_rows=_WHOLE,
        sqlite_version=_TEXT,
    )
    number: Json = {"type": "number"}
    event_type = _object(
        route=_ROUTE,
        type=_TEXT,
        event=_TEXT,
        count=_WHOLE,
        first_at=_MOMENT,
        last_at=_MOMENT,
        links=_list(_ref("Link")),
    )
    reason = _object(reason=_TEXT, count=_WHOLE, sample_sequence=_WHOLE, last_at=_MOMENT)
    return {
        "Error": _object(error=_TEXT),
        "Document": {"type": "object"},
        "Event": _object(**_event_fields()),
        "EventPage": _object(events=_list(_ref("Event")), next_before=maybe_whole, is_cut=_FLAG),
        "EventDetail": _object(
            **_event_fields(),
            event_key=_TEXT,
            payload=maybe_text,
            payload_encoding=maybe_text,
            progress=maybe_text,
            attempt_log=_list(attempt),
        ),
        "Status": _object(
            version=_TEXT, now=_MOMENT, started_at=_MOMENT, uptime_s=number, spool=spool, routes=_list(route)
        ),
        "EventTypes": _object(event_types=_list(event_type)),
        "Reasons": _object(state=_STATE, reasons=_list(reason)),
        "Audit": _object(audit=_list(_object(at=_MOMENT, who=_TEXT, action=_TEXT, detail=_TEXT))),
        "Settings": _object(settings=_list(_object(variable=_TEXT, value=_TEXT, origin=_TEXT, is_secret=_FLAG))),
        "Selection": _selection(),
        "Replayed": _object(replayed=_WHOLE, next_after=maybe_whole),
        "Discarded": _object(discarded=_WHOLE, next_after=maybe_whole),
        "RouteState": _object(route=_ROUTE, state=_TEXT),
        **_link_schemas(),
    }


_LINK_FIELDS: Json = {
    "type": {"type": "string", "enum": ["track", "identify", "group"], "default": "track"},
    "event": _TEXT,
    "to": {"type": "string", "enum": ["automation", "journey", "template", "list"], "default": "automation"},
    "target": _TEXT,
    "source": {"type": "string", "enum": ["", "rudderstack", "segment"], "default": ""},
}


def _link(described: Json) -> Json:
    """Return the description of a link, of which only event and target are required."""
    return described | {"required": ["event", "target"]}


def _link_schemas() -> Json:
    changes = _list(_link(_object(**_LINK_FIELDS))) | {"maxItems": 1_000}
    return {
        "Link": _link(_object(**_LINK_FIELDS, pinned=_FLAG)),
        "Links": _object(links=_list(_ref("Link"))),
        "LinksChange": {
            "type": "object",
            "properties": {"add": changes, "remove": changes},
            "additionalProperties": False,
        },
        "LinksChanged": _object(added=_WHOLE, removed=_WHOLE),
    }


def _selection() -> Json:
    limit = {"type": "integer", "minimum": 1, "maximum": 1_000}
    by_state: Json = {
        "type": "object",
        "properties": {"state": _STATE, "reason": _TEXT, "route": _ROUTE, "after": _WHOLE, "limit": limit},
        "required": ["state"],
        "additionalProperties": False,
        "description": "Oldest first; pass the answer's next_after as `after` until it is null.",
    }
    by_sequence: Json = {
        "type": "object",
        "properties": {"sequences": _list(_WHOLE) | {"minItems": 1, "maxItems": 1_000}},
        "required": ["sequences"],
        "additionalProperties": False,
    }
    return {"oneOf": [by_sequence, by_state]}
