"""A program that makes a spool with a million settled events in an empty folder, its argument.

They go through the spool's own port, in a process of its own: where coverage is measured they would take minutes.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvloop

from forwarder.clock import SystemClock
from forwarder.model import Attempt, Envelope, Labels, RouteName, Settled, State
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.spool_acts import leased, stored

EVENTS = 1_000_000
RARE = 17  # the sequence of an event that has its name, user, message and reason to itself, at the far end
_STEP = 5_000
_AGO_MS = 518_400_000  # six days: all within the retention
_OUTBOUND, _INBOUND = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
_STATUSES = ("Sent", "Delivered", "Opened", "Clicked")
_MORE = {
    "library": {"name": "analytics.js", "version": "3.11.14"},
    "locale": "de-DE",
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "page": {"path": "/cart", "title": "Cart"},
    "campaign": {"name": "autumn", "medium": "email", "source": "newsletter"},
    "timezone": "Europe/Berlin",
}


def envelope(number: int, *, begin_ms: int) -> Envelope:
    """Make the event that gets this number: four statuses a message outbound, calls of 200 names inbound."""
    message = number // 4
    is_inbound = message % 5 >= 3
    user, text = f"user-{message * 40_503 % 50_000}", f"1-{message}-15f7d6ba51bf2298"
    if is_inbound:
        kind = "identify" if number % 10 == 0 else "track"
        event = kind if kind == "identify" else f"Product Viewed {number * 7_919 % 200}"
        text = f"call-{number}"
        payload = {"type": kind, "event": event, "userId": user, "messageId": text, "context": _MORE}
        payload["properties"] = {"order_id": f"order-{number}", "value": number % 900}
    else:
        kind, event = "message:updated", f"Message {_STATUSES[number % 4]}"
        data = {"id": text, "status": event[8:].upper(), "recipient": user, "more": _MORE}
        payload = {"type": kind, "data": data}
    if number == RARE:
        event, text, user = "Rare Event", "rare-message", "rare-user"
    return Envelope(
        route=_INBOUND if is_inbound else _OUTBOUND,
        event_key=number.to_bytes(16, "big"),
        partition_key="",
        received_at_ms=begin_ms + number * _AGO_MS // EVENTS,
        payload=json.dumps(payload).encode(),
        source="rudderstack" if is_inbound else "webhook",
        labels=Labels(type=kind, event=event, message_id=text, user_id=user),
    )


# Of a hundred events so many end so: outbound, and inbound.
_ENDS = {
    _OUTBOUND: ((93, State.DELIVERED), (97, State.FILTERED), (100, State.DEAD)),
    _INBOUND: ((60, State.DELIVERED), (90, State.UNMAPPED), (100, State.DEAD)),
}


_FIELDS = {_OUTBOUND: 300, _INBOUND: 400}


def end(number: int, route: RouteName) -> tuple[State, str]:
    """Say how the event with this number ends, and why."""
    if number == RARE:
        return State.DEAD, "the destination refused it: field 600 is invalid"
    state = next(state for below, state in _ENDS[route] if (number * 2_654_435_761 >> 8) % 100 < below)
    reasons = {
        State.DELIVERED: "",
        State.FILTERED: "this event is not among FORWARDER_EVENTS",
        State.UNMAPPED: f"nothing is linked to Product Viewed {number * 7_919 % 200}",
        State.DEAD: f"the destination refused it: field {_FIELDS[route] + number % 30} is invalid",
    }
    return state, reasons[state]


async def settle_all(spool: SqliteSpool, numbers: Sequence[int], *, at_ms: int) -> None:
    """Settle what is pending; `numbers` maps a sequence (from 1) to what was appended then."""
    attempt = Attempt(
        at_ms=at_ms,
        duration_ms=87,
        operation="POST /v1/batch",
        status=200,
        outcome="delivered",
        reason="",
        answer=b"OK",
    )
    for route in (_OUTBOUND, _INBOUND):
        while leases := await leased(spool, route, fresh=_STEP, retry=0, size=10**9):
            ends: dict[tuple[State, str], list[int]] = {}
            for lease in leases:
                ends.setdefault(end(numbers[lease.sequence - 1], route), []).append(lease.sequence)
            await spool.settle(
                [
                    Settled(sequences, state, reason, attempt if state in (State.DELIVERED, State.DEAD) else None)
                    for (state, reason), sequences in ends.items()
                ]
            )


async def fill(folder: Path) -> None:
    """Make the spool in an empty folder."""
    logger = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(50)
    )
    clock = SystemClock()
    spool = await SqliteSpool.open(folder, limits=SpoolLimits(), clock=clock, reporter=Reporter(Metrics(), logger))
    begin_ms = time.time_ns() // 1_000_000 - _AGO_MS
    numbers = range(1, EVENTS + 1)
    for start in range(0, EVENTS, _STEP):
        await stored(spool, [envelope(number, begin_ms=begin_ms) for number in numbers[start : start + _STEP]])
        await settle_all(spool, numbers, at_ms=begin_ms + start)
    await spool.close()


if __name__ == "__main__":
    uvloop.run(fill(Path(sys.argv[1])))
