"""What would be sent for an event that was received: the mapper asked again, for people.

Nothing is kept and nothing leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass

from forwarder.errors import Unmappable
from forwarder.model import Delivery, Envelope, Filtered, Lease, State, Unmapped
from forwarder.operator.readable import readable
from forwarder.ports import EventDetail, Mapper

EXPLAINED_BYTES_MAX = 1_048_576  # a larger payload would keep the page, and a core, busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What would become of an event now. `deliveries` is empty unless `state` is delivered."""

    state: State
    reason: str = ""
    deliveries: tuple[Delivery, ...] = ()

    def as_sent(self) -> bytes:
        """Return what would be sent as one text to be compared; where nothing would, b""."""
        bodies = (readable(one.body, shown_max=EXPLAINED_BYTES_MAX).text for one in self.deliveries)
        return "\n".join(f"{one.operation}\n{body}" for one, body in zip(self.deliveries, bodies, strict=True)).encode()


Explain = Callable[[EventDetail], Explained]
TimeOf = Callable[[bytes], int | None]  # when an event happened, in epoch milliseconds, by its payload's own words


def explainer(mapper: Mapper) -> Explain:
    """Return what asks this mapper about a stored event. It may run in another thread than the route's own mapper."""

    def explain(found: EventDetail) -> Explained:
        row = found.row
        envelope = Envelope(
            route=row.route,
            event_key=found.event_key,
            partition_key="",
            received_at_ms=row.received_at_ms,
            payload=found.payload or b"",
            source=row.source,
            labels=row.labels,
        )
        lease = Lease(sequence=row.sequence, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope)
        try:
            mapped = mapper.map(lease)
        except Unmappable as error:
            return Explained(state=State.DEAD, reason=str(error))
        match mapped:
            case Filtered():
                return Explained(state=State.FILTERED, reason=mapped.reason)
            case Unmapped():
                return Explained(state=State.UNMAPPED, reason=mapped.reason)
            case _:
                return Explained(state=State.DELIVERED, deliveries=mapped)

    return explain
