"""A small spool with behaviour, a scripted destination, and a running route between them."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import structlog

from forwarder.clock import SystemClock
from forwarder.errors import SpoolClosed, SpoolFull, Unmappable
from forwarder.flow.backoff import Backoff
from forwarder.flow.batcher import BatchLimits
from forwarder.flow.delivery import DeliveryLimits
from forwarder.flow.route import Route
from forwarder.flow.routes import batch_route, call_route
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
    Replay,
    Returned,
    RouteName,
    Settled,
    Settlement,
    State,
    TryLater,
    Unmapped,
    Verdict,
)
from forwarder.ports import Mapped
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER


@dataclass
class Row:
    """One event of the fake spool."""

    envelope: Envelope
    state: State = State.PENDING
    reason: str = ""
    attempt: int = 1
    first_failed_at_ms: int | None = None
    progress: bytes = b""
    not_before_ms: int = 0
    is_lent: bool = False
    settlements: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    replay: Replay = Replay.NOT


class FakeSpool:
    """`ports.Spool` in a dictionary: what the flow needs of it, with its promises kept."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.memory: dict[str, bytes] = {}
        self.clock = SystemClock()
        self.lent_max = 0
        self._lent_now = 0
        self._wake: Callable[[], None] = lambda: None

    def add(self, payload: bytes, *, partition_key: str = "", route: RouteName = OUT, key: bytes = b"") -> int:
        """Store one event and return its sequence."""
        sequence = len(self.rows) + 1
        self.rows[sequence] = Row(
            Envelope(
                route=route,
                event_key=key or sequence.to_bytes(16, "big"),
                partition_key=partition_key,
                received_at_ms=self.clock.wall_ms(),
                payload=payload,
            )
        )
        self._changed()
        return sequence

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Store events."""
        del on_rollback
        for envelope in envelopes:
            self.rows[len(self.rows) + 1] = Row(envelope)
        self._changed()
        on_commit(Receipt(accepted=len(envelopes), duplicates=0))

    def _due(self, route: RouteName) -> list[int]:
        now_ms = self.clock.wall_ms()
        seen: set[str] = set()
        due = []
        for sequence, row in self.rows.items():
            key = row.envelope.partition_key
            if row.envelope.route is not route or row.state is not State.PENDING or key in seen:
                continue
            if key:
                seen.add(key)
            if not row.is_lent and row.not_before_ms <= now_ms:
                due.append(sequence)
        return due

    def _lend(self, sequence: int) -> Lease:
        row = self.rows[sequence]
        row.is_lent = True
        self._lent_now += 1
        self.lent_max = max(self.lent_max, self._lent_now)
        return Lease(
            sequence=sequence,
            attempt=row.attempt,
            first_failed_at_ms=row.first_failed_at_ms,
            progress=row.progress,
            envelope=row.envelope,
            replay=row.replay if row.progress else Replay.NOT,
        )

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events."""
        left = {False: demand.fresh_max, True: demand.retry_max}
        leases: list[Lease] = []
        room = demand.bytes_max
        for sequence in self._due(route):
            row = self.rows[sequence]
            is_retry = row.attempt > 1
            if not left[is_retry]:
                continue
            if leases and len(row.envelope.payload) > room:
                break
            room -= len(row.envelope.payload)
            left[is_retry] -= 1
            leases.append(self._lend(sequence))
        return leases

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lend the newest due event."""
        due = self._due(route)
        return self._lend(due[-1]) if due else None

    def on_work(self, route: RouteName, wake: Callable[[], None]) -> None:
        """Hear whom to wake."""
        del route
        self._wake = wake
        self._look()

    def _changed(self) -> None:
        self._wake()

    def _look(self) -> None:
        self._wake()
        asyncio.get_running_loop().call_later(0.005, self._look)

    def _settle(self, sequences: Sequence[int], state: State, reason: str, attempt: Attempt | None) -> None:
        for sequence in sequences:
            row = self.rows[sequence]
            assert row.is_lent, f"{sequence} is not lent"
            row.state, row.reason, row.is_lent = state, reason, False
            self._lent_now -= 1
            row.settlements += 1
            if attempt:
                row.attempts.append(attempt)
        self._changed()

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep progress."""
        assert self.rows[sequence].is_lent
        self.rows[sequence].progress, self.rows[sequence].replay = progress, Replay.NOT

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep an exchange."""
        for sequence in sequences:
            assert self.rows[sequence].is_lent
            self.rows[sequence].attempts.append(attempt)
        await asyncio.sleep(0)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle for good, or give back."""
        await asyncio.sleep(0)
        for one in settlements:
            if isinstance(one, Settled):
                self._settle(one.sequences, one.state, one.reason, one.attempt)
            else:
                self._give_back(one)

    def _give_back(self, returned: Returned) -> None:
        for sequence in returned.sequences:
            row = self.rows[sequence]
            assert row.is_lent
            row.is_lent, row.not_before_ms, row.reason = False, returned.not_before_ms, returned.reason
            self._lent_now -= 1
            if returned.counts:
                row.attempt += 1
                row.first_failed_at_ms = row.first_failed_at_ms or self.clock.wall_ms()
            if returned.attempt:
                row.attempts.append(returned.attempt)
        self._changed()

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False) -> int:
        """Make pending again."""
        for sequence in sequences:
            row = self.rows[sequence]
            row.replay = Replay.EVERYTHING if everything else Replay.REST
            row.state, row.reason, row.attempt, row.first_failed_at_ms, row.not_before_ms = (
                State.PENDING, "", 1, None, 0,
            )  # fmt: skip
        self._changed()
        return len(sequences)

    async def discard(self, sequences: Sequence[int]) -> int:
        """Do nothing: the flow discards nothing."""
        return len(sequences)

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        self.memory[key] = value

    async def get(self, key: str) -> bytes | None:
        """Return a value."""
        return self.memory.get(key)

    async def close(self) -> None:
        """Do nothing."""

    def states(self) -> Counter[State]:
        """Count the events by state."""
        return Counter(row.state for row in self.rows.values())

    def lent(self) -> int:
        """Count what is lent."""
        return sum(row.is_lent for row in self.rows.values())


