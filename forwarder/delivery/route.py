"""One route from the spool to its destination, used twice; blind to vendors. And how it is put together from its parts.

It owns the loops (`loop`), keeps a pause over restarts, and says how the route is; `make_route` puts it together.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec

from forwarder.delivery.breakers import Breakers
from forwarder.delivery.dispatch import Dispatcher
from forwarder.delivery.exchanges import Exchanges, Settling
from forwarder.delivery.history import History
from forwarder.delivery.intake import RequestLimits
from forwarder.delivery.loop import Loop
from forwarder.delivery.pacing import PROBE_EVERY_S, Backoff, CircuitBreaker, ConcurrencyLimit
from forwarder.delivery.policy import OutcomePolicy
from forwarder.delivery.route_status import Pause, RouteStatus, kept_pause, scope_stop
from forwarder.errors import SpoolFull
from forwarder.model import RouteName
from forwarder.ports import BatchMapper, Clock, Sink, Spool
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import Tracing

_BACKOFF: Final = Backoff()
_REPLAY_CALLS_MAX: Final = 2
_REPLAY_BATCHES_MAX: Final = 1
_READ_AGAIN_S: Final = 1.0


class Route:
    """`ports.Worker` and `ports.Probeable`: move one route's events until drained.

    Memory stays flat: the dispatchers' demand bounds what is leased. A pause survives restarts. What people see of
    the route is how `live` is, the loop of what arrives; where `replays` stands still, that is one scope of it.
    """

    def __init__(
        self,
        *,
        name: RouteName,
        spool: Spool,
        live: Loop,
        replays: Loop,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self.name: str = name.value
        self._route = name
        self._spool = spool
        self._live = live
        self._loops = (live, replays)
        self._spawn: Callable[[Coroutine[Any, Any, None]], None]
        self._reporter = reporter
        self._clock = clock
        self._pause_key = f"route.{name.value}.paused"
        self._pause: Pause | None = None
        self._state = ""
        self._state_since_ms = clock.wall_ms()
        self._finished = asyncio.Event()

    def __repr__(self) -> str:
        """Show the route's state."""
        return f"Route({self.name}, {self._state or 'new'}, {self._live!r})"

    # --- what the daemon calls ---

    async def run(self) -> None:
        """Deliver until drained; see `ports.Worker`."""
        try:
            self._spool.watch(self._pause_key, lambda kept: self._set_pause(kept_pause(kept)))
            async with asyncio.TaskGroup() as tasks:

                def spawn(work: Coroutine[Any, Any, None]) -> None:
                    tasks.create_task(work)

                self._spawn = spawn
                await self._restore(spawn)
                self._live.hold.watch(self._live.wake)
                self._spool.on_work(self._route, self._hear_of_work)
                spawn(self._loops[1].run(on_turn=_nothing))
                await self._live.run(on_turn=self._look_around)
        finally:
            self._finished.set()

    async def drain(self) -> None:
        """Lease nothing more, await what is in flight, settle it, return the rest; see `ports.Worker`."""
        for loop in self._loops:
            loop.stop()
        await self._finished.wait()

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the loops turned lately; see `ports.Probeable`."""
        return all(now_s - loop.turned_at_s <= within_s for loop in self._loops)

    # --- what people call ---

    async def pause(self, *, who: str, reason: str = "", until_ms: int | None = None) -> None:
        """Lease nothing until resumed, or until a wall-clock time, also over a restart; what is in flight finishes."""
        pause = Pause(who=who, reason=reason, since_ms=self._clock.wall_ms(), until_ms=until_ms)
        await self._spool.put(self._pause_key, msgspec.json.encode(pause))
        self._set_pause(pause)
        self._reporter.route_paused(self._route, who=who, reason=reason, until_ms=until_ms)

    async def resume(self, *, who: str) -> None:
        """Go on after a pause."""
        await self._spool.put(self._pause_key, b"")
        self._set_pause(None)
        self._reporter.route_resumed(self._route, who=who)

    def status(self) -> RouteStatus:
        """Return what people should see now."""
        trip, pause = self._live.breaker.trip, self._pause
        dispatchers = [loop.dispatcher for loop in self._loops]
        return RouteStatus(
            name=self._route,
            state=self._current_state(),
            since_ms=trip.since_ms if trip is not None and pause is None else self._state_since_ms,
            reason=pause.reason if pause is not None else trip.reason if trip else "",
            stop=scope_stop("route", self._live.breaker, self._clock),
            families=tuple(stop for dispatcher in dispatchers for stop in dispatcher.breakers.stops()),
            in_flight=sum(dispatcher.in_flight for dispatcher in dispatchers),
            in_hand=sum(dispatcher.in_hand for dispatcher in dispatchers),
            concurrency_limit=self._live.dispatcher.limit,
            pause=pause,
        )

    # --- inside ---

    async def _restore(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Learn what is kept over a restart, as soon as it can be read."""
        while not self._live.is_stopping:
            try:
                self._set_pause(kept_pause(await self._spool.get(self._pause_key)))
                for loop in self._loops:
                    await loop.dispatcher.start(spawn=spawn, wake=loop.wake)
            except SpoolFull:
                await asyncio.sleep(_READ_AGAIN_S)
            else:
                return

    def _set_pause(self, pause: Pause | None) -> None:
        self._pause = pause
        for loop in self._loops:
            loop.is_paused = pause is not None
            loop.wake()

    def _hear_of_work(self) -> None:
        for loop in self._loops:
            loop.hear_of_work()

    def _current_state(self) -> str:
        if self._pause is not None:
            return "paused"
        if self._live.breaker.is_held:
            return "held"
        return "running" if self._live.breaker.is_closed else "backing_off"

    def _look_around(self) -> None:
        """End a pause whose time is over, tell other replicas of a hold, and people of a new state."""
        if self._pause is not None and self._pause.is_over(now_ms=self._clock.wall_ms()):
            # What is kept of it says itself that it is over: there is nothing to write.
            self._set_pause(None)
            self._reporter.route_resumed(self._route, who="the end of the pause")
        self._live.hold.look(self._spawn)
        state = self._current_state()
        if state != self._state:
            self._state = state
            self._state_since_ms = self._clock.wall_ms()
            self._reporter.route_state_changed(self._route, state)


