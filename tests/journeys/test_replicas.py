"""Two processes on one Postgres are one daemon: what comes in at one is seen, held up and delivered by the other."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import pytest

from forwarder.demo.call_stream import CallStream, Effect, happened
from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import COURIER_SCHEDULE_S, RUDDERSTACK_SCHEDULE_S, LoadDriver
from forwarder.demo.workflow import Workflow, WorkflowEvent
from forwarder.model import RouteName
from stand_ins.behaviour import UNAVAILABLE, WRONG_KEY
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane
from stand_ins.postgres_server import PROGRAMS, PostgresServer
from stand_ins.process import DaemonProcess
from stand_ins.waiting import wait_until

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.one_daemon("starts replicas of its own")]

OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK.value, RouteName.RUDDERSTACK_TO_COURIER.value
OPERATOR_TOKEN = "journey-operator-token-8a1c"
Pair = tuple[DaemonProcess, DaemonProcess]


@pytest.fixture
async def pair(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    outbound: dict[str, str],
    inbound: dict[str, str],
    postgres_url: str,
) -> AsyncIterator[Pair]:
    """Two replicas that run."""
    database = {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": postgres_url}
    one, other = (make_daemon(outbound | inbound | database) for _ in range(2))
    await asyncio.gather(one.start(), other.start())
    yield one, other
    for daemon in (one, other):
        await daemon.kill()  # before the database goes


def sample_events(count: int) -> list[WorkflowEvent]:
    """Return so many distinct events that are all exported."""
    workflow, now_ms = Workflow(seed=71), time.time_ns() // 1_000_000
    return [workflow.sample("SENT", now_ms + n) for n in range(count)]


class Operator:
    """Somebody at one replica's API."""

    def __init__(self, http: aiohttp.ClientSession, daemon: DaemonProcess) -> None:
        self._http = http
        self._daemon = daemon

    async def get(self, path: str) -> Any:
        """Return the JSON there."""
        async with self._http.get(self._daemon.operator_url + path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Make a change."""
        async with self._http.post(self._daemon.operator_url + path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def state(self, route: str) -> str:
        """Return the route's state."""
        found = await self.get("/api/status")
        return next(str(one["state"]) for one in found["routes"] if one["name"] == route)

    async def totals(self, route: str) -> dict[str, int]:
        """Return the route's account."""
        found = await self.get("/api/status")
        return next(dict(one["totals"]) for one in found["routes"] if one["name"] == route)


def secret_of(pair: Pair) -> str:
    """Return what Courier signs with."""
    return pair[0].settings["COURIER_WEBHOOK_SECRET"]


def drivers(http: aiohttp.ClientSession, pair: Sequence[DaemonProcess], ledger: Ledger) -> list[LoadDriver]:
    """Return who posts to each of them."""
    return [LoadDriver(http, one.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02) for one in pair]


async def test_what_comes_in_at_one_is_seen_at_the_other(
    pair: Pair, http: aiohttp.ClientSession, plane: DataPlane, ledger: Ledger
) -> None:
    """Both show the same events and the same account; a copy that comes to the other one is a duplicate."""
    here, there = (Operator(http, one) for one in pair)
    to_one, to_other = drivers(http, pair, ledger)
    (event,) = sample_events(1)
    assert await to_one.webhook(event, secret_of(pair))
    assert await to_other.webhook(event, secret_of(pair))
    assert await plane.wait_for(1, timeout_s=60)
    await pair[1].wait_for_totals(OUTBOUND, lambda totals: totals["delivered"] == 1)
    assert await here.totals(OUTBOUND) == await there.totals(OUTBOUND)
    assert (await there.totals(OUTBOUND))["accepted"] == 1
    lists = [await operator.get("/api/events") for operator in (here, there)]
    assert [[row["state"] for row in found["events"]] for found in lists] == [["delivered"], ["delivered"]]
    assert ledger.duplicates == 0


async def test_a_pause_at_one_stops_the_other(
    pair: Pair, http: aiohttp.ClientSession, plane: DataPlane, ledger: Ledger
) -> None:
    """Paused at one, nothing leaves from either until it is resumed, at whichever; both say who paused it."""
    here, there = (Operator(http, one) for one in pair)
    await here.post(f"/api/routes/{OUTBOUND}/pause", {"reason": "maintenance"})

    async def both(state: str) -> bool:
        return [await operator.state(OUTBOUND) for operator in (here, there)] == [state, state]

    await wait_until(lambda: both("paused"))
    for event, driver in zip(sample_events(2), drivers(http, pair, ledger), strict=True):
        assert await driver.webhook(event, secret_of(pair))
    assert (await there.totals(OUTBOUND))["pending"] == 2
    assert plane.requests == 0
    await there.post(f"/api/routes/{OUTBOUND}/resume", {})
    await wait_until(lambda: both("running"))
    assert await plane.wait_for(2, timeout_s=60)
    assert [row["action"] for row in (await here.get("/api/audit"))["audit"]] == ["resume", "pause"]


async def test_a_hold_met_by_one_holds_the_other(
    pair: Pair, http: aiohttp.ClientSession, plane: DataPlane, ledger: Ledger
) -> None:
    """A wrong key that one meets stops both; one of them asks again, and both go on once the key is right."""
    here, there = (Operator(http, one) for one in pair)

    async def both(state: str) -> bool:
        return [await operator.state(OUTBOUND) for operator in (here, there)] == [state, state]

    plane.script.behave(WRONG_KEY)
    first, second = sample_events(2)
    to_one, to_other = drivers(http, pair, ledger)
    assert await to_one.webhook(first, secret_of(pair))
    await wait_until(lambda: both("held"))
    assert await to_other.webhook(second, secret_of(pair))

    async def told() -> bool:
        found = [(await at.get("/api/incidents"))["incidents"] for at in (here, there)]
        return all([one["kind"] for one in incidents].count("hold") == 1 for incidents in found)

    await wait_until(told)  # of both: one looks for incidents, the other hears of them
    plane.script.heal()
    await wait_until(lambda: both("running"))
    assert await plane.wait_for(2, timeout_s=60)
    assert (list(ledger.missing()), ledger.duplicates) == ([], 0)


async def test_links_made_at_one_start_automations_at_the_other(
    pair: Pair, http: aiohttp.ClientSession, courier: CourierApi
) -> None:
    """A link is in force at every replica within a second or two."""
    here, there = (Operator(http, one) for one in pair)
    await here.post("/api/links", {"add": [{"event": "Order Completed", "target": "order-completed"}]})
    await wait_until(lambda: _has_links(there, 1))
    call = {"type": "track", "event": "Order Completed", "userId": "u-1", "messageId": "m-1", "properties": {"a": 1}}
    for daemon, number in zip(pair, (1, 2), strict=True):
        body = call | {"messageId": f"m-{number}"}
        headers = {"Authorization": f"Bearer {daemon.settings['FORWARDER_INBOUND_KEYS']}"}
        async with http.post(f"{daemon.url}/inbound/rudderstack", json=body, headers=headers) as answer:
            assert answer.status == 202
    await pair[0].wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 2)
    assert [effect.operation for effect in courier.state.effects] == ["POST /automations/{template}/invoke"] * 2


