"""What a route does with the world: send a request and have it decided, write down what became of it, tell people.

What an answer means for its events is decided in `policy`; when something is sent, in `dispatch`. One spool call and
one report per batch, never per event.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from forwarder.delivery.breakers import Breakers
from forwarder.delivery.flights import Flight
from forwarder.delivery.history import History
from forwarder.delivery.intake import RequestLimits
from forwarder.delivery.pacing import ConcurrencyLimit
from forwarder.delivery.policy import EVENT, ROUTE, Change, Decision, OutcomePolicy
from forwarder.errors import SpoolFull
from forwarder.model import (
    Answer,
    Attempt,
    Batch,
    Effect,
    Held,
    Lease,
    Returned,
    RouteName,
    Settled,
    Settlement,
    State,
    TryLater,
    Verdict,
)
from forwarder.ports import Clock, Sink, Spool
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import Tracing

_REQUEUE_AGAIN_S: Final = 1.0


class Exchanges:
    """The requests of one route to its destination. Of planned calls a bug in the sink is one event's trouble."""

    def __init__(
        self,
        *,
        route: RouteName,
        sink: Sink,
        history: History,
        policy: OutcomePolicy,
        breakers: Breakers,
        concurrency: ConcurrencyLimit,
        limits: RequestLimits,
        reporter: Reporter,
        clock: Clock,
        tracing: Tracing | None,
    ) -> None:
        self._route = route
        self._sink = sink
        self._tracing = tracing
        self._history = history
        self._policy = policy
        self._breakers = breakers
        self._concurrency = concurrency
        self._are_replays = limits.are_replays
        self._bug_scope = EVENT if limits.is_planned else ROUTE
        self._reporter = reporter
        self._clock = clock

    @property
    def limit(self) -> int:
        """How many requests may be under way just now."""
        return self._concurrency.limit

    def tell_limit(self) -> None:
        """Tell people how many requests may be under way, those of replays left out."""
        if self._are_replays:
            return
        self._reporter.concurrency_changed(self._route, limit=self.limit)

    async def send(self, batch: Batch, leases: Sequence[Lease], *, in_flight: int) -> tuple[Answer, float]:
        """Send; return the answer and when it was sent. Whatever the sink raises becomes "later", its outcome unknown.

        Left alone, an error that nobody thought of would end the process, and the same event would end it again
        after each restart. As a failure it is seen, alarmed on, and isolated from what does get through.
        """
        at_ms, started_s = self._clock.wall_ms(), self._clock.monotonic_s()
        self._concurrency.sent(in_flight=in_flight, now_s=started_s)
        try:
            if self._tracing is None:
                return await self._sink.send(batch), started_s
            return await self._tracing.deliver(self._sink.send, batch, leases, route=self._route), started_s
        except Exception as error:  # noqa: BLE001 - the last resort: its type is told, its text may quote a payload
            reason = f"a bug in the sink: {type(error).__name__}"
        attempt = Attempt(
            at_ms=at_ms,
            duration_ms=round((self._clock.monotonic_s() - started_s) * 1000),
            operation=batch.deliveries[0].operation,
            status=None,
            outcome="try_later",
            reason=reason,
            answer=b"",
        )
        verdict = TryLater(reason=reason, after_s=None, scope=self._bug_scope, effect=Effect.UNKNOWN)
        return Answer(verdict=verdict, attempt=attempt), started_s

    def judge(self, flight: Flight, answer: Answer, group: str, *, started_s: float) -> Decision:
        """Return what follows from the answer to a call of this rate-limit group; the breakers have changed already."""
        now_s, verdict, status = self._clock.monotonic_s(), answer.verdict, answer.attempt.status
        lease = flight.leases[0]
        self._reporter.request_finished(self._route, verdict=answer.attempt.outcome, duration_s=now_s - started_s)
        if isinstance(verdict, TryLater | Held) and lease.replayed_at_ms is not None and not self._are_replays:
            stopped, is_held = self._breakers.stopped(group), self._breakers.held(ROUTE, group) is not None
            aside = self._policy.step_aside(verdict, lease.attempt, stopped=stopped, is_held=is_held)
            self._breakers.apply(aside, group=group, sequence=lease.sequence, status=status, started_s=started_s)
            return aside
        held = self._breakers.held(*((verdict.scope,) if isinstance(verdict, Held) else (ROUTE, group)))
        case = self._history.observe(flight, answer, group=group, held=held, now_s=now_s)
        decision = self._policy.decide(case, now_ms=self._clock.wall_ms())
        if self._breakers.apply(decision, group=group, sequence=lease.sequence, status=status, started_s=started_s):
            self._history.began_hold(decision.scope, flight)
        if isinstance(verdict, TryLater | Held) and decision.change is not Change.HOLD:
            self._reporter.request_failed(self._route, reason=verdict.reason, status=status, events=len(flight.leases))
        self._adapt(decision, verdict, started_s=started_s, now_s=now_s)
        return decision

    def _adapt(self, decision: Decision, verdict: Verdict, *, started_s: float, now_s: float) -> None:
        before = self.limit
        if decision.change is Change.BACK_OFF and decision.scope == ROUTE:
            self._concurrency.failed(started_s=started_s, now_s=now_s)
        elif not isinstance(verdict, TryLater):
            self._concurrency.succeeded(started_s=started_s, now_s=now_s)
        if self.limit != before:
            self.tell_limit()


