"""The doors of the public listener: which there are, what each asks for, and what it answers when it cannot take.

The table is the contract. Both vendors give up for good on a 4xx other than 429, so what may heal (a rotated
secret, a wrong clock, a full disk, a route that is off) gets 429 or 503 here; which of the two depends on how long
the sender keeps the event. Deliberately absent: how a request is judged.
"""

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from forwarder.model import RouteName

# RudderStack keeps what got a 429 for 30 days, but what got a 5xx for three hours only.
UNAVAILABLE = 503
LATER = 429
REFUSED = 401


class Guard(Enum):
    """What proves a sender."""

    COURIER_SIGNATURE = "courier_signature"
    KEY = "key"  # Authorization: Bearer, or Basic with the key as user
    KEY_OR_SEGMENT_SIGNATURE = "key_or_segment_signature"


class Shape(Enum):
    """What a body may hold."""

    WEBHOOK = "webhook"  # one event; whatever was signed is kept, JSON or not
    EVENTS = "events"  # one object, an array, or one object a line
    CALLS = "calls"  # one object, an array, or {"batch": […]}
    BATCH = "batch"  # {"batch": […]}, as the gateway takes it
    CALL = "call"  # one object, whose type is the door's


class Words(Enum):
    """How a door speaks."""

    JSON = "json"  # {"accepted": n, "duplicates": m}
    MESSAGE = "message"  # 202 {"messageId": …}, as Courier's own inbound endpoints do
    GATEWAY = "gateway"  # plain text, as RudderStack's gateway does: SDKs stumble over other JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One path that takes events."""

    endpoint: str  # its name in metrics and logs
    source: str  # what its envelopes say they came from
    route: RouteName
    guard: Guard
    shape: Shape
    words: Words
    mismatch_status: int  # a credential that is well-formed but none of ours
    full_status: int  # spool or disk full
    off_status: int  # its route, or the door itself, is switched off
    type: str = ""  # of `Shape.CALL`: what every event's type becomes


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered, knowing no HTTP library. `closes`: the connection is of no more use."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False


WEBHOOK = Door(
    endpoint="/webhooks/courier",
    source="webhook",
    route=RouteName.COURIER_TO_RUDDERSTACK,
    guard=Guard.COURIER_SIGNATURE,
    shape=Shape.WEBHOOK,
    words=Words.JSON,
    mismatch_status=LATER,
    full_status=UNAVAILABLE,
    off_status=UNAVAILABLE,
)
EVENTS = Door(
    endpoint="/events",
    source="events",
    route=RouteName.COURIER_TO_RUDDERSTACK,
    guard=Guard.KEY,
    shape=Shape.EVENTS,
    words=Words.JSON,
    mismatch_status=REFUSED,
    full_status=UNAVAILABLE,
    off_status=UNAVAILABLE,
)


def _inbound(source: str, guard: Guard) -> Door:
    return Door(
        endpoint=f"/inbound/{source}",
        source=source,
        route=RouteName.RUDDERSTACK_TO_COURIER,
        guard=guard,
        shape=Shape.CALLS,
        words=Words.MESSAGE,
        mismatch_status=LATER,
        full_status=LATER,
        off_status=LATER,
    )


def _gateway(shape: Shape, kind: str = "") -> Door:
    return Door(
        endpoint="/v1",
        source="v1",
        route=RouteName.RUDDERSTACK_TO_COURIER,
        guard=Guard.KEY,
        shape=shape,
        words=Words.GATEWAY,
        mismatch_status=REFUSED,
        full_status=LATER,
        off_status=LATER,
        type=kind,
    )


DOORS = MappingProxyType(
    {
        "/webhooks/courier": WEBHOOK,
        "/events": EVENTS,
        "/inbound/rudderstack": _inbound("rudderstack", Guard.KEY),
        "/inbound/segment": _inbound("segment", Guard.KEY_OR_SEGMENT_SIGNATURE),
        "/v1/batch": _gateway(Shape.BATCH),
        "/v1/import": _gateway(Shape.BATCH),
        **{
            f"/v1/{kind}": _gateway(Shape.CALL, kind)
            for kind in ("identify", "track", "group", "page", "screen", "alias")
        },
    }
)
