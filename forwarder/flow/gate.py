"""Whether requests of one scope may go now: open, backing off, or held. Pure: times are arguments.

A scope is a route, or a family of its calls. While a stop lasts, one request at a time may go once its
time has come: a probe. What a probe's answer means is told to the gate by its owner.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from forwarder.flow.backoff import Backoff

PROBE_EVERY_S: Final = 30.0


class StopKind(StrEnum):
    """Why a scope stands still, which decides what ends it."""

    BACKING_OFF = "backing_off"  # the destination is away or busy: ends with any other answer
    HELD = "held"  # the set-up is wrong: ends with the first answer that says otherwise
    REFUSALS = "refusals"  # too many refusals in a row: ends with the first acceptance only


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One standstill: why, since when (wall clock), and when the next probe may go (monotonic)."""

    kind: StopKind
    reason: str
    since_ms: int
    since_s: float
    renewed_s: float  # requests that started earlier say nothing about this stop
    retry_at_s: float
    failures: int

    @property
    def is_hold(self) -> bool:
        """Tell whether somebody's hand is needed."""
        return self.kind is not StopKind.BACKING_OFF


class Gate:
    """The standing of one scope. Every change returns what its owner has to tell people."""

    def __init__(self, *, backoff: Backoff, rng: Callable[[], float], probe_every_s: float = PROBE_EVERY_S) -> None:
        self._backoff = backoff
        self._rng = rng
        self._probe_every_s = probe_every_s
        self._stop: Stop | None = None

    def __repr__(self) -> str:
        """Show the standing."""
        return f"Gate({self._stop.kind.value if self._stop else 'open'})"

    @property
    def stop(self) -> Stop | None:
        """The standstill, or None while the gate is open."""
        return self._stop

    @property
    def is_open(self) -> bool:
        """Tell whether nothing stands in the way."""
        return self._stop is None

    @property
    def is_held(self) -> bool:
        """Tell whether the scope is held, for whichever reason."""
        return self._stop is not None and self._stop.is_hold

    def admits(self, *, now_s: float, in_flight: int) -> bool:
        """Tell whether one more request may start now."""
        if self._stop is None:
            return True
        return in_flight == 0 and now_s >= self._stop.retry_at_s

    def back_off(
        self, reason: str, *, after_s: float | None, started_s: float, now_s: float, now_ms: int
    ) -> Stop | None:
        """Wait before the next request: `after_s` when the destination asked for it, else the backoff.

        Return the stop when its timer was set anew; None for a request that was already under way
        when the stop began (it then only prolongs the wait that its own answer asks for).
        """
        stop = self._stop
        if stop is not None and (stop.is_hold or started_s < stop.renewed_s):
            if after_s is not None:
                self._stop = replace(stop, retry_at_s=max(stop.retry_at_s, now_s + after_s))
            return None
        failures = stop.failures + 1 if stop else 1
        delay_s = self._backoff.delay_s(failures, self._rng) if after_s is None else after_s
        self._stop = Stop(
            kind=StopKind.BACKING_OFF,
            reason=reason,
            since_ms=stop.since_ms if stop else now_ms,
            since_s=stop.since_s if stop else now_s,
            renewed_s=now_s,
            retry_at_s=now_s + delay_s,
            failures=failures,
        )
        return self._stop

    def hold(self, reason: str, *, kind: StopKind, now_s: float, now_ms: int) -> Stop | None:
        """Hold the scope; return the stop when this began it, None when it was held before (then: next probe later)."""
        stop = self._stop
        is_new = stop is None or not stop.is_hold
        if stop is not None and stop.kind is StopKind.REFUSALS:
            kind = StopKind.REFUSALS  # what it takes to end it is not lessened by another trouble meanwhile
        self._stop = Stop(
            kind=kind,
            reason=reason,
            since_ms=now_ms if stop is None or is_new else stop.since_ms,
            since_s=now_s if stop is None or is_new else stop.since_s,
            renewed_s=now_s if stop is None or is_new else stop.renewed_s,
            retry_at_s=now_s + self._probe_every_s,
            failures=0,
        )
        return self._stop if is_new else None

    def postpone(self, *, now_s: float) -> None:
        """Put the next probe of a hold off: the last one taught nothing."""
        if self._stop is not None:
            self._stop = replace(self._stop, retry_at_s=now_s + self._probe_every_s)

    def release(self, *, started_s: float) -> Stop | None:
        """Open the gate for the answer to a request that started so; return the stop that ended, if one did."""
        stop = self._stop
        if stop is None or started_s < stop.renewed_s:
            return None
        self._stop = None
        return stop