class Settling:
    """The one way in which a route gives leases back to the spool.

    It counts and keeps no sequences: an event may be leased again the moment its settlement is on disk, before the
    task that settled it has heard of it; for that moment it counts twice.
    """

    def __init__(self, *, route: RouteName, spool: Spool, reporter: Reporter, clock: Clock) -> None:
        self.in_hand = 0  # events that are leased and not settled yet
        self.in_hand_bytes = 0  # of their payloads
        self.on_settled: Callable[[], None] = lambda: None
        self._route = route
        self._refused_key = f"route.{route.value}.refused"
        self._spool = spool
        self._reporter = reporter
        self._clock = clock

    def own(self, leases: Sequence[Lease]) -> None:
        """Count leases that were taken."""
        self.in_hand += len(leases)
        self.in_hand_bytes += sum([len(lease.envelope.payload) for lease in leases])

    async def before(self, flight: Flight) -> None:
        """Return once what must be on disk before this flight is sent is there."""
        progress = flight.unkept()
        if progress is not None:
            await self._spool.note(flight.leases[0].sequence, progress)

    async def keep(self, flight: Flight, attempt: Attempt) -> None:
        """Write down what is new about events that stay in hand."""
        await asyncio.gather(self._spool.record(flight.sequences, attempt), *self._news(flight))

    async def settle(
        self,
        leases: Sequence[Lease],
        settlements: Sequence[Settlement],
        *,
        flight: Flight | None = None,
        logged: str = "",
        row: Sequence[int] | None = None,
    ) -> None:
        """Settle or return leases, in one commit with what is new about them, and tell people.

        A new `row` of refusals is kept first: before any of it is dead.
        """
        news = [] if flight is None else self._news(flight)
        if row is not None:
            news.insert(0, self._keep_refused(row))
        settling = self._spool.settle(settlements)
        await (asyncio.gather(*news, settling) if news else settling)
        self.in_hand -= len(leases)
        self.in_hand_bytes -= sum([len(lease.envelope.payload) for lease in leases])
        is_delivered = False
        for settled in settlements:
            if isinstance(settled, Settled):
                self._told(settled, logged)
                is_delivered = is_delivered or settled.state is State.DELIVERED
        if is_delivered:
            now_ms = self._clock.wall_ms()
            since_ms = [lease.replayed_at_ms or lease.envelope.received_at_ms for lease in leases]
            latencies_s = [(now_ms - at_ms) / 1000 if at_ms < now_ms else 0.0 for at_ms in since_ms]
            self._reporter.events_delivered(self._route, latencies_s=latencies_s)
        self.on_settled()

    async def give_back(self, flights: Sequence[Flight]) -> None:
        """Return what was not sent as if it had never been leased (a hold, a pause, a drain)."""
        leases = [lease for flight in flights for lease in flight.leases]
        unsent = [(flight.leases[0].sequence, kept) for flight in flights if (kept := flight.unsent()) is not None]
        returning = self.settle(leases, [Returned([lease.sequence for lease in leases], 0, counts=False)])
        await asyncio.gather(*(self._spool.note(sequence, kept) for sequence, kept in unsent), returning)

    async def take_back(self, sequences: Sequence[int]) -> None:
        """Make dead events pending again, as soon as the disk lets it happen."""
        while True:
            try:
                await self._spool.requeue(sequences, is_replay=False)
            except SpoolFull:
                await asyncio.sleep(_REQUEUE_AGAIN_S)
            else:
                return

    async def refused(self) -> list[int]:
        """Return the row of refusals that was kept: those of its events that are dead may be taken back."""
        return msgspec.json.decode(await self._spool.get(self._refused_key) or b"[]", type=list[int])

    async def _keep_refused(self, row: Sequence[int]) -> None:
        """Keep the row of refusals over a restart; while the disk is full it stands in memory alone."""
        with contextlib.suppress(SpoolFull):
            await self._spool.put(self._refused_key, msgspec.json.encode(row))

    def _news(self, flight: Flight) -> list[Coroutine[Any, Any, None]]:
        news = [self._spool.record(flight.sequences, attempt) for attempt in flight.attempts]
        flight.attempts.clear()
        progress = flight.progress()
        if progress is not None:
            news.append(self._spool.note(flight.leases[0].sequence, progress))
        return news

    def _told(self, settled: Settled, logged: str) -> None:
        self._reporter.events_settled(self._route, outcome=settled.state.value, count=len(settled.sequences))
        if settled.state is State.DEAD:
            for sequence in settled.sequences:
                self._reporter.event_buried(self._route, sequence=sequence, reason=logged or settled.reason)
