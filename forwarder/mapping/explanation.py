"""What would become of a payload, said for people: the dry run behind `forwarder map`. Pure."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from forwarder.courier.wire import envelope
from forwarder.errors import Unmappable
from forwarder.mapping.courier_to_rudderstack import CourierToRudderStack
from forwarder.model import Filtered


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The outcome of a dry run. `call` is what would be sent, all but its `sentAt`; None when nothing would."""

    outcome: Literal["sent", "filtered", "dead"]
    reason: str
    call: dict[str, Any] | None

    def as_json(self) -> bytes:
        """Return the explanation as indented JSON."""
        fields = {"outcome": self.outcome, "reason": self.reason, "call": self.call}
        return msgspec.json.format(
            msgspec.json.encode({name: value for name, value in fields.items() if value}), indent=2
        )


def explain(
    mapper: CourierToRudderStack,
    payload: bytes,
    *,
    received_at_ms: int,
    source: str = "webhook",
) -> Explanation:
    """Map one webhook's bytes as the route would, were they received now.

    An audience event's `messageId` differs from the later real one: it counts the occurrences.
    """
    try:
        delivery = mapper.delivery(0, envelope(payload, received_at_ms=received_at_ms, source=source))
    except Unmappable as error:
        return Explanation(outcome="dead", reason=str(error), call=None)
    if isinstance(delivery, Filtered):
        return Explanation(outcome="filtered", reason=delivery.reason, call=None)
    return Explanation(outcome="sent", reason=delivery.note, call=msgspec.json.decode(delivery.body))
