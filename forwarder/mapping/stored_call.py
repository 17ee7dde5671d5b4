"""A stored call of RudderStack or Segment, read leniently: what is wrongly typed counts as absent.

Knows the shape of identify, track and group and nothing of Courier. Ids are judged empty as the
gateway judges them, and kept as they came; numbers become text. Deliberately absent: what becomes of
the call, which is `rudderstack_to_courier`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from forwarder.errors import Unmappable
from forwarder.nesting import TOO_DEEP, is_too_deep
from forwarder.rudderstack.wire import number_text, visible

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. Absent strings are "", absent objects {}."""

    type: str  # lower case
    raw: Json
    user_id: str
    anonymous_id: str
    group_id: str
    event: str  # track's name; "" for every other type
    properties: Json
    traits: Json  # the user's for identify, the group's for group
    context: Json

    @property
    def recipient(self) -> str:
        """Return the user: userId, else anonymousId. "" when there is neither."""
        return self.user_id or self.anonymous_id


def read_call(payload: bytes) -> Call:
    """Return the call; raises `Unmappable` when it is no JSON object, nested too deeply, or has no type."""
    raw = _decode(payload)
    type_ = _text(raw.get("type")).strip().lower()
    if not type_:
        raise Unmappable("the call has no type")
    context = _object(raw.get("context"))
    return Call(
        type=type_,
        raw=raw,
        user_id=_id(raw, "userId"),
        anonymous_id=_id(raw, "anonymousId"),
        group_id=_id(raw, "groupId"),
        event=_text(raw.get("event")) if type_ == "track" else "",
        properties=_object(raw.get("properties")),
        traits=_traits(type_, raw, context),
        context=context,
    )


def dig(value: object, *path: str) -> Any:
    """Return what lies at the path through objects, or None."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def id_text(value: object) -> str | None:
    """Return an id as text: strings as they came, numbers and booleans as JSON writes them, "" when empty.

    None for what cannot be an id. The gateway, too, takes any value that is not null, and judges emptiness
    by what is visible.
    """
    match value:
        case None:
            return ""
        case str():
            return value if visible(value) else ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return number_text(value)
        case _:
            return None


def _decode(payload: bytes) -> Json:
    if is_too_deep(payload):
        raise Unmappable(TOO_DEEP)
    try:
        # msgspec keeps integers exact whatever their size; orjson turns large ones into floats.
        raw = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Unmappable("not readable as JSON, or it holds a number out of range") from None
    if not isinstance(raw, dict):
        raise Unmappable("not a JSON object")
    return raw


def _traits(type_: str, raw: Json, context: Json) -> Json:
    """Return the root's traits as a whole, and for identify `context.traits` when those say nothing.

    Server SDKs put an identify's traits into the context alone. The context's traits of a group call are
    the user's, never the group's.
    """
    traits = _object(raw.get("traits"))
    return traits or (_object(context.get("traits")) if type_ == "identify" else {})


def _id(raw: Json, field: str) -> str:
    text = id_text(raw.get(field))
    if text is None:
        raise Unmappable(f"{field} is an object or an array")
    if text in {".", ".."}:
        # A path segment of dots means another path to every server and proxy.
        raise Unmappable(f"{field} consists of dots and cannot be part of a path")
    return text


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
