"""The standing of a route whose calls come in families: one gate for the route, one for each family.

A limit on lists must not stop profiles. Families come from a closed set, so their gates are few. Here each
change of a gate is also told to people; what an answer means was decided by the sink.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from forwarder.flow.gate import Gate, StopKind
from forwarder.flow.status import ScopeStop, scope_stop
from forwarder.model import RouteName
from forwarder.ports import Clock
from forwarder.telemetry.reporter import Reporter

ROUTE: Final = "route"
_SPREAD_MAX_S: Final = 30.0
_PARKED_PER_S: Final = 200  # so many may come back in a second, to look whether their family goes again


class Families:
    """The gates of one route. Not safe for concurrent use: one event loop owns it."""

    def __init__(
        self,
        *,
        route: RouteName,
        gate: Gate,
        make_gate: Callable[[], Gate],
        reporter: Reporter,
        clock: Clock,
        rng: Callable[[], float],
    ) -> None:
        self.route = gate
        self._name = route
        self._make_gate = make_gate
        self._reporter = reporter
        self._clock = clock
        self._rng = rng
        self._gates: dict[str, Gate] = {}
        self._flights: Counter[str] = Counter()
        self._parked: Counter[str] = Counter()

    def admits(self, family: str) -> bool:
        """Tell whether a call of this family may be made now, as far as the family is concerned."""
        gate = self._gates.get(family)
        if gate is None:
            return True
        return gate.admits(now_s=self._clock.monotonic_s(), in_flight=self._flights[family])

    @contextmanager
    def flight(self, family: str) -> Iterator[None]:
        """Count a call as under way for as long as the block lasts."""
        self._flights[family] += 1
        try:
            yield
        finally:
            self._flights[family] -= 1

    def park_s(self, family: str) -> float:
        """Return how long an event should stay away whose next call this family does not admit.

        Those that wait are spread, so that they do not come back all at once, only to be sent away.
        """
        stop = self._gate(family).stop
        wait_s = max(0.0, stop.retry_at_s - self._clock.monotonic_s()) if stop else 0.0
        self._parked[family] += 1
        spread_s = min(_SPREAD_MAX_S, self._parked[family] / _PARKED_PER_S)
        return wait_s + 0.001 + spread_s * self._rng()

    def back_off(self, scope: str, reason: str, *, after_s: float | None, started_s: float) -> None:
        """Let the scope wait."""
        now_s = self._clock.monotonic_s()
        stop = self._gate(scope).back_off(
            reason, after_s=after_s, started_s=started_s, now_s=now_s, now_ms=self._clock.wall_ms()
        )
        if stop is not None:
            self._parked[scope] = 0
            self._reporter.route_backing_off(self._name, scope=scope, reason=reason, after_s=stop.retry_at_s - now_s)

    def hold(self, scope: str, reason: str, *, status: int | None) -> None:
        """Hold the scope, or put the next probe of its hold off."""
        self._parked[scope] = 0
        now_s, now_ms = self._clock.monotonic_s(), self._clock.wall_ms()
        if self._gate(scope).hold(reason, kind=StopKind.HELD, now_s=now_s, now_ms=now_ms) is not None:
            self._reporter.route_held(self._name, scope=scope, reason=reason, status=status)

    def is_held(self, scope: str) -> bool:
        """Tell whether the scope is held."""
        return self._gate(scope).is_held

    def answered(self, *scopes: str, started_s: float) -> None:
        """Open the gates of these scopes: a request that started so was answered."""
        for scope in scopes:
            ended = self._gate(scope).release(started_s=started_s)
            if ended is not None and ended.is_hold:
                held_s = self._clock.monotonic_s() - ended.since_s
                self._reporter.route_hold_ended(self._name, scope=scope, held_s=held_s)

    def failed(self, family: str, *, has_answer: bool, started_s: float) -> None:
        """Learn that a call failed in a way that may heal: an answer ends holds, no answer puts their probes off."""
        for scope in (ROUTE, family):
            if not self._gate(scope).is_held:
                continue
            if has_answer:
                self.answered(scope, started_s=started_s)
            else:
                self._gate(scope).postpone(now_s=self._clock.monotonic_s())

    def stops(self) -> list[ScopeStop]:
        """Return the families that stand still."""
        found = (scope_stop(family, gate, self._clock) for family, gate in sorted(self._gates.items()))
        return [stop for stop in found if stop is not None]

    def _gate(self, scope: str) -> Gate:
        if scope == ROUTE:
            return self.route
        if scope not in self._gates:
            self._gates[scope] = self._make_gate()
        return self._gates[scope]
