"""The endpoints of the public listener: which there are, what each asks for, and what it answers when it cannot take.

The table is the contract. Both vendors give up for good on a 4xx other than 429, so what may heal (a rotated secret, a
wrong clock, a full disk, a route that is off, a proxy's limits) gets 429 or 503; which of the two depends on how long
the sender keeps the event. How a request is judged is elsewhere (`admission`).
"""

from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from forwarder.model import RouteName

# RudderStack keeps what got a 429 for 30 days, but what got a 5xx for three hours only.
UNAVAILABLE = 503
LATER = 429
UNAUTHORIZED = 401

RECEIVING = frozenset({b"POST", b"PUT", b"PATCH"})


class Authenticator(Enum):
    """What proves a sender."""

    COURIER_SIGNATURE = "courier_signature"
    KEY = "key"  # Authorization: Bearer, or Basic with the key as user
    KEY_OR_SEGMENT_SIGNATURE = "key_or_segment_signature"
    WRITE_KEY = "write_key"  # a key as above, or `writeKey` in the query or the body


class BodyFormat(Enum):
    """What a body may hold."""

    WEBHOOK = "webhook"  # one event; whatever was signed is kept, JSON or not
    EVENTS = "events"  # one object, an array, or one object a line
    CALLS = "calls"  # one object, an array, or {"batch": […]}
    BATCH = "batch"  # {"batch": […]}, as the gateway takes it
    CALL = "call"  # one object, whose type is the endpoint's
    QUERY = "query"  # no body: what there is stands in the query


class ReplyFormat(Enum):
    """How an endpoint speaks."""

    JSON = "json"  # {"accepted": n, "duplicates": m}
    MESSAGE = "message"  # 202 {"messageId": …}, as Courier's own inbound endpoints do
    GATEWAY = "gateway"  # errors as plain text, in the words of RudderStack's gateway; `ok` or {"success":true}
    PIXEL = "pixel"  # a transparent image, whatever happened


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One path that takes events."""

    name: str  # in metrics and logs
    source: str  # what its envelopes say they came from
    route: RouteName
    authenticator: Authenticator
    body_format: BodyFormat
    reply_format: ReplyFormat
    unknown_status: int  # a credential that is well-formed but none of ours
    full_status: int  # spool or disk full
    off_status: int  # its route, or the endpoint itself, is switched off
    corrupt_status: int = UNAVAILABLE  # a packed body that is cut off or broken
    is_vendor: bool = False  # its sender gives up on a 4xx: what a setting or a proxy is to blame for is 429
    is_segment: bool = False  # only Segment's SDKs use this path: they parse the 200
    is_cross_origin: bool = False  # pages in browsers post here
    methods: frozenset[bytes] = RECEIVING
    type: str = ""  # of `BodyFormat.CALL`: what every event's type becomes

    def status(self, status: int) -> int:
        """Return what is answered for a mistake that a setting or a proxy may be to blame for."""
        return LATER if self.is_vendor else status


WEBHOOK = Endpoint(
    name="/webhooks/courier",
    source="webhook",
    route=RouteName.COURIER_TO_RUDDERSTACK,
    authenticator=Authenticator.COURIER_SIGNATURE,
    body_format=BodyFormat.WEBHOOK,
    reply_format=ReplyFormat.JSON,
    unknown_status=LATER,
    full_status=UNAVAILABLE,
    off_status=UNAVAILABLE,
    is_vendor=True,
)
EVENTS = Endpoint(
    name="/events",
    source="events",
    route=RouteName.COURIER_TO_RUDDERSTACK,
    authenticator=Authenticator.KEY,
    body_format=BodyFormat.EVENTS,
    reply_format=ReplyFormat.JSON,
    unknown_status=UNAUTHORIZED,
    full_status=UNAVAILABLE,
    off_status=UNAVAILABLE,
)

# Segment's one-letter paths, and the whole names that both vendors use.
_TYPES = {"t": "track", "i": "identify", "g": "group", "p": "page", "s": "screen", "a": "alias"}
_RUDDERSTACK_TYPES = ("merge", "audiencelist")
CALL_TYPES = frozenset(_TYPES.values())


def _inbound(source: str, authenticator: Authenticator) -> Endpoint:
    return Endpoint(
        name=f"/inbound/{source}",
        source=source,
        route=RouteName.RUDDERSTACK_TO_COURIER,
        authenticator=authenticator,
        body_format=BodyFormat.CALLS,
        reply_format=ReplyFormat.MESSAGE,
        unknown_status=LATER,
        full_status=LATER,
        off_status=LATER,
        corrupt_status=LATER,
        is_vendor=True,
    )


def _sdk(
    body_format: BodyFormat, kind: str = "", *, name: str = "/v1", is_segment: bool = False, is_pixel: bool = False
) -> Endpoint:
    return Endpoint(
        name=name,
        source="v1",
        route=RouteName.RUDDERSTACK_TO_COURIER,
        authenticator=Authenticator.WRITE_KEY,
        body_format=body_format,
        reply_format=ReplyFormat.PIXEL if is_pixel else ReplyFormat.GATEWAY,
        unknown_status=UNAUTHORIZED,
        full_status=LATER,
        off_status=LATER,
        is_segment=is_segment,
        is_cross_origin=True,
        methods=frozenset({b"GET"}) if is_pixel else RECEIVING,
        type=kind,
    )


def _sdk_paths() -> dict[str, Endpoint]:
    batch, short_batch = _sdk(BodyFormat.BATCH), _sdk(BodyFormat.BATCH, is_segment=True)
    paths = {
        "/v1/batch": batch,
        "/v1/import": batch,
        "/v1/b": short_batch,
        "/b": short_batch,
        "/beacon/v1/batch": _sdk(BodyFormat.BATCH, name="/beacon"),
    }
    for letter, kind in _TYPES.items():
        paths[f"/v1/{letter}"] = paths[f"/{letter}"] = _sdk(BodyFormat.CALL, kind, is_segment=True)
    for kind in (*_TYPES.values(), *_RUDDERSTACK_TYPES):
        paths[f"/v1/{kind}"] = _sdk(BodyFormat.CALL, kind)
        paths[f"/beacon/v1/{kind}"] = _sdk(BodyFormat.CALL, kind, name="/beacon")
        paths[f"/pixel/v1/{kind}"] = _sdk(BodyFormat.QUERY, kind, name="/pixel", is_pixel=True)
    return paths


ENDPOINTS = MappingProxyType(
    {
        "/webhooks/courier": WEBHOOK,
        "/events": EVENTS,
        "/inbound/rudderstack": _inbound("rudderstack", Authenticator.KEY),
        "/inbound/segment": _inbound("segment", Authenticator.KEY_OR_SEGMENT_SIGNATURE),
        **_sdk_paths(),
    }
)

# The settings that SDKs fetch before they send; their paths are in `documents`.
DOCUMENTS = replace(_sdk(BodyFormat.QUERY), reply_format=ReplyFormat.GATEWAY, methods=frozenset({b"GET", b"HEAD"}))

# What a request's target is looked up in: a slash that was pasted with an address makes no difference.
BY_TARGET = {(path + slash).encode(): endpoint for path, endpoint in ENDPOINTS.items() for slash in ("", "/")}
