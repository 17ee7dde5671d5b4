"""Courier's REST calls, as method, path and body: the operations that events become.

Paths and bodies are those of Courier's own SDK (`trycourier`), which a contract test compares byte for
byte or value for value. Deliberately absent: sending them (`client`), and which event becomes which call.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import msgspec

from forwarder.model import Delivery

# What RFC 3986 allows in a path segment, as Courier's SDK leaves it: `t/1` is sent as `t%2F1`, `@` as it is.
_SEGMENT_SAFE = "!$&'()*+,;=:@"

Json = dict[str, Any]


class RateLimitGroup(StrEnum):
    """Which calls share a rate limit or a permission at Courier: one of them may wait while others go on."""

    PROFILES = "profiles"
    TENANTS = "tenants"
    AUTOMATIONS = "automations"
    JOURNEYS = "journeys"
    SEND = "send"
    LISTS = "lists"
    INBOUND = "inbound"


class CallMaker:
    """Make the deliveries of one event, in the order they are asked for."""

    def __init__(self, sequence: int) -> None:
        self._sequence = sequence
        self._made: list[Delivery] = []

    @property
    def made(self) -> tuple[Delivery, ...]:
        """Return what was made so far, in order."""
        return tuple(self._made)

    def merge_profile(self, user_id: str, profile: Json) -> None:
        """Create the profile or merge into it (PUT would replace it)."""
        self._make("POST", ("profiles", user_id), {"profile": profile}, RateLimitGroup.PROFILES)

    def write_tenant(self, tenant_id: str, *, name: str, properties: Json) -> None:
        """Bring name ("" when the event has none) and properties to a tenant.

        The body is what the event wants, not what is sent: PUT replaces, so the sink reads, merges and writes.
        """
        change = {"name": name, "properties": properties} if name else {"properties": properties}
        self._make("PUT", ("tenants", tenant_id), change, RateLimitGroup.TENANTS)

    def join_tenant(self, user_id: str, tenant_id: str) -> None:
        """Make the user a member of the tenant."""
        self._make("PUT", ("users", user_id, "tenants", tenant_id), {}, RateLimitGroup.TENANTS)

    def invoke_automation(self, template_id: str, **fields: object) -> None:
        """Run an automation template (id or alias). Fields: recipient (required, may be None), data, profile, brand."""
        self._make("POST", ("automations", template_id, "invoke"), fields, RateLimitGroup.AUTOMATIONS)

    def invoke_steps(self, steps: Sequence[object], *, cancelation_token: str, **fields: object) -> None:
        """Run steps without a template. Fields as for `invoke_automation`; "" is no token."""
        automation: Json = {"steps": list(steps)}
        if cancelation_token:
            automation["cancelation_token"] = cancelation_token
        self._make("POST", ("automations", "invoke"), {"automation": automation, **fields}, RateLimitGroup.AUTOMATIONS)

    def invoke_journey(self, journey_id: str, **fields: object) -> None:
        """Start a journey. Fields, all optional: user_id, data, profile."""
        self._make("POST", ("journeys", journey_id, "invoke"), fields, RateLimitGroup.JOURNEYS)

    def send_template(self, template_id: str, *, to: Mapping[str, str], data: Json, brand_id: str = "") -> None:
        """Send a notification template."""
        message: Json = {"to": dict(to), "template": template_id, "data": data}
        if brand_id:
            message["brand_id"] = brand_id
        self._make("POST", ("send",), {"message": message}, RateLimitGroup.SEND)

    def subscribe(self, user_id: str, list_id: str) -> None:
        """Subscribe one user to a list."""
        self._make("PUT", ("lists", list_id, "subscriptions", user_id), {}, RateLimitGroup.LISTS)

    def unsubscribe(self, user_id: str, list_id: str) -> None:
        """End one user's subscription to a list."""
        self._make("DELETE", ("lists", list_id, "subscriptions", user_id), None, RateLimitGroup.LISTS)

    def relay(self, vendor: str, body: bytes) -> None:
        """Hand a whole event to Courier's own receiver: vendor is "rudderstack" or "segment"."""
        self._made.append(
            Delivery(
                sequence=self._sequence,
                operation=f"POST /inbound/{vendor}",
                body=body,
                group=RateLimitGroup.INBOUND.value,
            )
        )

    def _make(self, method: str, segments: Sequence[str], body: object, group: RateLimitGroup) -> None:
        encoded = b"" if body is None else msgspec.json.encode(body)
        operation = f"{method} {path_of(*segments)}"
        self._made.append(
            Delivery(sequence=self._sequence, operation=operation, body=encoded, group=group.value),
        )


def path_of(*segments: str) -> str:
    """Return the percent-encoded absolute path of these segments; none may be empty, "." or ".."."""
    return "/" + "/".join(quote(segment, safe=_SEGMENT_SAFE) for segment in segments)
