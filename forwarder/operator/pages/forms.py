"""The page's own posts and its stream, described for machines beside the API: a post answers a form with HTML.

Programs use the API; these are described because everything that changes something is.
"""

from typing import Any, Final

from forwarder.operator.schemas import ROUTE, TEXT, WHOLE

Json = dict[str, Any]

_CONFIRMED: Final[Json] = {"type": "string", "enum": ["1"], "description": "Without it the answer asks first."}
_EVERYTHING: Final[Json] = {
    "type": "string",
    "enum": ["1"],
    "description": "Make the calls to Courier that the event already made again, too. They take effect again.",
}
_GROUP: Final[Json] = {
    "state": {"type": "string", "enum": ["dead", "unmapped"]},
    "route": ROUTE,
    "group": TEXT | {"description": "which reason, as the page's forms name it"},
    "confirmed": _CONFIRMED,
}
_LINK: Final[Json] = {
    "type": {"type": "string", "enum": ["track", "identify", "group"]},
    "event": TEXT,
    "to": {"type": "string", "enum": ["automation", "journey", "template", "list"]},
    "target": TEXT,
    "source": {"type": "string", "enum": ["", "rudderstack", "segment"]},
}


def described_forms() -> Json:
    """Return every post of the page as OpenAPI paths."""
    return {
        "/login": _post("Log in", {"token": TEXT, "next": TEXT}, "Opens a session: sets its cookie.", refusals=_LOGIN),
        "/logout": _post("Log out", {}, "Ends the session and takes its cookie away."),
        "/routes/{route}/pause": _post("Pause a route", {"confirmed": _CONFIRMED}, route=True),
        "/routes/{route}/resume": _post("Resume a route", {"confirmed": _CONFIRMED}, route=True),
        "/events/{sequence}/replay": _post(
            "Replay one event",
            {"everything": _EVERYTHING, "confirmed": _CONFIRMED},
            sequence=True,
        ),
        "/dead-letters/replay": _post("Replay a group", _GROUP, "A large one goes on in steps, shown on a page."),
        "/dead-letters/discard": _post("Discard a group of dead events", _GROUP),
        "/dead-letters/{sequence}/edit": _post(
            "Store an edited copy of a dead event as a new one, and discard the event",
            {"payload": TEXT},
            sequence=True,
            kind="multipart/form-data",
        ),
        "/dead-letters/{sequence}/discard": _post("Discard one dead event", {"confirmed": _CONFIRMED}, sequence=True),
        "/destination-events/link": _post("Link an event", _LINK),
        "/destination-events/unlink": _post("Remove a link", _LINK | {"confirmed": _CONFIRMED}),
        "/destination-events/replay": _post(
            "Replay what was unmapped of one event", {"type": TEXT, "event": TEXT, "confirmed": _CONFIRMED}
        ),
        "/settings/check": _post("Check settings, files and the whole spool", {}, "Changes nothing; takes long."),
    }


def described_stream() -> Json:
    """Return the page's live stream as an OpenAPI path."""
    watch = {"type": "string", "enum": ["overview", "events"]}
    after = {"description": "Only events newer than this sequence; Last-Event-ID goes before it."}
    return {
        "/api/stream": {
            "get": {
                "summary": "Server-sent events of the page: how things are, each second, and new rows as HTML",
                "description": "With watch=events it takes the filters of the page of events, too.",
                "parameters": [
                    {"name": "watch", "in": "query", "schema": watch},
                    {"name": "after", "in": "query", "schema": WHOLE} | after,
                ],
                "responses": {
                    "200": {"description": "The stream.", "content": {"text/event-stream": {"schema": TEXT}}},
                    "503": {"description": "Too many look already; see Retry-After."},
                    "default": {"$ref": "#/components/responses/Error"},
                },
            }
        }
    }


_LOGIN: Final[Json] = {
    "401": {"description": "That is not the token."},
    "429": {"description": "Too many wrong tokens from this address; see Retry-After."},
}


def _post(
    summary: str,
    fields: Json,
    description: str = "",
    *,
    route: bool = False,
    sequence: bool = False,
    kind: str = "application/x-www-form-urlencoded",
    refusals: Json | None = None,
) -> Json:
    parameters: list[Json] = []
    if route:
        parameters.append({"name": "route", "in": "path", "required": True, "schema": ROUTE})
    if sequence:
        parameters.append({"name": "sequence", "in": "path", "required": True, "schema": WHOLE})
    described: Json = {
        "summary": f"{summary} (the page's form)",
        "description": f"{description} Answers 403 when the request comes from another origin.".strip(),
        "parameters": parameters,
        "responses": {
            "200": {"description": "A page: what was asked, or a question to be confirmed."},
            "303": {"description": "Done; Location is the page that shows it."},
            "400": {"description": "A page that says what is wrong."},
            **(refusals or {}),
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if fields:
        described["requestBody"] = {"content": {kind: {"schema": {"type": "object", "properties": fields}}}}
    return {"post": described}
