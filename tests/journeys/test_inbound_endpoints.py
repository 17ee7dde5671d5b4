"""Who may come in from RudderStack and Segment, and what the others are told, by the real process over real HTTP."""

import asyncio
import base64
import hashlib
import hmac
import json
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from forwarder.model import RouteName
from stand_ins.behaviour import Hangs
from stand_ins.courier_api import CourierApi
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
OLD_KEY, NEW_KEY, STRANGE_KEY = "inbound-key-of-last-year", "inbound-key-of-this-year", "inbound-key-of-somebody"
ENDPOINTS = ("/inbound/rudderstack", "/inbound/segment")
SDK_ENDPOINTS = (
    "/v1/batch",
    "/v1/import",
    *(f"/v1/{kind}" for kind in ("identify", "track", "group", "page", "screen")),
)

SUCCESS = '{"success":true}'

MakeDaemon = Callable[[dict[str, str]], DaemonProcess]
Answer = tuple[int, str, str]  # status, Retry-After, body


def bearer(key: str) -> dict[str, str]:
    """Return the headers of RudderStack's Courier destination."""
    return {"Authorization": f"Bearer {key}"}


def basic(key: str) -> dict[str, str]:
    """Return the headers of an SDK: the key as user, no password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


def signed(key: str, body: bytes) -> dict[str, str]:
    """Return the headers of Segment's webhook destinations: hex HMAC-SHA1 of the raw body."""
    return {"x-signature": hmac.new(key.encode(), body, hashlib.sha1).hexdigest()}


def event_of(number: int) -> bytes:
    """Return an identify of a user of its own."""
    call = {"type": "identify", "userId": f"customer-0{number}", "messageId": f"m-{number}", "traits": {"n": number}}
    return json.dumps(call).encode()


class Sender:
    """Posts to the daemon of the test."""

    def __init__(self, http: aiohttp.ClientSession, daemon: DaemonProcess) -> None:
        self._http = http
        self._daemon = daemon

    async def post(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Post once and return what was said."""
        async with self._http.post(f"{self._daemon.url}{path}", data=body, headers=headers) as response:
            return response.status, response.headers.get("Retry-After", ""), await response.text()

    async def metric(self, name: str, **labels: str) -> float:
        """Return a counter's value at this moment; 0 where it was never counted."""
        shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
        line = f"{name}{{{shown}}}" if shown else name
        counted = 0.0
        for one in self._daemon.replicas:
            async with self._http.get(f"{one.operator_url}/metrics", raise_for_status=True) as response:
                rows = (await response.text()).splitlines()
            counted += next((float(row.rpartition(" ")[2]) for row in rows if row.startswith(line)), 0.0)
        return counted


async def test_only_known_senders_come_in_and_none_is_lost_to_a_rotation(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, courier: CourierApi, inbound: dict[str, str]
) -> None:
    """Both keys of a rotation open every endpoint; a key that may be right tomorrow gets 429, no key at all 401."""
    daemon = make_daemon(inbound | {"FORWARDER_INBOUND_KEYS": f"{NEW_KEY},{OLD_KEY}"})
    await daemon.start()
    sender, n = Sender(http, daemon), 0

    for endpoint in ENDPOINTS:
        for headers in (bearer(NEW_KEY), bearer(OLD_KEY), basic(NEW_KEY), basic(OLD_KEY)):
            status, _, body = await sender.post(endpoint, headers, event_of(n := n + 1))
            assert (status, json.loads(body)) == (202, {"messageId": f"m-{n}"}), (endpoint, headers)
        assert (await sender.post(endpoint, bearer(STRANGE_KEY), event_of(0)))[:2] == (429, "60")
        assert (await sender.post(endpoint, basic(STRANGE_KEY), event_of(0)))[:2] == (429, "60")
        for headers in ({}, {"Authorization": "Digest x"}, {"Authorization": "Bearer"}, {"Authorization": "Basic %"}):
            assert (await sender.post(endpoint, headers, event_of(0)))[0] == 401, (endpoint, headers)
    for key in (NEW_KEY, OLD_KEY):
        body_of_key = event_of(n := n + 1)
        assert (await sender.post(ENDPOINTS[1], signed(key, body_of_key), body_of_key))[0] == 202
    assert (await sender.post(ENDPOINTS[1], signed(STRANGE_KEY, event_of(0)), event_of(0)))[:2] == (429, "60")
    assert (await sender.post(ENDPOINTS[1], {"x-signature": "none"}, event_of(0)))[0] == 401
    assert (await sender.post(ENDPOINTS[0], signed(NEW_KEY, event_of(0)), event_of(0)))[0] == 401

    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0)
    assert (totals["accepted"], totals["delivered"]) == (n, n)
    assert len(courier.state.profiles) == n
    rejected = "forwarder_rejected_total"
    assert await sender.metric(rejected, endpoint="/inbound/segment", reason="key_unknown") == 2
    assert await sender.metric(rejected, endpoint="/inbound/segment", reason="signature_mismatch") == 1
    assert daemon.marks_in_logs((OLD_KEY, NEW_KEY, STRANGE_KEY)) == []


