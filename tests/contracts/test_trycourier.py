"""Courier's own SDK and our calls, pointed at one recording server, ask for the same things.

Import name of the SDK is `courier`, of ours `forwarder.courier`. The SDK is no dependency of the daemon.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from courier import AsyncCourier

from forwarder.clock import SystemClock
from forwarder.courier.calls import CallMaker
from forwarder.courier.client import CourierClient
from forwarder.courier.sink import CourierSink
from forwarder.courier.tenant_order import TenantOrder
from forwarder.model import Batch, Delivered
from forwarder.transport import AiohttpTransport
from stand_ins.kept_in_memory import KeptInMemory

# Ids that a careless path would mangle.
_USER = "maya.okafor+test@example.com/ä b?c#d%2F;=&,'()*!$~:"
_OTHER = "größe/ä 1"
_DATA = {"a": 1, "nested": {"b": [None, "ü"]}}
_STEPS: list[dict[str, object]] = [{"action": "cancel", "cancelation_token": "c"}]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it came over the wire."""

    method: str
    path: str
    body: object
    content_type: str
    idempotency: tuple[str | None, bool]


@dataclass(slots=True)
class RecordingServer:
    """Every request so far, and a tenant to read."""

    url: str = ""
    seen: list[Recorded] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record the request and say yes."""
        body = await request.read()
        self.seen.append(
            Recorded(
                request.method,
                request.raw_path,
                json.loads(body) if body else None,
                request.headers.get("Content-Type", "") if body else "",
                (request.headers.get("Idempotency-Key"), "x-idempotency-expiration" in request.headers),
            ),
        )
        assert request.headers["Authorization"] == "Bearer k"
        return web.json_response({"id": "t", "name": "Acme", "brand_id": "B", "runId": "1", "status": "SUCCESS"})


@pytest.fixture
async def server() -> AsyncIterator[RecordingServer]:
    """Run a recording server on loopback."""
    recording = RecordingServer()
    runner = web.ServerRunner(web.Server(recording.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    recording.url = f"http://{host}:{port}"
    yield recording
    await runner.cleanup()


async def _ours(server: RecordingServer, make: Callable[[CallMaker], None]) -> Recorded:
    calls = CallMaker(1)
    make(calls)
    (delivery,) = calls.made
    clock = SystemClock()
    async with AiohttpTransport(clock=clock) as transport:
        client = CourierClient(transport, base_url=server.url, api_key="k", clock=clock)
        sink = CourierSink(client, TenantOrder(KeptInMemory()), clock=clock)
        answer = await sink.send(Batch(deliveries=(delivery,), size_bytes=len(delivery.body)))
    assert isinstance(answer.verdict, Delivered)
    return server.seen.pop()


async def _theirs(server: RecordingServer, call: Callable[[AsyncCourier], Awaitable[object]]) -> Recorded:
    async with AsyncCourier(api_key="k", base_url=server.url, max_retries=0) as courier:
        await call(courier)
    return server.seen.pop()


_OPERATIONS: dict[str, tuple[Callable[[CallMaker], None], Callable[[AsyncCourier], Awaitable[object]]]] = {
    "merge a profile": (
        lambda calls: calls.merge_profile(_USER, {"email": "a@b.c", "address": {"locality": "Leeds"}}),
        lambda sdk: sdk.profiles.create(_USER, profile={"email": "a@b.c", "address": {"locality": "Leeds"}}),
    ),
    "merge nothing into a profile": (
        lambda calls: calls.merge_profile("u", {}),
        lambda sdk: sdk.profiles.create("u", profile={}),
    ),
    "write a tenant": (
        lambda calls: calls.write_tenant(_OTHER, name="New", properties={"plan": "pro"}),
        lambda sdk: sdk.tenants.update(_OTHER, name="New", brand_id="B", properties={"plan": "pro"}),
    ),
    "join a tenant": (
        lambda calls: calls.join_tenant(_USER, _OTHER),
        lambda sdk: sdk.users.tenants.add_single(_OTHER, user_id=_USER),
    ),
    "invoke an automation": (
        lambda calls: calls.invoke_automation(_OTHER, recipient=_USER, data=_DATA, profile={"email": "e"}, brand="B"),
        lambda sdk: sdk.automations.invoke.invoke_by_template(
            _OTHER, recipient=_USER, data=_DATA, profile={"email": "e"}, brand="B"
        ),
    ),
    "invoke an automation for nobody": (
        lambda calls: calls.invoke_automation("t", recipient=None),
        lambda sdk: sdk.automations.invoke.invoke_by_template("t", recipient=None),
    ),
    "invoke steps": (
        lambda calls: calls.invoke_steps(_STEPS, cancelation_token="c", recipient="u", data=_DATA),
        lambda sdk: sdk.automations.invoke.invoke_ad_hoc(
            automation={"steps": [{"action": "cancel", "cancelation_token": "c"}], "cancelation_token": "c"},
            recipient="u",
            data=_DATA,
        ),
    ),
    "invoke steps without a token": (
        lambda calls: calls.invoke_steps(_STEPS, cancelation_token="", recipient="u"),
        lambda sdk: sdk.automations.invoke.invoke_ad_hoc(
            automation={"steps": [{"action": "cancel", "cancelation_token": "c"}]}, recipient="u"
        ),
    ),
    "start a journey": (
        lambda calls: calls.invoke_journey(_OTHER, user_id=_USER, data=_DATA, profile={"email": "e"}),
        lambda sdk: sdk.journeys.invoke(_OTHER, user_id=_USER, data=_DATA, profile={"email": "e"}),
    ),
    "send a template": (
        lambda calls: calls.send_template("T", to={"user_id": _USER}, data=_DATA, brand_id="B"),
        lambda sdk: sdk.send.message(
            message={"to": {"user_id": _USER}, "template": "T", "data": _DATA, "brand_id": "B"},
        ),
    ),
    "send a template to a list": (
        lambda calls: calls.send_template("T", to={"list_id": "l"}, data={}),
        lambda sdk: sdk.send.message(message={"to": {"list_id": "l"}, "template": "T", "data": {}}),
    ),
    "subscribe to a list": (
        lambda calls: calls.subscribe(_USER, _OTHER),
        lambda sdk: sdk.lists.subscriptions.subscribe_user(_USER, list_id=_OTHER),
    ),
    "leave a list": (
        lambda calls: calls.unsubscribe(_USER, _OTHER),
        lambda sdk: sdk.lists.subscriptions.unsubscribe_user(_USER, list_id=_OTHER),
    ),
    "relay an event": (
        lambda calls: calls.relay("rudderstack", b'{"type":"track"}'),
        lambda sdk: sdk.post("/inbound/rudderstack", cast_to=object, body={"type": "track"}),
    ),
}


@pytest.mark.parametrize("operation", _OPERATIONS)
async def test_our_call_is_the_sdks_call(operation: str, server: RecordingServer) -> None:
    """Method, path on the wire and body of every operation are those of Courier's own SDK."""
    make, call = _OPERATIONS[operation]
    assert await _ours(server, make) == await _theirs(server, call)


