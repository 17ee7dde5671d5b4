"""Relay mode, and events that go round in a circle: the guard stops them, counts them and says why."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.demo.signing import signed
from forwarder.demo.workflow import Workflow
from forwarder.model import RouteName
from stand_ins.behaviour import HangsUp
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane
from stand_ins.listener import Asked
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
OUTBOUND = RouteName.COURIER_TO_RUDDERSTACK.value
# A link that would keep the circle turning: every message that is sent would start the next one.
CIRCLE_TOML = '[[link]]\nevent = "Message Sent"\ntarget = "follow-up"\n'
ENDPOINTS = ("/inbound/rudderstack", "/inbound/segment", "/v1/batch")

MakeDaemon = Callable[[dict[str, str]], DaemonProcess]
Json = dict[str, Any]


@pytest.fixture
def both_ways(inbound: dict[str, str], outbound: dict[str, str]) -> dict[str, str]:
    """The variables of both routes."""
    return inbound | outbound


async def post(http: aiohttp.ClientSession, daemon: DaemonProcess, endpoint: str, event: Json) -> int:
    """Post an event as this endpoint's senders do; return the status."""
    key = daemon.settings["FORWARDER_INBOUND_KEYS"]
    body = json.dumps({"batch": [event]} if endpoint == "/v1/batch" else event)
    async with http.post(f"{daemon.url}{endpoint}", data=body, headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status


async def exported(
    http: aiohttp.ClientSession, daemon: DaemonProcess, plane: DataPlane, *, messages: int, seed: int
) -> list[Json]:
    """Have Courier send so many messages; return what the daemon exported of them to the data plane."""
    before, workflow = plane.stored, Workflow(seed=seed)
    for _ in range(messages):
        now_ms = time.time_ns() // 1_000_000
        event = workflow.sample("SENT", now_ms)
        headers = signed(event.body, daemon.settings["COURIER_WEBHOOK_SECRET"], now_ms)
        async with http.post(f"{daemon.url}/webhooks/courier", data=event.body, headers=headers) as response:
            assert response.status == 200
    assert await plane.wait_for(before + messages, timeout_s=60)
    return [dict(event) for event in list(plane.events)[before:]]


def with_links(daemon: DaemonProcess, text: str) -> DaemonProcess:
    """Give the daemon a file of links."""
    links = daemon.folder / "links.toml"
    links.write_text(text)
    daemon.settings["FORWARDER_LINKS"] = str(links)
    return daemon


async def test_our_own_events_that_come_back_start_nothing(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    courier: CourierApi,
    both_ways: dict[str, str],
) -> None:
    """What the daemon exported, posted back to any inbound endpoint, is filtered, counted and explained."""
    daemon = with_links(make_daemon(both_ways), CIRCLE_TOML)
    await daemon.start()
    events = await exported(http, daemon, plane, messages=3, seed=51)

    # Outbound drops nothing; it marks, and asks RudderStack to keep the event from its own Courier destination.
    assert all(event["context"]["integration"]["name"] == "Courier" for event in events)
    assert all(event["integrations"]["Courier"] is False for event in events)
    for endpoint, event in zip(ENDPOINTS, events, strict=True):
        assert await post(http, daemon, endpoint, event) in {200, 202}
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["accepted"] == 3 and totals["pending"] == 0)

    assert (totals["filtered"], courier.requests) == (3, 0)
    stopped = 0.0
    for one in daemon.replicas:
        async with http.get(f"{one.operator_url}/metrics") as response:
            rows = (await response.text()).splitlines()
        stopped += sum(float(row.split()[1]) for row in rows if row.startswith("forwarder_loops_stopped_total "))
    assert stopped == 3
    shown = {"route": INBOUND, "state": "filtered"}
    async with http.get(f"{daemon.operator_url}/api/events", params=shown) as response:
        assert [row["reason"] for row in (await response.json())["events"]] == [
            "loop guard: marked as Courier's own event"
        ] * 3
    assert daemon.logs().count('"loop.stopped"') >= 1


async def test_a_circle_turns_once(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    courier: CourierApi,
    both_ways: dict[str, str],
) -> None:
    """A customer's event starts an automation; the status of the message it sends, even unmarked, starts none."""
    daemon = with_links(make_daemon(both_ways), CIRCLE_TOML)
    await daemon.start()
    # A customer's own event of the very name of Courier's passes.
    mine = {"type": "track", "event": "Message Sent", "userId": "customer-01", "messageId": "m-1", "properties": {}}
    assert await post(http, daemon, ENDPOINTS[0], mine) == 202
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 1)
    assert [effect.params["template"] for effect in courier.state.effects_of("customer-01")] == ["follow-up"]
    (event,) = await exported(http, daemon, plane, messages=1, seed=52)
    unmarked = {
        **event,
        "messageId": "m-2",
        "integrations": {},
        "context": {name: value for name, value in event["context"].items() if name != "integration"},
    }

    # As marked, and as a transformation or Courier's own export would have it.
    assert await post(http, daemon, ENDPOINTS[0], event) == 202
    assert await post(http, daemon, ENDPOINTS[1], unmarked) == 202
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["accepted"] == 3 and totals["pending"] == 0)

    assert (totals["delivered"], totals["filtered"]) == (1, 2)
    assert courier.state.effect_count == 1


