"""Decide whether new events fit under the spool's cap.

Pure. History (what is settled and not dead) is evicted for new events, so it never counts against them; what
is unsettled or dead does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forwarder.model import Envelope, RouteName
from forwarder.spool.limits import SpoolLimits

EVENT_OVERHEAD_BYTES = 384  # a row's share of pages, keys and bookkeeping beside its payload
EVICTION_FRACTION = 0.9  # of the cap: from here on history is evicted
ROUTE_FRACTION = 0.75  # of the cap: what one route's unsettled events may take while both run
RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is held just now, in bytes with the overhead of each row."""

    unsettled_route: int  # of the route that wants to add
    unsettled: int  # of all routes
    dead: int


def event_bytes(payload_bytes: int) -> int:
    """Return what an event is counted as."""
    return payload_bytes + EVENT_OVERHEAD_BYTES


def refusal(limits: SpoolLimits, load: Load, *, incoming: int) -> str:
    """Return why `incoming` more bytes do not fit, or "" when they do."""
    if load.unsettled + load.dead + incoming > limits.bytes_max * EVICTION_FRACTION:
        return "the spool has reached its cap: what waits and what is dead fills it"
    if limits.is_shared and load.unsettled_route + incoming > limits.bytes_max * ROUTE_FRACTION:
        return "this route's waiting events have reached three quarters of the spool's cap"
    return ""


def incoming_bytes(envelopes: Iterable[Envelope]) -> dict[RouteName, int]:
    """Return what an append adds to each route it has events of."""
    incoming: dict[RouteName, int] = {}
    for envelope in envelopes:
        incoming[envelope.route] = incoming.get(envelope.route, 0) + event_bytes(len(envelope.payload))
    return incoming


def standing_refusal(
    limits: SpoolLimits, *, unsettled: Mapping[RouteName, int], dead: int, incoming: Mapping[RouteName, int]
) -> str:
    """Return why an append of so much would be refused now, or "" when it would not."""
    total = sum(unsettled.values())
    for route, size in incoming.items():
        reason = refusal(limits, Load(unsettled_route=unsettled[route], unsettled=total, dead=dead), incoming=size)
        if reason:
            return reason
    return ""
