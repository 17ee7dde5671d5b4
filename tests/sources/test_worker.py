"""What the worker promises, whatever the bus is: acknowledged after the commit, nothing dropped, tried for ever."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from forwarder.clock import SystemClock
from forwarder.errors import SourceAway, SpoolClosed, SpoolFull
from forwarder.model import Demand, Envelope, Receipt, RouteName
from forwarder.sources.port import Fetched, Message
from forwarder.sources.worker import SourceWorker
from forwarder.spool.limits import SpoolLimits
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.open_telemetry import OpenTelemetry
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import Tracing
from stand_ins.clock import HandClock
from stand_ins.memory_spool import MemorySpool
from stand_ins.waiting import wait_until

_DELAYS = "forwarder.sources.worker"


class ListBus:
    """`port.Bus` over a list: what was fetched and not acknowledged is there again once it was closed."""

    def __init__(self, *bodies: bytes) -> None:
        self.there = [Message(body, {}, number) for number, body in enumerate(bodies)]
        self.fetched: deque[Message] = deque()
        self.acknowledged: list[object] = []
        self.kept = 0
        self.fetches = 0
        self.fails: deque[str] = deque()  # in what the next calls fail: "fetch", "acknowledge" or "keep"
        self.is_closed = False
        self._position = 0

    async def fetch(self, *, messages_max: int, bytes_max: int) -> Fetched:
        """Return one message at a time, so that many calls are made."""
        assert messages_max > 0
        assert bytes_max > 0
        self.fetches += 1
        await asyncio.sleep(0)
        self._fail("fetch")
        found = self.there[self._position : self._position + 1]
        self._position += len(found)
        if not found:
            await asyncio.sleep(0.001)
        return Fetched(found)

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Remember which."""
        self._fail("acknowledge")
        self.acknowledged += [one.token for one in messages]

    async def keep(self, messages: Sequence[Message]) -> None:
        """Count."""
        self._fail("keep")
        self.kept += len(messages)

    async def lag(self) -> int | None:
        """Return what is not acknowledged."""
        return len(self.there) - len(set(self.acknowledged))

    async def prove(self) -> str:
        """Nothing is asked."""
        return ""

    async def send(self, body: bytes) -> str:
        """Nothing is sent."""
        return body.decode()

    async def close(self) -> None:
        """Remember it; what was not acknowledged is there again."""
        self.is_closed = True
        self._position = next(
            (place for place, one in enumerate(self.there) if one.token not in self.acknowledged), len(self.there)
        )

    def _fail(self, call: str) -> None:
        if self.fails and self.fails[0] == call:
            self.fails.popleft()
            raise SourceAway(f"{call} fails")


class OrderedSpool(MemorySpool):
    """A spool that is full, or closed, when asked to be, and holds each commit back until it is let go."""

    def __init__(self) -> None:
        super().__init__(limits=SpoolLimits(bytes_max=10**9, retention_s=10**6), clock=HandClock())
        self.refuse: Exception | None = None
        self.refusals = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Refuse, or commit once the gate is open."""
        if isinstance(self.refuse, SpoolFull | SpoolClosed):
            self.refusals += 1
            on_rollback(self.refuse)
            return

        async def later() -> None:
            await self.gate.wait()
            super(OrderedSpool, self).append(envelopes, on_commit=on_commit, on_rollback=on_rollback)

        self.task = asyncio.create_task(later())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tries follow each other at once."""
    for name in ("_AGAIN_S", "_AGAIN_MAX_S", "_KEEP_EVERY_S", "_LAG_EVERY_S"):
        monkeypatch.setattr(f"{_DELAYS}.{name}", 0.001)


class Running:
    """A worker at work."""

    def __init__(self, bus: ListBus, spool: OrderedSpool, tracing: Tracing | None) -> None:
        self.metrics = Metrics()
        self.log: list[str] = []

        def keep(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
            self.log.append(str(event["event"]))
            raise structlog.DropEvent

        log = structlog.wrap_logger(None, processors=[keep])
        reporter = Reporter(self.metrics, log)
        clock = SystemClock()
        self.worker = SourceWorker(
            "nats", bus, spool=spool, clock=clock, reporter=reporter, rng=lambda: 0.0, tracing=tracing
        )

    def value(self, name: str) -> float | None:
        """Return a metric's value."""
        return self.metrics.registry.get_sample_value(name, {"source": "nats"})


@asynccontextmanager
async def _running(bus: ListBus, spool: OrderedSpool, tracing: Tracing | None = None) -> AsyncIterator[Running]:
    running = Running(bus, spool, tracing)
    task = asyncio.create_task(running.worker.run())
    yield running
    await running.worker.drain()
    async with asyncio.timeout(60):
        await task
    assert bus.is_closed


async def _accepted(spool: OrderedSpool) -> int:
    totals = (await spool.facts()).totals.get(RouteName.COURIER_TO_RUDDERSTACK)
    return totals.accepted if totals else 0


_EVENTS = [b'{"type":"a:b","id":"%d","data":{}}' % number for number in range(3)]


async def test_messages_are_stored_and_acknowledged() -> None:
    """All of them, in their order; the lag is shown."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    async with _running(bus, spool) as running:
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])
        await wait_until(lambda: running.value("forwarder_source_lag_events") == 0)

        assert await _accepted(spool) == 3
        assert running.worker.status().state == "connected"


async def test_the_trace_of_a_message_goes_on() -> None:
    """Each is received within its sender's span, also while it cannot be stored; one without begins a trace."""
    bus, spool, exporter = ListBus(*_EVENTS), OrderedSpool(), InMemorySpanExporter()
    senders = [f"{number:032x}" for number in (1, 2)]
    for number, name in enumerate(("traceparent", "ce-traceparent")):
        bus.there[number] = Message(_EVENTS[number], {name: f"00-{senders[number]}-{9:016x}-01"}, number)
    spool.refuse = SpoolFull("cap", retry_after_s=0)
    tracing = OpenTelemetry([exporter], is_propagated=True)
    async with _running(bus, spool, tracing):
        await wait_until(lambda: spool.refusals > 3)
        spool.refuse = None
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])
    demand = Demand(fresh_max=9, retry_max=9, bytes_max=10**6)
    leases = spool.lease(RouteName.COURIER_TO_RUDDERSTACK, demand)
    await tracing.close()
    spans = [span for span in exporter.get_finished_spans() if span.name == "receive nats"]
    kept = [lease.envelope.trace for lease in leases]
    assert [f"00-{one.context.trace_id:032x}-{one.context.span_id:016x}-01" for one in spans] == kept
    assert [trace.split("-")[1] for trace in kept][:2] == senders
    assert [one.parent.span_id if one.parent else None for one in spans] == [9, 9, None]


