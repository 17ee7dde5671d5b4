"""SDKs that no package registry of CI's has: what they put on the wire, as their sources say or as they were seen to.

Each is told by its transport: path, where the write key is, packing, what the body holds beside the events, and what
the SDK needs of the answer. docs/links.md lists them with their versions.
"""

import base64
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from forwarder.model import RouteName
from stand_ins.courier_api import CourierApi
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
SENT_AT = "2026-11-28T20:50:17.144Z"
JSON_UTF8, TEXT = "application/json; charset=utf-8", "text/plain"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One SDK's request. The key is where it says, and nowhere else."""

    sdk: str
    path: str
    is_segment: bool
    key_by: str  # "basic", "body" (after the events, as all of them have it) or "query"
    headers: dict[str, str] = field(default_factory=dict)
    library: str = ""
    channel: str = ""  # RudderStack's events have one, and those of Segment's first Android SDK
    is_packed: bool = False
    is_chunked: bool = False
    waits_for_100: bool = False
    is_batch: bool = True

    def body(self, key: str) -> bytes:
        """Return two events of one user, or a lone one, as this SDK frames them."""
        user = self.user
        common: Json = {"context": {"library": {"name": self.library, "version": "1"}}, "timestamp": SENT_AT}
        common["channel" if self.channel else "integrations"] = self.channel or {}
        events: list[Json] = [
            {"type": "identify", "messageId": f"{user}-1", "userId": user, "traits": {"plan": "pro"}, **common},
            {
                "type": "track",
                "messageId": f"{user}-2",
                "userId": user,
                "event": "Cart Seen",
                "properties": {},
                **common,
            },
        ]
        if not self.is_batch:
            return json.dumps(events[0] | ({"writeKey": key} if self.key_by == "body" else {})).encode()
        batch: Json = {"batch": events, "sentAt": SENT_AT}
        return json.dumps(batch | ({"writeKey": key} if self.key_by == "body" else {})).encode()

    @property
    def events(self) -> int:
        """Return how many events a request holds."""
        return 2 if self.is_batch else 1

    @property
    def user(self) -> str:
        """Return whom its events are about."""
        return f"user-0-{self.sdk}"


def rudder(sdk: str, *, path: str = "/v1/batch", key_by: str = "basic", channel: str = "mobile", **other: Any) -> Shape:
    """Return what an SDK of RudderStack's sends."""
    return Shape(sdk=sdk, path=path, is_segment=False, key_by=key_by, channel=channel, **other)


def segment(sdk: str, *, path: str = "/v1/b", key_by: str = "body", **other: Any) -> Shape:
    """Return what an SDK of Segment's sends."""
    return Shape(sdk=sdk, path=path, is_segment=True, key_by=key_by, **other)


ANONYMOUS = {"AnonymousId": base64.b64encode(b"device-1").decode()}
APP_JSON = {"Content-Type": "application/json"}
SHAPES = (
    rudder("rudder-kotlin", headers=APP_JSON | ANONYMOUS, is_packed=True, is_chunked=True),
    rudder("rudder-swift", headers=APP_JSON | ANONYMOUS, is_packed=True),
    rudder("rudder-android", headers=APP_JSON | ANONYMOUS, is_packed=True),
    rudder("rudder-ios", headers=APP_JSON | ANONYMOUS),
    rudder("rudder-flutter", headers=APP_JSON | ANONYMOUS | {"User-Agent": "Dalvik/2.1.0"}),  # wraps the two above
    rudder("rudder-react-native", headers=APP_JSON | ANONYMOUS | {"User-Agent": "Dalvik/2.1.0"}, is_packed=True),
    rudder("rudder-ruby", headers=APP_JSON | {"User-Agent": "Ruby"}, channel="server", is_packed=True),
    rudder("rudder-ruby-plain", headers=APP_JSON | {"User-Agent": "Ruby"}, channel="server"),
    rudder("rudder-php", headers=APP_JSON, channel="server", is_packed=True, waits_for_100=True),
    rudder("rudder-dotnet", headers={"Content-Type": JSON_UTF8}, channel="server", is_packed=True),
    rudder("rudder-rust", path="/v1/identify", headers=APP_JSON, channel="server", is_batch=False),
    rudder("rudder-rust-batch", headers=APP_JSON, channel="server"),
    rudder("rudder-beacon", path="/beacon/v1/batch", key_by="query", channel="web", headers={"Content-Type": TEXT}),
    segment("segment-swift", headers={"Content-Type": JSON_UTF8, "User-Agent": "analytics-ios/1.10.0"}),
    segment("segment-kotlin", headers={"Content-Type": TEXT}, is_packed=True, is_chunked=True),
    segment("segment-react-native", headers={"Content-Type": JSON_UTF8, "X-Retry-Count": "1"}),
    segment("segment-flutter", headers={"Content-Type": JSON_UTF8, "User-Agent": "analytics-flutter/1.1.10"}),
    segment("segment-csharp", headers={"Accept": TEXT, "Connection": "close"}, is_packed=True),  # no Content-Type
    segment("segment-android", path="/v1/import", channel="mobile", headers=APP_JSON, is_packed=True, is_chunked=True),
    segment("segment-ios", path="/v1/batch", headers=APP_JSON, is_packed=True),
    segment("segment-ruby", path="/v1/import", key_by="basic", headers=APP_JSON | {"Accept": "application/json"}),
    segment("segment-php-curl", path="/v1/batch", key_by="basic", headers=APP_JSON, waits_for_100=True),
    segment("segment-php-gzip", path="/v1/batch", key_by="basic", headers=APP_JSON, is_packed=True),
    segment("segment-rust", path="/v1/identify", key_by="basic", headers=APP_JSON, is_batch=False),
    segment("segment-next-1.75-batch", headers={"Content-Type": TEXT}),
    segment("segment-bare-host", path="/b", headers={"Content-Type": TEXT}),
    segment("segment-bare-host-call", path="/i", headers={"Content-Type": TEXT}, is_batch=False),
)


