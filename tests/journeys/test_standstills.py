"""Pauses, holds and outages over stops and restarts of the real process, and replays as people ask for them."""

import json
from collections.abc import Callable

import aiohttp
import pytest

from forwarder.model import RouteName
from stand_ins.behaviour import UNAVAILABLE, WRONG_KEY, Behaviour, Script
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane
from stand_ins.listener import Asked, Listener, Said
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

OUTBOUND = RouteName.COURIER_TO_RUDDERSTACK.value
INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
STOP_MAX_S = 30.0  # far below the drain that is allowed here

MakeDaemon = Callable[[dict[str, str]], DaemonProcess]


async def post_events(http: aiohttp.ClientSession, daemon: DaemonProcess, key: str, numbers: range) -> None:
    """Post so many events of the internal bus, each exported."""
    for number in numbers:
        data = {"id": f"m-{number}", "status": "SENT", "recipient": f"r-{number}", "sent": 1_700_000_000_000 + number}
        event = {"type": "message:updated", "data": data}
        headers = {"Authorization": f"Bearer {key}"}
        async with http.post(f"{daemon.url}/events", json=event, headers=headers) as answer:
            assert answer.status == 200


async def operate(http: aiohttp.ClientSession, daemon: DaemonProcess, path: str, body: object = None) -> int:
    """Ask the operator's API to do something; return how many events it was."""
    async with http.post(f"{daemon.operator_url}{path}", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return int((await answer.json()).get("replayed", 0))


async def state_of(http: aiohttp.ClientSession, daemon: DaemonProcess, route: str) -> str:
    """Return what the status says of a route."""
    async with http.get(f"{daemon.operator_url}/api/status") as answer:
        return {one["name"]: str(one["state"]) for one in (await answer.json())["routes"]}[route]


async def test_a_pause_outlives_a_restart(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, plane: DataPlane, outbound: dict[str, str]
) -> None:
    """A paused route takes events and sends none, also after kill -9; resumed it delivers all of them."""
    daemon = make_daemon(outbound)
    await daemon.start()
    await operate(http, daemon, f"/api/routes/{OUTBOUND}/pause")
    await post_events(http, daemon, outbound["FORWARDER_EVENTS_KEY"], range(20))
    await daemon.kill()
    await daemon.start()
    await post_events(http, daemon, outbound["FORWARDER_EVENTS_KEY"], range(20, 25))
    assert await state_of(http, daemon, OUTBOUND) == "paused"
    assert (plane.requests, (await daemon.totals(OUTBOUND))["pending"]) == (0, 25)
    await operate(http, daemon, f"/api/routes/{OUTBOUND}/resume")
    totals = await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0)
    assert totals["delivered"] == 25


@pytest.mark.parametrize("trouble", [UNAVAILABLE, WRONG_KEY], ids=["outage", "hold"])
async def test_a_stop_does_not_wait_for_a_destination_in_trouble(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    outbound: dict[str, str],
    trouble: Behaviour,
) -> None:
    """SIGTERM ends a daemon that backs off or is held at once and well; the next start delivers what waited."""
    plane.script.behave(trouble)
    daemon = make_daemon(outbound | {"FORWARDER_DRAIN_MAX_S": "300"})
    await daemon.start()
    await post_events(http, daemon, outbound["FORWARDER_EVENTS_KEY"], range(150))
    assert await plane.wait_for_requests(2 if trouble is UNAVAILABLE else 1, timeout_s=60)
    assert await daemon.stop(timeout_s=STOP_MAX_S) == 0
    plane.script.heal()
    await daemon.start()
    totals = await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0)
    assert (totals["delivered"], totals["dead"]) == (150, 0)


async def test_an_events_attempts_show_while_it_waits(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, plane: DataPlane, outbound: dict[str, str]
) -> None:
    """During an outage the event's own view lists what the destination answered so far."""
    plane.script.behave(UNAVAILABLE)
    daemon = make_daemon(outbound)
    await daemon.start()
    await post_events(http, daemon, outbound["FORWARDER_EVENTS_KEY"], range(1))
    assert await plane.wait_for_requests(3, timeout_s=120)
    async with http.get(f"{daemon.operator_url}/api/events/1") as answer:
        shown = await answer.json()
    assert shown["state"] == "pending"
    assert [attempt["status"] for attempt in shown["attempt_log"]][:2] == [503, 503]


