"""Deliver in batches, side by side, without any order: what the route to the data plane does.

From lease to request. What an answer means is decided by the sink, what follows from it in `aftermath`.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forwarder.flow.aftermath import Aftermath
from forwarder.flow.backoff import Backoff
from forwarder.flow.batcher import BatchLimits
from forwarder.flow.concurrency import ConcurrencyLimit
from forwarder.flow.gate import Gate
from forwarder.flow.in_hand import InHand
from forwarder.flow.mapped import sort_out
from forwarder.flow.parcels import Parcel, Parcels, batch_of
from forwarder.flow.route import Spawn
from forwarder.flow.settlement import Settlement
from forwarder.flow.status import ScopeStop
from forwarder.model import Delivery, Demand, Lease, RouteName, TryLater
from forwarder.ports import Clock, Mapper, Sink
from forwarder.telemetry.reporter import Reporter

_LEASE_EVENTS_MAX: Final = 250  # mapped in one go, between two turns of the event loop
_LEASE_BYTES_MAX: Final = 8_388_608
_IN_HAND_BYTES_MAX: Final = 33_554_432  # of payloads; their bodies are about as large


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLimits:
    """What one request may hold."""

    batch: BatchLimits
    delivery_bytes_max: int  # of one body; what is larger is buried, what is above the batch's limit goes alone


class BatchDelivery:
    """`RouteDelivery` by batches. One request is one parcel; every lease is settled or given back exactly once."""

    def __init__(
        self,
        *,
        route: RouteName,
        mapper: Mapper,
        sink: Sink,
        settlement: Settlement,
        limits: DeliveryLimits,
        concurrency: ConcurrencyLimit,
        gate: Gate,
        backoff: Backoff,
        reporter: Reporter,
        clock: Clock,
        rng: Callable[[], float],
    ) -> None:
        self._route = route
        self._mapper = mapper
        self._sink = sink
        self._settlement = settlement
        self._limits = limits
        self._concurrency = concurrency
        self._gate = gate
        self._reporter = reporter
        self._clock = clock
        self._parcels = Parcels(limits.batch)
        self._aftermath = Aftermath(
            route=route,
            settlement=settlement,
            parcels=self._parcels,
            gate=gate,
            backoff=backoff,
            reporter=reporter,
            clock=clock,
            rng=rng,
        )
        self._in_hand = InHand()
        self._in_flight = 0
        self._is_closed = False
        self._spawn: Spawn
        self._wake: Callable[[], None]

    # --- what the route asks ---

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return self._in_flight

    @property
    def in_hand(self) -> int:
        """How many events are lent and not settled yet."""
        return self._in_hand.events

    @property
    def limit(self) -> int:
        """How many requests may be under way just now."""
        return self._concurrency.limit

    def start(self, *, spawn: Spawn, wake: Callable[[], None]) -> None:
        """Get the means to start tasks and to wake the loop."""
        self._spawn = spawn
        self._wake = wake
        self._reporter.concurrency_changed(self._route, limit=self._concurrency.limit)

    def appetite(self, *, now_s: float) -> Demand | None:
        """Ask for two rounds of full batches, one in flight and one ready; nothing while enough is ready."""
        del now_s
        limit = self._concurrency.limit
        events = 2 * (limit + 1) * self._limits.batch.deliveries_max + self._parcels.waiting_events - self.in_hand
        bytes_left = _IN_HAND_BYTES_MAX - self._in_hand.size_bytes
        if events <= 0 or bytes_left <= 0 or self._parcels.untried > limit:
            return None
        events = min(events, _LEASE_EVENTS_MAX)
        return Demand(fresh_max=events, retry_max=max(1, events // 4), bytes_max=min(bytes_left, _LEASE_BYTES_MAX))

    def take(self, leases: Sequence[Lease]) -> None:
        """Map what was lent, settle what goes nowhere, gather the rest."""
        self._in_hand.own(leases)
        now_s = self._clock.monotonic_s()
        company: dict[int, list[tuple[Lease, Delivery]]] = {}
        for lease, delivery in self._map(leases):
            limit = self._aftermath.company_max(lease)
            if limit is None:
                self._parcels.gather(lease, delivery, now_s=now_s)
            else:
                company.setdefault(limit, []).append((lease, delivery))
        for limit, pairs in company.items():
            for start in range(0, len(pairs), limit):
                parcel = _parcel(pairs[start : start + limit])
                self._aftermath.recognise(parcel)
                self._parcels.queue(parcel)

    def probe(self, lease: Lease) -> None:
        """Send this lease alone, at once; settle it if it goes nowhere."""
        self._in_hand.own([lease])
        for pair in self._map([lease]):
            parcel = _parcel([pair])
            parcel.is_probe = True
            self._send(parcel)

    def advance(self, *, now_s: float) -> None:
        """Start every request that may go now."""
        while self._in_flight < self._concurrency.limit and self._gate.admits(now_s=now_s, in_flight=self._in_flight):
            parcel = self._parcels.next(now_s=now_s, is_idle=self._in_flight == 0, is_probing=not self._gate.is_open)
            if parcel is None:
                return
            self._send(parcel)

    def lacks_untried(self) -> bool:
        """Tell whether the route backs off and everything in hand has failed."""
        return not self._gate.is_open and self._parcels.ready > 0 and not self._parcels.untried

    def due_at_s(self, *, now_s: float) -> float | None:
        """Return when time alone makes `advance` do something."""
        due_s = self._parcels.due_at_s()
        stop = self._gate.stop
        if stop is not None:
            due_s = stop.retry_at_s if self._parcels.ready or due_s is not None else None
        # What is due and does not go waits for an answer, which wakes the loop.
        return due_s if due_s is not None and due_s > now_s else None

    def give_back(self) -> None:
        """Release every lease that is not in flight, as if it had never been lent."""
        leases = self._parcels.take_all()
        if leases:
            self._spawn(self._give_back(leases))

    def close(self) -> None:
        """Give back, and send nothing any more."""
        self._is_closed = True
        self.give_back()

    def stops(self) -> Sequence[ScopeStop]:
        """Return nothing: all requests of this route are of one kind."""
        return ()

    # --- from lease to parcel ---

    def _map(self, leases: Sequence[Lease]) -> list[tuple[Lease, Delivery]]:
        sorted_out = sort_out(self._mapper, leases)
        for state, reason, dismissed in sorted_out.dismissed():
            self._spawn(self._finish(dismissed, self._settlement.dismiss(dismissed, state=state, reason=reason)))
        for lease, reason in sorted_out.dead:
            self._spawn(self._finish([lease], self._settlement.bury(lease, reason=reason, logged=reason)))
        pairs = []
        for lease, deliveries in sorted_out.mapped:
            size_bytes = len(deliveries[0].body)
            if size_bytes <= self._limits.delivery_bytes_max:
                pairs.append((lease, deliveries[0]))
                continue
            reason = f"too large: {size_bytes} bytes, the destination takes {self._limits.delivery_bytes_max}"
            self._spawn(self._finish([lease], self._settlement.bury(lease, reason=reason, logged=reason)))
        return pairs

    # --- from parcel to request ---

    def _send(self, parcel: Parcel) -> None:
        self._in_flight += 1
        self._spawn(self._exchange(parcel))

    async def _exchange(self, parcel: Parcel) -> None:
        started_s = self._clock.monotonic_s()
        in_flight = self._in_flight
        try:
            answer = await self._sink.send(parcel.batch)
        finally:
            self._in_flight -= 1
        now_s = self._clock.monotonic_s()
        self._reporter.request_finished(self._route, verdict=answer.attempt.outcome, duration_s=now_s - started_s)
        limit_before = self._concurrency.limit
        if isinstance(answer.verdict, TryLater):
            self._concurrency.failed(started_s=started_s, now_s=now_s)
        else:
            self._concurrency.succeeded(started_s=started_s, now_s=now_s, in_flight=in_flight)
        if self._concurrency.limit != limit_before:
            self._reporter.concurrency_changed(self._route, limit=self._concurrency.limit)
        # The slot is free; writing down what became of the events goes on beside the next request.
        self._wake()
        if await self._aftermath.apply(parcel, answer, started_s=started_s):
            self._in_hand.disown(parcel.leases)
        elif self._is_closed:
            self.give_back()
        self._wake()

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        await self._finish(leases, self._settlement.give_back(leases))

    async def _finish(self, leases: Sequence[Lease], settling: Coroutine[Any, Any, None]) -> None:
        await settling
        self._in_hand.disown(leases)
        self._wake()


def _parcel(pairs: Sequence[tuple[Lease, Delivery]]) -> Parcel:
    return Parcel(batch=batch_of([delivery for _, delivery in pairs]), leases=tuple(lease for lease, _ in pairs))
