"""What would be sent for an event that was received, and what was: the mapper asked again, for people.

What is sent is not kept, but what made it is: rules, names and version have a mark, which stands with each attempt. The
mapping is pure, so whoever has them can make again, byte for byte, what was sent then. Nothing leaves.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import msgspec

from forwarder.archive_port import EventDetail
from forwarder.delivery.plan import Plan, delivery_of, new_plan, read_plan
from forwarder.errors import ForwarderError, Unmappable
from forwarder.mapping.outbound import OutboundMapping
from forwarder.model import Delivery, Envelope, Filtered, HttpRequest, Lease, RouteName, State, Unmapped
from forwarder.operator.readable import difference, readable
from forwarder.ports import Mapper, Spool, read_kept

EXPLAINED_BYTES_MAX: Final = 1_048_576  # a larger payload would keep the page, and a core, busy
_KEPT: Final = "mappings"  # the spool's value
_KEPT_MAX: Final = 50
_KEPT_BYTES_MAX: Final = 2_097_152


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


class Likeness(StrEnum):
    """How what was sent is to what the mapping of today would send."""

    NOTHING = ""  # was sent
    SAME = "same"
    DIFFERENT = "different"
    OTHER_VERSION = "other version"  # of the code: what was sent cannot be made again
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was sent for an event, as far as that is known; else `explained` is what would be sent today."""

    likeness: Likeness
    explained: Explained
    version: str = ""  # that sent it, where it is another one
    difference: Sequence[tuple[str, str]] | None = ()  # of today's against it, as `readable.difference` tells it


class PastMappings:
    """The outbound mappings that were in use, by their marks, the last so many; kept in the spool."""

    def __init__(self, today: OutboundMapping, kept: Sequence[OutboundMapping], explain: "ExplainWith") -> None:
        self._today = today
        self._kept: Mapping[str, OutboundMapping] = {one.mark: one for one in kept}
        self._explain_with = explain

    @classmethod
    async def load(cls, spool: Spool, today: OutboundMapping, explain: "ExplainWith") -> "PastMappings":
        """Read them, and keep today's if it is new; `explain` makes the explainer of one of them."""
        kept = read_kept(await spool.get(_KEPT), list[OutboundMapping]) or []
        if today not in kept:
            kept = [*kept, today][-_KEPT_MAX:]
            while len(kept) > 1 and len(msgspec.json.encode(kept)) > _KEPT_BYTES_MAX:
                del kept[0]
            with suppress(ForwarderError):  # a full disk: then what is sent now will not be known later
                await spool.put(_KEPT, msgspec.json.encode(kept))
        return cls(today, kept, explain)

    def sent(self, found: EventDetail, explain: Explain) -> Sent:
        """Say what the last attempt sent; `explain` is today's. It may take a while: not for the loop's thread."""
        now, mark = explain(found), found.attempts[-1].mapping
        if mark == self._today.mark:
            return Sent(likeness=Likeness.SAME, explained=now)
        then = self._kept.get(mark)
        if then is None:
            return Sent(likeness=Likeness.UNKNOWN, explained=now)
        if then.version != self._today.version:
            return Sent(likeness=Likeness.OTHER_VERSION, explained=now, version=then.version)
        was = self._explain_with(then)(found)
        if [one.body for one in was.deliveries] == [one.body for one in now.deliveries]:
            return Sent(likeness=Likeness.SAME, explained=was)
        return Sent(likeness=Likeness.DIFFERENT, explained=was, difference=difference(was.as_sent(), now.as_sent()))


ExplainWith = Callable[[OutboundMapping], Explain]


def sent_by_plan(plan: Plan | None, explained: Explained) -> tuple[Sent, frozenset[tuple[str, int]]]:
    """Say how an inbound event's calls were to those of today, and which of them are not what they were."""
    today = {call.identity: call.sent_digest for call in new_plan(explained.deliveries).calls}
    known = [call for call in (plan.calls if plan else ()) if call.sent_digest]
    changed = frozenset(one.identity for one in known if today.get(one.identity) != one.sent_digest)
    if not known:
        return Sent(likeness=Likeness.UNKNOWN, explained=explained), changed
    return Sent(likeness=Likeness.DIFFERENT if changed else Likeness.SAME, explained=explained), changed


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
        made = explained(mapper, lease)
        if request_of is None or not made.deliveries:
            return made
        heads = tuple(_head(request_of(one)) for one in _keyed(lease, made.deliveries, found.progress))
        return replace(made, heads=heads)

    return explain


def explained(mapper: Mapper, lease: Lease) -> Explained:
    """Ask the mapper what it makes of an event."""
    try:
        mapped = mapper.map(lease)
    except Unmappable as error:
        return Explained(state=State.DEAD, reason=str(error))
    match mapped:
        case Filtered(reason=reason):
            return Explained(state=State.FILTERED, reason=reason)
        case Unmapped(reason=reason):
            return Explained(state=State.UNMAPPED, reason=reason)
        case deliveries:
            return Explained(state=State.DELIVERED, deliveries=deliveries)


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
