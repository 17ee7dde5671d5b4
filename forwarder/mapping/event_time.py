"""When an event happened: the status' own time, never the time at which we heard of it, while there is one."""

from typing import Any

from msgspec import Struct

from forwarder.courier import vocabulary
from forwarder.courier.event import CourierEvent, channel_of, read
from forwarder.errors import Unmappable
from forwarder.mapping.fields import time_ms

_PROGRESS_FIELDS = tuple(vocabulary.TIME_FIELDS.values())
# In the order of preference: `submission_id` is the time of the submission.
_TEMPLATE_FIELDS = ("published_at", "canceled_at", "submission_id")


class Stated(Struct, frozen=True, kw_only=True):
    """What a webhook event says of its message; "" and None for what it does not say."""

    at_ms: int | None  # when it happened
    status: str  # at Courier
    channel: str
    provider: str
    template: str
    reason: str  # of a status that is no success


def event_time_ms(event: CourierEvent, *, received_at_ms: int) -> int:
    """Return the event's time in epoch milliseconds.

    The status' own field; else that of the provider's entry it came from; else
    `data.timestamp`, which one page of Courier's documentation shows; else the newest time that is
    there; else the receipt. Garbage, zero and negative times count as absent.
    """
    data = event.data
    if event.type == vocabulary.MESSAGE_UPDATED:
        field = event.time_field
        if field:
            own = time_ms(data.get(field)) or time_ms(event.deciding_provider().get(field))
            if own:
                return own
        if stated := time_ms(data.get("timestamp")):
            return stated
        if newest := _newest(data, event.providers):
            return newest
    else:
        for name in (*_TEMPLATE_FIELDS, "timestamp"):
            if found := time_ms(data.get(name)):
                return found
    return time_ms(event.timestamp) or received_at_ms


def stated(payload: bytes) -> Stated | None:
    """Return what a stored webhook event says, for people; None for what is no event."""
    try:
        event = read(payload)
    except Unmappable:
        return None
    entry = event.deciding_provider()
    said = {
        "provider": entry.get("provider"),
        "template": event.data.get("notification"),
        "reason": event.data.get("reason") or entry.get("reason"),
    }
    return Stated(
        at_ms=event_time_ms(event, received_at_ms=0) or None,
        status=event.status.capitalize(),
        channel=channel_of(entry),
        **{name: value if isinstance(value, str) else "" for name, value in said.items()},
    )


def _newest(data: dict[str, Any], entries: list[dict[str, Any]]) -> int | None:
    times = [time_ms(fields.get(name)) for fields in (data, *entries) for name in _PROGRESS_FIELDS]
    return max((time for time in times if time), default=None)