class EchoMapper:
    """The payload is the body; a few words in it make other outcomes."""

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
    """The payload lists the calls, separated by blanks: `family:name`; a table may replace it."""

    def __init__(self) -> None:
        self.table: dict[bytes, str] = {}

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
                family=call.split(":")[0],
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


LIMITS = DeliveryLimits(
    batch=BatchLimits(deliveries_max=100, bytes_max=100_000, wait_max_s=0.2), delivery_bytes_max=200_000
)


@dataclass
class Bench:
    """A route between a fake spool and a scripted destination."""

    spool: FakeSpool
    sink: ScriptedSink
    route: Route
    reporter: TapeReporter

    async def until(self, condition: Callable[[], bool], *, within_s: float = 5.0) -> None:
        """Wait for a condition; fail when it takes too long."""
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - what is awaited is outside the test: spool rows, log lines
                await asyncio.sleep(0.002)

    async def settled(self, *, within_s: float = 5.0) -> None:
        """Wait until nothing is pending."""
        await self.until(lambda: State.PENDING not in self.spool.states(), within_s=within_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the route, and drain it at the end."""
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.route.run())
            yield
            await self.route.drain()
            await task


class ReplayedAtOnce(FakeSpool):
    """A spool in which somebody replays an event the moment it is settled, before the settler has heard of it."""

    def __init__(self) -> None:
        super().__init__()
        self.until_lent_again: Callable[[], Awaitable[None]] | None = None

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle; the first time also replay, and return only when the event was leased again."""
        await super().settle(settlements)
        wait, self.until_lent_again = self.until_lent_again, None
        if wait is not None:
            await self.requeue([s for one in settlements for s in one.sequences], everything=True)
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
def spool() -> FakeSpool:
    """Return an empty spool."""
    return FakeSpool()


@pytest.fixture
def bench(spool: FakeSpool) -> MakeBench:
    """Return a maker of benches: a judge, and limits where they matter."""

    def make(
        judge: Judge,
        *,
        limits: DeliveryLimits = LIMITS,
        backoff: Backoff | None = None,
        probe_every_s: float = 0.03,
        concurrency_max: int = 4,
        spool: FakeSpool = spool,
    ) -> Bench:
        sink = ScriptedSink(judge)
        reporter = TapeReporter()
        route = batch_route(
            OUT,
            spool=spool,
            mapper=EchoMapper(),
            sink=sink,
            limits=limits,
            concurrency_max=concurrency_max,
            reporter=reporter,
            clock=SystemClock(),
            rng=random.Random(7).random,  # noqa: S311 - jitter, not a secret
            backoff=backoff or Backoff(first_s=0.01, max_s=0.05),
            probe_every_s=probe_every_s,
        )
        return Bench(spool=spool, sink=sink, route=route, reporter=reporter)

    return make


@pytest.fixture
def call_bench(spool: FakeSpool) -> MakeBench:
    """Return a maker of benches for the route by calls."""

    def make(
        judge: Judge,
        *,
        mapper: PlanMapper | None = None,
        backoff: Backoff | None = None,
        probe_every_s: float = 0.03,
        concurrency_max: int = 32,
        spool: FakeSpool = spool,
    ) -> Bench:
        sink = ScriptedSink(judge)
        reporter = TapeReporter()
        route = call_route(
            IN,
            spool=spool,
            mapper=mapper or PlanMapper(),
            sink=sink,
            concurrency_max=concurrency_max,
            reporter=reporter,
            clock=SystemClock(),
            rng=random.Random(7).random,  # noqa: S311 - jitter, not a secret
            backoff=backoff or Backoff(first_s=0.01, max_s=0.05),
            probe_every_s=probe_every_s,
        )
        return Bench(spool=spool, sink=sink, route=route, reporter=reporter)

    return make


@pytest.fixture
def plan_mapper() -> PlanMapper:
    """Return a mapper whose table a test may change."""
    return PlanMapper()
