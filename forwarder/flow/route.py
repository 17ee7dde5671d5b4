"""One route from the spool to its destination: leases, pauses, holds, probes. Blind to vendors.

How events become requests is the delivery's business (`BatchDelivery`, `CallDelivery`); the route owns the
loop and the tasks, and says what people see of its state.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from forwarder.errors import SpoolFull
from forwarder.flow.gate import Gate
from forwarder.flow.status import RouteStatus, ScopeStop, scope_stop
from forwarder.model import Demand, Lease, RouteName
from forwarder.ports import Clock, Spool
from forwarder.telemetry.reporter import Reporter

# What a route shows is part of its face: who uses routes finds it here.
__all__ = ["Route", "RouteDelivery", "RouteStatus", "ScopeStop", "Spawn"]

_REST_MAX_S: Final = 1.0  # the loop turns at least so often, which is what the watchdog looks at
_FRUITLESS_MAX: Final = 3
_FRUITLESS_REST_S: Final = 0.02

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class RouteDelivery(Protocol):
    """How a route's events become requests. Called by the route's loop alone; nothing here blocks."""

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""

    @property
    def in_hand(self) -> int:
        """How many events are lent and not settled yet."""

    @property
    def limit(self) -> int:
        """How many requests may be under way just now."""

    def start(self, *, spawn: Spawn, wake: Callable[[], None]) -> None:
        """Get the means to start tasks, and to wake the loop when something changed."""

    def appetite(self, *, now_s: float) -> Demand | None:
        """Return what to lease now, or None for nothing."""

    def take(self, leases: Sequence[Lease]) -> None:
        """Own these leases from now on."""

    def probe(self, lease: Lease) -> None:
        """Own this lease and send it at once, alone, though the route is held."""

    def advance(self, *, now_s: float) -> None:
        """Start every request that may go now."""

    def lacks_untried(self) -> bool:
        """Tell whether the route backs off and all in hand has failed: then another event is the better probe."""

    def due_at_s(self, *, now_s: float) -> float | None:
        """Return when `advance` should be called again although nothing happened; None for never."""

    def give_back(self) -> None:
        """Release every lease that is not in flight, as if it had never been lent."""

    def close(self) -> None:
        """Give back, and send nothing any more: what comes back from flight is settled or released."""

    def stops(self) -> Sequence[ScopeStop]:
        """Return what stands still within the route (families of calls)."""


class Route:
    """`ports.Worker` and `ports.Probeable`: move one route's events until drained.

    Memory stays flat: the delivery's appetite bounds what is lent. A pause survives restarts.
    """

    def __init__(
        self, *, name: RouteName, spool: Spool, delivery: RouteDelivery, gate: Gate, reporter: Reporter, clock: Clock
    ) -> None:
        self.name: str = name.value
        self._route = name
        self._spool = spool
        self._delivery = delivery
        self._gate = gate
        self._reporter = reporter
        self._clock = clock
        self._pause_key = f"route.{name.value}.paused"
        self._is_paused = False
        self._is_draining = False
        self._probes_newest = False
        self._fruitless = 0  # calls to work in a row that led to none
        self._state = ""
        self._state_since_ms = clock.wall_ms()
        self._turned_at_s = clock.monotonic_s()
        self._wake = asyncio.Event()
        self._hungry = asyncio.Event()
        self._work = asyncio.Event()
        self._finished = asyncio.Event()

    def __repr__(self) -> str:
        """Show the route's state."""
        return f"Route({self.name}, {self._state or 'new'}, {self._delivery.in_hand} in hand)"

    # --- what the daemon calls ---

    async def run(self) -> None:
        """Deliver until drained; see `ports.Worker`."""
        try:
            self._is_paused = bool(await self._spool.get(self._pause_key))
            async with asyncio.TaskGroup() as tasks:
                self._delivery.start(spawn=lambda work: _spawn(tasks, work), wake=self._wake.set)
                self._spool.on_work(self._route, self._work.set)
                watcher = tasks.create_task(self._watch_for_work())
                while not self._is_draining:
                    await self._turn()
                self._delivery.close()
                await _end(watcher)
        finally:
            self._finished.set()

    async def drain(self) -> None:
        """Lease nothing more, await what is in flight, settle it, release the rest; see `ports.Worker`."""
        self._is_draining = True
        self._wake.set()
        await self._finished.wait()

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the loop turned lately; see `ports.Probeable`."""
        return now_s - self._turned_at_s <= within_s

    # --- what people call ---

    async def pause(self, *, who: str) -> None:
        """Lease nothing until resumed, also after a restart; what is in flight finishes."""
        await self._spool.put(self._pause_key, b"1")
        self._is_paused = True
        self._reporter.route_paused(self._route, who=who)
        self._wake.set()

    async def resume(self, *, who: str) -> None:
        """Go on after a pause."""
        await self._spool.put(self._pause_key, b"")
        self._is_paused = False
        self._reporter.route_resumed(self._route, who=who)
        self._wake.set()

    def status(self) -> RouteStatus:
        """Return what people should see now."""
        stop = self._gate.stop
        since_ms = stop.since_ms if stop is not None and not self._is_paused else self._state_since_ms
        return RouteStatus(
            name=self._route,
            state=self._current_state(),
            since_ms=since_ms,
            reason=stop.reason if stop else "",
            stop=scope_stop("route", self._gate, self._clock),
            families=tuple(self._delivery.stops()),
            in_flight=self._delivery.in_flight,
            in_hand=self._delivery.in_hand,
            concurrency_limit=self._delivery.limit,
        )

    # --- the loop ---

    async def _turn(self) -> None:
        self._wake.clear()
        now_s = self._clock.monotonic_s()
        self._turned_at_s = now_s
        self._report_state()
        if self._is_paused:
            self._delivery.give_back()
        elif self._gate.is_held:
            self._delivery.give_back()
            await self._probe(now_s)
        elif await self._lease(now_s):
            return
        await self._rest()

    async def _lease(self, now_s: float) -> bool:
        """Take what there is; return whether there may be more."""
        appetite = self._delivery.appetite(now_s=now_s)
        leases: Sequence[Lease] = ()
        if appetite is not None:
            leases = self._spool.lease(self._route, appetite)
            if leases:
                self._fruitless = 0
                self._delivery.take(leases)
            else:
                self._hungry.set()
        if not leases and self._delivery.lacks_untried():
            await self._probe_backoff(now_s)
        self._delivery.advance(now_s=self._clock.monotonic_s())
        if leases:
            await asyncio.sleep(0)  # let the requests start before more is leased
        return bool(leases)

    async def _probe_backoff(self, now_s: float) -> None:
        # What is in hand may be poison, all of it: every other probe is an event that is not.
        if not self._gate.admits(now_s=now_s, in_flight=self._delivery.in_flight):
            return
        self._probes_newest = not self._probes_newest
        lease = await self._lease_newest() if self._probes_newest else None
        if lease is not None:
            self._delivery.probe(lease)

    async def _probe(self, now_s: float) -> None:
        if not self._gate.admits(now_s=now_s, in_flight=self._delivery.in_flight):
            return
        # The oldest and the newest in turn: one bad head cannot hold the route for ever.
        lease = await self._lease_newest() if self._probes_newest else await self._lease_oldest()
        self._probes_newest = not self._probes_newest
        if lease is None:
            self._hungry.set()
            return
        self._delivery.probe(lease)

    async def _lease_newest(self) -> Lease | None:
        # A disk that cannot be read just now is no reason to end: what is there is asked for again.
        with contextlib.suppress(SpoolFull):
            return await self._spool.lease_newest(self._route)
        return None

    async def _lease_oldest(self) -> Lease | None:
        for fresh_max, retry_max in ((1, 0), (0, 1)):
            leases = self._spool.lease(self._route, Demand(fresh_max=fresh_max, retry_max=retry_max, bytes_max=1))
            if leases:
                return leases[0]
        return None

    async def _rest(self) -> None:
        now_s = self._clock.monotonic_s()
        dues = [self._delivery.due_at_s(now_s=now_s)]
        if self._gate.is_held and not self._is_paused and self._gate.stop is not None:
            dues.append(self._gate.stop.retry_at_s if self._gate.stop.retry_at_s > now_s else None)
        rest_s = min([_REST_MAX_S, *(max(0.0, due_s - now_s) for due_s in dues if due_s is not None)])
        try:
            async with asyncio.timeout(rest_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _watch_for_work(self) -> None:
        # Beside the loop, because the loop waits for other things at the same time. Only while it is hungry:
        # work that nobody can take would wake it without end.
        while True:
            await self._hungry.wait()
            await self._work.wait()
            self._work.clear()
            if self._fruitless > _FRUITLESS_MAX:  # there is work, but none that is wanted: all is on a retry, say
                await asyncio.sleep(_FRUITLESS_REST_S)
            self._fruitless += 1
            self._hungry.clear()
            self._wake.set()

    def _current_state(self) -> str:
        if self._is_paused:
            return "paused"
        if self._gate.is_held:
            return "held"
        return "running" if self._gate.is_open else "backing_off"

    def _report_state(self) -> None:
        state = self._current_state()
        if state != self._state:
            self._state = state
            self._state_since_ms = self._clock.wall_ms()
            self._reporter.route_state_changed(self._route, state)


async def _end(task: asyncio.Task[None]) -> None:
    # More than once: `asyncio.wait_for` of Python 3.11 swallows a cancellation that meets a result.
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.05)


def _spawn(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
    tasks.create_task(work)
