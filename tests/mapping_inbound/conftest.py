"""What the tests of the inbound mapping share: leases of calls, and outcomes in a form that reads well."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from forwarder.errors import Unmappable
from forwarder.mapping.links import Link, Links, LinkSource, LinkType, TargetKind
from forwarder.mapping.rudderstack_to_courier import RudderstackToCourier
from forwarder.model import Envelope, Filtered, Labels, Lease, RouteName, Unmapped
from forwarder.ports import Mapper

LeaseOf = Callable[..., Lease]
Outcome = Callable[[Mapper, Lease], dict[str, Any]]


@pytest.fixture
def lease_of() -> LeaseOf:
    """Return a maker of leases: a call (or its bytes) and the source that it came from."""

    def make(call: object, *, source: str = "rudderstack", sequence: int = 7) -> Lease:
        payload = call if isinstance(call, bytes) else json.dumps(call, ensure_ascii=False).encode()
        envelope = Envelope(
            route=RouteName.RUDDERSTACK_TO_COURIER,
            event_key=b"k" * 16,
            partition_key="",
            received_at_ms=0,
            payload=payload,
            source=source,
            labels=Labels(),
        )
        return Lease(sequence=sequence, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope)

    return make


@pytest.fixture
def outcome() -> Outcome:
    """Return what turns the mapping of a lease into plain values: calls, or the state with its reason."""

    def judge(mapper: Mapper, lease: Lease) -> dict[str, Any]:
        try:
            mapped = mapper.map(lease)
        except Unmappable as error:
            return {"dead": str(error)}
        match mapped:
            case Filtered(reason=reason):
                return {"filtered": reason}
            case Unmapped(reason=reason):
                return {"unmapped": reason}
            case deliveries:
                assert all(made.sequence == lease.sequence and not made.idempotency_key for made in deliveries)
                return {
                    "calls": [
                        [made.group, made.operation, json.loads(made.body) if made.body else None]
                        for made in deliveries
                    ],
                }

    return judge


@pytest.fixture
def links() -> Links:
    """Return the links that the sample events are mapped with."""
    return Links(
        [
            Link(event="Order Shipped", target="order-shipped"),
            Link(event="Order Completed", target="order-completed"),
            Link(event="Order Completed", target="win-back", target_kind=TargetKind.JOURNEY),
            Link(event="user-checkout", target="checkout"),
            Link(event="App Opened", target="active-users", target_kind=TargetKind.LIST),
            Link(event="Message Sent", target="chat"),
            Link(event="Release Published", target="RELEASE", target_kind=TargetKind.TEMPLATE),
            Link(event="注文 完了 ✅ / Über", target="THANKS", target_kind=TargetKind.TEMPLATE),
            Link(type=LinkType.IDENTIFY, event="identify", target="welcome", source=LinkSource.SEGMENT),
            Link(type=LinkType.GROUP, event="group", target="joined"),
        ],
    )


@pytest.fixture
def mapper(links: Links) -> RudderstackToCourier:
    """Return a mapper with those links, that keeps Engage's lists in step."""
    return RudderstackToCourier(lambda: links, sync_engage_lists=True)
