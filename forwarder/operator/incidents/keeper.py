"""Look each second for what goes wrong; keep on disk what began and ended, and what came and went meanwhile.

What is open when the daemon stops goes on when it is seen again after the start, and has ended when it is not.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from forwarder.errors import ForwarderError
from forwarder.model import RouteName
from forwarder.operator.incidents.incident import Incident
from forwarder.operator.incidents.watch import Watch
from forwarder.operator.parts import Parts
from forwarder.telemetry.metrics import INCIDENT_KINDS

STORE_KEY: Final = "incidents"
_LOOK_EVERY_S: Final = 1.0


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
        with suppress(ForwarderError):
            await self.save()
            await self._parts.by_time.save(self._parts.spool, is_last=True)

    async def drain(self) -> None:
        """Make `run` return."""
        self._drained.set()

    async def load(self) -> None:
        """Read what was kept; what cannot be read is left behind."""
        await self._parts.by_time.load(self._parts.spool)
        kept = await self._parts.spool.get(STORE_KEY)
        try:
            self.watch = Watch(msgspec.json.decode(kept, type=list[Incident]) if kept else ())
        except msgspec.MsgspecError:
            self.watch = Watch()

    async def save(self) -> None:
        """Keep what is known on disk."""
        await self._parts.spool.put(STORE_KEY, msgspec.json.encode(self.watch.known))

    async def alert_sent(self, message_id: str) -> None:
        """Keep what the channels were told."""
        del message_id
        await self.save()

    def known(self) -> Sequence[Incident]:
        """Return the incidents, oldest first."""
        return self.watch.known

    async def look(self) -> None:
        """Look once."""
        parts = self._parts
        statuses = {RouteName(route.name): route.status() for route in parts.routes}
        facts, now_ms = await parts.archive.facts(), parts.clock.wall_ms()
        parts.by_time.look(facts)
        began, ended = self.watch.look(statuses, facts, now_ms=now_ms)
        for one in began:
            parts.reporter.incident_began(one.kind, route=one.route or "", scope=one.scope, cause=one.cause)
        for one in ended:
            lasted_s = one.lasted_ms(now_ms=now_ms) / 1000
            parts.reporter.incident_ended(one.kind, route=one.route or "", scope=one.scope, lasted_s=lasted_s)
        for kind in INCIDENT_KINDS:
            parts.metrics.incidents_open.labels(kind).set(self.watch.count_open(kind))
        if began or ended:
            await self.save()
        await parts.by_time.save(parts.spool)
