"""A mapped event between the mapping and its encoding: what the rules may look at and change."""

from typing import Any

import msgspec


class MappedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One track call in the making, and the webhook it was made of.

    JSON values only, shared with the webhook: whoever changes something makes a copy of what
    leads to it. "" for an id that there is none of.
    """

    kind: str  # Courier's envelope type, `message:updated`
    data: dict[str, Any]  # the webhook's `data`, as it came
    event: str
    user_id: str
    anonymous_id: str
    properties: dict[str, Any]
    context: dict[str, Any]
