"""From leases to requests, and from answers to settlements: the way of events through one route.

    map → flights → send → observe (history) → decide (policy) → breakers, queue, spool

Nothing is decided here, and when to lease is the route's business.
"""

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final

from forwarder.delivery.breakers import Breakers
from forwarder.delivery.exchanges import Exchanges, Settling
from forwarder.delivery.flights import Flight, Flights
from forwarder.delivery.history import History
from forwarder.delivery.intake import RequestLimits, take_in
from forwarder.delivery.policy import ROUTE, Change, Decision, Outcome
from forwarder.model import Answer, Attempt, Delivered, Demand, Lease, Returned, RouteName, Verdict
from forwarder.ports import BatchMapper, Clock

_LEASE_EVENTS_MAX: Final = 250  # mapped in one go, between two turns of the event loop
_LEASE_BYTES_MAX: Final = 8_388_608
_IN_HAND_BYTES_MAX: Final = 33_554_432  # of payloads; their bodies are about as large
_WAITING_EVENTS_MAX: Final = 1_000
_PACE_S: Final = 0.025  # between requests that are not full: under load company gathers, a lone event leaves at once

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Dispatcher:
    """Own leases until they are settled or given back, each exactly once. One event loop owns it."""

    def __init__(
        self,
        *,
        route: RouteName,
        settling: Settling,
        mapper: BatchMapper,
        exchanges: Exchanges,
        limits: RequestLimits,
        history: History,
        breakers: Breakers,
        clock: Clock,
    ) -> None:
        self.in_flight = 0  # requests under way; of planned events, events that have a slot
        self.breakers = breakers
        self.history = history
        self._route = route
        self._settling = settling
        self._mapper = mapper
        self._exchanges = exchanges
        self._limits = limits
        self._clock = clock
        self._flights = Flights(limits.batch)
        self._retries = 0  # of events on a retry, those that are prepared or under way
        self._lacks_room = False  # less was demanded than might have been: every settlement makes room
        self._preparing = 0  # flights of which something is being written before they can go
        self._pace_s = min(_PACE_S, limits.batch.wait_max_s)
        self._sent_at_s = float("-inf")
        self._is_closed = False
        self._spawn: Spawn
        self._wake: Callable[[], None]

    def __repr__(self) -> str:
        """Show what is in hand."""
        return f"Dispatcher({self._route.value}, {self.in_hand} in hand, {self.in_flight} in flight)"

    @property
    def in_hand(self) -> int:
        """How many events are leased and not settled yet."""
        return self._settling.in_hand

    @property
    def limit(self) -> int:
        """How many requests may be under way just now."""
        return self._exchanges.limit

    # --- what the route asks ---

    async def start(self, *, spawn: Spawn, wake: Callable[[], None]) -> None:
        """Get the means to start tasks and to wake the loop, and learn what is known over a restart."""
        if not self._limits.are_replays:
            self.history.restore_refused(await self._settling.refused())
        self._spawn = spawn
        self._wake = wake
        self._settling.on_settled = self._hear_settled
        self._exchanges.tell_limit()

    def demand(self) -> Demand | None:
        """Return what to lease now, or None for nothing: what there are slots for, and what is kept ready behind."""
        limit, per_request = self.limit, self._limits.batch.deliveries_max
        ahead = limit // 4 if self._limits.is_planned else limit + 1
        ready = self._flights.untried + self._preparing
        events = min(
            (limit + ahead - self.in_flight - ready) * per_request,
            2 * (limit + 1) * per_request + self._flights.waiting_events - self.in_hand,
            _LEASE_EVENTS_MAX,
        )
        bytes_left = _IN_HAND_BYTES_MAX - self._settling.in_hand_bytes
        self._lacks_room = events < _LEASE_EVENTS_MAX or bytes_left < _LEASE_BYTES_MAX
        if events <= 0 or bytes_left <= 0:
            return None
        bytes_max = min(bytes_left, _LEASE_BYTES_MAX)
        if self._limits.are_replays:
            return Demand(fresh_max=0, retry_max=0, bytes_max=bytes_max, replay_max=events)
        retries = max(0, max(1, limit // 2) - self._retries - self._flights.retries)
        return Demand(fresh_max=events, retry_max=min(events, retries), bytes_max=bytes_max)

    def take(self, leases: Sequence[Lease], *, is_probe: bool = False) -> None:
        """Own these leases from now on; settle what goes nowhere. A probe is sent at once, alone."""
        self._settling.own(leases)
        intake = take_in(leases, mapper=self._mapper, limits=self._limits, history=self.history, is_probe=is_probe)
        if intake.dismissed:
            gone = [lease for group in intake.dismissed.values() for lease in group]
            self._spawn(self._settling.settle(gone, intake.settlements()))
        for flight in intake.flights:
            if flight.is_through:  # a replay of what was done already
                self._spawn(self._conclude(flight, Decision(outcome=Outcome.DONE), Delivered(), None))
            elif is_probe:
                self._send(flight)
            elif self._limits.is_planned:
                self._preparing += 1
                self._retries += flight.leases[0].is_retry
                self._spawn(self._prepare(flight))
            else:
                self._flights.queue(flight)
        if intake.plain:
            self._flights.gather(intake.plain, now_s=self._clock.monotonic_s())

    async def _prepare(self, flight: Flight) -> None:
        """Have on disk what must be there before an event is sent: not only when its slot is free."""
        await self._settling.before(flight)
        self._preparing -= 1
        self._retries -= flight.leases[0].is_retry
        self._flights.queue(flight)
        if self._is_closed:
            self.give_back()
        self._wake()

    def advance(self) -> None:
        """Start every request that may go now."""
        now_s = self._clock.monotonic_s()
        route = self.breakers.route
        while self.in_flight < self.limit and route.admits(now_s=now_s, in_flight=self.in_flight):
            is_idle = self.in_flight == 0 and not self.pause_s(now_s=now_s)
            flight = self._flights.next(now_s=now_s, is_idle=is_idle, is_probing=not route.is_closed)
            if flight is None:
                return
            self._send(flight)

    def pause_s(self, *, now_s: float) -> float:
        """Return for how long a request that is not full should still wait for company; 0 for not at all."""
        return 0.0 if self._limits.is_planned else max(0.0, self._sent_at_s + self._pace_s - now_s)

    def lacks_untried(self) -> bool:
        """Tell whether the route backs off and all in hand has failed: then another event is the better probe."""
        return not self.breakers.route.is_closed and self._flights.ready > 0 and not self._flights.untried

    def due_at_s(self, *, now_s: float) -> float | None:
        """Return when time alone makes `advance` do something."""
        due_s = self._flights.due_at_s()
        trip = self.breakers.route.trip
        if trip is not None:
            due_s = trip.retry_at_s if self._flights.ready or due_s is not None else None
        elif due_s is not None and self.in_flight == 0 and (pause_s := self.pause_s(now_s=now_s)):
            due_s = min(due_s, now_s + pause_s)
        # What is due and does not go waits for an answer, which wakes the loop.
        return due_s if due_s is not None and due_s > now_s else None

    def give_back(self) -> None:
        """Return every lease that is not in flight, as if it had never been leased."""
        if flights := self._flights.take_all():
            self._spawn(self._give_back(flights))

    def close(self) -> None:
        """Give back, and send nothing any more: what comes back from flight is settled or returned."""
        self._is_closed = True
        self.give_back()

    # --- from flight to answer ---

    def _send(self, flight: Flight) -> None:
        group = flight.group
        if not flight.is_probe and not self.breakers.admits(group, flight.leases[0].sequence):
            self._spawn(self._conclude(flight, _waits_for(group), None, None))
            return
        self.in_flight += 1
        self._sent_at_s = self._clock.monotonic_s()
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
            await self._settling.before(flight)
            answer, started_s = await self._exchanges.send(flight.begin(), flight.leases, in_flight=self.in_flight)
        finally:
            self.breakers.answered(group)
        decision = self._exchanges.judge(flight, answer, group, started_s=started_s)
        if decision.change is Change.HOLD_FOR_REFUSALS:
            self._spawn(self._settling.take_back(self.history.take_refused()))
        # No waiting from here to the settlement: the spool must hear of each death before it is asked to take it back.
        return answer, decision

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
                row = self.history.news_of_refused()
                await self._settling.settle(flight.leases, settlements, flight=flight, logged=logged, row=row)
                return
            case Outcome.SPLIT:
                if attempt is not None and attempt.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    self._flights.too_large(flight, now_s=now_s)
                self._flights.queue_first(*flight.halves())
            # A replay in hand would keep what arrives for its user waiting.
            case Outcome.WAITS if decision.scope == ROUTE and not self._limits.are_replays:
                self._flights.queue(flight)
            case Outcome.SET_ASIDE if self._waits_in_hand(flight):
                self._flights.wait(flight, until_s=now_s + decision.after_s)
            case _:
                await self._settling.settle(flight.leases, [self._returned(flight, decision, attempt)], flight=flight)
                return
        if attempt is not None:
            await self._settling.keep(flight, attempt)
        if self._is_closed:
            self.give_back()
        self._wake()

    def _hear_settled(self) -> None:
        if self._lacks_room:
            self._wake()

    async def _give_back(self, flights: Sequence[Flight]) -> None:
        await self._settling.give_back(flights)
        self._wake()

    def _waits_in_hand(self, flight: Flight) -> bool:
        if self._limits.are_replays or len(flight.leases) == 1:
            return False
        return self._flights.waiting_events + len(flight.leases) <= _WAITING_EVENTS_MAX

    def _returned(self, flight: Flight, decision: Decision, attempt: Attempt | None) -> Returned:
        lease = flight.leases[0]
        is_lone_replay = self._limits.are_replays and len(flight.leases) == 1 and flight.failures > 0
        if decision.outcome is Outcome.SET_ASIDE or is_lone_replay:
            self.history.set_aside(flight)
        is_leaving = lease.replayed_at_ms is not None and not self._limits.are_replays
        after_s = self.breakers.away_s(decision, None if is_leaving else lease.sequence, was_sent=attempt is not None)
        not_before_ms = self._clock.wall_ms() + round(after_s * 1000) if after_s > 0 else 0
        return Returned(flight.sequences, not_before_ms, decision.reason, attempt, decision.counts)


def _waits_for(group: str) -> Decision:
    return Decision(outcome=Outcome.WAITS, scope=group, reason=f"{group} calls wait")
