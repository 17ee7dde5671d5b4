"""A call that is written as the query of an image's address, as RudderStack's pixel endpoints take it."""

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec

_DEPTH_MAX = 16
_QUOTED = re.compile(r'"(.*)"', re.DOTALL)
_encode = msgspec.json.Encoder().encode


def call_of(query: bytes, kind: str, *, now_ms: int) -> bytes:
    """Return the JSON of the call. A dot in a name means a member of an object: `context.page.path`."""
    now = datetime.fromtimestamp(now_ms / 1000, tz=UTC).isoformat(timespec="milliseconds")
    call: dict[str, Any] = {"channel": "web", "integrations": {"All": True}, "originalTimestamp": now, "sentAt": now}
    given: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True, errors="replace"):
        given.setdefault(name, value)
    given.pop("writeKey", None)
    for name, value in given.items():
        _set(call, name.split(".", _DEPTH_MAX), value)
    quoted = _QUOTED.fullmatch(str(call.get("anonymousId", "")))
    if quoted:
        call["anonymousId"] = quoted[1]
    if call.get("name") == "" and kind == "page":
        call["name"] = "Unknown Page"
    return _encode(call | {"type": kind})


def _set(call: dict[str, Any], path: list[str], value: str) -> None:
    *parents, last = path
    inside = call
    for parent in parents:
        member = inside.setdefault(parent, {})
        if not isinstance(member, dict):
            return
        inside = member
    inside[last] = value
