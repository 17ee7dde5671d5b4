"""Both stand-ins with something going on between them: streams of events, an outage now and then, two ledgers.

The scenario posts to a daemon that somebody else runs, and keeps the account of what that daemon promised and
what it did. Absent: the daemon, and how the numbers are shown.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import aiohttp

from forwarder.clock import wait_within
from forwarder.demo.call_stream import CallStream, Effect, Json, happened
from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import COURIER_SCHEDULE_S, RUDDERSTACK_SCHEDULE_S, LoadDriver
from forwarder.demo.vendors import Courier, DataPlane
from forwarder.demo.workflow import Workflow, WorkflowEvent, seen

_TROUBLE_AT_COURIER = 0.03  # of its requests, from the first outage on
_RESENT_SHARE = 0.04  # of webhooks that Courier posts twice although they were acknowledged
_POSTS_MAX = 64  # under way at once, per stream
_LOOK_AGAIN_S = 0.05
_RETRY_SCALE = 0.1  # of the vendors' waits between attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much goes on. All in seconds or per second."""

    messages_per_s: float = 7.0  # each lives through two to five events
    calls_per_s: float = 9.0
    outage_first_s: float = 8.0  # after the start
    outage_every_s: float = 45.0
    outage_s: float = 3.0


class Scenario:
    """What goes on. Give it the daemon's address and let it `run` until it is told to stop."""

    def __init__(self, plane: DataPlane, courier: Courier, *, seed: int, pace: Pace) -> None:
        self.plane = plane
        self.courier = courier
        self.outbound = Ledger()
        self.inbound = Ledger()
        self.outages = 0
        self.latest: deque[str] = deque(maxlen=3)  # what arrived last, in words
        self._pace = pace
        self._random = random.Random(seed)  # noqa: S311 - a repeatable scenario, not a secret
        self._workflow = Workflow(seed=seed, pace=0.5)
        self._calls = CallStream(seed=seed)
        self._is_over = asyncio.Event()
        plane.on_stored = self._stored
        courier.on_effect = self._happened

    async def run(self, base_url: str, *, secret: str, inbound_key: str) -> None:
        """Post both streams to the daemon until `stop`; return when what was under way is answered or given up."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2 * _POSTS_MAX)) as http:
            courier = LoadDriver(http, base_url, self.outbound, schedule_s=COURIER_SCHEDULE_S, scale=_RETRY_SCALE)
            callers = LoadDriver(http, base_url, self.inbound, schedule_s=RUDDERSTACK_SCHEDULE_S, scale=_RETRY_SCALE)

            async def webhook(event: WorkflowEvent) -> None:
                await self._wait(event.at_ms / 1000 - time.time())
                if await courier.webhook(event, secret) and self._random.random() < _RESENT_SHARE:
                    await courier.webhook(event, secret)

            async def message() -> None:
                for event in self._workflow.message(time.time_ns() // 1_000_000):
                    if not self._is_over.is_set():
                        await webhook(event)

            async def audience() -> None:
                await courier.webhook(self._workflow.audience(time.time_ns() // 1_000_000), secret)

            async def call() -> None:
                await callers.call(self._calls.call(time.time_ns() // 1_000_000), inbound_key)

            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat(message, self._pace.messages_per_s))
                group.create_task(self._repeat(audience, self._pace.messages_per_s / 10))
                group.create_task(self._repeat(call, self._pace.calls_per_s))
                group.create_task(self._outages())

    def stop(self) -> None:
        """End the streams and every trouble, so that what waits can arrive."""
        self._is_over.set()
        self.plane.is_down, self.courier.trouble = False, 0.0

    async def wait_until_arrived(self, *, timeout_s: float) -> bool:
        """Wait until everything that was acknowledged has arrived; False at the time-out."""
        for _ in range(math.ceil(timeout_s / _LOOK_AGAIN_S)):
            if not self.outbound.missing() and not self.inbound.missing():
                return True
            await asyncio.sleep(_LOOK_AGAIN_S)
        return False

    async def _repeat(self, act: Callable[[], Coroutine[None, None, None]], per_s: float) -> None:
        """Start `act` so often; several run at once, within a limit; the last ones are waited for."""
        slots = asyncio.Semaphore(_POSTS_MAX)

        async def one() -> None:
            async with slots:
                await act()

        async with asyncio.TaskGroup() as group:
            while not self._is_over.is_set():
                # Even steps would look like a machine; the vendors' traffic comes in irregular ones.
                await self._wait(self._random.uniform(0.5, 1.5) / per_s)
                if not slots.locked() and not self._is_over.is_set():
                    group.create_task(one())

    async def _outages(self) -> None:
        await self._wait(self._pace.outage_first_s)
        while not self._is_over.is_set():
            self.outages += 1
            self.plane.is_down, self.courier.trouble = True, _TROUBLE_AT_COURIER
            await self._wait(self._pace.outage_s)
            self.plane.is_down = False
            await self._wait(self._pace.outage_every_s)

    async def _wait(self, seconds: float) -> None:
        if seconds <= 0:
            return
        await wait_within(seconds, self._is_over)

    def _stored(self, event: Json) -> None:
        sighting = seen(event)
        self.outbound.see(sighting)
        self.latest.append(f"Courier -> RudderStack  {sighting.name}  {sighting.user}")

    def _happened(self, effect: Effect) -> None:
        sighting = happened(effect)
        if sighting is not None:
            self.inbound.see(sighting)
            self.latest.append(f"RudderStack -> Courier  {effect.operation}  {effect.user}")
