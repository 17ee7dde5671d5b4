"""One run of the real daemon on both routes between two faulty vendors: the load, the kills, and what was seen.

Every event is posted until it is acknowledged. Absent: the judgement of what was seen (`account`, `verdict`).
"""

import asyncio
import contextlib
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from forwarder.demo.call_stream import LINKS_TOML, CallStream, Effect, happened
from forwarder.demo.facts import Key, Ledger
from forwarder.demo.load_driver import LoadDriver
from forwarder.demo.totals import Totals, read_totals
from forwarder.demo.workflow import Workflow, WorkflowEvent, seen
from forwarder.model import RouteName
from proof.account import Copies, Order, ReplicaCopies, Scrapes, never_arriving
from stand_ins.behaviour import UNAVAILABLE, Behaviour, CutsOff, Dawdles, HangsUp, Says
from stand_ins.chaos import Chaos, ChaosRates
from stand_ins.courier_api import CourierApi
from stand_ins.courier_state import Outcome, invalid
from stand_ins.data_plane import DataPlane
from stand_ins.gateway_rules import Refusal
from stand_ins.listener import AtHand
from stand_ins.process import DaemonProcess

OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK.value, RouteName.RUDDERSTACK_TO_COURIER.value
SECRET, INBOUND_KEY, WRITE_KEY, API_KEY = "chaos-secret", "chaos-inbound-key", "chaos-write-key", "chaos-api-key"
OWN = {
    "RUDDERSTACK_WRITE_KEY": WRITE_KEY,
    "COURIER_WEBHOOK_SECRET": SECRET,
    "COURIER_API_KEY": API_KEY,
    "FORWARDER_INBOUND_KEYS": INBOUND_KEY,
    "FORWARDER_LOG_LEVEL": "error",
}
RATES = ChaosRates(rate_limited=0.001, error=0.01, lost=0.01, silent=0.02, silent_error=0.003, late=0.005)
WEBHOOK_SENDERS, CALLERS = 16, 48
REFUSED_USER, REFUSED_CALLER = "user-00013", "customer-0013"
POISONED = Refusal(status=400, text="payload rejected")
RESENT_SHARE = 0.03
OTHERS_SHARE = 0.15  # of a caller's calls: groups, pages, what nothing is linked to
ALIVE_S = (0.05, 0.7)  # from ready to the kill
KILLED_AT_START = 0.1  # share of lives that end before they are ready
BACKLOG_MAX = 5_000  # beyond it the senders wait, or a busy machine would end with an hour of draining
LOOK_AGAIN_S = 0.1
DRAIN_MAX_S = 600.0
FAULT_S = 5.0  # of a soak: so long a destination misbehaves, and so long it behaves
PROGRESS_EVERY = 25
# What the data plane does in a life, beside behaving well.
FAULTS: tuple[Behaviour | None, ...] = (
    None,
    None,
    UNAVAILABLE,
    HangsUp(takes_effect=True),
    HangsUp(),
    CutsOff(),
    Dawdles(seconds=0.1),
    Says(status=429, body="slow down", headers={"Retry-After": "1"}),
)


@dataclass(slots=True, kw_only=True)
class Story:
    """What is kept over a whole run."""

    outbound: Ledger = field(default_factory=Ledger)
    inbound: Ledger = field(default_factory=Ledger)
    copies: Copies | ReplicaCopies = field(default_factory=Copies)  # of outbound events
    effects_twice: list[str] = field(default_factory=list)  # of calls that carry an idempotency key
    memberships_again: int = 0  # PUTs, which carry none and change nothing when they are repeated
    order: Order = field(default_factory=Order)
    scrapes: Scrapes = field(default_factory=Scrapes)
    refused_webhooks: int = 0
    refused_calls: int = 0
    resent: int = 0
    kills: int = 0
    kills_at_start: int = 0
    faults: Counter[str] = field(default_factory=Counter)  # of replicas and their database, by kind
    back_s: dict[str, list[float]] = field(default_factory=dict)  # by kind, until the next event was acknowledged
    starts_s: list[float] = field(default_factory=list)
    totals: dict[str, Totals] = field(default_factory=dict)  # at the end, by route


class Watched(Protocol):
    """Where events are posted, and where the account is asked for."""

    @property
    def url(self) -> str:
        """Return the base URL of the endpoints."""

    @property
    def operator_url(self) -> str:
        """Return the base URL of the operator's listener."""

    async def wait_for_totals(
        self, route: str, is_reached: Callable[[Totals], bool], *, timeout_s: float = 120.0
    ) -> Totals:
        """Wait until the route's account is as wanted and return it."""


