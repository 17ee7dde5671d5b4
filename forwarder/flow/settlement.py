"""Write down what became of lent events, and tell people. Decides nothing.

One spool call and one report per batch, never per event.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from forwarder.errors import SpoolFull
from forwarder.model import Attempt, Lease, Refused, Returned, RouteName, Settled, State
from forwarder.ports import Clock, Spool
from forwarder.telemetry.reporter import Reporter

_RETRY_S: Final = 1.0
_NO_NOTES: Final[Mapping[int, str]] = MappingProxyType({})


class Settlement:
    """The one way in which a route gives leases back to the spool. Returns once it is on disk."""

    def __init__(
        self, *, route: RouteName, spool: Spool, reporter: Reporter, clock: Clock, retry_s: float = _RETRY_S
    ) -> None:
        self._route = route
        self._spool = spool
        self._reporter = reporter
        self._clock = clock
        self._retry_s = retry_s

    async def deliver(
        self, leases: Sequence[Lease], *, attempt: Attempt | None, notes: Mapping[int, str] = _NO_NOTES
    ) -> None:
        """Settle as delivered; `notes` say of some sequences what people shall know of them all the same."""
        now_ms = self._clock.wall_ms()
        plain = [lease.sequence for lease in leases if lease.sequence not in notes]
        settlements = [Settled(plain, State.DELIVERED, attempt=attempt)] if plain else []
        for note in sorted(set(notes.values())):
            noted = [sequence for sequence, text in notes.items() if text == note]
            settlements.append(Settled(noted, State.DELIVERED, note, attempt))
        await self._spool.settle(settlements)
        self._reporter.events_settled(self._route, outcome=State.DELIVERED.value, count=len(leases))
        latencies_s = [max(0, now_ms - lease.envelope.received_at_ms) / 1000 for lease in leases]
        self._reporter.events_delivered(self._route, latencies_s=latencies_s)

    async def dismiss(
        self, leases: Sequence[Lease], *, state: State, reason: str, attempt: Attempt | None = None
    ) -> None:
        """Settle as filtered or unmapped."""
        await self._spool.settle([Settled(_sequences(leases), state, reason, attempt)])
        self._reporter.events_settled(self._route, outcome=state.value, count=len(leases))

    async def bury(self, lease: Lease, *, reason: str, logged: str, attempt: Attempt | None = None) -> None:
        """Settle as dead. `reason` is shown to people; `logged` must hold no word of the destination's."""
        await self._spool.settle([Settled([lease.sequence], State.DEAD, reason, attempt)])
        self._reporter.events_settled(self._route, outcome=State.DEAD.value, count=1)
        self._reporter.event_buried(self._route, sequence=lease.sequence, reason=logged)

    async def requeue(self, sequences: Sequence[int]) -> None:
        """Make buried events pending again, as soon as the disk lets it happen."""
        while True:
            try:
                await self._spool.requeue(sequences)
            except SpoolFull:
                await asyncio.sleep(self._retry_s)
            else:
                return

    async def note(self, lease: Lease, progress: bytes) -> None:
        """Keep a lease's progress."""
        await self._spool.note(lease.sequence, progress)

    async def record(self, leases: Sequence[Lease], attempt: Attempt) -> None:
        """Keep an exchange of leases that stay in hand, for people to see."""
        await self._spool.record(_sequences(leases), attempt)

    async def postpone(
        self, leases: Sequence[Lease], *, after_s: float, reason: str, attempt: Attempt | None, counts: bool
    ) -> None:
        """Give leases back for later; `counts` makes it one of their failures."""
        not_before_ms = self._clock.wall_ms() + round(after_s * 1000) if after_s > 0 else 0
        await self._spool.settle([Returned(_sequences(leases), not_before_ms, reason, attempt, counts)])

    async def give_back(self, leases: Sequence[Lease], *, attempt: Attempt | None = None, reason: str = "") -> None:
        """Give leases back as if they had never been lent (a hold, a pause, a drain)."""
        await self.postpone(leases, after_s=0.0, reason=reason, attempt=attempt, counts=False)


def _sequences(leases: Sequence[Lease]) -> list[int]:
    return [lease.sequence for lease in leases]


def told(refused: Refused) -> str:
    """Return what people read behind a dead event: our reason, and the destination's words if there are any."""
    return f"{refused.reason}: {refused.words}" if refused.words else refused.reason
