"""Every acknowledged event arrives, as what it was, whatever happens in between."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import pytest

from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import COURIER_SCHEDULE_S, LoadDriver
from forwarder.demo.workflow import Workflow, WorkflowEvent, seen
from forwarder.model import RouteName
from stand_ins.behaviour import UNAVAILABLE, WRONG_KEY, HangsUp
from stand_ins.data_plane import DataPlane
from stand_ins.gateway_rules import Refusal
from stand_ins.load import at_concurrency, resent, workflow_events
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

OUTBOUND = RouteName.COURIER_TO_RUDDERSTACK.value
EVENTS = 3000
CONCURRENCY = 32
POISONED = Refusal(status=400, text="payload rejected")


class Milestones:
    """Let others wait until so many posts were answered."""

    def __init__(self) -> None:
        self.done = 0
        self._changed = asyncio.Condition()

    async def reach(self) -> None:
        """Count one."""
        async with self._changed:
            self.done += 1
            self._changed.notify_all()

    async def wait(self, count: int) -> None:
        """Return when so many were counted."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.done >= count)


async def post_all(driver: LoadDriver, events: list[WorkflowEvent], secret: str, milestones: Milestones) -> None:
    """Post all of them as Courier would, 32 at a time; each is retried until it is acknowledged."""

    async def post(event: WorkflowEvent) -> None:
        assert await driver.webhook(event, secret)
        await milestones.reach()

    await at_concurrency(events, post, concurrency=CONCURRENCY)


def samples(count: int) -> list[WorkflowEvent]:
    """Return so many distinct events that are all exported."""
    workflow, now_ms = Workflow(seed=count), time.time_ns() // 1_000_000
    return [workflow.sample("SENT", now_ms + n) for n in range(count)]


async def test_3000_webhooks_survive_an_outage_and_a_kill(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
    outbound: dict[str, str],
) -> None:
    """With the data plane down for a while and kill -9 in the middle, nothing acknowledged is lost or altered."""
    daemon = make_daemon(outbound)
    await daemon.start()
    events = list(workflow_events(Workflow(seed=11), EVENTS, now_ms=time.time_ns() // 1_000_000))
    driver = LoadDriver(http, daemon.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02)
    milestones, secret = Milestones(), outbound["COURIER_WEBHOOK_SECRET"]
    sent = resent(events, share=0.05, seed=3)

    async def an_answer_is_lost_and_an_outage_begins() -> None:
        plane.script.once(HangsUp(takes_effect=True))
        plane.script.behave(UNAVAILABLE)
        assert await plane.wait_for_requests(2, timeout_s=60)  # both were met

    async def killed_in_the_middle() -> None:
        await milestones.wait(len(sent) * 5 // 8)
        await daemon.kill()
        await daemon.start()

    async with asyncio.timeout(300):
        await asyncio.gather(
            an_answer_is_lost_and_an_outage_begins(), post_all(driver, sent[: len(sent) // 2], secret, milestones)
        )
        await asyncio.gather(killed_in_the_middle(), post_all(driver, sent[len(sent) // 2 :], secret, milestones))
    plane.script.heal()
    totals = await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0, timeout_s=120)

    # All of it really happened: the kill was felt by senders, a batch was sent twice.
    assert driver.statuses[0] > 0
    assert (daemon.starts, ledger.duplicates > 0) == (2, True)
    assert ledger.acknowledged == EVENTS
    assert list(ledger.missing()) == []
    assert list(ledger.wrong) == []
    assert plane.vanished == []
    assert ledger.delivered == EVENTS - ledger.silent == totals["delivered"]
    # Totals of the whole life of the folder, over the kill: every event once, in one state.
    assert totals == {
        "accepted": EVENTS,
        "pending": 0,
        "delivered": totals["delivered"],
        "filtered": ledger.silent,
        "unmapped": 0,
        "dead": 0,
    }
    assert await daemon.stop() == 0


async def test_the_control_finds_a_simulated_loss(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    plane: DataPlane,
    outbound: dict[str, str],
) -> None:
    """The check would see a loss: one event that the data plane takes and forgets is missing, by its name."""
    ledger, forgotten = Ledger(), 7
    plane.on_stored = lambda event: None if plane.stored == forgotten else ledger.see(seen(event))
    daemon = make_daemon(outbound)
    await daemon.start()
    driver = LoadDriver(http, daemon.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02)
    events = list(workflow_events(Workflow(seed=12), 60, now_ms=time.time_ns() // 1_000_000))

    await post_all(driver, events, outbound["COURIER_WEBHOOK_SECRET"], Milestones())
    await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0)

    assert [facts.key for facts in ledger.missing()] == [seen(plane.events[forgotten - 1]).key]


async def test_poison_is_isolated_within_a_few_requests(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
    outbound: dict[str, str],
) -> None:
    """One poison event among 100 in one batch: 99 delivered, one dead, at most 2·log2(100)+4 requests."""
    events = samples(100)
    culprit = events[61].facts.key
    plane.poison = lambda event: POISONED if seen(event).key == culprit else None
    daemon = make_daemon(outbound)
    await daemon.start()

    for event in events:
        ledger.post(event.facts)
    async with http.post(
        f"{daemon.url}/events",
        data=b"[" + b",".join(event.body for event in events) + b"]",
        headers={"Authorization": f"Bearer {outbound['FORWARDER_EVENTS_KEY']}"},
    ) as response:
        assert (response.status, await response.json()) == (200, {"accepted": 100, "duplicates": 0})
    totals = await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0)

    assert (totals["delivered"], totals["dead"]) == (99, 1)
    assert plane.requests <= 17
    assert plane.duplicates == 0
    assert list(ledger.wrong) == []


async def test_a_wrong_key_buries_nothing(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
    outbound: dict[str, str],
) -> None:
    """While the data plane answers 401 everything waits and is accepted; afterwards all of it is delivered."""
    plane.script.behave(WRONG_KEY)
    daemon = make_daemon(outbound)
    await daemon.start()
    driver = LoadDriver(http, daemon.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02)

    await post_all(driver, samples(250), outbound["COURIER_WEBHOOK_SECRET"], Milestones())
    assert await plane.wait_for_requests(1, timeout_s=60)
    held = await daemon.totals(OUTBOUND)
    assert (held["pending"], held["dead"]) == (250, 0)
    # Held means held: one request to learn of it, then one probe every 30 s.
    requests_while_held = plane.requests
    plane.script.heal()
    totals = await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0)

    assert requests_while_held <= 3
    assert (totals["delivered"], totals["dead"]) == (250, 0)
    assert list(ledger.missing()) == []
    assert list(ledger.wrong) == []