async def test_idempotency_travels_as_the_sdk_sends_it(server: RecordingServer) -> None:
    """A key is sent under the names of the SDK's own parameters, in a form that it would send too."""
    async with AsyncCourier(api_key="k", base_url=server.url, max_retries=0) as courier:
        await courier.profiles.create("u", profile={}, idempotency_key="abc", x_idempotency_expiration="1767225600000")
    theirs = server.seen.pop()
    clock = SystemClock()
    async with AiohttpTransport(clock=clock) as transport:
        client = CourierClient(transport, base_url=server.url, api_key="k", clock=clock)
        await client.call("POST /profiles/u", b'{"profile":{}}', idempotency_key="abc")
    assert server.seen.pop() == theirs
    assert theirs.idempotency == ("abc", True)


def _operations_of(seen: list[Recorded]) -> list[tuple[str, str]]:
    return [(one.method, one.path) for one in seen]


async def test_a_tenant_is_read_on_the_sdks_path(server: RecordingServer) -> None:
    """The read before the write asks where the SDK asks."""
    await _ours(server, lambda calls: calls.write_tenant(_OTHER, name="New", properties={}))
    ours = server.seen.pop()
    theirs: Any = await _theirs(server, lambda sdk: sdk.tenants.retrieve(_OTHER))
    assert _operations_of([ours]) == _operations_of([theirs])
