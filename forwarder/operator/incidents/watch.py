"""Decide what is wrong, from what the parts say of themselves. Pure: everything is given."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from forwarder.archive_port import SpoolFacts
from forwarder.delivery.route_status import RouteStatus
from forwarder.model import RouteName
from forwarder.operator.incidents.incident import Incident
from forwarder.sources.worker import SourceStatus
from forwarder.telemetry.totals_by_time import DAY_MS, erased_between

KEPT_MAX: Final = 500
LATE_MS: Final = 300_000
_DELAYING: Final = frozenset({"hold", "back_off", "late"})  # a whole route; of the rest, the senders hold the events
# After a start it is not known yet whether what was open goes on: a route has to try first, an append to be refused.
_UNKNOWN: Final = _DELAYING | {"refusal", "source"}
_UNKNOWN_MS: Final = 60_000
# A hold is one from its first second; a back-off of less than this is daily life, and so is a broker's restart.
_WORTH_MS: Final = {"hold": 0, "back_off": 10_000, "source": 60_000}


class Watch:
    """The incidents so far. Pure but for its memory: everything is given."""

    def __init__(self, known: Sequence[Incident] = (), *, kept_ms: int = DAY_MS * 7) -> None:
        self.known = list(known)  # oldest first
        self.open = {one.key: one for one in known if one.ended_ms is None}
        self._kept_ms = kept_ms
        self._unknown = {key for key, one in self.open.items() if one.kind in _UNKNOWN}
        self._first_look_ms: int | None = None
        self._facts: SpoolFacts | None = None

    def look(
        self,
        statuses: Mapping[RouteName, RouteStatus],
        facts: SpoolFacts,
        *,
        beside: Sequence[Incident] = (),
        now_ms: int,
    ) -> tuple[Sequence[Incident], Sequence[Incident]]:
        """Note what is wrong now, and `beside` the routes; return what began and what ended since the last look."""
        seen = {one.key: one for one in (*_seen(statuses, facts, now_ms=now_ms), *beside)}
        self._first_look_ms = now_ms if self._first_look_ms is None else self._first_look_ms
        self._unknown -= seen.keys() if abs(now_ms - self._first_look_ms) < _UNKNOWN_MS else self._unknown
        began = [one for key, one in seen.items() if key not in self.open]
        ended = [one for key, one in self.open.items() if key not in seen and key not in self._unknown]
        for one in ended:
            one.ended_ms = now_ms
            del self.open[one.key]
        for one in began:
            one.dead_before = _dead(facts, one.route)
            self.open[one.key] = one
        before, self._facts = self._facts or facts, facts
        for one in self.open.values():
            one.dead_before += sum(
                erased_between(before, facts, name) for name in RouteName if one.route in (None, name)
            )
            is_counted = one.kind in _DELAYING and one.scope == "route"
            one.delayed = max(one.delayed or 0, _pending(facts, one.route)) if is_counted else None
            one.dead = max(one.dead, _dead(facts, one.route) - one.dead_before)
        kept = [one for one in self.known if one.ended_ms is None or one.ended_ms > now_ms - self._kept_ms]
        self.known = [*kept, *began][-KEPT_MAX:]
        return began, ended

    def count_open(self, kind: str) -> int:
        """Return how many of a kind have not ended."""
        return sum(one.kind == kind for one in self.open.values())

    def foremost(self, limit: int) -> Sequence[Incident]:
        """Return those that go on, or as many of the newest when these are fewer."""
        return sorted(self.newest(KEPT_MAX), key=lambda one: one.ended_ms is not None)[: max(limit, len(self.open))]

    def newest(self, limit: int) -> Sequence[Incident]:
        """Return the newest first."""
        return self.known[::-1][:limit]


def _seen(statuses: Mapping[RouteName, RouteStatus], facts: SpoolFacts, *, now_ms: int) -> Iterator[Incident]:
    for route, status in statuses.items():
        for stop in (status.stop, *status.families):
            kind = {"held": "hold", "backing_off": "back_off"}.get(stop.state, "") if stop is not None else ""
            if stop is not None and kind and now_ms - stop.since_ms >= _WORTH_MS[kind]:
                yield Incident(kind=kind, route=route, scope=stop.scope, cause=stop.reason, began_ms=stop.since_ms)
        oldest_ms = facts.oldest_pending_ms.get(route)
        if status.state == "running" and oldest_ms is not None and now_ms - oldest_ms >= LATE_MS:
            cause = "the oldest pending event is older than five minutes though the route runs"
            yield Incident(kind="late", route=route, scope="route", cause=cause, began_ms=now_ms)
    if not facts.is_accepting:
        yield Incident(kind="refusal", route=None, scope="", cause=facts.refusal, began_ms=now_ms)


def seen_in_sources(sources: Iterable[SourceStatus], *, now_ms: int) -> Iterator[Incident]:
    """Yield the buses that are away. One whose messages wait because the spool is full is that refusal's matter."""
    for one in sources:
        if one.state == "away" and now_ms - one.since_ms >= _WORTH_MS["source"]:
            route = RouteName.COURIER_TO_RUDDERSTACK
            yield Incident(kind="source", route=route, scope=one.name, cause=one.reason, began_ms=one.since_ms)


def _pending(facts: SpoolFacts, route: RouteName | None) -> int:
    return sum(totals.pending for name, totals in facts.totals.items() if route in (None, name))


def _dead(facts: SpoolFacts, route: RouteName | None) -> int:
    return sum(totals.dead for name, totals in facts.totals.items() if route in (None, name))
