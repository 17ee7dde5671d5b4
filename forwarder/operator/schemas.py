"""The shapes of the operator's API in JSON Schema, by name; `operator_openapi` puts them into its document."""

from typing import Any

from forwarder.model import RouteName, State

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer", "minimum": 0}
MOMENT: Json = {"type": ["string", "null"], "format": "date-time"}
FLAG: Json = {"type": "boolean"}
ROUTE: Json = {"type": "string", "enum": [route.value for route in RouteName]}
STATE: Json = {"type": "string", "enum": [state.value for state in State]}

_MAYBE_TEXT: Json = {"type": ["string", "null"]}
_MAYBE_WHOLE: Json = {"type": ["integer", "null"]}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _event_fields() -> Json:
    return {
        "sequence": WHOLE,
        "route": ROUTE,
        "state": STATE,
        **dict.fromkeys(("event", "type", "message_id", "user_id", "source"), TEXT),
        **dict.fromkeys(("received_at", "settled_at", "retry_at"), MOMENT),
        "attempts": WHOLE,
        "reason": TEXT,
        "is_discarded": FLAG,
        "size_bytes": WHOLE,
    }


def schemas() -> Json:
    """Return every shape by its name."""
    return _events() | _status() | _listings() | _links() | _actions()


def _events() -> Json:
    attempt = _object(
        at=MOMENT, duration_ms=WHOLE, operation=TEXT, status=_MAYBE_WHOLE, outcome=TEXT, reason=TEXT, answer=TEXT
    )
    return {
        "Event": _object(**_event_fields()),
        "EventPage": _object(events=_list(_ref("Event")), next_before=_MAYBE_WHOLE, is_cut=FLAG),
        "EventDetail": _object(
            **_event_fields(),
            event_key=TEXT,
            payload=_MAYBE_TEXT,
            payload_encoding=_MAYBE_TEXT,
            progress=_MAYBE_TEXT,
            attempt_log=_list(attempt),
        ),
    }


def _status() -> Json:
    counts = dict.fromkeys(("accepted", "pending", "delivered", "filtered", "unmapped", "dead"), WHOLE)
    stop = _object(scope=TEXT, state=TEXT, reason=TEXT, since=MOMENT, next_try_at=MOMENT)
    route = _object(
        name=ROUTE,
        state={"type": "string", "enum": ["running", "paused", "held", "backing_off", "off"]},
        since=MOMENT,
        reason=TEXT,
        stops=_list(stop),
        in_flight=WHOLE,
        concurrency_limit=WHOLE,
        retrying=WHOLE,
        unsettled_bytes=WHOLE,
        oldest_age_s={"type": ["number", "null"]},
        books={"oneOf": [_object(**counts, is_balanced=FLAG), {"type": "null"}]},
    )
    spool = _object(
        size_bytes=WHOLE, cap_bytes=WHOLE, is_accepting=FLAG, refusal=TEXT, corrupt_rows=WHOLE, sqlite_version=TEXT
    )
    return {
        "Status": _object(
            version=TEXT, now=MOMENT, started_at=MOMENT, uptime_s={"type": "number"}, spool=spool, routes=_list(route)
        )
    }


def _listings() -> Json:
    event_type = _object(
        route=ROUTE, type=TEXT, event=TEXT, count=WHOLE, first_at=MOMENT, last_at=MOMENT, links=_list(_ref("Link"))
    )
    reason = _object(reason=TEXT, count=WHOLE, sample_sequence=WHOLE, last_at=MOMENT)
    return {
        "Error": _object(error=TEXT),
        "Document": {"type": "object"},
        "EventTypes": _object(event_types=_list(event_type)),
        "Reasons": _object(state=STATE, reasons=_list(reason)),
        "Audit": _object(audit=_list(_object(at=MOMENT, who=TEXT, action=TEXT, detail=TEXT))),
        "Settings": _object(settings=_list(_object(variable=TEXT, value=TEXT, origin=TEXT, is_secret=FLAG))),
    }


def _links() -> Json:
    return {
        "Link": _link(_object(**_LINK_FIELDS, pinned=FLAG)),
        "Links": _object(links=_list(_ref("Link"))),
        "LinksChange": {
            "type": "object",
            "properties": dict.fromkeys(("add", "remove"), _list(_link(_object(**_LINK_FIELDS))) | {"maxItems": 1_000}),
            "additionalProperties": False,
        },
        "LinksChanged": _object(added=WHOLE, removed=WHOLE),
    }


def _actions() -> Json:
    return {
        "Selection": _selection({}),
        "Replay": _selection({"everything": _EVERYTHING}),
        "Replayed": _object(replayed=WHOLE, next_after=_MAYBE_WHOLE),
        "Discarded": _object(discarded=WHOLE, next_after=_MAYBE_WHOLE),
        "RouteState": _object(route=ROUTE, state=TEXT),
    }


_LINK_FIELDS: Json = {
    "type": {"type": "string", "enum": ["track", "identify", "group"], "default": "track"},
    "event": TEXT,
    "to": {"type": "string", "enum": ["automation", "journey", "template", "list"], "default": "automation"},
    "target": TEXT,
    "source": {"type": "string", "enum": ["", "rudderstack", "segment"], "default": ""},
}


def _link(described: Json) -> Json:
    """Return the description of a link, of which only event and target are required."""
    return described | {"required": ["event", "target"]}


_EVERYTHING: Json = FLAG | {
    "default": False,
    "description": "Make the calls to Courier that an event already made again, too. They take effect again.",
}


def _selection(also: Json) -> Json:
    limit = {"type": "integer", "minimum": 1, "maximum": 1_000}
    by_state: Json = {
        "type": "object",
        "properties": {"state": STATE, "reason": TEXT, "route": ROUTE, "after": WHOLE, "limit": limit} | also,
        "required": ["state"],
        "additionalProperties": False,
        "description": "Oldest first; pass the answer's next_after as `after` until it is null.",
    }
    by_sequence: Json = {
        "type": "object",
        "properties": {"sequences": _list(WHOLE) | {"minItems": 1, "maxItems": 1_000}} | also,
        "required": ["sequences"],
        "additionalProperties": False,
    }
    return {"oneOf": [by_sequence, by_state]}
