"""What RudderStack and Segment send, posted over HTTP, becomes exactly the Courier calls that are documented for it."""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.model import RouteName
from stand_ins.courier_api import CourierApi
from stand_ins.listener import Asked
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
LINKS_TOML = """
[segment]
sync_lists = true
[[link]]
event = "Order Shipped"
target = "order-shipped"
[[link]]
event = "Order Completed"
target = "order-completed"
[[link]]
event = "Order Completed"
target = "win-back"
to = "journey"
[[link]]
event = "user-checkout"
target = "checkout"
[[link]]
event = "App Opened"
target = "active-users"
to = "list"
[[link]]
event = "Message Sent"
target = "chat"
[[link]]
event = "Release Published"
target = "RELEASE"
to = "template"
[[link]]
event = "注文 完了 ✅ / Über"
target = "THANKS"
to = "template"
[[link]]
type = "identify"
event = "identify"
target = "welcome"
source = "segment"
[[link]]
type = "group"
event = "group"
target = "joined"
"""

Call = tuple[str, Any]  # method and path as on the wire, body


class Post:
    """One sample as its sender posts it: endpoint, headers and bytes, and the events in it."""

    def __init__(self, case: dict[str, Any], key: str) -> None:
        body, transport = case["body"], case["transport"]
        self.name: str = case["name"]
        self.path = "/inbound/segment" if transport == "segment_action" else "/inbound/rudderstack"
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self.body = json.dumps(body, ensure_ascii=False).encode()
        self.events = body if isinstance(body, list) else [body]
        if transport.startswith("v1_"):
            self.path = case["note"].removeprefix("POST ").split()[0].rstrip(".,:") if transport == "v1_single" else ""
            self.path = self.path or "/v1/batch"
            self.headers["Authorization"] = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
            self.headers["Content-Encoding"] = "gzip"
            self.body = zlib.compress(self.body, wbits=31)
        if transport == "v1_batch":
            batch = body.get("batch", [])
            self.events = batch if isinstance(batch, list) else [batch]
        self.events = [event for event in self.events if isinstance(event, dict)]


def sent(wanted: list[Any]) -> Call:
    """Return a planned call as it must go over the wire: a tenant, which is new here, by its whole new content."""
    family, operation, body = wanted
    if family == "tenants" and operation.startswith("PUT /tenants/"):
        names = {"PUT /tenants/gr%C3%B6%C3%9Fe%2F%C3%A4%201": "größe/ä 1"}
        tenant_id = names.get(operation, operation.removeprefix("PUT /tenants/"))
        body = {"name": body.get("name", tenant_id)} | (
            {"properties": body["properties"]} if body["properties"] else {}
        )
    return operation, body


def recorder(calls: list[Call]) -> Callable[[Asked], None]:
    """Return what writes every change that is asked for into the list; reading a tenant changes nothing."""

    def record(asked: Asked) -> None:
        if asked.method != "GET":
            calls.append((f"{asked.method} {asked.path}", json.loads(asked.body) if asked.body else None))

    return record


def states(expected: list[dict[str, Any]]) -> dict[str, int]:
    """Return in which states the events must end."""
    return dict(Counter("delivered" if "calls" in outcome else next(iter(outcome)) for outcome in expected))


def identity(event: dict[str, Any]) -> str:
    """Return what a resend of the event shares with it, "" for one without messageId: none of those is sent twice."""
    message_id = event.get("messageId")
    if not isinstance(message_id, str) or not message_id.strip():
        return ""
    names = ("type", "event", "userId", "anonymousId", "groupId", "properties", "traits")
    return json.dumps([message_id.strip(), *(event.get(name) for name in names)], sort_keys=True)


def fresh(
    post: Post, expected: list[dict[str, Any]], known: set[str]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the events that were not posted before, each with what it must become; the samples share some."""
    for event, outcome in zip(post.events, expected, strict=True):
        if not (same := identity(event)) or same not in known:
            known.add(same)
            yield event, outcome


async def test_every_sample_becomes_the_documented_calls(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    courier: CourierApi,
    inbound: dict[str, str],
    vectors: Path,
) -> None:
    """From all six transports each event is taken and makes exactly its calls, once and in order."""
    cases = json.loads((vectors / "rudderstack_events.json").read_text())
    wanted = json.loads((vectors.parent / "mapping_inbound" / "expected_calls.json").read_text())
    daemon = make_daemon(inbound)
    links = daemon.folder / "links.toml"
    links.write_text(LINKS_TOML)
    daemon.settings["FORWARDER_LINKS"] = str(links)
    await daemon.start()
    calls: list[Call] = []
    courier.on_request = recorder(calls)
    known: set[str] = set()
    ended: Counter[str] = Counter()

    for case in cases:
        post = Post(case, inbound["FORWARDER_INBOUND_KEYS"])
        events = list(fresh(post, wanted[post.name], known))
        expected = [outcome for _, outcome in events]
        ended.update(states(expected))
        calls.clear()
        courier.state.tenants.clear()  # each sample meets a Courier that has no tenant yet
        async with http.post(f"{daemon.url}{post.path}", data=post.body, headers=post.headers) as response:
            assert response.status in ({200, 202} if post.events else {200, 202, 400}), (post.name, response.status)
        await daemon.wait_for_totals(
            INBOUND,
            lambda totals: totals["pending"] == 0 and totals["accepted"] == ended.total(),
        )
        made = [sent(call) for outcome in expected for call in outcome.get("calls", ())]
        if len({event.get("userId") for event, _ in events}) > 1:  # no order is promised between users
            assert sorted(map(str, calls)) == sorted(map(str, made)), post.name
        else:
            assert calls == made, post.name

    assert (await daemon.totals(INBOUND)) == {
        "accepted": ended.total(),
        "pending": 0,
        "delivered": ended["delivered"],
        "filtered": ended["filtered"],
        "unmapped": ended["unmapped"],
        "dead": ended["dead"],
    }
    assert {status for _, path, status in courier.answers if not path.startswith("/tenants/")} <= {200, 202, 204}
