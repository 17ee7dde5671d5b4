"""Events that are JSON and yet no good: each ends in a state that people can see, and harms no neighbour."""

import time
from collections.abc import Callable

import aiohttp
import pytest

from forwarder.demo.signing import signed
from forwarder.model import RouteName
from stand_ins.data_plane import DataPlane
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

# name, the value of a field, and how an event with it ends
VALUES = (
    ("deep-199", b'{"a":' * 190 + b"1" + b"}" * 190, "delivered"),
    ("deep-300", b'{"a":' * 300 + b"1" + b"}" * 300, "dead"),
    ("deep-100000", b"[" * 100_000 + b"]" * 100_000, "dead"),
    ("beyond-a-double", b"1e400", "dead"),
    ("five-thousand-digits", b"9" * 5_000, "dead"),
    ("twenty-digits", b"12345678901234567890", "delivered"),
    ("lone-surrogate", b'"\\ud800"', "delivered"),
    ("lone-surrogate-as-a-key", b'{"\\udc00":1}', "delivered"),
    ("duplicate-keys", b'{"a":1,"a":2}', "delivered"),
    ("nul", b'"\\u0000"', "delivered"),
)


async def test_each_ends_delivered_or_dead_with_a_reason(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    plane: DataPlane,
    outbound: dict[str, str],
    inbound: dict[str, str],
) -> None:
    """On both routes and through every kind of endpoint; nothing stays pending, nothing is lost behind a 2xx."""
    daemon = make_daemon(outbound | inbound)
    await daemon.start()
    bus = {"Authorization": f"Bearer {outbound['FORWARDER_EVENTS_KEY']}"}
    source = {"Authorization": f"Bearer {inbound['FORWARDER_INBOUND_KEYS']}"}
    wanted: dict[str, str] = {}

    async def post(path: str, body: bytes, headers: dict[str, str]) -> None:
        async with http.post(f"{daemon.url}{path}", data=body, headers=headers) as response:
            assert response.status in {200, 202}, (path, body[:80])

    for name, value, state in VALUES:
        for endpoint in ("webhooks/courier", "events"):
            body = b'{"type":"message:updated","data":{"id":"%b","status":"SENT","recipient":"r","x":%b}}' % (
                f"{name} {endpoint}".encode(),
                value,
            )
            headers = bus
            if endpoint != "events":
                headers = signed(body, outbound["COURIER_WEBHOOK_SECRET"], time.time_ns() // 1_000_000)
            await post(f"/{endpoint}", body, headers)
            wanted[f"{name} {endpoint}"] = state
        for endpoint in ("inbound/rudderstack", "inbound/segment", "v1/identify", "v1/batch"):
            call = b'{"type":"identify","userId":"u","messageId":"%b","traits":{"x":%b}}' % (
                f"{name} {endpoint}".encode(),
                value,
            )
            neighbour = b'{"type":"identify","userId":"n","messageId":"%b"}' % f"beside {name}".encode()
            body = b'{"batch":[%b,%b]}' % (call, neighbour) if endpoint == "v1/batch" else call
            await post(f"/{endpoint}", body, source)
            wanted[f"{name} {endpoint}"] = state
        wanted[f"beside {name}"] = "delivered"

    for route in RouteName:
        await daemon.wait_for_totals(route.value, lambda totals: totals["pending"] == 0)
    async with http.get(f"{daemon.operator_url}/api/events", params={"limit": "500"}) as response:
        events = (await response.json())["events"]
    found = {event["message_id"]: event["state"] for event in events if event["message_id"]}
    assert {name: state for name, state in found.items() if wanted[name] != state} == {}
    # What cannot be read has no label to be found by; it is counted, and has its reason.
    unread = [event for event in events if not event["message_id"]]
    assert len(found) + len(unread) == len(wanted)
    assert all(event["state"] == "dead" for event in unread)
    assert all(event["reason"] for event in events if event["state"] == "dead")
    assert (plane.vanished, plane.is_wedged) == ([], False)
