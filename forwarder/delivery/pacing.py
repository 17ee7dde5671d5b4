"""When requests of one scope may go, and how many at once: backoff, circuit breaker, concurrency limit. Pure.

Times and random numbers are arguments; nobody sleeps here. A scope is a route, or a rate-limit group of its calls. A
breaker that is `closed` sends; tripped, it is `open` and sends nothing until its time has come, then `half_open`: one
request at a time may go, a probe. What a probe's answer means is decided in `policy`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

PROBE_EVERY_S: Final = 30.0
_FAILURE_FACTOR: Final = 0.5
_SLOWNESS_FACTOR: Final = 0.9
_SLOW_RATIO: Final = 2.0  # against what is usual …
_SLOW_MARGIN_S: Final = 0.02  # … and by more than a scheduler's hiccup
_USUAL_WEIGHT: Final = 0.05  # how much one answer moves what is usual


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
        self.probe_every_s = probe_every_s

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

    def is_overdue(self, *, now_s: float) -> bool:
        """Tell whether a probe might have gone for so long that another one might have by now."""
        return self.trip is not None and now_s - self.trip.retry_at_s > self.probe_every_s

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
            retry_at_s=now_s + (self.probe_every_s if probe_s is None else min(probe_s, self.probe_every_s)),
        )
        return None if began else self.trip

    def postpone(self, *, now_s: float) -> None:
        """Put the next probe of a hold off: the last one taught nothing."""
        if self.trip is not None:
            self.trip = replace(self.trip, retry_at_s=now_s + self.probe_every_s)

    def close(self, *, started_s: float) -> Trip | None:
        """Close for the answer to a request that started so; return the standstill that ended, if one did."""
        trip = self.trip
        if trip is None or started_s < trip.renewed_s:
            return None
        self.trip = None
        return trip


class ConcurrencyLimit:
    """A limit on requests in flight that feels its way: more after a round of quick answers, fewer on failure or delay.

    Until the first decrease a round of answers doubles it, afterwards it adds one (as TCP starts, RFC 5681).
    It decreases at most once per round trip: requests that started before the last decrease say
    nothing about the lower limit.
    """

    def __init__(self, *, initial: int, floor: int, ceiling: int) -> None:
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._exact = float(max(min(initial, ceiling), self._floor))
        self._usual_s: float | None = None
        self._decreased_at_s = float("-inf")
        self._reached_at_s = float("-inf")
        self._is_starting = True

    def __repr__(self) -> str:
        """Show the limit and its bounds."""
        return f"ConcurrencyLimit({self.limit} in {self._floor}..{self._ceiling})"

    @property
    def limit(self) -> int:
        """How many requests may be in flight now; at least 1, at most the ceiling."""
        return int(self._exact)

    def sent(self, *, in_flight: int, now_s: float) -> None:
        """Learn that a request started; `in_flight` counts it as well."""
        if in_flight >= self.limit:
            self._reached_at_s = now_s

    def succeeded(self, *, started_s: float, now_s: float) -> None:
        """Learn from an answer that was no failure."""
        latency_s = now_s - started_s
        usual_s = latency_s if self._usual_s is None else self._usual_s
        is_slow = latency_s > usual_s * _SLOW_RATIO + _SLOW_MARGIN_S
        self._usual_s = usual_s + _USUAL_WEIGHT * (latency_s - usual_s)
        if is_slow:
            self._decrease(_SLOWNESS_FACTOR, started_s=started_s, now_s=now_s)
        elif self._reached_at_s >= started_s:  # a limit that nobody reached meanwhile proves nothing
            self._exact = min(self._ceiling, self._exact + (1 if self._is_starting else 1 / self._exact))

    def failed(self, *, started_s: float, now_s: float) -> None:
        """Learn from a failure that may come of load: a time-out, a lost connection, 429 or 5xx."""
        self._decrease(_FAILURE_FACTOR, started_s=started_s, now_s=now_s)

    def _decrease(self, factor: float, *, started_s: float, now_s: float) -> None:
        if started_s < self._decreased_at_s:
            return
        self._is_starting = False
        self._decreased_at_s = now_s
        self._exact = max(self._floor, self._exact * factor)
