"""The batch route with its real sink and transport, against the stand-in data plane on loopback."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from forwarder.archive_port import EventQuery
from forwarder.clock import SystemClock
from forwarder.delivery.flights import BatchLimits
from forwarder.delivery.intake import RequestLimits
from forwarder.delivery.pacing import Backoff
from forwarder.delivery.route import Route, make_route
from forwarder.errors import Unmappable
from forwarder.model import Delivery, Envelope, Lease, RouteName, State, Totals
from forwarder.ports import Mapped
from forwarder.rudderstack.sink import RudderstackSink, WriteKey, framing_bytes
from forwarder.spool.limits import SpoolLimits
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from forwarder.transport import AiohttpTransport
from stand_ins.behaviour import LOGIN_PAGE, MOVED, UNAVAILABLE, WRONG_KEY, Behaviour, CutsOff, Hangs, HangsUp
from stand_ins.data_plane import DataPlane
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import leased, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK


class AsIs:
    """A mapper for payloads that are ready to send."""

    def map_batch(self, leases: Sequence[Lease]) -> Sequence[Mapped | Unmappable]:
        """Map each."""
        return [self.map(lease) for lease in leases]

    def map(self, lease: Lease) -> Mapped:
        """Map."""
        return (Delivery(sequence=lease.sequence, operation="track", body=lease.envelope.payload),)


@dataclass
class Bridge:
    """A memory spool, a route, and the stand-in data plane."""

    spool: MemorySpool
    route: Route
    data_plane: DataPlane

    async def fill(self, count: int, *, start: int = 0, **fields: object) -> None:
        """Store events; `fields` replace those of a good one."""
        await stored(self.spool, [_envelope(number, fields) for number in range(start, start + count)])

    async def totals(self) -> Totals:
        """Return the route's totals."""
        return (await self.spool.facts()).totals[OUT]

    async def settled(self, *, within_s: float = 60.0) -> Totals:
        """Wait until nothing is pending."""
        async with asyncio.timeout(within_s):
            while (await self.totals()).pending:  # noqa: ASYNC110 - a spool can only be asked
                await asyncio.sleep(0.005)
        return await self.totals()


def _envelope(number: int, fields: dict[str, object]) -> Envelope:
    event: dict[str, object] = {
        "type": "track",
        "event": "Message Sent",
        "messageId": f"m{number}",
        "userId": f"u{number}",
        "integrations": {"All": True},
        **fields,
    }
    return Envelope(
        route=OUT,
        event_key=number.to_bytes(16, "big"),
        partition_key="",
        received_at_ms=SystemClock().wall_ms(),
        payload=msgspec.json.encode(event),
    )


OpenBridge = Callable[..., Any]


@pytest.fixture
def bridge(make_reporter: Callable[[Metrics], Reporter]) -> OpenBridge:
    """Return a maker of running bridges."""

    @asynccontextmanager
    async def opened(*, timeout_s: float = 5.0, probe_every_s: float = 0.05) -> AsyncIterator[Bridge]:
        clock = SystemClock()
        spool = MemorySpool(limits=SpoolLimits(), clock=clock)
        async with AiohttpTransport(clock=clock, blip_max_s=0.1) as transport, DataPlane() as data_plane:
            route = make_route(
                OUT,
                spool=spool,
                mapper=AsIs(),
                sink=RudderstackSink(
                    transport=transport,
                    url=data_plane.url,
                    write_key=WriteKey("stand-in-write-key"),
                    clock=clock,
                    timeout_s=timeout_s,
                ),
                limits=RequestLimits(
                    batch=BatchLimits(deliveries_max=100, bytes_max=500_000 - framing_bytes(100), wait_max_s=0.2),
                    delivery_bytes_max=4_096_000 - framing_bytes(1),
                ),
                concurrency_max=8,
                reporter=make_reporter(Metrics()),
                clock=clock,
                rng=random.Random(5).random,  # noqa: S311 - jitter, not a secret
                backoff=Backoff(first_s=0.02, max_s=0.1),
                probe_every_s=probe_every_s,
            )
            async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
                running = tasks.create_task(route.run())
                yield Bridge(spool, route, data_plane)
                await route.drain()
                await running
            await spool.close()

    return opened


