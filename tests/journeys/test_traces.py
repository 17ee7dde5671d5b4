"""Traces of the real daemon, from the sender's span over the spool to the destination, and what they must not cost."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from forwarder.demo.signing import signed
from forwarder.demo.workflow import Workflow
from forwarder.model import RouteName
from stand_ins.behaviour import UNAVAILABLE, Hangs
from stand_ins.collector import Collector
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

OUTBOUND = RouteName.COURIER_TO_RUDDERSTACK.value
INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
RECEIVED = "receive /webhooks/courier"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
SERVER, CLIENT, CONSUMER = 2, 3, 5
USER_MARK = "traced-user-7f"

MakeDaemon = Callable[[dict[str, str]], DaemonProcess]


def sender(number: int, *, flags: str = "01") -> str:
    """Return the traceparent of a sender's span."""
    return f"00-{number:032x}-{number:016x}-{flags}"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector of spans."""
    async with Collector() as running:
        yield running


@pytest.fixture
def traced(collector: Collector, outbound: dict[str, str], inbound: dict[str, str]) -> dict[str, str]:
    """The variables of both routes, traced."""
    return (
        outbound
        | inbound
        | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-login=secret-login", **SOON}
    )


async def post_webhook(
    http: aiohttp.ClientSession, daemon: DaemonProcess, number: int, traceparent: str | None
) -> None:
    """Post one signed webhook within a sender's span."""
    now_ms = time.time_ns() // 1_000_000
    event = Workflow(seed=number).sample("SENT", now_ms)
    headers = signed(event.body, daemon.settings["COURIER_WEBHOOK_SECRET"], now_ms)
    headers |= {"traceparent": traceparent} if traceparent else {}
    async with http.post(f"{daemon.url}/webhooks/courier", data=event.body, headers=headers) as answer:
        assert answer.status == 200


async def operate(http: aiohttp.ClientSession, daemon: DaemonProcess, act: str) -> None:
    """Pause or resume the outbound route."""
    async with http.post(f"{daemon.operator_url}/api/routes/{OUTBOUND}/{act}") as answer:
        assert answer.status == 200


async def test_one_trace_leads_from_the_sender_to_the_destination(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    traced: dict[str, str],
    collector: Collector,
) -> None:
    """Receipt, delivery and exchange are one chain, and the request to RudderStack carries its context on."""
    daemon = make_daemon(traced)
    await daemon.start()
    await post_webhook(http, daemon, 1, sender(1))
    (received,), (delivered,), (exchange,) = [
        await collector.named(name) for name in (RECEIVED, f"deliver {OUTBOUND}", "POST")
    ]
    assert {one.trace_id for one in (received, delivered, exchange)} == {f"{1:032x}"}
    assert [received.parent_id, delivered.parent_id, exchange.parent_id] == [
        f"{1:016x}",
        received.span_id,
        delivered.span_id,
    ]
    assert [one.kind for one in (received, delivered, exchange)] == [SERVER, CONSUMER, CLIENT]
    assert plane.heads[-1]["traceparent"] == f"00-{1:032x}-{exchange.span_id}-01"
    assert received.started_ns <= received.ended_ns <= delivered.ended_ns
    assert received.attributes["http.response.status_code"] == 200
    assert (delivered.attributes["forwarder.outcome"], delivered.attributes["forwarder.events"]) == ("delivered", 1)
    assert exchange.attributes["http.response.status_code"] == 200
    assert not any(one.is_error for one in (received, delivered, exchange))
    assert received.service == "forwarder"
    assert daemon.marks_in_logs(["secret-login"]) == []