async def _has_links(operator: Operator, count: int) -> bool:
    return len((await operator.get("/api/links"))["links"]) == count


async def test_a_login_at_one_opens_the_other(
    make_daemon: Callable[[dict[str, str]], DaemonProcess], outbound: dict[str, str], postgres_url: str
) -> None:
    """The cookie that one gives is taken by the other at once, until the logout at either."""
    database = {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": postgres_url}
    pair = [make_daemon(outbound | database | {"FORWARDER_OPERATOR_TOKEN": OPERATOR_TOKEN}) for _ in range(2)]
    await asyncio.gather(*(daemon.start() for daemon in pair))
    jar = aiohttp.CookieJar(unsafe=True)  # an address, no name
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        one, other = (daemon.operator_url for daemon in pair)
        form = {"token": OPERATOR_TOKEN, "name": "ada"}
        async with browser.post(f"{one}/login", data=form, allow_redirects=False) as answer:
            assert answer.status == 303
        async with browser.get(f"{other}/audit", allow_redirects=False) as answer:
            assert answer.status == 200
            assert "ada" in await answer.text()
        cookies = {cookie.key: cookie.value for cookie in jar}
        async with browser.post(f"{other}/logout", allow_redirects=False) as answer:
            assert answer.status == 303
    async with aiohttp.ClientSession(cookies=cookies) as again:

        async def is_out() -> bool:
            async with again.get(f"{one}/audit", headers={"Accept": "text/html"}, allow_redirects=False) as answer:
                return answer.status == 303

        await wait_until(is_out)
    for daemon in pair:
        await daemon.kill()  # before the database goes


async def test_what_a_killed_replica_had_is_delivered_by_the_other(
    pair: Pair, http: aiohttp.ClientSession, plane: DataPlane, ledger: Ledger
) -> None:
    """Nothing that one acknowledged is lost when it is gone for good, and nothing is sent as two events."""
    plane.script.behave(UNAVAILABLE)
    events = sample_events(60)
    for number, event in enumerate(events):
        assert await drivers(http, pair, ledger)[number % 2].webhook(event, secret_of(pair))
    await pair[0].kill()
    plane.script.heal()
    assert await plane.wait_for(len(events), timeout_s=60)
    totals = await pair[1].wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0, timeout_s=60)
    assert (totals["accepted"], totals["delivered"]) == (60, 60)
    assert (list(ledger.missing()), list(ledger.wrong)) == ([], [])


