"""The spool in memory, a scripted destination, and a running route between them."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from forwarder.clock import SystemClock
from forwarder.delivery.flights import BatchLimits
from forwarder.delivery.intake import ONE_BY_ONE, RequestLimits
from forwarder.delivery.pacing import Backoff
from forwarder.delivery.route import Route, make_route
from forwarder.errors import Unmappable
from forwarder.model import (
    Answer,
    Attempt,
    Batch,
    Delivered,
    Delivery,
    Demand,
    Effect,
    Envelope,
    Filtered,
    Held,
    Lease,
    Receipt,
    Refused,
    RouteName,
    Settled,
    Settlement,
    State,
    TryLater,
    Unmapped,
    Verdict,
)
from forwarder.ports import Mapped
from forwarder.spool.limits import SpoolLimits
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.memory_records import Record
from stand_ins.memory_spool import MemorySpool

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER


class WatchedSpool(MemorySpool):
    """The spool in memory, with a look at what it holds and at what was done to it."""

    def __init__(self) -> None:
        super().__init__(limits=SpoolLimits(), clock=SystemClock())
        self.settlements: Counter[int] = Counter()
        self.notes: list[bytes] = []
        self.leased_max = 0
        self.leases = 0
        self._writer = asyncio.Lock()

    def add(self, payload: bytes, *, partition_key: str = "", route: RouteName = OUT) -> int:
        """Store one event and return its sequence."""
        sequence = len(self.rows) + 1
        envelope = Envelope(
            route=route,
            event_key=sequence.to_bytes(16, "big"),
            partition_key=partition_key,
            received_at_ms=SystemClock().wall_ms(),
            payload=payload,
        )
        self.append([envelope], on_commit=_stored, on_rollback=_refuse)
        return sequence

    @property
    def rows(self) -> dict[int, Record]:
        """Every event, by its sequence."""
        return self._records.by_sequence

    def counts(self) -> Counter[State]:
        """Count the events by state."""
        return Counter(row.state for row in self.rows.values())

    def leased(self) -> int:
        """Count what is leased."""
        return sum(row.is_leased for row in self.rows.values())

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease; see `MemorySpool`."""
        self.leases += 1
        leases = super().lease(route, demand)
        if leases:
            self.leased_max = max(self.leased_max, self.leased())
        return leases

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle what is leased, and nothing else; see `MemorySpool`."""
        async with self._writer:
            await asyncio.sleep(0)
            for settlement in settlements:
                assert all(self.rows[sequence].is_leased for sequence in settlement.sequences)
                if isinstance(settlement, Settled):
                    self.settlements.update(settlement.sequences)
            await super().settle(settlements)

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False, is_replay: bool = True) -> int:
        """Make pending again, after what was asked before; see `MemorySpool`."""
        async with self._writer:
            return await super().requeue(sequences, everything=everything, is_replay=is_replay)

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep progress; see `MemorySpool`."""
        self.notes.append(progress)
        await super().note(sequence, progress)


def _stored(_receipt: Receipt) -> None:
    """Go on."""


def _refuse(error: Exception) -> None:
    raise error


def map_each(mapper: "EchoMapper | PlanMapper", leases: Sequence[Lease]) -> list[Mapped | Unmappable]:
    """Map each of the leases, with what is raised in its place."""
    mapped: list[Mapped | Unmappable] = []
    for lease in leases:
        try:
            mapped.append(mapper.map(lease))
        except Unmappable as error:
            mapped.append(error)
    return mapped


class EchoMapper:
    """The payload is the body; a few words in it make other outcomes."""

    def map_batch(self, leases: Sequence[Lease]) -> Sequence[Mapped | Unmappable]:
        """Map each."""
        return map_each(self, leases)

    def map(self, lease: Lease) -> Mapped:
        """Map."""
        payload = lease.envelope.payload
        if b"filter-me" in payload:
            return Filtered(reason="a rule")
        if b"unlinked" in payload:
            return Unmapped(reason="nothing is linked")
        if b"hopeless" in payload:
            raise Unmappable("no type")
        if b"crash-me" in payload:
            raise KeyError(payload)
        note = "left changed" if b"note-me" in payload else ""
        return (Delivery(sequence=lease.sequence, operation="track", body=payload, note=note),)


Judge = Callable[[Batch], Verdict | Awaitable[Verdict]]


