"""The sink against the stand-in of Courier's API, over a real socket: what is mapped is also taken."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from forwarder.clock import SystemClock
from forwarder.courier.client import CourierClient
from forwarder.courier.sink import CourierSink
from forwarder.courier.tenant_order import TenantOrder
from forwarder.errors import Unmappable
from forwarder.mapping.links import Link, Links, LinkType, TargetKind
from forwarder.mapping.rudderstack_to_courier import RudderstackToCourier
from forwarder.model import Answer, Batch, Delivered, Filtered, Held, Lease, Refused, RouteName
from forwarder.rudderstack import wire
from forwarder.transport import AiohttpTransport
from stand_ins.courier_api import CourierApi
from stand_ins.courier_state import Known


class Bridge:
    """Mapper and sink without spool and flow: one event in, its answers out."""

    def __init__(self, sink: CourierSink, links: Links) -> None:
        self._sink = sink
        self._mapper = RudderstackToCourier(lambda: links, sync_engage_lists=True)
        self._sequence = 0

    async def __call__(self, event: dict[str, Any], source: str = "rudderstack") -> list[Answer]:
        """Send what the event means; nothing for an event that means nothing."""
        self._sequence += 1
        payload = json.dumps(event).encode()
        envelope = wire.envelope(event, payload, received_at_ms=0, source=source, unique=bytes)
        assert envelope.route is RouteName.RUDDERSTACK_TO_COURIER
        lease = Lease(sequence=self._sequence, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope)
        try:
            mapped = self._mapper.map(lease)
        except Unmappable:
            return []
        if not isinstance(mapped, tuple):
            return []
        return [await self._sink.send(Batch(deliveries=(made,), size_bytes=len(made.body))) for made in mapped]


@pytest.fixture
async def courier() -> AsyncIterator[CourierApi]:
    """Run a stand-in Courier that knows a few templates."""
    known = Known(automations={"order"}, journeys={"journey", "picky"}, templates={"T"}, journeys_declining={"picky"})
    async with CourierApi(api_keys=["k"], known=known) as api:
        yield api


@pytest.fixture
async def bridge(courier: CourierApi, memory: Any) -> AsyncIterator[Bridge]:
    """Return a bridge to it."""
    links = Links(
        [
            Link(event="Order", target="order"),
            Link(event="Order", target="journey", target_kind=TargetKind.JOURNEY),
            Link(event="Order", target="T", target_kind=TargetKind.TEMPLATE),
            Link(event="Order", target="buyers", target_kind=TargetKind.LIST),
            Link(event="Picky", target="picky", target_kind=TargetKind.JOURNEY),
            Link(event="Gone", target="nowhere"),
            Link(type=LinkType.GROUP, event="group", target="order"),
        ],
    )
    clock = SystemClock()
    async with AiohttpTransport(clock=clock) as transport:
        client = CourierClient(transport, base_url=courier.url, api_key="k", clock=clock)
        yield Bridge(CourierSink(client, TenantOrder(memory), clock=clock), links)


async def test_every_kind_of_call_is_taken(bridge: Bridge, courier: CourierApi) -> None:
    """Profile, tenant, membership, automation, journey, send and list are all done, under the ids of the event."""
    user = "maya+test@example.com/ä"
    events: list[dict[str, Any]] = [
        {"type": "identify", "userId": user, "messageId": "1", "traits": {"phone": "1", "address": {"city": "L"}}},
        {"type": "group", "userId": user, "messageId": "2", "groupId": "größe/ 1", "traits": {"name": "G", "plan": 1}},
        {"type": "track", "userId": user, "messageId": "3", "event": "Order", "properties": {"a": 1}},
    ]
    answers = [answer for event in events for answer in await bridge(event)]
    assert [answer.verdict for answer in answers] == [Delivered()] * 8
    state = courier.state
    assert state.profiles[user] == {"phone_number": "1", "address": {"locality": "L"}}
    assert state.tenants["größe/ 1"]["name"] == "G"
    assert (user, "größe/ 1") in state.memberships
    assert ("buyers", user) in state.subscriptions


async def test_courier_says_no_in_its_own_words(bridge: Bridge) -> None:
    """An unknown template is refused with its name, a journey's conditions filter."""
    (gone,) = await bridge({"type": "track", "userId": "u", "messageId": "1", "event": "Gone"})
    assert isinstance(gone.verdict, Refused)
    assert '"nowhere"' in gone.verdict.words
    assert "not found" in gone.verdict.words
    (picky,) = await bridge({"type": "track", "userId": "u", "messageId": "2", "event": "Picky"})
    assert isinstance(picky.verdict, Filtered)


async def test_a_wrong_key_holds_the_route(bridge: Bridge, courier: CourierApi) -> None:
    """A key that Courier does not know buries nothing."""
    courier.api_keys = {"another"}
    (answer,) = await bridge({"type": "identify", "userId": "u", "messageId": "1"})
    assert isinstance(answer.verdict, Held)
    assert answer.verdict.scope == "route"


async def test_group_events_of_many_users_leave_a_whole_tenant(bridge: Bridge, courier: CourierApi) -> None:
    """Group events that arrive together for one tenant lose none of each other's traits, and keep what it had."""
    courier.state.tenants["t"] = {"id": "t", "name": "Kept", "brand_id": "B", "properties": {"old": 1}}
    await asyncio.gather(
        *(
            bridge({"type": "group", "userId": f"u{n}", "messageId": f"{n}", "groupId": "t", "traits": {f"p{n}": n}})
            for n in range(12)
        ),
    )
    tenant = courier.state.tenants["t"]
    assert (tenant["name"], tenant["brand_id"]) == ("Kept", "B")
    assert tenant["properties"] == {"old": 1, **{f"p{n}": n for n in range(12)}}


async def test_every_sample_event_is_taken(bridge: Bridge, courier: CourierApi, vectors: Path) -> None:
    """Whatever a sample event is mapped to, Courier's stand-in takes it."""
    courier.state.known = Known()
    cases = json.loads((vectors / "rudderstack_events.json").read_text())
    sent = 0
    for case in cases:
        body = case["body"]
        events = body.get("batch", body) if isinstance(body, dict) else body
        for event in events if isinstance(events, list) else [events]:
            if isinstance(event, dict):
                answers = await bridge(event)
                assert all(isinstance(answer.verdict, Delivered) for answer in answers), case["name"]
                sent += len(answers)
    assert sent > 60