def _nothing() -> None:
    """Report nothing: what replays do is no state of the route."""


def _fixed(requests: int) -> ConcurrencyLimit:
    return ConcurrencyLimit(initial=requests, floor=requests, ceiling=requests)


def make_route(
    name: RouteName,
    *,
    spool: Spool,
    mapper: BatchMapper,
    sink: Sink,
    limits: RequestLimits,
    concurrency_max: int,
    reporter: Reporter,
    clock: Clock,
    rng: Callable[[], float],
    tracing: Tracing | None = None,
    backoff: Backoff = _BACKOFF,
    probe_every_s: float = PROBE_EVERY_S,
) -> Route:
    """Make a route, by planned calls or by batches as its limits say; `rng` gives numbers in [0, 1)."""

    def loop(limits: RequestLimits, concurrency: ConcurrencyLimit, live: Dispatcher | None = None) -> Loop:
        breakers = Breakers(
            route=name,
            make=partial(CircuitBreaker, backoff=backoff, rng=rng, probe_every_s=probe_every_s),
            reporter=reporter,
            clock=clock,
            rng=rng,
            live=live.breakers if live else None,
        )
        history = History(
            counts_refusals=not limits.is_planned and live is None,  # replays are known to be refused: they hold nobody
            forgives_lone_holds=limits.is_planned,
            live=None if live is None else live.history,
        )
        exchanges = Exchanges(
            route=name,
            sink=sink,
            history=history,
            policy=OutcomePolicy(backoff=backoff, rng=rng),
            breakers=breakers,
            concurrency=concurrency,
            limits=limits,
            reporter=reporter,
            clock=clock,
            tracing=tracing,
        )
        dispatcher = Dispatcher(
            route=name,
            settling=Settling(route=name, spool=spool, reporter=reporter, clock=clock),
            mapper=mapper,
            exchanges=exchanges,
            limits=limits,
            history=history,
            breakers=breakers,
            clock=clock,
        )
        waits_for = None if live is None else live.breakers.route
        return Loop(route=name, spool=spool, dispatcher=dispatcher, clock=clock, live=waits_for)

    start, floor, few = (8, 4, _REPLAY_CALLS_MAX) if limits.is_planned else (1, 1, _REPLAY_BATCHES_MAX)
    live = loop(limits, ConcurrencyLimit(initial=start, floor=floor, ceiling=concurrency_max))
    replays = loop(replace(limits, are_replays=True), _fixed(few), live.dispatcher)
    return Route(name=name, spool=spool, live=live, replays=replays, reporter=reporter, clock=clock)
