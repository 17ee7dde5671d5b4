"""Look each second for what goes wrong; keep on disk what began and ended, and what came and went meanwhile.

What is open when the daemon stops goes on when it is seen again after the start, and has ended when it is not within a
minute. Of several replicas one looks for all, and the others show what it found.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from forwarder.archive_port import EventQuery
from forwarder.clock import wait_within
from forwarder.errors import ForwarderError
from forwarder.model import RouteName, State
from forwarder.operator.incidents.incident import Incident
from forwarder.operator.incidents.traffic import WINDOW_MS, Own, seen_in_traffic
from forwarder.operator.incidents.watch import Watch, seen_in_sources
from forwarder.operator.parts import Parts
from forwarder.ports import read_kept
from forwarder.telemetry.metrics import INCIDENT_KINDS
from forwarder.telemetry.totals_by_time import DAY_MS, FIVE_MS, MINUTE_MS

STORE_KEY: Final = "incidents"
ALERTS_KEY: Final = "alerts through Courier"
_KEPT_S: Final = 604_800
_ALERTS_MAX: Final = 50
_LOOK_EVERY_S: Final = 1.0
_TRAFFIC_EVERY_MS: Final = 10_000


class Incidents:
    """`ports.Worker`: look each second until drained, write down what begins and ends."""

    name = "incidents"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._drained = asyncio.Event()
        self._kept_ms = int(parts.setting("FORWARDER_RETENTION_S") or _KEPT_S) * 1_000
        self.watch = Watch(kept_ms=self._kept_ms)
        self._alerts: list[tuple[str, int]] = []  # messages through Courier: id, and when it was sent
        self._is_unsaved = False
        self._saved_minute: int | None = None
        self._in_traffic: Sequence[Incident] = ()
        self._traffic_read_ms: int | None = None
        self.is_leading = False  # this replica looks for all

    async def run(self) -> None:
        """Load what was kept, then look each second; see `ports.Worker`."""
        self._parts.spool.watch(STORE_KEY, self._hear)
        is_loaded = False
        while not self._drained.is_set():
            with suppress(ForwarderError):  # the spool is shut, or busy: the next look tries again
                if not is_loaded:
                    await self.load()
                is_loaded = True
                await self.look()
            await wait_within(_LOOK_EVERY_S, self._drained)
        with suppress(ForwarderError):
            if self.is_leading:
                await self.save()
            await self._parts.by_time.save(self._parts.spool, is_last=True)

    async def drain(self) -> None:
        """Make `run` return."""
        self._drained.set()

    async def load(self) -> None:
        """Read what was kept."""
        await self._parts.by_time.load(self._parts.spool)
        await self._take_over()

    async def _take_over(self) -> None:
        self.watch = self._read(await self._parts.spool.get(STORE_KEY))
        self._alerts = read_kept(await self._parts.spool.get(ALERTS_KEY), list[tuple[str, int]]) or []

    def _read(self, kept: bytes | None) -> Watch:
        return Watch(read_kept(kept, list[Incident]) or [], kept_ms=self._kept_ms)

    def _hear(self, kept: bytes) -> None:
        if not self.is_leading:
            self.watch = self._read(kept)
            self._tell_open()

    async def save(self) -> None:
        """Keep what is known on disk."""
        self._is_unsaved = True  # until it is: a disk may be full
        await self._parts.spool.put(STORE_KEY, msgspec.json.encode(self.watch.known))
        self._is_unsaved = False

    async def alert_sent(self, message_id: str) -> None:
        """Keep what a channel was told, and the message that told it."""
        if message_id:
            self._alerts = [*self._alerts, (message_id, self._parts.clock.wall_ms())][-_ALERTS_MAX:]
            await self._parts.spool.put(ALERTS_KEY, msgspec.json.encode(self._alerts))
        await self.save()

    async def look(self) -> None:
        """Look once."""
        parts = self._parts
        statuses = {RouteName(route.name): route.status() for route in parts.routes}
        facts, now_ms = await parts.archive.facts(), parts.clock.wall_ms()
        leads = parts.spool.leads()
        if leads and not self.is_leading:
            await self._take_over()
        self.is_leading = leads
        parts.by_time.look(facts, leads=leads)
        if not leads:
            await parts.by_time.save(parts.spool)
            return
        if self._traffic_read_ms is None or abs(now_ms - self._traffic_read_ms) >= _TRAFFIC_EVERY_MS:
            own = await self._own(now_ms)
            self._traffic_read_ms = now_ms
            self._in_traffic = list(seen_in_traffic(parts.by_time, self.watch.open, own=own, now_ms=now_ms))
        of_sources = seen_in_sources((one.status() for one in parts.sources), now_ms=now_ms)
        began, ended = self.watch.look(statuses, facts, beside=[*self._in_traffic, *of_sources], now_ms=now_ms)
        for one in began:
            parts.reporter.incident_began(one.kind, route=one.route or "", scope=one.scope, cause=one.cause)
        for one in ended:
            lasted_s = one.lasted_ms(now_ms=now_ms) / 1000
            parts.reporter.incident_ended(one.kind, route=one.route or "", scope=one.scope, lasted_s=lasted_s)
        self._tell_open()
        minute = now_ms // MINUTE_MS
        if began or ended or self._is_unsaved or (self.watch.open and minute != self._saved_minute):
            self._saved_minute = minute
            await self.save()
        await parts.by_time.save(parts.spool)

    def _tell_open(self) -> None:
        for kind in INCIDENT_KINDS:
            self._parts.metrics.incidents_open.labels(kind).set(self.watch.count_open(kind))

    async def _own(self, now_ms: int) -> Own:
        """Return what came back of our own alerts through Courier, as its webhooks tell their messages' way."""
        came: Counter[int] = Counter()
        dead = 0
        for message_id, sent_ms in self._alerts:
            if abs(now_ms - sent_ms) > DAY_MS:
                continue
            query = EventQuery(route=RouteName.COURIER_TO_RUDDERSTACK, message_id=message_id)
            for row in (await self._parts.archive.events(query)).rows:
                five_ms = row.received_at_ms - row.received_at_ms % FIVE_MS
                for at_ms in (five_ms, five_ms + FIVE_MS):  # counters are read a little later; a resend counts, too
                    came[at_ms] += 2
                is_late = row.settled_at_ms is not None and row.settled_at_ms > now_ms - WINDOW_MS
                dead += row.state is State.DEAD and is_late
        return Own(came=came, dead=dead)
