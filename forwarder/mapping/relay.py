"""Relay mode: the whole event goes to Courier's own receiver, and Courier's Studio keeps the mapping.

What RudderStack's Courier destination would have posted is what is posted: top-level nulls dropped, and
an identify's traits copied to the root, where an empty root object wins over the context's as it does
there. Bytes are passed as they came where nothing has to change.
"""

import msgspec

from forwarder.courier.calls import CallMaker
from forwarder.mapping.stored_call import Call


def relay(call: Call, payload: bytes, calls: CallMaker, *, to_segment: bool) -> None:
    """Make the one call that hands the event on."""
    vendor = "segment" if to_segment else "rudderstack"
    event = call.raw if to_segment else _as_the_destination_posts(call)
    calls.relay(vendor, payload if event == call.raw else msgspec.json.encode(event))


def _as_the_destination_posts(call: Call) -> dict[str, object]:
    event = {name: value for name, value in call.raw.items() if value is not None}
    root = event.get("traits")
    has_root_traits = isinstance(root, dict | list) or bool(root)
    if call.type == "identify" and not has_root_traits and "traits" in call.context:
        event["traits"] = call.context["traits"]
    return event