async def test_a_key_rotated_at_the_sender_first_costs_nothing(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, courier: CourierApi, inbound: dict[str, str]
) -> None:
    """What a sender with next year's key was told to send again is taken once the daemon knows that key too."""
    daemon = make_daemon(inbound | {"FORWARDER_INBOUND_KEYS": OLD_KEY})
    await daemon.start()
    sender = Sender(http, daemon)
    answers = [await sender.post(ENDPOINTS[n % 2], bearer(NEW_KEY), event_of(n)) for n in range(6)]
    assert [answer[:2] for answer in answers] == [(429, "60")] * 6
    assert await daemon.stop() == 0
    daemon.settings["FORWARDER_INBOUND_KEYS"] = f"{OLD_KEY},{NEW_KEY}"
    await daemon.start()

    assert [(await sender.post(ENDPOINTS[n % 2], bearer(NEW_KEY), event_of(n)))[0] for n in range(6)] == [202] * 6
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 6)
    assert len(courier.state.profiles) == 6


async def test_sdk_endpoints_answer_as_the_gateway_does(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, inbound: dict[str, str]
) -> None:
    """An SDK hears the gateway's words as plain text, 401 for any wrong key, and a 200 that its family understands."""
    daemon = make_daemon(inbound)
    await daemon.start()
    sender, key = Sender(http, daemon), inbound["FORWARDER_INBOUND_KEYS"]

    for n, endpoint in enumerate(SDK_ENDPOINTS):
        one = event_of(100 + n)
        body = b'{"batch":[' + one + b"]}" if endpoint in SDK_ENDPOINTS[:2] else one
        assert await sender.post(endpoint, basic(key), body) == (200, "", SUCCESS), endpoint
        packed = zlib.compress(body, wbits=31)
        gzip = {"Content-Encoding": "gzip"}
        ours = {"User-Agent": "RudderLabs"}
        assert await sender.post(endpoint + "/", basic(key) | gzip | ours, packed) == (200, "", "ok"), endpoint
        assert (await sender.post(endpoint, basic(key) | {"Content-Encoding": "br"}, packed))[0] == 415
        assert (await sender.post(endpoint, basic(key) | gzip, b"not gzip"))[0] == 503
        for headers in ({}, basic(STRANGE_KEY), bearer(STRANGE_KEY), {"Authorization": "Basic ?"}):
            status, _, text = await sender.post(endpoint, headers, body)
            assert (status, text.startswith("{")) == (401, False), (endpoint, headers)
        status, _, text = await sender.post(endpoint, basic(key), body[:-1])
        assert (status, text.strip()) == (400, "invalid json"), endpoint
    async with http.post(f"{daemon.url}/v1/track", data=event_of(1), headers=basic(key)) as response:
        assert response.content_type == "application/json"
    async with http.post(f"{daemon.url}/v1/track", data=b"{", headers=basic(key)) as response:
        assert response.content_type == "text/plain"
    assert await sender.metric("forwarder_duplicates_total", route=INBOUND) == len(SDK_ENDPOINTS)