async def test_nothing_is_acknowledged_before_the_commit() -> None:
    """While the commit hangs the bus hears nothing, and nothing more is fetched (control: then it does)."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    spool.gate.clear()
    async with _running(bus, spool):
        await wait_until(lambda: bus.fetches == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert (bus.acknowledged, bus.fetches) == ([], 1)
        spool.gate.set()
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])


async def test_a_full_spool_stops_the_fetching_and_drops_nothing() -> None:
    """The bus is told that the messages are in hand; once there is room they are stored and acknowledged."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    spool.refuse = SpoolFull("cap", retry_after_s=0)
    async with _running(bus, spool) as running:
        await wait_until(lambda: spool.refusals > 3)
        assert (bus.acknowledged, bus.fetches) == ([], 1)
        assert bus.kept >= 3
        assert running.worker.status().state == "waiting"
        spool.refuse = None
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])
        assert running.worker.status().state == "connected"


async def test_what_is_in_hand_when_the_bus_goes_away_comes_again() -> None:
    """Messages that a full spool could not take are not passed by: they are fetched anew, before those behind them."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    spool.refuse = SpoolFull("cap", retry_after_s=0)
    bus.fails.append("keep")
    async with _running(bus, spool):
        await wait_until(lambda: bus.fetches == 2)
        spool.refuse = None
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])

        assert await _accepted(spool) == 3


async def test_a_bus_that_is_away_is_tried_again() -> None:
    """Until it is back; told once for one reason, and shown meanwhile."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    bus.fails.extend(["fetch"] * 20)
    async with _running(bus, spool) as running:
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])
        assert running.log.count("source.away") == 1
        assert running.log.count("source.connected") == 1
        assert running.value("forwarder_source_connected") == 1


async def test_who_takes_no_acknowledgement_is_asked_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it can be read is no sign that all is well; once it takes them, the next wait is a short one again."""
    waits: list[float] = []

    async def pause(_worker: SourceWorker, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(SourceWorker, "_pause", pause)
    monkeypatch.setattr(f"{_DELAYS}._AGAIN_MAX_S", 1.0)
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    bus.fails.extend(["acknowledge"] * 4)
    async with _running(bus, spool):
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])
        bus.fails.append("fetch")
        await wait_until(lambda: len(waits) == 5)
    assert waits == [0.0005, 0.001, 0.002, 0.004, 0.0005]


async def test_it_is_away_since_it_went_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasons that take turns do not make it look as if it had just gone."""
    bus, spool = ListBus(), OrderedSpool()
    running = Running(bus, spool, None)
    since = running.worker.status().since_ms
    clock = HandClock()
    monkeypatch.setattr(running.worker, "_clock", clock)
    for reason in ("cannot be reached", "does not answer", "cannot be reached"):
        clock.now_ms += 1_000
        running.worker._away(reason)  # noqa: SLF001 - what its loop does each time
    status = running.worker.status()
    assert (status.state, status.reason, status.since_ms) == ("away", "cannot be reached", clock.now_ms - 2_000)
    assert status.since_ms != since


async def test_redelivery_is_a_duplicate() -> None:
    """What was stored and could not be acknowledged comes again, is stored once and counted."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    bus.fails.append("acknowledge")
    async with _running(bus, spool) as running:
        await wait_until(lambda: bus.acknowledged == [0, 1, 2])
        assert await _accepted(spool) == 3
        assert b'forwarder_duplicates_total{route="courier_to_rudderstack"} 1.0' in generate_latest(
            running.metrics.registry
        )


async def test_what_is_no_json_is_stored_and_acknowledged() -> None:
    """It does not stand in the way of others."""
    bus, spool = ListBus(b"no json", *_EVENTS), OrderedSpool()
    async with _running(bus, spool):
        await wait_until(lambda: bus.acknowledged == [0, 1, 2, 3])
        assert await _accepted(spool) == 4


@pytest.mark.parametrize("refuse", [SpoolFull("cap", retry_after_s=30), SpoolClosed("shut")], ids=["full", "closed"])
async def test_a_drain_waits_for_no_room(refuse: Exception) -> None:
    """What is in hand is not acknowledged, so it comes again to the next start."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    spool.refuse = refuse
    async with _running(bus, spool):
        await wait_until(lambda: spool.refusals > 0)

    assert bus.acknowledged == []


async def test_a_drain_waits_for_the_commit() -> None:
    """What is on its way to the disk is acknowledged before the bus is closed."""
    bus, spool = ListBus(*_EVENTS), OrderedSpool()
    spool.gate.clear()
    async with _running(bus, spool) as running:
        await wait_until(lambda: bus.fetches == 1)
        await wait_until(lambda: hasattr(spool, "task"))
        await running.worker.drain()
        spool.gate.set()

    assert bus.acknowledged == [0]