class ScriptedSink:
    """`ports.Sink`: asks a function what each batch gets, and remembers the batches."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.batches: list[Batch] = []
        self.verdicts: list[Verdict] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self.statuses: dict[type[Verdict], int] = {Delivered: 200, Refused: 400, Held: 401}

    async def send(self, batch: Batch) -> Answer:
        """Answer as the script says."""
        self.batches.append(batch)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        try:
            await asyncio.sleep(0.001)
            verdict = self.judge(batch)
            if not isinstance(verdict, Delivered | Filtered | TryLater | Refused | Held):
                verdict = await verdict
        finally:
            self.in_flight -= 1
        self.verdicts.append(verdict)
        status = self.statuses.get(type(verdict))
        if isinstance(verdict, TryLater) and verdict.effect is Effect.ANSWERED:
            status = 500
        return Answer(
            verdict=verdict,
            attempt=Attempt(
                at_ms=0,
                duration_ms=1,
                operation="POST /v1/batch",
                status=status,
                outcome=type(verdict).__name__.lower(),
                reason="" if isinstance(verdict, Delivered) else verdict.reason,
                answer=b"",
            ),
        )

    def sent(self) -> list[bytes]:
        """Return every body that was sent, in order."""
        return [delivery.body for batch in self.batches for delivery in batch.deliveries]


class PlanMapper:
    """The payload lists the calls, separated by blanks: `group:name`; a table may replace it."""

    def __init__(self) -> None:
        self.table: dict[bytes, str] = {}

    def map_batch(self, leases: Sequence[Lease]) -> Sequence[Mapped | Unmappable]:
        """Map each."""
        return map_each(self, leases)

    def map(self, lease: Lease) -> Mapped:
        """Map."""
        if lease.envelope.payload == b"crash-me":
            raise KeyError
        if lease.envelope.payload == b"unlinked":
            return Unmapped(reason="nothing is linked")
        text = self.table.get(lease.envelope.payload, lease.envelope.payload.decode())
        return tuple(
            Delivery(
                sequence=lease.sequence,
                operation=f"POST /{call.split(':')[0]}/{call.split(':')[1]}",
                body=b'{"of":"%s"}' % lease.envelope.payload,
                group=call.split(":")[0],
            )
            for call in text.split()
        )


class TapeReporter(Reporter):
    """A reporter that keeps its log lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

        def keep(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
            self.lines.append(dict(event))
            raise structlog.DropEvent

        super().__init__(Metrics(), structlog.wrap_logger(structlog.PrintLogger(), processors=[keep]))

    def events(self) -> list[object]:
        """Return the names of what was logged."""
        return [line["event"] for line in self.lines]


LIMITS = RequestLimits(
    batch=BatchLimits(deliveries_max=100, bytes_max=100_000, wait_max_s=0.2), delivery_bytes_max=200_000
)


@dataclass
class Bench:
    """A route between a fake spool and a scripted destination."""

    spool: WatchedSpool
    sink: ScriptedSink
    route: Route
    reporter: TapeReporter

    async def until(self, condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
        """Wait for a condition; fail when it takes too long."""
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - what is awaited is outside the test: spool rows, log lines
                await asyncio.sleep(0.002)

    async def settled(self, *, within_s: float = 60.0) -> None:
        """Wait until nothing is pending."""
        await self.until(lambda: State.PENDING not in self.spool.counts(), within_s=within_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the route, and drain it at the end."""
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.route.run())
            yield
            await self.route.drain()
            await task


class ReplayedAtOnce(WatchedSpool):
    """A spool in which somebody replays an event the moment it is settled, before the settler has heard of it."""

    def __init__(self) -> None:
        super().__init__()
        self.until_leased_again: Callable[[], Awaitable[None]] | None = None

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle; the first time also replay, and return only when the event was leased again."""
        await super().settle(settlements)
        wait, self.until_leased_again = self.until_leased_again, None
        if wait is not None:
            await self.requeue(settlements[0].sequences, everything=True)
            await wait()


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_reporter() -> Callable[[Metrics], Reporter]:
    """Return a maker of reporters that say nothing."""
    return lambda _metrics: TapeReporter()


@pytest.fixture
def replayed_at_once() -> ReplayedAtOnce:
    """Return an empty spool in which events are replayed as they settle."""
    return ReplayedAtOnce()


@pytest.fixture
def spool() -> WatchedSpool:
    """Return an empty spool."""
    return WatchedSpool()


def _benches(route: RouteName, usual: WatchedSpool, *, mapper: Callable[[], Any], **more: Any) -> MakeBench:
    def make(judge: Judge, *, spool: WatchedSpool = usual, **given: Any) -> Bench:
        sink = ScriptedSink(judge)
        reporter = TapeReporter()
        backoff = Backoff(first_s=0.01, max_s=0.05)
        set_up: dict[str, Any] = {"mapper": mapper(), "backoff": backoff, "probe_every_s": 0.03} | more | given
        rng = random.Random(7).random  # noqa: S311 - jitter, not a secret
        world: dict[str, Any] = {"spool": spool, "sink": sink, "reporter": reporter, "clock": SystemClock(), "rng": rng}
        return Bench(spool=spool, sink=sink, route=make_route(route, **world, **set_up), reporter=reporter)

    return make


@pytest.fixture
def bench(spool: WatchedSpool) -> MakeBench:
    """Return a maker of benches: a judge, and limits where they matter."""
    return _benches(OUT, spool, mapper=EchoMapper, limits=LIMITS, concurrency_max=4)


@pytest.fixture
def call_bench(spool: WatchedSpool) -> MakeBench:
    """Return a maker of benches for the route by calls."""
    return _benches(IN, spool, mapper=PlanMapper, limits=ONE_BY_ONE, concurrency_max=32)


@pytest.fixture
def plan_mapper() -> PlanMapper:
    """Return a mapper whose table a test may change."""
    return PlanMapper()
