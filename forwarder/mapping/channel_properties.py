"""The properties of the preset `channel`: snake_case, flat, in the words of Segment's Email and Mobile specs.

What the webhook does not say is absent, never null. Nothing is made up: `campaign_name` is the
`utm.campaign` of the message, else the event that the send named.
"""

from typing import Any

from forwarder.courier.event import CourierEvent

_COPIED = ("status", "reason", "error", "enqueued", "sent", "delivered", "opened", "clicked")
_METADATA = ("tags", "trace_id")
_UTM_TO_CAMPAIGN = ("source", "medium", "term", "content")


def message_properties(event: CourierEvent, entry: dict[str, Any], *, channel: str) -> dict[str, Any]:
    """Return what is known of a message; `entry` is the provider's entry that its status came from."""
    data = event.data
    metadata = metadata_of(data)
    properties: dict[str, Any] = {
        "message_id": data.get("id"),
        "template_id": data.get("notification"),
        "event": data.get("event"),
        "channel": channel or None,
        "provider": entry.get("provider"),
        **_of_channel(entry.get("channel")),
        "campaign_id": data.get("notification"),
        "campaign_name": _campaign_name(data, metadata),
        "provider_error": entry.get("error"),
    }
    properties.update({name: data.get(name) for name in _COPIED})
    properties.update({name: metadata.get(name) for name in _METADATA})
    if channel == "email":
        properties["email_id"] = data.get("id")
    elif channel == "push":
        properties.update(_push(event.status, properties))
    return {name: value for name, value in properties.items() if value is not None}


def campaign_context(data: dict[str, Any]) -> dict[str, Any]:
    """Return `context.campaign` out of the message's UTM parameters, empty without any."""
    utm = _utm(metadata_of(data))
    campaign = {name: utm.get(name) for name in _UTM_TO_CAMPAIGN} | {"name": utm.get("campaign")}
    return {name: value for name, value in campaign.items() if value is not None}


def metadata_of(data: dict[str, Any]) -> dict[str, Any]:
    """Return the message's metadata: `data.metadata`, else `data` itself; Courier's documentation leaves it open."""
    metadata = data.get("metadata")
    return metadata if isinstance(metadata, dict) else data


def _utm(metadata: dict[str, Any]) -> dict[str, Any]:
    utm = metadata.get("utm")
    return utm if isinstance(utm, dict) else {}


def _campaign_name(data: dict[str, Any], metadata: dict[str, Any]) -> Any:
    name = _utm(metadata).get("campaign")
    return data.get("event") if name is None else name


def _of_channel(channel: Any) -> dict[str, Any]:
    if not isinstance(channel, dict):
        return {}
    return {"channel_name": channel.get("name"), "channel_template_id": channel.get("template")}


def _push(status: str, properties: dict[str, Any]) -> dict[str, Any]:
    campaign = {"medium": "Push", "source": "Courier", "name": properties["campaign_name"]}
    found: dict[str, Any] = {"campaign": {name: value for name, value in campaign.items() if value is not None}}
    if status in ("OPENED", "CLICKED"):
        found["action"] = "Open"  # the default of Segment's spec; Courier does not say which button it was
    return found