@pytest.fixture(params=["sqlite", "postgres"])
def kept(request: pytest.FixtureRequest, traced: dict[str, str]) -> dict[str, str]:
    """The variables of both routes, traced, on each spool."""
    if request.param == "sqlite":
        return traced
    url: str = request.getfixturevalue("postgres_url")
    return traced | {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": url}


@pytest.mark.one_daemon("what came to two replicas leaves in two batches")
async def test_traces_go_on_after_a_crash_and_a_batch_is_linked_to_each_of_its_events(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    kept: dict[str, str],
    collector: Collector,
) -> None:
    """What was received before kill -9 is delivered in the first one's trace and linked to the other sampled."""
    daemon = make_daemon(kept)
    await daemon.start()
    await operate(http, daemon, "pause")
    for number in (1, 2, 3):
        await post_webhook(http, daemon, number, sender(number))
    await post_webhook(http, daemon, 4, sender(4, flags="00"))
    received = {one.trace_id: one.span_id for one in await collector.named(RECEIVED, count=3)}
    await daemon.kill()
    await daemon.start()
    await operate(http, daemon, "resume")
    assert await plane.wait_for(4, timeout_s=60)
    (delivered,) = await collector.named(f"deliver {OUTBOUND}")
    assert (delivered.trace_id, delivered.parent_id) == (f"{1:032x}", received[f"{1:032x}"])
    assert delivered.links == (received[f"{2:032x}"], received[f"{3:032x}"])
    assert delivered.attributes["forwarder.events"] == 4
    assert set(received) == {f"{number:032x}" for number in (1, 2, 3)}


async def test_each_attempt_is_a_span_and_a_failed_one_says_why(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    traced: dict[str, str],
    collector: Collector,
) -> None:
    """A 503 is an error in the trace of its event, and the delivery after it is in the same one."""
    plane.script.behave(UNAVAILABLE)
    daemon = make_daemon(traced)
    await daemon.start()
    await post_webhook(http, daemon, 1, None)
    assert await plane.wait_for_requests(1, timeout_s=60)
    plane.script.heal()
    assert await plane.wait_for(1, timeout_s=60)
    (received,) = await collector.named(RECEIVED)
    attempts = await collector.named(f"deliver {OUTBOUND}", count=2)
    assert received.parent_id == ""
    assert {(one.trace_id, one.parent_id) for one in attempts} == {(received.trace_id, received.span_id)}
    assert (attempts[0].is_error, attempts[0].attributes["forwarder.outcome"]) == (True, "try_later")
    assert (attempts[-1].is_error, attempts[-1].attributes["forwarder.outcome"]) == (False, "delivered")


async def test_calls_of_the_inbound_route_carry_the_trace_of_their_event(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    courier: CourierApi,
    traced: dict[str, str],
    collector: Collector,
) -> None:
    """Each event of an SDK's batch is a delivery in the trace of its request, mapped as ever; no span names a user."""
    daemon = make_daemon(traced)
    await daemon.start()
    calls = [
        {"type": "identify", "userId": f"{USER_MARK}-{n}", "messageId": f"m-{n}", "traits": {"email": f"{n}@b.example"}}
        for n in range(3)
    ]
    headers = {"Authorization": f"Bearer {traced['FORWARDER_INBOUND_KEYS']}", "traceparent": sender(9)}
    async with http.post(f"{daemon.url}/v1/batch", json={"batch": calls}, headers=headers) as answer:
        assert answer.status == 200
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 3)
    delivered = await collector.named(f"deliver {INBOUND}", count=3)
    (received,) = await collector.named("receive /v1")
    assert received.attributes["forwarder.events"] == 3
    assert {(one.trace_id, one.parent_id) for one in delivered} == {(f"{9:032x}", received.span_id)}
    exchanges = {one.span_id for one in collector.spans if one.kind == CLIENT}
    assert {head["traceparent"].split("-")[2] for head in courier.heads} <= exchanges
    assert {head["traceparent"].split("-")[1] for head in courier.heads} == {f"{9:032x}"}
    assert USER_MARK not in repr(collector.spans)
    assert "b.example" not in repr(collector.spans)


async def test_nothing_is_taken_from_the_wire_nor_put_on_it_without_the_propagator(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    traced: dict[str, str],
    collector: Collector,
) -> None:
    """OTEL_PROPAGATORS=none keeps traces to ourselves; the service's name is the operator's."""
    daemon = make_daemon(traced | {"OTEL_PROPAGATORS": "none", "OTEL_SERVICE_NAME": "bridge"})
    await daemon.start()
    await post_webhook(http, daemon, 1, sender(1))
    (received,), (delivered,) = await collector.named(RECEIVED), await collector.named(f"deliver {OUTBOUND}")
    assert (received.parent_id, received.service) == ("", "bridge")
    assert (delivered.trace_id, delivered.parent_id) == (received.trace_id, received.span_id)
    assert "traceparent" not in plane.heads[-1]


@pytest.mark.parametrize("is_away", [True, False], ids=["refused", "silent"])
async def test_a_collector_in_trouble_holds_up_nothing(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    traced: dict[str, str],
    collector: Collector,
    *,
    is_away: bool,
) -> None:
    """Events are delivered, and the stop takes no longer than the last export may."""
    if is_away:
        await collector.refuse()
    else:
        collector.script.behave(Hangs(seconds=60.0))
    daemon = make_daemon(traced)
    await daemon.start()
    for number in range(5):
        await post_webhook(http, daemon, number + 1, sender(number + 1))
    assert await plane.wait_for(5, timeout_s=60)
    started_s = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - started_s < 8
    assert collector.spans == []


@pytest.mark.parametrize("is_on", [False, True], ids=["off", "on"])
async def test_the_package_is_imported_only_where_it_is_asked_for(
    make_daemon: MakeDaemon, traced: dict[str, str], *, is_on: bool
) -> None:
    """A daemon without OTEL_* has nothing of it in memory; one with them does (the control)."""
    untraced = {name: value for name, value in traced.items() if not name.startswith("OTEL_")}
    daemon = make_daemon(traced if is_on else untraced)
    await daemon.start()
    for one in daemon.replicas:
        assert one.process is not None
        process = Path("/proc") / str(one.process.pid)
        is_imported = "google/_upb" in (process / "maps").read_text()  # the one compiled part of what the extra brings
        assert is_imported is is_on
