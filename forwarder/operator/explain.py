"""What would be sent for an event that was received: the mapper asked again, for people.

Nothing is kept and nothing leaves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from forwarder.delivery.plan import delivery_of, new_plan, read_plan
from forwarder.errors import Unmappable
from forwarder.model import Delivery, Envelope, Filtered, HttpRequest, Lease, RouteName, State, Unmapped
from forwarder.operator.readable import readable
from forwarder.ports import EventDetail, Mapper

EXPLAINED_BYTES_MAX = 1_048_576  # a larger payload would keep the page, and a core, busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What would become of an event now. `deliveries` is empty unless `state` is delivered."""

    state: State
    reason: str = ""
    deliveries: tuple[Delivery, ...] = ()
    heads: tuple[str, ...] = ()  # of each request: its line and its headers, without secrets

    def as_sent(self) -> bytes:
        """Return what would be sent as one text to be compared; where nothing would, b""."""
        bodies = (readable(one.body, shown_max=EXPLAINED_BYTES_MAX).text for one in self.deliveries)
        return "\n".join(f"{one.operation}\n{body}" for one, body in zip(self.deliveries, bodies, strict=True)).encode()


Explain = Callable[[EventDetail], Explained]


def explainer(mapper: Mapper, request_of: Callable[[Delivery], HttpRequest] | None = None) -> Explain:
    """Return what asks this mapper about a stored event. It may run in another thread than the route's own mapper.

    `request_of` makes the request that carries a delivery, of whose headers only the names of secrets are told.
    """

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
                heads = (
                    tuple(_head(request_of(one)) for one in _keyed(lease, mapped, found.progress)) if request_of else ()
                )
                return Explained(state=State.DELIVERED, deliveries=mapped, heads=heads)

    return explain


def _keyed(lease: Lease, deliveries: Sequence[Delivery], progress: bytes) -> Sequence[Delivery]:
    """Return the calls of the inbound route with the idempotency keys that they have, or would have."""
    if lease.envelope.route is not RouteName.RUDDERSTACK_TO_COURIER:
        return deliveries
    kept = read_plan(msgspec.structs.replace(lease, progress=progress))
    suffixes = {call.identity: call.suffix for call in kept.calls} if kept else {}
    calls = new_plan(deliveries).calls
    for call in calls:
        call.suffix = suffixes.get(call.identity, 0)
    return [delivery_of(lease, call) for call in calls]


def _head(request: HttpRequest) -> str:
    headers = dict(request.headers)
    headers["Authorization"] = headers["Authorization"].partition(" ")[0] + " •••"
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\n".join((f"{request.method} {request.url}", *lines))
