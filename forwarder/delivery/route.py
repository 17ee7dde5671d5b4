"""One route from the spool to its destination, used twice. Blind to vendors.

The loop: lease what there is room for, start what may go, rest until something changes. Pauses, holds and probes are
here; how events become requests, and what answers do to them, is the dispatcher's business.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from forwarder.delivery.dispatch import Dispatcher
from forwarder.delivery.route_status import Pause, RouteStatus, kept_pause, scope_stop
from forwarder.errors import SpoolFull
from forwarder.model import Demand, Lease, RouteName
from forwarder.ports import Clock, Spool
from forwarder.telemetry.reporter import Reporter

_REST_MAX_S: Final = 1.0  # the loop turns at least so often, which is what the watchdog looks at
_EMPTY_POLLS_MAX: Final = 3
_EMPTY_POLL_REST_S: Final = 0.02


class Route:
    """`ports.Worker` and `ports.Probeable`: move one route's events until drained.

    Memory stays flat: the dispatcher's demand bounds what is leased. A pause survives restarts.
    """

    def __init__(
        self, *, name: RouteName, spool: Spool, dispatcher: Dispatcher, reporter: Reporter, clock: Clock
    ) -> None:
        self.name: str = name.value
        self._route = name
        self._spool = spool
        self._dispatcher = dispatcher
        self._breaker = dispatcher.breakers.route
        self._reporter = reporter
        self._clock = clock
        self._pause_key = f"route.{name.value}.paused"
        self._pause: Pause | None = None
        self._is_draining = False
        self._probes_newest = False
        self._is_idle = False  # the last lease brought less than was asked for: that was all there was
        self._empty_polls = 0  # in a row, each after a call to work
        self._state = ""
        self._state_since_ms = clock.wall_ms()
        self._turned_at_s = clock.monotonic_s()
        self._is_awake = False
        self._sleep: asyncio.Future[None] | None = None  # the rest that the loop takes just now
        self._finished = asyncio.Event()

    def __repr__(self) -> str:
        """Show the route's state."""
        return f"Route({self.name}, {self._state or 'new'}, {self._dispatcher.in_hand} in hand)"

    # --- what the daemon calls ---

    async def run(self) -> None:
        """Deliver until drained; see `ports.Worker`."""
        try:
            self._pause = kept_pause(await self._spool.get(self._pause_key))
            async with asyncio.TaskGroup() as tasks:

                def spawn(work: Coroutine[Any, Any, None]) -> None:
                    tasks.create_task(work)

                self._dispatcher.start(spawn=spawn, wake=self._wake)
                self._spool.on_work(self._route, self._on_work)
                while not self._is_draining:
                    await self._turn()
                self._dispatcher.close()
        finally:
            self._finished.set()

    async def drain(self) -> None:
        """Lease nothing more, await what is in flight, settle it, return the rest; see `ports.Worker`."""
        self._is_draining = True
        self._wake()
        await self._finished.wait()

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the loop turned lately; see `ports.Probeable`."""
        return now_s - self._turned_at_s <= within_s

    # --- what people call ---

    async def pause(self, *, who: str, reason: str = "", until_ms: int | None = None) -> None:
        """Lease nothing until resumed, or until a wall-clock time, also over a restart; what is in flight finishes."""
        pause = Pause(who=who, reason=reason, since_ms=self._clock.wall_ms(), until_ms=until_ms)
        await self._spool.put(self._pause_key, msgspec.json.encode(pause))
        self._pause = pause
        self._reporter.route_paused(self._route, who=who, reason=reason, until_ms=until_ms)
        self._wake()

    async def resume(self, *, who: str) -> None:
        """Go on after a pause."""
        await self._spool.put(self._pause_key, b"")
        self._pause = None
        self._reporter.route_resumed(self._route, who=who)
        self._wake()

    def status(self) -> RouteStatus:
        """Return what people should see now."""
        trip, pause = self._breaker.trip, self._pause
        return RouteStatus(
            name=self._route,
            state=self._current_state(),
            since_ms=trip.since_ms if trip is not None and pause is None else self._state_since_ms,
            reason=pause.reason if pause is not None else trip.reason if trip else "",
            stop=scope_stop("route", self._breaker, self._clock),
            families=tuple(self._dispatcher.breakers.stops()),
            in_flight=self._dispatcher.in_flight,
            in_hand=self._dispatcher.in_hand,
            concurrency_limit=self._dispatcher.limit,
            pause=pause,
        )

    # --- the loop ---

    async def _turn(self) -> None:
        self._is_awake = False
        self._turned_at_s = self._clock.monotonic_s()
        if self._pause is not None and self._pause.is_over(now_ms=self._clock.wall_ms()):
            # What is kept of it says itself that it is over: there is nothing to write.
            self._pause = None
            self._reporter.route_resumed(self._route, who="the end of the pause")
        self._report_state()
        if self._pause is not None:
            self._dispatcher.give_back()
        elif self._breaker.is_held:
            self._dispatcher.give_back()
            await self._probe_hold()
        elif await self._lease():
            await asyncio.sleep(0)  # let the requests start before more is leased
            return
        await self._rest()

    async def _lease(self) -> bool:
        """Take what there is, and start what may go; return whether there may be more."""
        demand = self._dispatcher.demand()
        leases = self._spool.lease(self._route, demand) if demand is not None else ()
        self._is_idle = demand is not None and len(leases) < demand.fresh_max
        if leases:
            self._empty_polls = 0
            self._dispatcher.take(leases)
        elif self._dispatcher.lacks_untried():
            await self._probe_backoff()
        self._dispatcher.advance()
        return bool(leases) and not self._is_idle

    async def _probe_backoff(self) -> None:
        # What is in hand may be poison, all of it: every other probe is an event that is not.
        if self._may_probe():
            self._probes_newest = not self._probes_newest
            if self._probes_newest and (lease := await self._lease_newest()) is not None:
                self._dispatcher.take([lease], is_probe=True)

    async def _probe_hold(self) -> None:
        if not self._may_probe():
            return
        # The oldest and the newest in turn: one bad head cannot hold the route for ever.
        lease = await self._lease_newest() if self._probes_newest else self._lease_oldest()
        self._probes_newest = not self._probes_newest
        self._is_idle = lease is None
        if lease is not None:
            self._dispatcher.take([lease], is_probe=True)

    def _may_probe(self) -> bool:
        return self._breaker.admits(now_s=self._clock.monotonic_s(), in_flight=self._dispatcher.in_flight)

    async def _lease_newest(self) -> Lease | None:
        # A disk that cannot be read just now is no reason to end: what is there is asked for again.
        with contextlib.suppress(SpoolFull):
            return await self._spool.lease_newest(self._route)
        return None

    def _lease_oldest(self) -> Lease | None:
        for fresh_max, retry_max in ((1, 0), (0, 1)):
            leases = self._spool.lease(self._route, Demand(fresh_max=fresh_max, retry_max=retry_max, bytes_max=1))
            if leases:
                return leases[0]
        return None

    async def _rest(self) -> None:
        now_s = self._clock.monotonic_s()
        trip = self._breaker.trip
        dues = [
            self._dispatcher.due_at_s(now_s=now_s),
            trip.retry_at_s if trip is not None and trip.is_hold and trip.retry_at_s > now_s else None,
        ]
        rest_s = min([_REST_MAX_S, *(max(0.0, due_s - now_s) for due_s in dues if due_s is not None)])
        if self._is_awake:
            return
        loop = asyncio.get_running_loop()
        self._sleep = loop.create_future()
        timer = loop.call_later(rest_s, self._wake)
        try:
            await self._sleep
        finally:
            timer.cancel()
            self._sleep = None

    def _wake(self) -> None:
        """Have the loop turn once more."""
        self._is_awake = True
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def _on_work(self) -> None:
        """Hear that there may be something to lease; only while idle: work that nobody can take wakes nobody."""
        if not self._is_idle:
            return
        self._is_idle = False
        self._empty_polls += 1
        rest_s = self._dispatcher.pause_s(now_s=self._clock.monotonic_s())
        if self._empty_polls > _EMPTY_POLLS_MAX:  # there is work, but none that is wanted: all is on a retry, say
            rest_s = max(rest_s, _EMPTY_POLL_REST_S)
        if rest_s:
            asyncio.get_running_loop().call_later(rest_s, self._wake)
        else:
            self._wake()

    def _current_state(self) -> str:
        if self._pause is not None:
            return "paused"
        if self._breaker.is_held:
            return "held"
        return "running" if self._breaker.is_closed else "backing_off"

    def _report_state(self) -> None:
        state = self._current_state()
        if state != self._state:
            self._state = state
            self._state_since_ms = self._clock.wall_ms()
            self._reporter.route_state_changed(self._route, state)
