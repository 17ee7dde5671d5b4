"""Write down what became of leased events, count what is in hand, and tell people. Decides nothing.

One spool call and one report per batch, never per event.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from forwarder.delivery.flights import Flight
from forwarder.errors import SpoolFull
from forwarder.model import Attempt, Lease, Returned, RouteName, Settled, Settlement, State
from forwarder.ports import Clock, Spool
from forwarder.telemetry.reporter import Reporter

_REQUEUE_AGAIN_S: Final = 1.0


class Settling:
    """The one way in which a route gives leases back to the spool.

    It counts and keeps no sequences: an event may be leased again the moment its settlement is on disk, before the
    task that settled it has heard of it; for that moment it counts twice.
    """

    def __init__(self, *, route: RouteName, spool: Spool, reporter: Reporter, clock: Clock) -> None:
        self.in_hand = 0  # events that are leased and not settled yet
        self.in_hand_bytes = 0  # of their payloads
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
    ) -> None:
        """Settle or return leases, in one commit with what is new about them, and tell people."""
        news = [] if flight is None else self._news(flight)
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
            latencies_s = [max(0, now_ms - lease.since_ms) / 1000 for lease in leases]
            self._reporter.events_delivered(self._route, latencies_s=latencies_s)

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

    async def keep_refused(self, row: Sequence[int]) -> None:
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