class Load:
    """Everything around the daemon: who posts, and who keeps account of what arrives."""

    def __init__(
        self, daemon: Watched, plane: DataPlane, courier: CourierApi, *, seed: int, pause_s: float = 0.0
    ) -> None:
        self.story = Story()
        self._daemon = daemon
        self._plane = plane
        self._courier = courier
        self._pause_s = pause_s  # of each sender after each event, on the average
        self._random = random.Random(seed)  # noqa: S311 - a repeatable run, not a secret
        self._workflow = Workflow(seed=seed)
        self._stream = CallStream(seed=seed)
        self._is_up = asyncio.Event()
        self._is_over = asyncio.Event()
        self.is_losing = False  # control: what is lost is not waited for
        self.overlook = 0  # control: the number of an arrival at the data plane that is not seen
        plane.poison = lambda event: POISONED if event.get("userId") == REFUSED_USER else None
        plane.on_stored = self._stored
        courier.trouble = self._refuse
        courier.state.on_effect = self._happened

    @asynccontextmanager
    async def _under_load(self, http: aiohttp.ClientSession) -> AsyncIterator[None]:
        """Send inside; afterwards let every sender end with a yes, and everything be delivered."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WEBHOOK_SENDERS):
                group.create_task(self._send_webhooks(http))
            for number in range(CALLERS):
                group.create_task(self._make_calls(http, number))
            yield
            self._plane.script.heal()
            self._courier.chaos = None
            self._is_over.set()
        await self._until_nothing_waits()

    def _misbehave(self) -> None:
        fault = self._random.choice(FAULTS)
        if fault is None:
            return
        if isinstance(fault, HangsUp | CutsOff):
            self._plane.script.once(*[fault] * self._random.randint(1, 3))
        else:
            self._plane.script.behave(fault)

    async def _send_webhooks(self, http: aiohttp.ClientSession) -> None:
        driver = LoadDriver(http, self._daemon.url, self.story.outbound, schedule_s=(0.1,))
        async for now_ms in self._moments():
            for event in self._workflow.message(now_ms):
                one = self._judged(event)
                if not await driver.webhook(one, SECRET):
                    raise RuntimeError(f"an event was turned away: {driver.statuses}")
                if self._random.random() < RESENT_SHARE:
                    await driver.webhook(one, SECRET)

    def _judged(self, event: WorkflowEvent) -> WorkflowEvent:
        if event.facts.user != REFUSED_USER or event.facts.name is None:
            return event
        self.story.refused_webhooks += 1
        return replace(event, facts=never_arriving(event.facts))

    async def _make_calls(self, http: aiohttp.ClientSession, number: int) -> None:
        """Post one user's calls, one after the other, as their order demands; now and then a group's or a page."""
        driver = LoadDriver(http, self._daemon.url, self.story.inbound, schedule_s=(0.1,))
        stream, user = self._stream, f"customer-{number:04d}"
        ordered = (stream.identify, stream.linked, stream.ad_hoc)
        others = (stream.group, stream.unlinked, stream.page)
        async for now_ms in self._moments():
            if user == REFUSED_CALLER:
                call = stream.identify(now_ms, user)
                call = replace(call, facts=never_arriving(call.facts))
                self.story.refused_calls += 1
            elif self._random.random() < OTHERS_SHARE:
                call = self._random.choice(others)(now_ms)
            else:
                call = self._random.choice(ordered)(now_ms, user)
            if not await driver.call(call, INBOUND_KEY):
                raise RuntimeError(f"a call was turned away: {driver.statuses}")
            if call.facts.user == user:
                self.story.order.post(call.facts)

    async def _moments(self) -> AsyncIterator[int]:
        """Yield the time whenever the daemon is up and not too far behind, until the run is over."""
        while not self._is_over.is_set():
            await self._is_up.wait()
            if self._pause_s:
                await asyncio.sleep(self._random.uniform(0, 2 * self._pause_s))
            if self._waiting() > BACKLOG_MAX and not self._is_over.is_set():
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            yield time.time_ns() // 1_000_000

    def _stored(self, event: dict[str, Any]) -> None:
        if self._plane.stored == self.overlook:
            return
        sighting, request = seen(event), self._plane.at_hand
        self.story.outbound.see(sighting)
        self._arrived(sighting.key, request, is_answered=not isinstance(request.behaviour, HangsUp | CutsOff))

    def _arrived(self, key: Key, request: AtHand, *, is_answered: bool) -> None:
        """Hear of an arrival at the data plane: who sent it is the run's to say."""

    def _happened(self, effect: Effect) -> None:
        sighting = happened(effect)
        if sighting is None:
            return
        known = self.story.inbound.duplicates
        self.story.inbound.see(sighting)
        is_again = self.story.inbound.duplicates > known
        if not effect.idempotency_key:
            self.story.memberships_again += is_again
        elif is_again:
            self.story.effects_twice.append(f"{effect.operation} of {sighting.key}")
        else:
            self.story.order.apply(sighting)

    def _refuse(self, _method: str, path: str) -> Outcome | None:
        return invalid("refused for good") if path.endswith(REFUSED_CALLER) else None

    async def _until_nothing_waits(self) -> None:
        for route, ledger in ((OUTBOUND, self.story.outbound), (INBOUND, self.story.inbound)):
            self.story.totals[route] = await self._daemon.wait_for_totals(
                route,
                partial(_is_settled, wanted=0 if self.is_losing else ledger.acknowledged),
                timeout_s=DRAIN_MAX_S,
            )
        self.story.scrapes.see(await read_totals(self._daemon.operator_url))

    def _waiting(self) -> int:
        """Return about how many events were acknowledged and have not arrived; dead ones never do."""
        ledgers = (self.story.outbound, self.story.inbound)
        return sum(one.acknowledged - one.silent - one.delivered for one in ledgers)

    def _progress(self) -> str:
        acknowledged = self.story.outbound.acknowledged + self.story.inbound.acknowledged
        return f"acknowledged {acknowledged:,}, not there yet {self._waiting():,}"