async def test_one_poison_among_a_hundred(bridge: OpenBridge) -> None:
    """The gateway refuses whole batches: 99 arrive, one is dead, in at most 2·log2(100)+4 requests."""
    async with bridge() as run:
        await stored(run.spool, [_envelope(number, {"userId": ""} if number == 40 else {}) for number in range(100)])
        totals = await run.settled()
        assert (totals.delivered, totals.dead, run.data_plane.stored) == (99, 1, 99)
        assert run.data_plane.requests <= 17
        dead = (await run.spool.events(EventQuery(route=OUT, state=State.DEAD))).rows
        assert {row.reason for row in dead} == {"400: neither userId nor anonymousId"}


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        (WRONG_KEY, "held"),
        (LOGIN_PAGE, "held"),
        (MOVED, "held"),
        (UNAVAILABLE, "backing_off"),
        (HangsUp(), "backing_off"),
        (HangsUp(takes_effect=True), "backing_off"),
    ],
    ids=["wrong key", "login page", "redirect", "unavailable", "hangs up", "takes it and hangs up"],
)
async def test_trouble_costs_nothing(bridge: OpenBridge, behaviour: Behaviour, state: str) -> None:
    """Whatever the data plane does for a while, everything arrives afterwards, with the same messageIds."""
    async with bridge() as run:
        run.data_plane.script.behave(behaviour)
        await run.fill(250)
        async with asyncio.timeout(60):
            while run.data_plane.requests < 4:  # noqa: ASYNC110 - the stand-in counts, it does not call
                await asyncio.sleep(0.005)
        assert run.route.status().state == state
        run.data_plane.script.heal()
        totals = await run.settled()
        assert (totals.delivered, totals.dead) == (250, 0)
        assert {event["messageId"] for event in run.data_plane.events} == {f"m{number}" for number in range(250)}
        assert run.route.status().state == "running"


async def test_cut_off_answer_is_no_proof(bridge: OpenBridge) -> None:
    """An answer that breaks off may have taken effect: the batch is sent again with the same messageIds."""
    async with bridge() as run:
        run.data_plane.script.once(CutsOff())
        await run.fill(3)
        assert (await run.settled()).delivered == 3
        assert run.data_plane.duplicates <= 3
        assert {event["messageId"] for event in run.data_plane.events} == {"m0", "m1", "m2"}


async def test_data_plane_that_is_away(bridge: OpenBridge) -> None:
    """Connections that are refused for a while cost nothing."""
    async with bridge() as run:
        await run.data_plane.refuse()
        await run.fill(150)
        await asyncio.sleep(0.3)  # several attempts' worth
        assert run.route.status().state == "backing_off"
        await run.data_plane.listen()
        assert (await run.settled()).delivered == 150


async def test_hung_data_plane_and_drain(bridge: OpenBridge) -> None:
    """A drain waits for the request's own time-out, then everything is back in the spool."""
    async with bridge(timeout_s=0.3) as run:
        run.data_plane.script.behave(Hangs(seconds=5.0))
        await run.fill(5)
        assert await run.data_plane.wait_for_requests(1, timeout_s=60)
        await asyncio.wait_for(run.route.drain(), 2)
        assert (await run.totals()).pending == 5
        leases = await leased(run.spool, OUT, fresh=10, retry=10, size=1_000_000)
        assert [lease.attempt for lease in leases] == [1] * 5


async def test_large_events_travel_alone(bridge: OpenBridge) -> None:
    """An event above the batch's limit arrives; one above the gateway's own is dead."""
    async with bridge() as run:
        await run.fill(1, event="x" * 600_000)
        await run.fill(1, start=1, event="x" * 4_096_000)
        await run.fill(1, start=2)
        totals = await run.settled()
        assert (totals.delivered, totals.dead) == (2, 1)
