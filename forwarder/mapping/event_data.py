"""What a linked automation, journey or template gets as `data`.

Courier's own pages disagree: its Segment page shows the properties at the root, its automation pages the
whole event (`refs.data.properties.…`, `refs.data.userId`). Giving both lets every migrated template find
what it refers to.
"""

from typing import Any

import msgspec

from forwarder.mapping.stored_call import Call

DATA_BYTES_MAX = 1_000_000  # above it the properties go alone, once


def data_of(call: Call) -> dict[str, Any]:
    """Return the properties at the root and, where no property takes the name, the event's own fields.

    Absent fields stay absent; ids are text. A group call also brings its `groupId`.
    """
    data = {**_event_fields(call), **call.properties}
    if call.properties and len(msgspec.json.encode(data)) > DATA_BYTES_MAX:
        return dict(call.properties)
    return data


def _event_fields(call: Call) -> dict[str, Any]:
    fields = {
        "userId": call.user_id,
        "anonymousId": call.anonymous_id,
        "groupId": call.group_id if call.type == "group" else "",
        "event": call.event,
        "type": call.type,
        "messageId": call.raw.get("messageId"),
        "timestamp": call.raw.get("timestamp"),
        "properties": call.properties if isinstance(call.raw.get("properties"), dict) else None,
        "traits": call.traits or None,
    }
    return {name: value for name, value in fields.items() if value is not None and value != ""}