class Run(Load):
    """One daemon's folder, its lives and deaths."""

    def __init__(
        self, daemon: DaemonProcess, plane: DataPlane, courier: CourierApi, *, seed: int, pause_s: float = 0.0
    ) -> None:
        super().__init__(daemon, plane, courier, seed=seed, pause_s=pause_s)
        self._process = daemon
        self._copies = self.story.copies = Copies()

    def _arrived(self, key: Key, request: AtHand, *, is_answered: bool) -> None:
        self._copies.see(key, life=request.epoch, is_answered=is_answered)

    async def live(self, http: aiohttp.ClientSession, kills: int, *, until_s: float = math.inf) -> None:
        """Start and kill the daemon so often under load, or until then; then have it deliver what is left."""
        async with self._under_load(http):
            for number in range(kills):
                if time.monotonic() > until_s:
                    break
                await self._live_once()
                if (number + 1) % PROGRESS_EVERY == 0:
                    sys.stderr.write(f"{number + 1} kills; {self._progress()}\n")
            self._plane.begin_epoch()
            self.story.starts_s.append(await self._process.start())
            self._is_up.set()

    async def endure(self, http: aiohttp.ClientSession, samples: int, sample: Callable[[], None]) -> None:
        """Have the daemon run under load, its destinations failing now and then, and take a sample after each turn."""
        self.story.starts_s.append(await self._process.start())
        self._is_up.set()
        async with self._under_load(http):
            for number in range(samples):
                self._misbehave()
                await asyncio.sleep(FAULT_S)
                self._plane.script.heal()
                await asyncio.sleep(FAULT_S)
                self.story.scrapes.see(await read_totals(self._daemon.operator_url))
                sample()
                if (number + 1) % PROGRESS_EVERY == 0:
                    sys.stderr.write(f"sample {number + 1} of {samples}; {self._progress()}\n")

    async def _live_once(self) -> None:
        story = self.story
        self._plane.script.heal()
        # What the killed one had sent was read long before the next one can send anything.
        self._plane.begin_epoch()
        if self._random.random() < KILLED_AT_START:
            await self._process.spawn()
            await asyncio.sleep(self._random.uniform(0.0, 0.8))
            story.kills_at_start += 1
        else:
            story.starts_s.append(await self._process.start())
            self._misbehave()
            self._is_up.set()
            alive_s = self._random.uniform(*ALIVE_S)
            scrape_s = self._random.uniform(0, alive_s)
            await asyncio.sleep(scrape_s)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                story.scrapes.see(await read_totals(self._daemon.operator_url))
            await asyncio.sleep(alive_s - scrape_s)
            self._is_up.clear()
        await self._process.kill()
        story.kills += 1


def _is_settled(totals: Totals, *, wanted: int) -> bool:
    return totals["pending"] == 0 and totals["accepted"] >= wanted


@contextmanager
def workspace() -> Iterator[tuple[Path, Path]]:
    """Give a folder that is gone afterwards, and the file of links in it."""
    # Not in /tmp, which may be in memory: what is synced here reaches a disk.
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=Path("build").resolve()) as name:
        links = Path(name) / "links.toml"
        links.write_text(LINKS_TOML)
        yield Path(name), links


@asynccontextmanager
async def between_vendors(
    *, seed: int, pause_s: float = 0.0, settings: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Run, DaemonProcess, aiohttp.ClientSession]]:
    """Give a run whose daemon is not started yet; the daemon is dead afterwards, and its log was searched."""
    with workspace() as (folder, links):
        async with (
            DataPlane(write_keys=[WRITE_KEY], events_max=100) as plane,
            CourierApi(api_keys=[API_KEY], chaos=Chaos(RATES, seed=seed), effects_max=100) as courier,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            vendors = {
                "RUDDERSTACK_DATA_PLANE_URL": plane.url,
                "COURIER_API_URL": courier.url,
                "FORWARDER_LINKS": str(links),
            }
            daemon = DaemonProcess(folder=folder, settings=OWN | vendors | dict(settings or {}))
            one = Run(daemon, plane, courier, seed=seed, pause_s=pause_s)
            try:
                yield one, daemon, http
                if await daemon.stop() != 0:
                    one.story.scrapes.wrong.append("it did not end with 0")
            finally:
                await daemon.kill()
            if "Traceback" in (logs := daemon.logs()):
                one.story.scrapes.wrong.append(f"a traceback in the log: {logs[logs.index('Traceback') :][:2_000]}")
