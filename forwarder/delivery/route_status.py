"""What people see of a route's state: plain values, for the page, the API and the service manager."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from forwarder.delivery.pacing import CircuitBreaker
from forwarder.model import RouteName
from forwarder.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeStop:
    """One scope that stands still, as people see it. Wall-clock milliseconds."""

    scope: str
    state: str  # "held" or "backing_off"
    reason: str
    since_ms: int
    next_try_ms: int


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Who paused a route, why, since when, and when it ends by itself (None: when somebody resumes it). Wall clock."""

    who: str = ""
    reason: str = ""
    since_ms: int = 0
    until_ms: int | None = None

    def is_over(self, *, now_ms: int) -> bool:
        """Tell whether its end has come."""
        return self.until_ms is not None and now_ms >= self.until_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    """What people see of a route. `stop` is the route's own; `families` stand still within it."""

    name: RouteName
    state: str  # one of `telemetry.reporter.ROUTE_STATES`
    since_ms: int
    reason: str
    stop: ScopeStop | None
    families: tuple[ScopeStop, ...]
    in_flight: int
    in_hand: int
    concurrency_limit: int
    pause: Pause | None = None

    @property
    def troubles(self) -> Sequence[tuple[str, str, str]]:
        """Return what stands still as (state, group, reason): the route ("") alone, or what does within it."""
        own = [(self.state, "", self.reason)] if self.state in ("held", "paused", "backing_off") else []
        if own and self.state != "backing_off":
            return own
        return [*own, *((stop.state, stop.scope, stop.reason) for stop in self.families)]


_pause = msgspec.json.Decoder(Pause)
_BY_AN_EARLIER_VERSION: Final = b"1"


def kept_pause(kept: bytes | None) -> Pause | None:
    """Read what `Spool.get` returned of a route's pause."""
    if not kept:
        return None
    return Pause() if kept == _BY_AN_EARLIER_VERSION else _pause.decode(kept)


def scope_stop(scope: str, breaker: CircuitBreaker, clock: Clock) -> ScopeStop | None:
    """Return what people see of a breaker; None while it is closed."""
    trip = breaker.trip
    if trip is None:
        return None
    wait_ms = round(max(0.0, trip.retry_at_s - clock.monotonic_s()) * 1000)
    return ScopeStop(
        scope=scope,
        state="held" if trip.is_hold else "backing_off",
        reason=trip.reason,
        since_ms=trip.since_ms,
        next_try_ms=clock.wall_ms() + wait_ms,
    )
