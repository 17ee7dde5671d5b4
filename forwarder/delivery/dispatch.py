"""From leases to requests, and from answers to settlements: the way of events through one route.

    map → flights → send → observe (history) → decide (policy) → breakers, queue, spool

Nothing is decided here, and when to lease is the route's business.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from forwarder.delivery.breakers import Breakers
from forwarder.delivery.calls import CallFlight, kept_plan, planned
from forwarder.delivery.concurrency import ConcurrencyLimit
from forwarder.delivery.flights import BatchLimits, Flight, Flights, batch_of
from forwarder.delivery.history import History
from forwarder.delivery.policy import EVENT, ROUTE, Change, Decision, Outcome, OutcomePolicy
from forwarder.errors import SpoolFull, Unmappable
from forwarder.model import (
    Answer,
    Attempt,
    Batch,
    Delivered,
    Delivery,
    Demand,
    Effect,
    Filtered,
    Held,
    Lease,
    Returned,
    RouteName,
    Settled,
    Settlement,
    State,
    TryLater,
    Unmapped,
    Verdict,
)
from forwarder.ports import BatchMapper, Clock, Mapped, Sink, Spool
from forwarder.telemetry.reporter import Reporter

_LEASE_EVENTS_MAX: Final = 250  # mapped in one go, between two turns of the event loop
_LEASE_BYTES_MAX: Final = 8_388_608
_IN_HAND_BYTES_MAX: Final = 33_554_432  # of payloads; their bodies are about as large
_WAITING_EVENTS_MAX: Final = 1_000
_REQUEUE_AGAIN_S: Final = 1.0

Spawn = Callable[[Coroutine[Any, Any, None]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may hold, and how far the route works ahead."""

    batch: BatchLimits
    delivery_bytes_max: int  # of one body; what is larger is dead, what is above the batch's limit goes alone
    batches_ahead: int = 1  # kept ready for each request that may be in flight; 0: leased when it can go
    is_planned: bool = False  # each event is a plan of calls, made one after the other


ONE_BY_ONE: Final = RequestLimits(
    batch=BatchLimits(deliveries_max=1, bytes_max=1, wait_max_s=0.0),
    delivery_bytes_max=_IN_HAND_BYTES_MAX,
    batches_ahead=0,
    is_planned=True,
)


