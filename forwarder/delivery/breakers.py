"""The circuit breakers of one route: its own, and one for each rate-limit group of its calls.

A limit on lists must not stop profiles. Groups come from a closed set, so their breakers are few. Each change is
told to people here; which change an answer brings is decided in `policy`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from forwarder.delivery.pacing import CircuitBreaker, TripKind
from forwarder.delivery.policy import ROUTE, Change, Decision, Outcome
from forwarder.delivery.route_status import ScopeStop, scope_stop
from forwarder.model import RouteName
from forwarder.ports import Clock
from forwarder.telemetry.reporter import Reporter

REPLAYS: Final = "replays"  # what stands still when it is the replays of a route
_SPREAD_MAX_S: Final = 30.0
_PARKED_PER_S: Final = 200  # so many may come back in a second, to look whether their group goes again
_REPLAY_AGAIN_S: Final = 1.0
_PARKED_MAX: Final = 10_000
_QUICK_PROBES: Final = 3  # an event that began a hold alone may be its culprit: others are asked soon
_QUICK_PROBE_S: Final = 1.0


@dataclass(slots=True, kw_only=True)
class _Group:
    """One rate-limit group: its breaker, and who waits for it."""

    breaker: CircuitBreaker
    in_flight: int = 0
    parked: int = 0  # since its breaker tripped, or a probe failed
    waiting: set[int] = field(default_factory=set)  # events, each of another user
    probed: set[int] = field(default_factory=set)  # those that met the trouble: perhaps it is theirs alone
    probes: int = 0

    def is_turn_of(self, sequence: int, *, now_s: float) -> bool:
        """Tell whether this event may probe: different ones take turns, or one culprit keeps all others away.

        A turn lapses after the time between two probes: whose it is may be erased, filtered or planned anew.
        """
        if sequence not in self.probed:
            return True
        if self.breaker.is_overdue(now_s=now_s):
            self.waiting.clear()
        elif any(other not in self.probed for other in self.waiting):
            return False
        self.probed.clear()
        return True

    def reset(self) -> None:
        """Forget who waits: the group goes again."""
        self.parked = self.probes = 0
        self.waiting.clear()
        self.probed.clear()


class Breakers:
    """The breakers of one route, or of its replays. Not safe for concurrent use: one event loop owns it.

    `live`, for those of replays, are the breakers of what arrives: replays heed them, and never change them.
    """

    def __init__(
        self,
        *,
        route: RouteName,
        make: Callable[[], CircuitBreaker],
        reporter: Reporter,
        clock: Clock,
        rng: Callable[[], float],
        live: "Breakers | None" = None,
    ) -> None:
        self.route = make()
        self._live = live
        self._name = route
        self._make = make
        self._reporter = reporter
        self._clock = clock
        self._rng = rng
        self._groups: dict[str, _Group] = {}

    def admits(self, group: str, sequence: int) -> bool:
        """Tell whether a call of this event may be made now, as far as its group is concerned."""
        if self._live is not None and self._live.wait_s(group) > 0:
            return False
        if group == ROUTE or (known := self._groups.get(group)) is None or known.breaker.is_closed:
            return True
        now_s = self._clock.monotonic_s()
        return known.breaker.admits(now_s=now_s, in_flight=known.in_flight) and known.is_turn_of(sequence, now_s=now_s)

    def wait_s(self, scope: str) -> float:
        """Return how long a scope stands still at least; 0 when it may be tried."""
        trip = self._breaker(scope).trip
        return max(0.0, trip.retry_at_s - self._clock.monotonic_s()) if trip else 0.0

    def sent(self, group: str) -> None:
        """Count a call as under way until `answered`."""
        if group != ROUTE:
            self._group(group).in_flight += 1

    def answered(self, group: str) -> None:
        """Count a call as no longer under way."""
        if group != ROUTE:
            self._group(group).in_flight -= 1

    def held(self, *scopes: str) -> TripKind | None:
        """Return the first hold over these scopes."""
        trips = (self._breaker(scope).trip for scope in scopes)
        return next((trip.kind for trip in trips if trip is not None and trip.is_hold), None)

    def stopped(self, group: str) -> str | None:
        """Return the first scope of a call of this group that stands still."""
        return next((scope for scope in (ROUTE, group) if not self._breaker(scope).is_closed), None)

    def away_s(self, decision: Decision, sequence: int | None, *, was_sent: bool) -> float:
        """Return how long an event that goes back to the spool should stay away; 0: it may come back at once.

        `sequence` is None for one that comes back among the replays: here nobody waits for its turn.
        """
        after_s = decision.after_s
        if self._live is not None and was_sent:  # a replay: others go first
            after_s = max(after_s, self.wait_s(ROUTE), _REPLAY_AGAIN_S)
        return after_s if decision.scope == ROUTE else after_s + self.park_s(decision.scope, sequence)

    def park_s(self, group: str, sequence: int | None) -> float:
        """Return how long an event should stay away whose next call this group does not admit.

        Those that wait are spread, so that they do not come back all at once, only to be sent away.
        """
        known = self._group(group)
        trip = known.breaker.trip
        wait_s = max(self.wait_s(group), self._live.wait_s(group) if self._live else 0.0)
        known.parked += 1
        # Who comes too late, when the group goes again, does not wait for it: a later hold must not wait for him.
        if sequence is not None and trip is not None and len(known.waiting) < _PARKED_MAX:
            known.waiting.add(sequence)
        return wait_s + 0.001 + min(_SPREAD_MAX_S, known.parked / _PARKED_PER_S) * self._rng()

    def apply(self, decision: Decision, *, group: str, sequence: int, status: int | None, started_s: float) -> bool:
        """Change what was decided, for a request that started so; return whether that began a hold."""
        asked = (ROUTE,) if group == ROUTE else (ROUTE, group)
        if decision.ends_hold:
            self._close(*asked, started_s=started_s)
        match decision.change:
            case Change.CLOSE:
                self._close(ROUTE, started_s=started_s)
                if group != ROUTE:
                    # An acceptance beside it shows a group's hold to be one event's, whenever its request started; of a
                    # limit that was reached since it shows nothing.
                    is_one_events = decision.outcome is Outcome.DONE and self._breaker(group).is_held
                    self._close(group, started_s=inf if is_one_events else started_s)
            case Change.POSTPONE:
                for scope in asked:
                    if self._breaker(scope).is_held:
                        self._breaker(scope).postpone(now_s=self._clock.monotonic_s())
            case Change.BACK_OFF:
                self._back_off(decision, sequence=sequence, started_s=started_s)
            case Change.HOLD | Change.HOLD_FOR_REFUSALS:
                return self._hold(decision, sequence=sequence, status=status, started_s=started_s)
            case Change.NONE:
                pass
        return False

    def stops(self) -> list[ScopeStop]:
        """Return the groups that stand still; of replays, all of them, too."""
        breakers = [(name, group.breaker) for name, group in sorted(self._groups.items())]
        if self._live is not None:
            breakers.insert(0, (ROUTE, self.route))
        found = (scope_stop(self._told(name), breaker, self._clock) for name, breaker in breakers)
        return [stop for stop in found if stop is not None]

    def _told(self, scope: str) -> str:
        """Return what people are told that stands still."""
        if self._live is None:
            return scope
        return REPLAYS if scope == ROUTE else f"{REPLAYS}: {scope}"

    def _back_off(self, decision: Decision, *, sequence: int, started_s: float) -> None:
        if decision.shows_route:
            self._close(ROUTE, started_s=started_s)  # it is there: only this group waits
        elif decision.scope != ROUTE:
            self._group(decision.scope).probed.add(sequence)
        now_s, now_ms = self._clock.monotonic_s(), self._clock.wall_ms()
        trip = self._breaker(decision.scope).back_off(
            decision.reason, after_s=decision.retry_after_s, started_s=started_s, now_s=now_s, now_ms=now_ms
        )
        if trip is not None:
            if decision.scope != ROUTE:
                self._group(decision.scope).parked = 0
            self._reporter.route_backing_off(
                self._name, scope=self._told(decision.scope), reason=decision.reason, after_s=trip.retry_at_s - now_s
            )

    def _hold(self, decision: Decision, *, sequence: int, status: int | None, started_s: float) -> bool:
        probe_s = None
        if decision.shows_route:
            self._close(ROUTE, started_s=started_s)
        if decision.scope != ROUTE:
            group = self._group(decision.scope)
            group.parked = 0
            group.probed.add(sequence)
            group.probes += 1
            probe_s = _QUICK_PROBE_S if group.probes <= _QUICK_PROBES else None
        began = self._breaker(decision.scope).hold(
            decision.reason,
            kind=TripKind.REFUSALS if decision.change is Change.HOLD_FOR_REFUSALS else TripKind.HELD,
            now_s=self._clock.monotonic_s(),
            now_ms=self._clock.wall_ms(),
            probe_s=probe_s,
        )
        if began is not None:
            self._reporter.route_held(
                self._name, scope=self._told(decision.scope), reason=decision.reason, status=status
            )
        return began is not None

    def _close(self, *scopes: str, started_s: float) -> None:
        for scope in scopes:
            ended = self._breaker(scope).close(started_s=started_s)
            if ended is None:
                continue
            if scope != ROUTE:
                self._groups[scope].reset()
            if ended.is_hold:
                held_s = self._clock.monotonic_s() - ended.since_s
                self._reporter.route_hold_ended(self._name, scope=self._told(scope), held_s=held_s)

    def _breaker(self, scope: str) -> CircuitBreaker:
        return self.route if scope == ROUTE else self._group(scope).breaker

    def _group(self, name: str) -> _Group:
        if name not in self._groups:
            self._groups[name] = _Group(breaker=self._make())
        return self._groups[name]
