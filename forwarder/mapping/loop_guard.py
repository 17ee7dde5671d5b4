"""Tell Courier's own events that come back from what customers send.

Without it a status of a message would start an automation, which sends a message, which has a status.
Pure, and about one call at a time.
"""

import re
from collections.abc import Mapping

from forwarder.mapping.stored_call import Call, dig

MARKER = "Courier"  # context.integration.name of what the outbound route sends

# The names of Courier's own export (its Segment and RudderStack integrations).
_MESSAGE_NAMES = frozenset(
    f"Message {status}" for status in ("Sent", "Delivered", "Opened", "Clicked", "Undeliverable", "Unroutable")
)
_AUDIENCE_NAMES = frozenset({"Audience User Matched", "Audience User Unmatched"})

_MESSAGE_ID = re.compile(r"1-[0-9a-f]{8}-[0-9a-f]{24}")


def came_from_courier(call: Call) -> str:
    """Return why the call is Courier's own coming back, or "" when it is a customer's.

    A customer's own `Message Sent` passes: the name alone proves nothing.
    """
    if dig(call.context, "integration", "name") == MARKER:
        return "loop guard: marked as Courier's own event"
    if call.event in _MESSAGE_NAMES and _is_message(call.properties):
        return "loop guard: a message status of Courier's own export"
    if call.event in _AUDIENCE_NAMES and _is_audience_event(call.properties):
        return "loop guard: an audience event of Courier's own export"
    return ""


def _is_message(properties: Mapping[str, object]) -> bool:
    message_id = properties.get("id")
    has_form = isinstance(message_id, str) and _MESSAGE_ID.fullmatch(message_id) is not None
    return has_form and isinstance(properties.get("status"), str)


def _is_audience_event(properties: Mapping[str, object]) -> bool:
    return all(properties.get(field) is not None for field in ("audience_id", "audience_version", "user_id"))
