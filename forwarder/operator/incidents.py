"""Keep what went wrong, from its beginning to its end, on disk: holds, back-offs, refusals, late deliveries.

`Watch` decides, second by second, from what the parts say of themselves; `Incidents` is the worker around it. What is
open when the daemon stops goes on when it is seen again after the start, and has ended when it is not.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from forwarder.delivery.route_status import RouteStatus
from forwarder.errors import ForwarderError
from forwarder.model import RouteName
from forwarder.operator.parts import Parts
from forwarder.ports import SpoolFacts
from forwarder.telemetry.metrics import INCIDENT_KINDS

STORE_KEY: Final = "incidents"
KEPT_MAX: Final = 500
LATE_MS: Final = 300_000
_KEPT_MS: Final = 604_800_000
_LOOK_EVERY_S: Final = 1.0
# A hold is one from its first second; a back-off of less than this is daily life.
_WORTH_MS: Final = {"hold": 0, "back_off": 10_000, "refusal": 0, "late": 0}
_REMEDY: Final = {
    (
        "hold",
        RouteName.COURIER_TO_RUDDERSTACK,
    ): "Check RUDDERSTACK_WRITE_KEY, RUDDERSTACK_DATA_PLANE_URL and the source.",
    ("hold", RouteName.RUDDERSTACK_TO_COURIER): "Check COURIER_API_KEY and COURIER_API_URL, and what the key may do.",
    ("back_off", None): "The destination fails or asks to wait; it is tried again by itself.",
    ("refusal", None): "Make room on the disk, raise FORWARDER_SPOOL_BYTES_MAX, or let the route drain.",
    ("late", None): "Look why the route is slow: its state, its attempts, the destination's answers.",
}


class Incident(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One thing that went wrong. `scope` is the route, or a family of calls within it; "" for the spool."""

    kind: str
    route: RouteName | None
    scope: str
    cause: str
    began_ms: int
    ended_ms: int | None = None
    delayed: int = 0  # the most events that were pending meanwhile
    dead: int = 0  # events that died meanwhile
    dead_before: int = 0

    @property
    def key(self) -> tuple[str, RouteName | None, str]:
        """Return what makes two sights one incident."""
        return self.kind, self.route, self.scope

    @property
    def remedy(self) -> str:
        """Say what to do about it."""
        return _REMEDY.get((self.kind, self.route)) or _REMEDY[self.kind, None]


class Watch:
    """The incidents so far. Pure but for its memory: everything is given."""

    def __init__(self, known: Sequence[Incident] = ()) -> None:
        self.known = list(known)  # oldest first
        self._open = {one.key: one for one in known if one.ended_ms is None}

    def look(
        self, statuses: Mapping[RouteName, RouteStatus], facts: SpoolFacts, *, now_ms: int
    ) -> tuple[Sequence[Incident], Sequence[Incident]]:
        """Note what is wrong now; return what began and what ended since the last look."""
        seen = {one.key: one for one in _seen(statuses, facts, now_ms=now_ms)}
        began = [one for key, one in seen.items() if key not in self._open]
        ended = [one for key, one in self._open.items() if key not in seen]
        for one in ended:
            one.ended_ms = now_ms
            del self._open[one.key]
        for one in began:
            one.dead_before = _dead(facts, one.route)
            self._open[one.key] = one
        for one in self._open.values():
            one.delayed = max(one.delayed, _pending(facts, one.route))
            one.dead = max(one.dead, _dead(facts, one.route) - one.dead_before)
        kept = [one for one in self.known if one.ended_ms is None or one.ended_ms > now_ms - _KEPT_MS]
        self.known = [*kept, *began][-KEPT_MAX:]
        return began, ended

    def count_open(self, kind: str) -> int:
        """Return how many of a kind have not ended."""
        return sum(one.kind == kind for one in self._open.values())

    def newest(self, limit: int) -> Sequence[Incident]:
        """Return the newest first."""
        return self.known[::-1][:limit]


class Incidents:
    """`ports.Worker`: look each second until drained, write down what begins and ends."""

    name = "incidents"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._drained = asyncio.Event()
        self.watch = Watch()

    async def run(self) -> None:
        """Load what was kept, then look each second; see `ports.Worker`."""
        await self.load()
        while not self._drained.is_set():
            with suppress(ForwarderError):  # the spool is shut, or busy: the next look tries again
                await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._drained.wait()

    async def drain(self) -> None:
        """Make `run` return."""
        self._drained.set()

    async def load(self) -> None:
        """Read what was kept; what cannot be read is left behind."""
        kept = await self._parts.spool.get(STORE_KEY)
        try:
            self.watch = Watch(msgspec.json.decode(kept, type=list[Incident]) if kept else ())
        except msgspec.MsgspecError:
            self.watch = Watch()

    async def look(self) -> None:
        """Look once."""
        parts = self._parts
        parts.rejections.sample(now_ms=parts.clock.wall_ms())
        statuses = {RouteName(route.name): route.status() for route in parts.routes}
        began, ended = self.watch.look(statuses, await parts.archive.facts(), now_ms=parts.clock.wall_ms())
        for one in began:
            parts.reporter.incident_began(one.kind, route=one.route or "", scope=one.scope, cause=one.cause)
        for one in ended:
            lasted_s = ((one.ended_ms or one.began_ms) - one.began_ms) / 1000
            parts.reporter.incident_ended(one.kind, route=one.route or "", scope=one.scope, lasted_s=lasted_s)
        for kind in INCIDENT_KINDS:
            parts.metrics.incidents_open.labels(kind).set(self.watch.count_open(kind))
        if began or ended:
            await parts.spool.put(STORE_KEY, msgspec.json.encode(self.watch.known))


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


def _pending(facts: SpoolFacts, route: RouteName | None) -> int:
    return sum(totals.pending for name, totals in facts.totals.items() if route in (None, name))


def _dead(facts: SpoolFacts, route: RouteName | None) -> int:
    return sum(totals.dead for name, totals in facts.totals.items() if route in (None, name))
