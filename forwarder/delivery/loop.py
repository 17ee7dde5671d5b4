"""One loop of a route: lease what there is room for, start what may go, rest until something changes.

A route has two: one for what arrives, and one for what people replay, which goes beside it with few requests at a
time and breakers of its own. How events become requests, and what answers do to them, is the dispatcher's business.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from forwarder.delivery.dispatch import Dispatcher
from forwarder.delivery.pacing import CircuitBreaker
from forwarder.delivery.shared_hold import SharedHold
from forwarder.errors import SpoolFull
from forwarder.model import Demand, Lease, RouteName
from forwarder.ports import Clock, Spool

_REST_MAX_S: Final = 1.0  # the loop turns at least so often, which is what the watchdog looks at
_EMPTY_POLLS_MAX: Final = 3
_EMPTY_POLL_REST_S: Final = 0.02
_OLDEST: Final = (Demand(fresh_max=1, retry_max=0, bytes_max=1), Demand(fresh_max=0, retry_max=1, bytes_max=1))
_REPLAY: Final = (Demand(fresh_max=0, retry_max=0, bytes_max=1, replay_max=1),)


class Loop:
    """Deliver until stopped. `live` is the breaker of what arrives, for the loop of replays, which waits for it."""

    def __init__(
        self,
        *,
        route: RouteName,
        spool: Spool,
        dispatcher: Dispatcher,
        clock: Clock,
        live: CircuitBreaker | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.breaker = dispatcher.breakers.route
        self.is_paused = False
        self.turned_at_s = clock.monotonic_s()
        self._route = route
        self._spool = spool
        self._clock = clock
        self._live = live
        self.hold = SharedHold(route, spool=spool, breaker=self.breaker, clock=clock)
        self.is_stopping = False
        self._probes_newest = False
        self._is_idle = False  # the last lease brought less than was asked for: that was all there was
        self._empty_polls = 0  # in a row, each after a call to work
        self._is_awake = False
        self._sleep: asyncio.Future[None] | None = None  # the rest that the loop takes just now

    def __repr__(self) -> str:
        """Show what it moves."""
        return f"Loop({self.dispatcher!r}, {self.breaker!r})"

    async def run(self, *, on_turn: Callable[[], None]) -> None:
        """Turn until stopped; what is in flight then is settled or returned by the dispatcher's tasks."""
        while not self.is_stopping:
            self._is_awake = False
            self.turned_at_s = self._clock.monotonic_s()
            on_turn()
            await self._turn()
        self.dispatcher.close()

    def stop(self) -> None:
        """Lease nothing more."""
        self.is_stopping = True
        self.wake()

    def wake(self) -> None:
        """Have the loop turn once more."""
        self._is_awake = True
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def hear_of_work(self) -> None:
        """Hear that there may be something to lease; only while idle: work that nobody can take wakes nobody."""
        if not self._is_idle:
            return
        self._is_idle = False
        self._empty_polls += 1
        rest_s = self.dispatcher.pause_s(now_s=self._clock.monotonic_s())
        if self._empty_polls > _EMPTY_POLLS_MAX:  # there is work, but none that is wanted: all is on a retry, say
            rest_s = max(rest_s, _EMPTY_POLL_REST_S)
        if rest_s:
            asyncio.get_running_loop().call_later(rest_s, self.wake)
        else:
            self.wake()

    # --- a turn ---

    async def _turn(self) -> None:
        if self.is_paused or self._waits_for_live():
            self.dispatcher.give_back()
        elif self.breaker.is_held or (self._live is not None and not self.breaker.is_closed):
            self.dispatcher.give_back()
            await self._probe()
        elif await self._lease():
            await asyncio.sleep(0)  # let the requests start before more is leased
            return
        await self._rest()

    def _waits_for_live(self) -> bool:
        """Tell whether replays must not disturb: what arrives waits for its destination, and asks it by itself."""
        trip = None if self._live is None else self._live.trip
        return trip is not None and (trip.is_hold or trip.retry_at_s > self._clock.monotonic_s())

    async def _lease(self) -> bool:
        """Take what there is, and start what may go; return whether there may be more."""
        demand = self.dispatcher.demand()
        leases = self._spool.lease(self._route, demand) if demand is not None else ()
        self._is_idle = demand is not None and len(leases) < demand.fresh_max + demand.replay_max
        if leases:
            self._empty_polls = 0
            self.dispatcher.take(leases)
        elif self.dispatcher.lacks_untried() and self._may_probe():
            # What is in hand may be poison, all of it: every other probe is an event that is not.
            self._probes_newest = not self._probes_newest
            if self._probes_newest:
                self._ask_with(await self._lease_newest())
        self.dispatcher.advance()
        return bool(leases) and not self._is_idle

    async def _probe(self) -> None:
        if not self._may_probe():
            return
        # The oldest and the newest in turn: one bad head cannot hold the route for ever. A replay that was asked with
        # goes behind the others by itself.
        is_newest = self._probes_newest and self._live is None
        lease = await self._lease_newest() if is_newest else self._lease_oldest()
        self._probes_newest = not self._probes_newest
        self._is_idle = lease is None
        is_shared = self._live is None and self.breaker.is_held
        if lease is None or not is_shared or await self.hold.may_probe():
            self._ask_with(lease)
        else:  # another replica asks; what it learns is heard
            self.breaker.postpone(now_s=self._clock.monotonic_s())
            self.dispatcher.take([lease])

    def _ask_with(self, lease: Lease | None) -> None:
        if lease is not None:
            # It was perhaps read from disk, and meanwhile somebody paused or stopped: then nothing more is sent.
            self.dispatcher.take([lease], is_probe=not (self.is_paused or self.is_stopping))

    def _may_probe(self) -> bool:
        return self.breaker.admits(now_s=self._clock.monotonic_s(), in_flight=self.dispatcher.in_flight)

    async def _lease_newest(self) -> Lease | None:
        # A disk that cannot be read just now is no reason to end: what is there is asked for again.
        with contextlib.suppress(SpoolFull):
            return await self._spool.lease_newest(self._route)
        return None

    def _lease_oldest(self) -> Lease | None:
        for demand in _OLDEST if self._live is None else _REPLAY:
            leases = self._spool.lease(self._route, demand)
            if leases:
                return leases[0]
        return None

    async def _rest(self) -> None:
        now_s = self._clock.monotonic_s()
        dues = [self.dispatcher.due_at_s(now_s=now_s)]
        for breaker in (self.breaker, self._live):
            trip = None if breaker is None else breaker.trip
            if trip is not None and trip.retry_at_s > now_s and (trip.is_hold or self._live is not None):
                dues.append(trip.retry_at_s)
        rest_s = min([_REST_MAX_S, *(max(0.0, due_s - now_s) for due_s in dues if due_s is not None)])
        if self._is_awake:
            return
        loop = asyncio.get_running_loop()
        self._sleep = loop.create_future()
        timer = loop.call_later(rest_s, self.wake)
        try:
            await self._sleep
        finally:
            timer.cancel()
            self._sleep = None