async def test_a_replay_does_nothing_twice_unless_asked(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, courier: CourierApi, inbound: dict[str, str]
) -> None:
    """A delivered event that is replayed makes no call again; asked for everything it does, under keys of their own."""
    asked: list[Asked] = []
    courier.on_request = asked.append
    daemon = make_daemon(inbound)
    await daemon.start()
    call = {"type": "identify", "userId": "customer-0", "messageId": "m-1", "traits": {"n": 1}}
    headers = {"Authorization": f"Bearer {inbound['FORWARDER_INBOUND_KEYS']}"}
    async with http.post(f"{daemon.url}/inbound/rudderstack", data=json.dumps(call), headers=headers) as answer:
        assert answer.status == 202
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 1)
    first = len(asked)
    assert first

    assert await operate(http, daemon, "/api/replay", {"sequences": [1]}) == 1
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 1)
    assert len(asked) == first

    assert await operate(http, daemon, "/api/replay", {"sequences": [1], "everything": True}) == 1
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 1)
    assert len(asked) == 2 * first
    keys = [one.headers.get("idempotency-key") for one in asked]
    assert keys[0] is not None
    assert len(set(keys)) == len(keys)


async def test_dead_letters_whose_cause_remains_disturb_nobody(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, courier: CourierApi, inbound: dict[str, str]
) -> None:
    """Replayed while their link is still wrong they end dead again; the route runs, and what arrives goes on."""
    courier.state.known.automations = set()
    daemon = make_daemon(inbound)
    links = daemon.folder / "links.toml"
    links.write_text('[[link]]\nevent = "Order Completed"\ntarget = "gone"\n')
    daemon.settings["FORWARDER_LINKS"] = str(links)
    await daemon.start()
    headers = {"Authorization": f"Bearer {inbound['FORWARDER_INBOUND_KEYS']}"}

    async def post(kind: str, numbers: range) -> None:
        for number in numbers:
            call = {"type": kind, "userId": f"u-{number % 9}", "messageId": f"{kind}-{number}", "traits": {"n": number}}
            if kind == "track":
                call["event"] = "Order Completed"
            async with http.post(f"{daemon.url}/inbound/rudderstack", data=json.dumps(call), headers=headers) as answer:
                assert answer.status == 202

    await post("track", range(60))
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["dead"] == 60)
    assert await operate(http, daemon, "/api/replay", {"sequences": list(range(1, 61))}) == 60
    for number in range(20):
        await post("identify", range(number, number + 1))
        assert await state_of(http, daemon, INBOUND) == "running"
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0)
    assert (totals["delivered"], totals["dead"]) == (20, 60)
    async with http.get(f"{daemon.operator_url}/api/status") as answer:
        (route,) = [one for one in (await answer.json())["routes"] if one["name"] == INBOUND]
    assert (route["stops"], route["oldest_age_s"]) == ([], None)


async def test_a_hold_is_told_to_people(
    make_daemon: MakeDaemon,
    plane: DataPlane,
    courier: CourierApi,
    inbound: dict[str, str],
    outbound: dict[str, str],
) -> None:
    """A wrong write key is told at the address and through Courier, which fails at first; no log knows the address."""
    posted: list[Asked] = []
    sent: list[Asked] = []

    async def take(asked: Asked) -> Said:
        posted.append(asked)
        return Said(status=200, body=b"")

    people = Listener(take, Script())
    await people.listen()
    plane.script.behave(WRONG_KEY)
    courier.script.once(UNAVAILABLE)
    courier.on_request = sent.append
    alerts = {
        "FORWARDER_ALERT_URL": f"{people.url}/hush-4711",
        "FORWARDER_ALERT_TEMPLATE": "ALERT",
        "FORWARDER_ALERT_TO": "ops",
    }
    daemon = make_daemon(outbound | inbound | alerts)
    try:
        await daemon.start()
        async with aiohttp.ClientSession() as http:
            await post_events(http, daemon, outbound["FORWARDER_EVENTS_KEY"], range(3))
        assert await people.wait_for_requests(1, timeout_s=60)
        assert await courier.wait_for_requests(2, timeout_s=60)
    finally:
        await daemon.stop()
        await people.refuse()
    assert (posted[0].path, json.loads(posted[0].body)["began"][0]["kind"]) == ("/hush-4711", "hold")
    message = json.loads(sent[-1].body)["message"]
    assert (message["template"], message["to"], message["data"]["began"][0]["kind"]) == (
        "ALERT",
        {"user_id": "ops"},
        "hold",
    )
    assert daemon.marks_in_logs(("hush-4711",)) == []