class Dispatcher:
    """Own leases until they are settled or given back, each exactly once. One event loop owns it."""

    def __init__(
        self,
        *,
        route: RouteName,
        spool: Spool,
        mapper: BatchMapper,
        sink: Sink,
        limits: RequestLimits,
        history: History,
        policy: OutcomePolicy,
        breakers: Breakers,
        concurrency: ConcurrencyLimit,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self.in_flight = 0  # requests under way; of planned events, events that have a slot
        self.in_hand = 0  # events that are leased and not settled yet
        self.breakers = breakers
        self._route = route
        self._spool = spool
        self._mapper = mapper
        self._sink = sink
        self._limits = limits
        self._history = history
        self._policy = policy
        self._concurrency = concurrency
        self._reporter = reporter
        self._clock = clock
        self._flights = Flights(limits.batch)
        self._in_hand_bytes = 0
        self._retries = 0  # under way: events on a retry
        self._is_closed = False
        self._spawn: Spawn
        self._wake: Callable[[], None]

    def __repr__(self) -> str:
        """Show what is in hand."""
        return f"Dispatcher({self._route.value}, {self.in_hand} in hand, {self.in_flight} in flight)"

    @property
    def limit(self) -> int:
        """How many requests may be under way just now."""
        return self._concurrency.limit

    # --- what the route asks ---

    def start(self, *, spawn: Spawn, wake: Callable[[], None]) -> None:
        """Get the means to start tasks and to wake the loop."""
        self._spawn = spawn
        self._wake = wake
        self._reporter.concurrency_changed(self._route, limit=self.limit)

    def demand(self) -> Demand | None:
        """Return what to lease now, or None for nothing: what there are slots for, and what is kept ready behind."""
        limit, per_request = self.limit, self._limits.batch.deliveries_max
        ahead = (limit + 1) * self._limits.batches_ahead
        events = min(
            (limit - self.in_flight - self._flights.untried + ahead) * per_request,
            2 * (limit + 1) * per_request + self._flights.waiting_events - self.in_hand,
            _LEASE_EVENTS_MAX,
        )
        bytes_left = _IN_HAND_BYTES_MAX - self._in_hand_bytes
        if events <= 0 or bytes_left <= 0:
            return None
        retries = max(0, max(1, limit // 2) - self._retries - self._flights.retries)
        return Demand(fresh_max=events, retry_max=min(events, retries), bytes_max=min(bytes_left, _LEASE_BYTES_MAX))

    def take(self, leases: Sequence[Lease], *, is_probe: bool = False) -> None:
        """Own these leases from now on; settle what goes nowhere. A probe is sent at once, alone."""
        self.in_hand += len(leases)
        self._in_hand_bytes += _size_of(leases)
        plain: list[tuple[Lease, Delivery]] = []
        for flight in self._flights_of(leases, plain, is_probe=is_probe):
            self._history.recall(flight)
            flight.is_probe = is_probe
            if is_probe:
                self._send(flight)
            else:
                self._flights.queue(flight)
        if plain:
            self._flights.gather(plain, now_s=self._clock.monotonic_s())

    def advance(self) -> None:
        """Start every request that may go now."""
        now_s = self._clock.monotonic_s()
        route = self.breakers.route
        while self.in_flight < self.limit and route.admits(now_s=now_s, in_flight=self.in_flight):
            is_idle = self.in_flight == 0
            flight = self._flights.next(now_s=now_s, is_idle=is_idle, is_probing=not route.is_closed)
            if flight is None:
                return
            self._send(flight)

    def lacks_untried(self) -> bool:
        """Tell whether the route backs off and all in hand has failed: then another event is the better probe."""
        return not self.breakers.route.is_closed and self._flights.ready > 0 and not self._flights.untried

    def due_at_s(self, *, now_s: float) -> float | None:
        """Return when time alone makes `advance` do something."""
        due_s = self._flights.due_at_s()
        trip = self.breakers.route.trip
        if trip is not None:
            due_s = trip.retry_at_s if self._flights.ready or due_s is not None else None
        # What is due and does not go waits for an answer, which wakes the loop.
        return due_s if due_s is not None and due_s > now_s else None

    def give_back(self) -> None:
        """Return every lease that is not in flight, as if it had never been leased."""
        leases = self._flights.take_all()
        if leases:
            returned = Returned([lease.sequence for lease in leases], 0, counts=False)
            self._spawn(self._write(leases, [returned]))

    def close(self) -> None:
        """Give back, and send nothing any more: what comes back from flight is settled or returned."""
        self._is_closed = True
        self.give_back()

    # --- from lease to flight ---

    def _flights_of(
        self, leases: Sequence[Lease], plain: list[tuple[Lease, Delivery]], *, is_probe: bool
    ) -> list[Flight]:
        """Return the flights of those that do not go in common batches; what does is put into `plain`."""
        if self._limits.is_planned:
            return self._planned(leases)
        flights: list[Flight] = []
        small: defaultdict[int, list[tuple[Lease, Delivery]]] = defaultdict(list)
        for lease, deliveries in self._mapped(leases):
            together_max = 1 if is_probe else self._history.together_max(lease)
            (plain if together_max is None else small[together_max]).append((lease, deliveries[0]))
        for size, pairs in small.items():
            for start in range(0, len(pairs), size):
                chosen, bodies = zip(*pairs[start : start + size], strict=True)
                flights.append(Flight(leases=chosen, batch=batch_of(bodies)))
        return flights

    def _planned(self, leases: Sequence[Lease]) -> list[Flight]:
        kept = [(lease, plan) for lease in leases if (plan := kept_plan(lease)) is not None]
        carried_on = {lease.sequence for lease, _ in kept}
        fresh = self._mapped([lease for lease in leases if lease.sequence not in carried_on])
        flights: list[Flight] = []
        for lease, plan in (*kept, *((lease, planned(lease, deliveries)) for lease, deliveries in fresh)):
            flight = CallFlight(leases=(lease,), plan=plan)
            if plan.next() is not None:
                flights.append(flight)
            else:  # a replay of what was done already
                self._spawn(self._conclude(flight, Decision(outcome=Outcome.DONE), Delivered(), None))
        return flights

    def _mapped(self, leases: Sequence[Lease]) -> list[tuple[Lease, tuple[Delivery, ...]]]:
        """Return what is to be sent of each lease; settle those of which nothing is."""
        going: list[tuple[Lease, tuple[Delivery, ...]]] = []
        dismissed: defaultdict[tuple[State, str], list[Lease]] = defaultdict(list)
        bytes_max = self._limits.delivery_bytes_max
        for lease, mapped in zip(leases, _map(self._mapper, leases), strict=True):
            match mapped:
                case tuple() if len(mapped[0].body) <= bytes_max:
                    going.append((lease, mapped))
                case tuple():
                    size_bytes = len(mapped[0].body)
                    reason = f"too large: {size_bytes} bytes, the destination takes {bytes_max}"
                    dismissed[State.DEAD, reason].append(lease)
                case Filtered():
                    dismissed[State.FILTERED, mapped.reason].append(lease)
                case Unmapped():
                    dismissed[State.UNMAPPED, mapped.reason].append(lease)
                case Unmappable():
                    dismissed[State.DEAD, str(mapped)].append(lease)
        if dismissed:
            gone = [lease for group in dismissed.values() for lease in group]
            settlements = [
                Settled([lease.sequence for lease in group], state, reason)
                for (state, reason), group in dismissed.items()
            ]
            self._spawn(self._write(gone, settlements))
        return going

    # --- from flight to answer ---

    def _send(self, flight: Flight) -> None:
        group = flight.group
        if not flight.is_probe and not self.breakers.admits(group, flight.leases[0].sequence):
            self._spawn(self._conclude(flight, _waits_for(group), None, None))
            return
        self.in_flight += 1
        self._retries += flight.leases[0].is_retry
        self.breakers.sent(group)
        self._spawn(self._fly(flight, group))

    async def _fly(self, flight: Flight, group: str) -> None:
        try:
            while True:
                answer, decision = await self._exchange(flight, group)
                is_through = decision.outcome not in {Outcome.DONE, Outcome.REFUSED}
                if not flight.end(decision, answer) or is_through:
                    break
                group = flight.group
                waits = self._why_not(flight, group)
                if waits is not None:
                    decision = waits
                    break
                flight.attempts.append(answer.attempt)
                self.breakers.sent(group)
        finally:
            self.in_flight -= 1
            self._retries -= flight.leases[0].is_retry
            # The slot is free; writing down what became of the events goes on beside the next request.
            self._wake()
        await self._conclude(flight, decision, answer.verdict, answer.attempt)

    async def _exchange(self, flight: Flight, group: str) -> tuple[Answer, Decision]:
        try:
            progress = flight.unkept()
            if progress is not None:
                await self._spool.note(flight.leases[0].sequence, progress)
            started_s = self._clock.monotonic_s()
            self._concurrency.sent(in_flight=self.in_flight, now_s=started_s)
            answer = await self._asked(flight.begin())
        finally:
            self.breakers.answered(group)
        return answer, self._judge(flight, answer, group, started_s=started_s)

    async def _asked(self, batch: Batch) -> Answer:
        """Send; whatever the sink raises becomes "later", with an unknown outcome.

        Left alone, an error that nobody thought of would end the process, and the same event would end it again
        after each restart. As a failure it is seen, alarmed on, and isolated from what does get through.
        """
        at_ms, started_s = self._clock.wall_ms(), self._clock.monotonic_s()
        try:
            return await self._sink.send(batch)
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
        scope = EVENT if self._limits.is_planned else ROUTE
        return Answer(
            verdict=TryLater(reason=reason, after_s=None, scope=scope, effect=Effect.UNKNOWN), attempt=attempt
        )

    def _judge(self, flight: Flight, answer: Answer, group: str, *, started_s: float) -> Decision:
        now_s, verdict, status = self._clock.monotonic_s(), answer.verdict, answer.attempt.status
        self._reporter.request_finished(self._route, verdict=answer.attempt.outcome, duration_s=now_s - started_s)
        held = self.breakers.held(*((verdict.scope,) if isinstance(verdict, Held) else (ROUTE, group)))
        case = self._history.observe(flight, answer, group=group, held=held, now_s=now_s)
        decision = self._policy.decide(case, now_ms=self._clock.wall_ms())
        first = flight.leases[0].sequence
        if self.breakers.apply(decision, group=group, sequence=first, status=status, started_s=started_s):
            self._history.began_hold(decision.scope, flight)
        if decision.change is Change.HOLD_FOR_REFUSALS:
            self._spawn(self._requeue(self._history.take_refused()))
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
            self._reporter.concurrency_changed(self._route, limit=self.limit)

    def _why_not(self, flight: Flight, group: str) -> Decision | None:
        """Return what becomes of an event between two calls; None when the next one may be made."""
        if self._is_closed or not (flight.is_probe or self.breakers.route.is_closed):
            return Decision(outcome=Outcome.RETURNED)
        return None if self.breakers.admits(group, flight.leases[0].sequence) else _waits_for(group)

    # --- from answer to settlement ---

    async def _conclude(
        self, flight: Flight, decision: Decision, verdict: Verdict | None, attempt: Attempt | None
    ) -> None:
        """Do what was decided: at once in hand, then on disk."""
        now_s = self._clock.monotonic_s()
        match decision.outcome:
            case Outcome.DONE | Outcome.REFUSED | Outcome.DEAD:
                settlements, logged = flight.ending(decision, verdict, attempt)
                await self._write(flight.leases, settlements, flight=flight, logged=logged)
                return
            case Outcome.SPLIT:
                if attempt is not None and attempt.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    self._flights.too_large(flight, now_s=now_s)
                self._flights.queue_first(*flight.halves())
            case Outcome.WAITS if decision.scope == ROUTE:
                self._flights.queue(flight)
            case Outcome.SET_ASIDE if self._waits_in_hand(flight):
                self._flights.wait(flight, until_s=now_s + decision.after_s)
            case _:
                await self._write(flight.leases, [self._returned(flight, decision, attempt)], flight=flight)
                return
        await self._note(flight, attempt)
        if self._is_closed:
            self.give_back()
        self._wake()

    def _waits_in_hand(self, flight: Flight) -> bool:
        events = len(flight.leases)
        return events > 1 and self._flights.waiting_events + events <= _WAITING_EVENTS_MAX

    def _returned(self, flight: Flight, decision: Decision, attempt: Attempt | None) -> Returned:
        after_s = decision.after_s
        if decision.outcome is Outcome.SET_ASIDE:
            self._history.set_aside(flight)
        if decision.scope != ROUTE:  # its group does not go before: it is not leased until then
            after_s += self.breakers.park_s(decision.scope, flight.leases[0].sequence)
        not_before_ms = self._clock.wall_ms() + round(after_s * 1000) if after_s > 0 else 0
        return Returned(flight.sequences, not_before_ms, decision.reason, attempt, decision.counts)

    async def _note(self, flight: Flight, attempt: Attempt | None) -> None:
        """Keep what is new about events that stay in hand."""
        notes = self._notes(flight)
        if attempt is not None:
            notes.append(self._spool.record(flight.sequences, attempt))
        await asyncio.gather(*notes)

    def _notes(self, flight: Flight) -> list[Coroutine[Any, Any, None]]:
        notes = [self._spool.record(flight.sequences, attempt) for attempt in flight.attempts]
        flight.attempts.clear()
        progress = flight.progress()
        if progress is not None:
            notes.append(self._spool.note(flight.leases[0].sequence, progress))
        return notes

    async def _write(
        self,
        leases: Sequence[Lease],
        settlements: Sequence[Settlement],
        *,
        flight: Flight | None = None,
        logged: str = "",
    ) -> None:
        """Settle or return leases, in one commit with what is kept of them, and tell people."""
        notes = [] if flight is None else self._notes(flight)
        settling = self._spool.settle(settlements)
        await (asyncio.gather(*notes, settling) if notes else settling)
        self.in_hand -= len(leases)
        self._in_hand_bytes -= _size_of(leases)
        for settled in settlements:
            if isinstance(settled, Settled):
                self._reporter.events_settled(self._route, outcome=settled.state.value, count=len(settled.sequences))
                if settled.state is State.DEAD:
                    for sequence in settled.sequences:
                        self._reporter.event_buried(self._route, sequence=sequence, reason=logged or settled.reason)
        if flight is not None and any(isinstance(s, Settled) and s.state is State.DELIVERED for s in settlements):
            now_ms = self._clock.wall_ms()
            self._reporter.events_delivered(
                self._route,
                latencies_s=[max(0, now_ms - lease.envelope.received_at_ms) / 1000 for lease in leases],
            )
        self._wake()

    async def _requeue(self, sequences: Sequence[int]) -> None:
        """Make dead events pending again, as soon as the disk lets it happen."""
        while True:
            try:
                await self._spool.requeue(sequences)
            except SpoolFull:
                await asyncio.sleep(_REQUEUE_AGAIN_S)
            else:
                return


def _waits_for(group: str) -> Decision:
    return Decision(outcome=Outcome.WAITS, scope=group, reason=f"{group} calls wait")


def _size_of(leases: Sequence[Lease]) -> int:
    return sum([len(lease.envelope.payload) for lease in leases])


def _map(mapper: BatchMapper, leases: Sequence[Lease]) -> Sequence[Mapped | Unmappable]:
    """Map every lease. A mapper's bug must cost one event, not stop the route for ever."""
    try:
        return mapper.map_batch(leases)
    except Exception as error:  # noqa: BLE001 - the last resort; its type is told, its text may quote a payload
        if len(leases) == 1:
            return [Unmappable(f"a bug in the mapping: {type(error).__name__}")]
    return [mapped for lease in leases for mapped in _map(mapper, [lease])]