async def test_without_the_guard_the_circle_would_turn(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    courier: CourierApi,
    both_ways: dict[str, str],
) -> None:
    """The check would see a loop: with the guard switched off the exported event does start the automation."""
    daemon = with_links(make_daemon(both_ways), f"loop_guard = false\n{CIRCLE_TOML}")
    await daemon.start()
    (event,) = await exported(http, daemon, plane, messages=1, seed=53)

    assert await post(http, daemon, ENDPOINTS[0], {**event, "integrations": {}}) == 202
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["accepted"] == 1 and totals["pending"] == 0)

    assert (totals["delivered"], courier.state.effect_count) == (1, 1)


async def test_relay_hands_on_what_the_destinations_would_have_posted(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    courier: CourierApi,
    inbound: dict[str, str],
    vectors: Path,
) -> None:
    """In relay mode each sample of RudderStack's and Segment's destinations reaches Courier's receiver as it came."""
    daemon = make_daemon(inbound | {"FORWARDER_INBOUND_MODE": "relay"})
    await daemon.start()
    relayed: dict[str, tuple[str, Json]] = {}

    def record(asked: Asked) -> None:
        body = json.loads(asked.body)
        relayed[body.get("messageId", "")] = (asked.path, body)

    courier.on_request = record
    endpoints = {"courier_destination": "/inbound/rudderstack", "segment_action": "/inbound/segment"}
    expected: dict[str, tuple[str, Json]] = {}
    for case in json.loads((vectors / "rudderstack_events.json").read_text()):
        event, endpoint = case["body"], endpoints.get(case["transport"])
        if endpoint is None:
            continue
        assert await post(http, daemon, endpoint, event) == 202
        is_call = str(event.get("type")).lower() in {"identify", "track", "group"}
        has_ids = event.get("messageId") and (event.get("userId") or event.get("anonymousId"))
        if has_ids and is_call and not re.match("loop|segment_loop|segment_engage", case["name"]):
            expected[event["messageId"]] = (endpoint, event)
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0)

    missing = {message_id: call for message_id, call in expected.items() if relayed.get(message_id) != call}
    assert missing == {}
    assert len(expected) > 20


async def test_a_relayed_event_that_courier_has_is_done(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, courier: CourierApi, inbound: dict[str, str]
) -> None:
    """Courier's 409 means that it has the event: delivered. So does an answer that was lost; nothing arrives twice."""
    daemon = make_daemon(inbound | {"FORWARDER_INBOUND_MODE": "relay"})
    await daemon.start()
    key = {"Authorization": f"Bearer {inbound['COURIER_API_KEY']}"}
    events = [
        {"type": "track", "event": "Order Completed", "userId": "customer-01", "messageId": f"m-{n}"} for n in range(4)
    ]
    async with http.post(f"{courier.url}/inbound/rudderstack", json=events[0], headers=key) as response:
        assert response.status == 202  # somebody handed it on before

    for event in events[:2]:
        assert await post(http, daemon, "/inbound/rudderstack", event) == 202
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 2)
    assert [status for _, _, status in courier.answers] == [202, 409, 202]
    courier.script.once(HangsUp(takes_effect=True), HangsUp())
    for event in events[2:]:
        assert await post(http, daemon, "/v1/batch", event) == 200
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 4)

    assert (totals["dead"], totals["pending"]) == (0, 0)
    assert [effect.body["messageId"] for effect in courier.state.effects] == [f"m-{n}" for n in range(4)]


async def test_relay_leaves_out_what_courier_has_no_use_for(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, courier: CourierApi, inbound: dict[str, str]
) -> None:
    """Page, screen and alias calls and events that their sender kept from Courier are filtered in relay mode too."""
    daemon = make_daemon(inbound | {"FORWARDER_INBOUND_MODE": "relay"})
    await daemon.start()
    call = {"userId": "customer-01", "event": "Order Completed"}
    for n, kind in enumerate(("page", "screen", "alias")):
        assert await post(http, daemon, "/v1/batch", call | {"type": kind, "messageId": f"m-{n}"}) == 200
    kept = call | {"type": "track", "messageId": "m-3", "integrations": {"All": True, "Courier": False}}
    assert await post(http, daemon, "/inbound/segment", kept) == 202

    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["accepted"] == 4 and totals["pending"] == 0)
    assert (totals["filtered"], courier.requests) == (4, 0)
