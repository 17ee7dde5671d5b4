"""What RudderStack's gateway says to a body, and what it makes of the events it takes. Pure.

Re-expressed from the behaviour of rudder-server f2655fbb (gateway, `go-kit/sanitize`), as read and as
seen on a running server: statuses, exact texts, the order of the checks, all or nothing.
Absent: the processor behind the gateway, but for one thing: what it loses without a word is told apart.
"""

import gzip
import hashlib
import json
import unicodedata
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REQUEST_BYTES_MAX = 4_096_000  # Gateway.maxReqSizeInKB, uncompressed
CALLS = frozenset({"alias", "audiencelist", "group", "identify", "merge", "page", "screen", "track"})
# Nesting that the gateway takes and that then stops every delivery of the source lies between 4,000 and 5,000.
WEDGING_DEPTH_MIN = 5_000
# Whitespace-like characters of Unicode's printable classes that the gateway strips as well.
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0\u034f\u17b4\u17b5")

Event = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The request was good: 200 `ok`. `events` as the gateway stores them; `vanished` reach nobody."""

    events: tuple[Event, ...]
    vanished: tuple[Event, ...] = ()
    is_wedged: bool = False  # nested so deeply that the source stands still from now on


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The gateway's answer to what it does not take; `text` is without the newline that ends it."""

    status: int
    text: str


INVALID_JSON = Refusal(status=400, text="invalid json")
NOT_AN_EVENT = Refusal(status=400, text="event is not a valid rudder event")
NO_IDS = Refusal(status=400, text="request neither has anonymousId nor userId")
EMPTY_BATCH = Refusal(status=400, text="empty batch payload")
NO_WRITE_KEY = Refusal(status=401, text="failed to read writekey from header")
INVALID_WRITE_KEY = Refusal(status=401, text="invalid write key")
SOURCE_DISABLED = Refusal(status=404, text="source is disabled")
UNKNOWN_PATH = Refusal(status=404, text="404 page not found")
TOO_LARGE = Refusal(status=413, text="request size exceeds max limit")
RATE_LIMITED = Refusal(status=429, text="max requests limit reached")
BODY_UNREADABLE = Refusal(status=500, text="failed to read body from request")


def unpack(body: bytes, encoding: str) -> bytes | Refusal:
    """Return the plain body. Only `gzip`, exactly, is unpacked; a corrupt stream looks like a broken connection."""
    if encoding != "gzip":
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return BODY_UNREADABLE


def judge(body: bytes, *, call: str, events_left: int | None = None, now_iso: str = "") -> Taken | Refusal:
    """Return what the gateway says to a plain body posted to `/v1/{call}`.

    `events_left` is what remains of the rate limit's window, None without a limit. The checks run in
    the gateway's order: JSON, each element in turn, rate limit, size.
    """
    try:
        parsed = _loads(body)
    except RecursionError:
        return Taken(events=(), is_wedged=_depth(body) >= WEDGING_DEPTH_MIN)
    except ValueError:
        return INVALID_JSON
    events = _events(parsed, call, now_iso)
    if isinstance(events, Refusal):
        return events
    if events_left is not None and len(events) > events_left:
        return RATE_LIMITED
    if len(body) > REQUEST_BYTES_MAX:
        return TOO_LARGE
    return Taken(
        events=tuple(event for event in events if not _vanishes(event)),
        vanished=tuple(event for event in events if _vanishes(event)),
        is_wedged=_depth(body) >= WEDGING_DEPTH_MIN,
    )


def sanitized(text: str) -> str:
    """Return the text as the gateway judges an id: invisible characters removed, blanks trimmed."""
    visible = (c for c in text if c == " " or (unicodedata.category(c)[0] not in "CZ" and c not in _FILLERS))
    return "".join(visible).strip()


def rudder_id(user_id: str, anonymous_id: str) -> str:
    """Return the id that the gateway computes: MD5 of both, with the marks of a version 4 UUID."""
    digest = hashlib.md5(f"{user_id}:{anonymous_id}".encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest, version=4))


def _loads(body: bytes) -> Any:
    # Broken UTF-8 becomes U+FFFD, and so do lone surrogates; NaN and Infinity are no JSON.
    return json.loads(
        body.decode("utf-8", errors="replace"), parse_constant=_no_constant, object_pairs_hook=_first_wins
    )


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(_clean(key), _clean(value) if isinstance(value, str) else value)
    return found


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _events(parsed: Any, call: str, now_iso: str) -> list[Event] | Refusal:
    elements = _elements(parsed, call)
    if isinstance(elements, Refusal):
        return elements
    events: list[Event] = []
    for element in elements:
        event = _stored(element, now_iso)
        if isinstance(event, Refusal):
            return event
        events.append(event)
    return events


def _elements(parsed: Any, call: str) -> list[Any] | Refusal:
    if call != "batch":
        if not isinstance(parsed, dict):
            return NOT_AN_EVENT
        return [parsed | {"type": call}]
    batch = parsed.get("batch") if isinstance(parsed, dict) else None
    if isinstance(batch, dict):
        return [batch]
    if not isinstance(batch, list) or not batch:
        return EMPTY_BATCH
    return batch


def _stored(element: Any, now_iso: str) -> Event | Refusal:
    if not isinstance(element, dict):
        return NOT_AN_EVENT
    user_id, anonymous_id = _id(element.get("userId")), _id(element.get("anonymousId"))
    if not user_id and not anonymous_id:
        return NO_IDS
    message_id = element.get("messageId")
    message_id = sanitized(message_id) if isinstance(message_id, str) else ""
    ids = {
        "messageId": message_id or str(uuid.uuid4()),
        "rudderId": rudder_id(user_id, anonymous_id),
        "receivedAt": now_iso,
    }
    return element | ids


def _id(value: Any) -> str:
    if value is None:
        return ""
    return sanitized(value if isinstance(value, str) else json.dumps(value))


def _vanishes(event: Mapping[str, Any]) -> bool:
    kind, integrations = event.get("type"), event.get("integrations", {})
    if not isinstance(kind, str) or kind.lower() not in CALLS:
        return True
    return not isinstance(integrations, dict) or not isinstance(integrations.get("All", True), bool)


def _depth(body: bytes) -> int:
    # Brackets inside strings count too, which can only make a shallow body look deeper; the
    # quick look at the sum of brackets spares nearly every body the walk.
    if body.count(b"[") + body.count(b"{") < WEDGING_DEPTH_MIN:
        return 0
    depth = deepest = 0
    for byte in body:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