async def test_one_users_events_keep_their_order_over_both(
    pair: Pair, http: aiohttp.ClientSession, courier: CourierApi
) -> None:
    """A user's calls that come to the replicas in turn take effect in the order in which they were acknowledged."""
    ledger = Ledger()

    def note(effect: Effect) -> None:
        if (sighting := happened(effect)) is not None:
            ledger.see(sighting)

    courier.state.on_effect = note
    stream, now_ms = CallStream(seed=72), time.time_ns() // 1_000_000
    users = [f"customer-{number:04d}" for number in range(6)]
    calls = {user: [stream.identify(now_ms + n, user) for n in range(10)] for user in users}
    senders = [LoadDriver(http, one.url, ledger, schedule_s=RUDDERSTACK_SCHEDULE_S, scale=0.005) for one in pair]

    async def send(user: str) -> None:
        for number, call in enumerate(calls[user]):
            assert await senders[number % 2].call(call, pair[0].settings["FORWARDER_INBOUND_KEYS"])

    async with asyncio.timeout(120):
        await asyncio.gather(*(send(user) for user in users))
    await pair[0].wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 60)
    for user in users:
        seen = [found.key for effect in courier.state.effects_of(user) if (found := happened(effect))]
        assert seen == [call.facts.key for call in calls[user]], user
    assert list(ledger.missing()) == []


async def test_a_database_that_goes_away_stops_nobody(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    outbound: dict[str, str],
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
) -> None:
    """The doors say 503 at once, status and page say why, no replica ends; after the return everything goes on."""
    if PROGRAMS is None:
        pytest.skip("Postgres is not on this machine (Debian's package postgresql)")
    server = PostgresServer()
    server.start()
    try:
        url = server.create_database("bridge")
        daemon = make_daemon(outbound | {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": url})
        await daemon.start()
        first, second = sample_events(2)
        driver, secret = drivers(http, [daemon], ledger)[0], outbound["COURIER_WEBHOOK_SECRET"]
        assert await driver.webhook(first, secret)
        assert await plane.wait_for(1, timeout_s=60)
        assert (await Operator(http, daemon).totals(OUTBOUND))["accepted"] == 1
        await asyncio.to_thread(server.stop, "immediate")
        body = {"id": "e1", "type": "message:updated", "data": {"id": "m", "status": "SENT", "recipient": "u"}}
        headers = {"Authorization": f"Bearer {outbound['FORWARDER_EVENTS_KEY']}"}
        async with asyncio.timeout(60):
            async with http.post(f"{daemon.url}/events", json=body, headers=headers) as answer:
                assert (answer.status, "Retry-After" in answer.headers) == (503, True)
            async with http.get(f"{daemon.url}/livez") as answer:
                assert answer.status == 200
            status = await Operator(http, daemon).get("/api/status")
            assert (status["spool"]["is_accepting"], "database" in status["spool"]["refusal"]) == (False, True)
            async with http.get(f"{daemon.operator_url}/") as answer:
                assert (answer.status, "the database" in await answer.text()) == (503, True)
        server.start()
        assert await driver.webhook(second, secret)
        assert await plane.wait_for(2, timeout_s=60)
        await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["delivered"] == 2, timeout_s=60)
        assert daemon.is_running
        assert await daemon.stop() == 0
    finally:
        server.remove()


async def test_a_start_waits_for_its_database(
    make_daemon: Callable[[dict[str, str]], DaemonProcess], outbound: dict[str, str]
) -> None:
    """A server that is down is waited for, also to the end; what only other settings help is exit code 78."""
    if PROGRAMS is None:
        pytest.skip("Postgres is not on this machine (Debian's package postgresql)")
    server = PostgresServer()
    server.start()
    try:
        url = server.create_database("bridge")
        waits = make_daemon(outbound | {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": url})
        wrong = make_daemon(outbound | {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": server.url("nothing")})
        await wrong.spawn()
        assert wrong.process is not None
        assert await asyncio.wait_for(wrong.process.wait(), 60) == 78
        assert "FORWARDER_POSTGRES_URL" in wrong.logs()
        await asyncio.to_thread(server.stop)
        for is_back in (False, True):
            await waits.spawn()
            await wait_until(lambda: waits.logs().count("spool.refusing") == waits.starts)
            if is_back:
                server.start()
                await waits.wait_for_totals(OUTBOUND, lambda totals: totals["accepted"] == 0, timeout_s=60)
            assert await waits.stop() == 0
    finally:
        server.remove()
