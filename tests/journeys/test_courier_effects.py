"""Towards Courier: in order per user, each operation once, through 429, 500, silence and a kill."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import pytest

from forwarder.demo.call_stream import LINKS_TOML, Call, CallStream, Effect, happened
from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import RUDDERSTACK_SCHEDULE_S, LoadDriver
from forwarder.model import RouteName
from stand_ins.chaos import Chaos, ChaosRates, Misfortune
from stand_ins.courier_api import CourierApi
from stand_ins.process import DaemonProcess

pytestmark = [pytest.mark.journey, pytest.mark.slow]

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
USERS = 200
EVENTS_PER_USER = 10
RATES = ChaosRates(rate_limited=0.003, error=0.03, lost=0.01, silent=0.02, silent_error=0.005, late=0.005)


async def test_order_and_once_only_hold_through_chaos_and_a_kill(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    courier: CourierApi,
    inbound: dict[str, str],
) -> None:
    """200 users with 10 events each: every call takes effect once, and per user in the order of arrival."""
    courier.chaos = Chaos(RATES, seed=41)
    ledger = Ledger()
    effects: list[Effect] = []

    def note(effect: Effect) -> None:
        effects.append(effect)
        sighting = happened(effect)
        if sighting is not None:
            ledger.see(sighting)

    courier.state.on_effect = note
    daemon = make_daemon(inbound)
    links = daemon.folder / "links.toml"
    links.write_text(LINKS_TOML)
    daemon.settings["FORWARDER_LINKS"] = str(links)
    await daemon.start()
    stream, now_ms = CallStream(seed=42), time.time_ns() // 1_000_000
    makers = (stream.identify, stream.linked, stream.ad_hoc)
    calls = {
        f"customer-{user:04d}": [
            makers[(user + n) % 3](now_ms + n, f"customer-{user:04d}") for n in range(EVENTS_PER_USER)
        ]
        for user in range(USERS)
    }
    driver = LoadDriver(http, daemon.url, ledger, schedule_s=RUDDERSTACK_SCHEDULE_S, scale=0.005)

    async def post_all(of_user: list[Call]) -> None:
        for call in of_user:
            assert await driver.call(call, inbound["FORWARDER_INBOUND_KEYS"])

    async def kill_in_the_middle() -> None:
        assert await courier.wait_for_requests(USERS * EVENTS_PER_USER // 3, timeout_s=60)
        await daemon.kill()
        await daemon.start()

    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        group.create_task(kill_in_the_middle())
        for of_user in calls.values():
            group.create_task(post_all(of_user))
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0, timeout_s=300)

    assert ledger.acknowledged == USERS * EVENTS_PER_USER == totals["delivered"]
    assert list(ledger.missing()) == []
    assert list(ledger.wrong) == []
    assert ledger.duplicates == 0
    for user, of_user in calls.items():
        seen_keys = [sighting.key for effect in effects if effect.user == user and (sighting := happened(effect))]
        assert seen_keys == [call.facts.key for call in of_user], user
    assert all(courier.misfortunes[luck] for luck in Misfortune if luck is not Misfortune.ERROR_AFTER_EFFECT)
    assert courier.replays.replayed > 0
    assert await daemon.stop() == 0
