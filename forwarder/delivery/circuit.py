"""Whether requests of one scope may go now: a circuit breaker. Pure: times are arguments.

A scope is a route, or a rate-limit group of its calls. `closed` sends; tripped, it is `open` and sends nothing
until its time has come, then `half_open`: one request at a time may go, a probe. What a probe's answer means is
decided in `policy`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

PROBE_EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential with full jitter: the n-th wait is anywhere between nothing and `first_s * 2**(n-1)`.

    Full jitter spreads many daemons best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """

    first_s: float = 1.0
    max_s: float = 300.0

    def ceiling_s(self, failures: int) -> float:
        """Return the longest wait after so many failures in a row (at least 1)."""
        doublings = min(failures - 1, 62)  # beyond it the power is above any cap anyway
        return min(self.max_s, self.first_s * 2.0**doublings)

    def delay_s(self, failures: int, rng: Callable[[], float]) -> float:
        """Return the wait after so many failures in a row; `rng` gives a number in [0, 1)."""
        return self.ceiling_s(failures) * rng()


class TripKind(StrEnum):
    """Why a breaker tripped, which decides what closes it."""

    BACKING_OFF = "backing_off"  # the destination is away or busy: any other answer
    HELD = "held"  # the set-up is wrong: the first answer that says otherwise
    REFUSALS = "refusals"  # too many refusals in a row: the first acceptance only


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One standstill: why, since when (wall clock), and when the next probe may go (monotonic)."""

    kind: TripKind
    reason: str
    since_ms: int
    since_s: float
    renewed_s: float  # requests that started earlier say nothing about this standstill
    retry_at_s: float
    failures: int = 0

    @property
    def is_hold(self) -> bool:
        """Tell whether somebody's hand is needed."""
        return self.kind is not TripKind.BACKING_OFF


class CircuitBreaker:
    """The standing of one scope. Every change returns what its owner has to tell people."""

    def __init__(self, *, backoff: Backoff, rng: Callable[[], float], probe_every_s: float = PROBE_EVERY_S) -> None:
        self.trip: Trip | None = None  # None while it is closed
        self._backoff = backoff
        self._rng = rng
        self._probe_every_s = probe_every_s

    def __repr__(self) -> str:
        """Show the standing."""
        return f"CircuitBreaker({self.trip.kind.value if self.trip else 'closed'})"

    @property
    def is_closed(self) -> bool:
        """Tell whether nothing stands in the way."""
        return self.trip is None

    @property
    def is_held(self) -> bool:
        """Tell whether the scope is held, for whichever reason."""
        return self.trip is not None and self.trip.is_hold

    def admits(self, *, now_s: float, in_flight: int) -> bool:
        """Tell whether one more request may start now."""
        return self.trip is None or (in_flight == 0 and now_s >= self.trip.retry_at_s)

    def back_off(
        self, reason: str, *, after_s: float | None, started_s: float, now_s: float, now_ms: int
    ) -> Trip | None:
        """Wait before the next request: `after_s` when the destination asked for it, else the backoff.

        Return the standstill when its timer was set anew; None for a request that was already under way
        when it began (which then only prolongs the wait that its own answer asks for), and during a hold.
        """
        trip = self.trip
        if trip is not None and (trip.is_hold or started_s < trip.renewed_s):
            if after_s is not None:
                self.trip = replace(trip, retry_at_s=max(trip.retry_at_s, now_s + after_s))
            return None
        failures = trip.failures + 1 if trip else 1
        delay_s = self._backoff.delay_s(failures, self._rng) if after_s is None else after_s
        self.trip = Trip(
            kind=TripKind.BACKING_OFF,
            reason=reason,
            since_ms=trip.since_ms if trip else now_ms,
            since_s=trip.since_s if trip else now_s,
            renewed_s=now_s,
            retry_at_s=now_s + delay_s,
            failures=failures,
        )
        return self.trip

    def hold(
        self, reason: str, *, kind: TripKind, now_s: float, now_ms: int, probe_s: float | None = None
    ) -> Trip | None:
        """Hold the scope; return the standstill when this began it, None when it was held before.

        The next probe may go after `probe_s`, by default the usual time between probes.
        """
        began = self.trip if self.trip is not None and self.trip.is_hold else None
        if began is not None and began.kind is TripKind.REFUSALS:
            kind = TripKind.REFUSALS  # what it takes to end it is not lessened by another trouble meanwhile
        self.trip = Trip(
            kind=kind,
            reason=reason,
            since_ms=began.since_ms if began else now_ms,
            since_s=began.since_s if began else now_s,
            renewed_s=began.renewed_s if began else now_s,
            retry_at_s=now_s + (self._probe_every_s if probe_s is None else min(probe_s, self._probe_every_s)),
        )
        return None if began else self.trip

    def postpone(self, *, now_s: float) -> None:
        """Put the next probe of a hold off: the last one taught nothing."""
        if self.trip is not None:
            self.trip = replace(self.trip, retry_at_s=now_s + self._probe_every_s)

    def close(self, *, started_s: float) -> Trip | None:
        """Close for the answer to a request that started so; return the standstill that ended, if one did."""
        trip = self.trip
        if trip is None or started_s < trip.renewed_s:
            return None
        self.trip = None
        return trip