def basic(key: str) -> dict[str, str]:
    """Return the header that carries a write key as user, without a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


@pytest.fixture
def post(http: aiohttp.ClientSession) -> Callable[..., Awaitable[tuple[int, str]]]:
    """Return a function that sends what a shape says with a key, and returns status and text of the answer."""

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        yield body[:100]
        yield body[100:]

    async def send(shape: Shape, url: str, key: str) -> tuple[int, str]:
        body, headers = shape.body(key), dict(shape.headers)
        if shape.is_packed:
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        if shape.key_by == "basic":
            headers |= basic(key)
        async with http.post(
            url + shape.path,
            params={"writeKey": key} if shape.key_by == "query" else None,
            data=pieces(body) if shape.is_chunked else body,
            headers=headers,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept"),
            expect100=shape.waits_for_100,
        ) as response:
            return response.status, await response.text()

    return send


async def test_what_other_sdks_put_on_the_wire_is_taken_once(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    courier: CourierApi,
    inbound: dict[str, str],
    post: Callable[..., Awaitable[tuple[int, str]]],
    duplicates: Callable[[DaemonProcess], Awaitable[int]],
) -> None:
    """Every shape is answered as its family expects, JSON to Segment's, and its events arrive once each."""
    daemon, key = make_daemon(inbound), inbound["FORWARDER_INBOUND_KEYS"]
    await daemon.start()

    answers = {shape.sdk: await post(shape, daemon.url, key) for shape in SHAPES}
    expected = sum(shape.events for shape in SHAPES)
    totals = await daemon.wait_for_totals(
        INBOUND, lambda totals: (totals["accepted"], totals["pending"]) == (expected, 0), timeout_s=30
    )

    assert answers == {shape.sdk: (200, '{"success":true}' if shape.is_segment else "ok") for shape in SHAPES}
    assert (totals["delivered"], totals["unmapped"]) == (len(SHAPES), expected - len(SHAPES))
    assert await duplicates(daemon) == 0
    assert courier.state.profiles == {shape.user: {"plan": "pro"} for shape in SHAPES}


async def test_other_sdks_with_a_wrong_key_are_told(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    inbound: dict[str, str],
    post: Callable[..., Awaitable[tuple[int, str]]],
) -> None:
    """Wherever the key is, a wrong one is a 401 in the gateway's words: they make RudderStack's mobile SDKs stop."""
    daemon = make_daemon(inbound)
    await daemon.start()

    answers = {shape.sdk: await post(shape, daemon.url, "not-a-key-of-ours") for shape in SHAPES}

    assert {sdk: answer for sdk, answer in answers.items() if answer != (401, "invalid write key\n")} == {}
    assert (await daemon.totals(INBOUND))["accepted"] == 0


@pytest.mark.parametrize(
    ("target", "by_basic"),
    [
        ("/sourceConfig?p=android&v=1.28.0&bv=34", True),
        ("/sourceConfig?p=ios&v=1.31.0", True),
        ("/sourceConfig?p=ios&v=1.3.1&writeKey=KEY", True),
        ("/sourceConfig/?p=npm&v=3.34.1&build=modern&writeKey=KEY", True),
        ("/v1/projects/KEY/settings", False),
    ],
)
async def test_settings_that_sdks_fetch_first_let_them_start_and_send_here(
    target: str,
    by_basic: bool,  # noqa: FBT001 - a column of the table
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    inbound: dict[str, str],
    http: aiohttp.ClientSession,
) -> None:
    """RudderStack's get all members that the strictest of them (Swift, Kotlin) decodes; Segment's learn this host."""
    daemon, key = make_daemon(inbound), inbound["FORWARDER_INBOUND_KEYS"]
    await daemon.start()
    headers = basic(key) if by_basic else {}

    async with http.get(daemon.url + target.replace("KEY", key), headers=headers) as response:
        assert response.status == 200
        document = await response.json()

    if by_basic:
        source = document["source"]
        assert {
            name for name in ("id", "name", "writeKey", "workspaceId", "updatedAt") if isinstance(source[name], str)
        }
        assert (source["enabled"], source["destinations"]) == (True, [])
        assert source["config"]["statsCollection"] == {"errors": {"enabled": False}, "metrics": {"enabled": False}}
    else:
        segment_io = document["integrations"]["Segment.io"]
        here = daemon.url.removeprefix("http://")
        assert (segment_io["apiKey"], segment_io["apiHost"], segment_io["protocol"]) == (key, f"{here}/v1", "http")
