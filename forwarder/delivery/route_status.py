"""What people see of a route's state: plain values, for the page, the API and the service manager."""

from dataclasses import dataclass

from forwarder.delivery.circuit import CircuitBreaker
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
