"""Deliver event by event, each with its plan of calls: what the route to Courier does.

The spool lends only the oldest event of each user, which is what keeps the order; here one event is one
task with one slot, and `carrier` makes its calls one after the other.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from forwarder.flow.carrier import Carrier
from forwarder.flow.concurrency import ConcurrencyLimit
from forwarder.flow.families import Families
from forwarder.flow.in_hand import InHand
from forwarder.flow.mapped import sort_out
from forwarder.flow.plans import Plan, new_plan, read_plan, replan
from forwarder.flow.route import Spawn
from forwarder.flow.settlement import Settlement
from forwarder.flow.status import ScopeStop
from forwarder.model import Demand, Lease, Replay, RouteName
from forwarder.ports import Mapper
from forwarder.telemetry.reporter import Reporter

_LEASE_BYTES_MAX: Final = 33_554_432


class CallDelivery:
    """`RouteDelivery` by single calls. One event is one task; every lease is settled or given back exactly once."""

    def __init__(
        self,
        *,
        route: RouteName,
        mapper: Mapper,
        carrier: Carrier,
        settlement: Settlement,
        concurrency: ConcurrencyLimit,
        families: Families,
        reporter: Reporter,
    ) -> None:
        self._route = route
        self._mapper = mapper
        self._carrier = carrier
        self._settlement = settlement
        self._concurrency = concurrency
        self._families = families
        self._reporter = reporter
        self._in_hand = InHand()
        self._under_way: dict[int, Lease] = {}  # by identity: see `InHand` for why not by sequence
        self._probes_retry = False
        self._spawn: Spawn
        self._wake: Callable[[], None]

    # --- what the route asks ---

    @property
    def in_flight(self) -> int:
        """How many events have a slot."""
        return len(self._under_way)

    @property
    def in_hand(self) -> int:
        """How many events are lent and not settled yet."""
        return self._in_hand.events

    @property
    def limit(self) -> int:
        """How many events may have a slot just now."""
        return self._concurrency.limit

    def start(self, *, spawn: Spawn, wake: Callable[[], None]) -> None:
        """Get the means to start tasks and to wake the loop."""
        self._spawn = spawn
        self._wake = wake
        self._reporter.concurrency_changed(self._route, limit=self._concurrency.limit)

    def appetite(self, *, now_s: float) -> Demand | None:
        """Ask for as many events as there are free slots; those on a retry get at most half of all slots."""
        limit = self._concurrency.limit
        route = self._families.route
        if not route.is_open:
            limit = 1 if route.admits(now_s=now_s, in_flight=self.in_flight) else 0
        free = min(limit - self.in_flight, 2 * limit - self.in_hand)
        bytes_left = _LEASE_BYTES_MAX - self._in_hand.size_bytes
        if free <= 0 or bytes_left <= 0:
            return None
        if not route.is_open:  # one probe, and no more: of both kinds in turn
            self._probes_retry = not self._probes_retry
            return Demand(
                fresh_max=int(not self._probes_retry), retry_max=int(self._probes_retry), bytes_max=bytes_left
            )
        retrying = sum(lease.attempt > 1 for lease in self._under_way.values())
        retry_max = min(free, max(1, limit // 2) - retrying)
        return Demand(fresh_max=free, retry_max=max(0, retry_max), bytes_max=bytes_left)

    def take(self, leases: Sequence[Lease]) -> None:
        """Plan what was lent, settle what goes nowhere, start the rest."""
        is_probe = not self._families.route.is_open
        self._in_hand.own(leases)
        for lease, plan in self._plan(leases):
            self._begin(lease, plan, is_probe=is_probe)

    def probe(self, lease: Lease) -> None:
        """Send this event's next call at once."""
        self._in_hand.own([lease])
        for planned, plan in self._plan([lease]):
            self._begin(planned, plan, is_probe=True)

    def advance(self, *, now_s: float) -> None:
        """Do nothing: an event starts when it is taken."""

    def lacks_untried(self) -> bool:
        """Tell that nothing is kept in hand that failed."""
        return False

    def due_at_s(self, *, now_s: float) -> float | None:
        """Return when the route's backoff ends; all other timers are the spool's."""
        stop = self._families.route.stop
        return stop.retry_at_s if stop is not None and stop.retry_at_s > now_s else None

    def give_back(self) -> None:
        """Do nothing: whatever is in hand is under way."""

    def close(self) -> None:
        """Begin no further call: each event under way ends with the call it is at."""
        self._carrier.close()

    def stops(self) -> Sequence[ScopeStop]:
        """Return the families that stand still."""
        return self._families.stops()

    # --- from lease to plan ---

    def _plan(self, leases: Sequence[Lease]) -> list[tuple[Lease, Plan]]:
        kept = {lease.sequence: plan for lease in leases if (plan := read_plan(lease)) is not None}
        going = [(lease, kept[lease.sequence]) for lease in leases if _goes_on(lease, kept.get(lease.sequence))]
        started = {lease.sequence for lease, _ in going}
        sorted_out = sort_out(self._mapper, [lease for lease in leases if lease.sequence not in started])
        for state, reason, dismissed in sorted_out.dismissed():
            self._spawn(self._finish(dismissed, self._settlement.dismiss(dismissed, state=state, reason=reason)))
        for lease, reason in sorted_out.dead:
            self._spawn(self._finish([lease], self._settlement.bury(lease, reason=reason, logged=reason)))
        for lease, deliveries in sorted_out.mapped:
            old = kept.get(lease.sequence)
            everything = lease.replay is Replay.EVERYTHING
            plan = new_plan(deliveries) if old is None else replan(old, deliveries, everything=everything)
            going.append((lease, plan))
        return going

    def _begin(self, lease: Lease, plan: Plan, *, is_probe: bool) -> None:
        call = plan.next()
        if call is not None and not is_probe and not self._families.admits(call.family):
            self._spawn(self._finish([lease], self._carrier.park(lease, call)))
            return
        self._under_way[id(lease)] = lease
        self._spawn(self._finish([lease], self._carry(lease, plan, is_probe=is_probe)))

    async def _carry(self, lease: Lease, plan: Plan, *, is_probe: bool) -> None:
        try:
            await self._carrier.carry(lease, plan, is_probe=is_probe)
        finally:
            del self._under_way[id(lease)]

    async def _finish(self, leases: Sequence[Lease], settling: Coroutine[Any, Any, None]) -> None:
        await settling
        self._in_hand.disown(leases)
        self._wake()


def _goes_on(lease: Lease, plan: Plan | None) -> bool:
    """Tell whether the plan that is kept is carried on; a replay is planned anew."""
    return plan is not None and not plan.is_over and lease.replay is Replay.NOT