async def test_one_bad_element_never_takes_its_batch_along(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, inbound: dict[str, str]
) -> None:
    """In every form that a sender may use the good elements are taken beside bad ones, which are named."""
    daemon = make_daemon(inbound)
    await daemon.start()
    sender, key = Sender(http, daemon), inbound["FORWARDER_INBOUND_KEYS"]
    mixed = b"[" + b",".join((event_of(1), b"7", event_of(2), b'{"no":"type"}')) + b"]"

    status, _, body = await sender.post(ENDPOINTS[0], bearer(key), mixed)
    assert (status, json.loads(body)["refused"]) == (202, [1])
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0)
    assert (totals["accepted"], totals["delivered"], totals["dead"]) == (3, 2, 1)
    assert await sender.post("/v1/batch", basic(key), b'{"batch":' + mixed + b"}") == (200, "", SUCCESS)
    assert (await sender.post(ENDPOINTS[1], bearer(key), b"[7, null]"))[0] == 400
    assert (await sender.post(ENDPOINTS[1], bearer(key), b"{"))[0] == 400
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0)
    assert (totals["delivered"], totals["dead"]) == (2, 2)  # without id and time the last one is always new


async def test_a_route_that_is_off_asks_to_come_back(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, inbound: dict[str, str], outbound: dict[str, str]
) -> None:
    """While the inbound route is off its endpoints say 429, so that RudderStack keeps events; the others say 503."""
    daemon = make_daemon(outbound)
    await daemon.start()
    sender, key = Sender(http, daemon), inbound["FORWARDER_INBOUND_KEYS"]
    for endpoint in (*ENDPOINTS, *SDK_ENDPOINTS):
        status, retry_after, _ = await sender.post(endpoint, basic(key), event_of(1))
        assert (status, retry_after.isdigit()) == (429, True), endpoint
    assert await daemon.stop() == 0

    other = make_daemon(inbound)
    await other.start()
    sender = Sender(http, other)
    for endpoint in ("/webhooks/courier", "/events"):
        status, retry_after, _ = await sender.post(endpoint, bearer(key), b"{}")
        assert (status, retry_after.isdigit()) == (503, True), endpoint


async def test_a_full_spool_asks_to_come_back(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, inbound: dict[str, str]
) -> None:
    """With no room for another event every inbound endpoint says 429 with Retry-After, and the daemon stays ready."""
    daemon = make_daemon(inbound | {"FORWARDER_SPOOL_BYTES_MAX": "1"})
    await daemon.start()
    sender, key = Sender(http, daemon), inbound["FORWARDER_INBOUND_KEYS"]

    for endpoint in (*ENDPOINTS, "/v1/identify"):
        status, retry_after, _ = await sender.post(endpoint, basic(key), event_of(1))
        assert (status, retry_after.isdigit()) == (429, True), endpoint
    async with http.get(f"{daemon.url}/readyz") as response:
        assert response.status == 200
    assert (await daemon.totals(INBOUND))["accepted"] == 0


async def test_nothing_is_lost_to_a_stop(
    make_daemon: MakeDaemon, http: aiohttp.ClientSession, courier: CourierApi, inbound: dict[str, str]
) -> None:
    """While it drains nobody is told yes or never; what was in flight is kept and done after the restart."""
    daemon = make_daemon(inbound | {"FORWARDER_DRAIN_MAX_S": "1"})
    await daemon.start()
    sender, key = Sender(http, daemon), inbound["FORWARDER_INBOUND_KEYS"]
    courier.script.behave(Hangs())
    assert (await sender.post(ENDPOINTS[0], bearer(key), event_of(1)))[0] == 202
    assert await courier.wait_for_requests(1, timeout_s=60)

    stopping = asyncio.create_task(daemon.stop())
    said: set[Any] = set()
    async with asyncio.timeout(60):
        while not stopping.done():
            try:
                said.add((await sender.post(ENDPOINTS[1], bearer(key), event_of(2)))[0])
            except aiohttp.ClientError:
                said.add("closed")
            await asyncio.sleep(0.05)

    assert await stopping == 0
    assert said - {202} <= {503, "closed"}
    assert said - {202}
    courier.script.heal()
    await daemon.start()
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0)
    assert totals["delivered"] == totals["accepted"] == len(courier.state.profiles) == 1 + (202 in said)
