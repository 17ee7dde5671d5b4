"""The public listener over real sockets: what clients of every kind meet, and how it stops."""

import asyncio
import gc
import gzip
import hashlib
import hmac
import inspect
import json
import logging
import re
import resource
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.errors import SettingsInvalid, SpoolFull
from forwarder.ingress.listener import PublicListener
from forwarder.ingress.routing import Health
from forwarder.ingress.shared import ListenerLimits
from forwarder.telemetry.reporter import REJECTIONS

NOW_MS = 1_767_225_640_123
BUS = "Authorization: Bearer key-of-the-bus"
EVENT = b'{"type":"message:updated","data":{"id":"1-a","status":"SENT"}}'

Serve = Callable[..., Any]


@dataclass
class Running:
    """A listener that serves, and the house behind it."""

    listener: PublicListener
    health: Health
    house: Any
    task: asyncio.Task[None]

    async def say(self, data: bytes, *, then_close: bool = False) -> bytes:
        """Send bytes and return everything that comes back until the listener hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.ports[0])
        try:
            writer.write(data)
            if then_close:
                writer.write_eof()
            async with asyncio.timeout(60):
                return await reader.read()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def listener_of(
    house: Any, addresses: Sequence[tuple[str, int]], limits: ListenerLimits | None = None
) -> PublicListener:
    """Make a listener in front of a house."""
    return PublicListener(
        addresses=addresses,
        receiver=house.receiver,
        health=house.health,
        spool=house.spool,
        reporter=house.reporter,
        limits=limits,
    )


@pytest.fixture
async def serve(build_house: Callable[..., Any]) -> AsyncIterator[Serve]:
    """Return what starts a listener on a free port; every one is stopped after the test."""
    started: list[Running] = []

    async def start(*, limits: ListenerLimits | None = None, **changes: Any) -> Running:
        house = build_house(**changes)
        listener = listener_of(house, [("127.0.0.1", 0)], limits)
        await listener.start()
        started.append(Running(listener, house.health, house, asyncio.create_task(listener.run())))
        return started[-1]

    yield start
    for running in started:
        running.task.cancel()
        with suppress(asyncio.CancelledError):
            await running.task


def request(path: str, body: bytes, *headers: str, method: str = "POST", length: int | None = None) -> bytes:
    """Write a request that closes its connection."""
    size = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def status_of(answer: bytes) -> int:
    """Return the status of a raw answer."""
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> bytes:
    """Return the body of a raw answer."""
    return answer.partition(b"\r\n\r\n")[2]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what the listener notices in its own time; five seconds at most."""
    for _ in range(500):
        if is_so():
            return
        await asyncio.sleep(0.01)
    assert is_so()


@asynccontextmanager
async def connected(running: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection that is kept."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.listener.ports[0])
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_webhook_comes_in(serve: Serve) -> None:
    """A signed webhook over HTTP is kept to the byte and answered with the count."""
    running = await serve()
    mac = hmac.new(b"whsec-of-the-webhook", f"{NOW_MS}.".encode() + EVENT, hashlib.sha256).hexdigest()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running.listener.ports[0]}") as session:
        headers = {"Courier-Signature": f"t={NOW_MS},signature={mac}"}
        async with session.post("/webhooks/courier", data=EVENT, headers=headers) as answer:
            assert answer.status == 200
            assert await answer.json() == {"accepted": 1, "duplicates": 0}
            assert answer.headers["Server"] == "forwarder"
        async with session.post("/webhooks/courier/?x=1", data=EVENT, headers=headers) as answer:
            assert await answer.json() == {"accepted": 0, "duplicates": 1}
    assert running.house.payloads() == [EVENT]


async def test_a_page_in_a_browser_posts(serve: Serve) -> None:
    """What a browser's SDK does over HTTP: ask, post, and read the answer, also while the daemon stops."""
    running = await serve()
    page = {"Origin": "https://shop.example"}
    asks = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running.listener.ports[0]}") as session:
        async with session.options("/v1/track", headers=asks) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization"
        known = page | {"Authorization": aiohttp.encode_basic_auth("key-of-the-source")}
        async with session.post("/v1/track", data=b'{"userId":"u","event":"e"}', headers=known) as answer:
            assert (answer.status, await answer.json()) == (200, {"success": True})
            assert answer.headers["Access-Control-Allow-Origin"] == page["Origin"]
        async with session.options("/inbound/segment", headers=asks) as answer:
            assert answer.status == 429
            assert "Access-Control-Allow-Origin" not in answer.headers
        running.house.receiver.drain()
        async with session.post("/v1/track", data=b"{}", headers=page) as answer:
            assert answer.status == 503
            assert answer.headers["Access-Control-Allow-Origin"] == page["Origin"]
    assert running.house.rejections() == {("/inbound/segment", "method_wrong"): 1, ("/v1", "draining"): 1}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/livez/"])
async def test_health_is_served(serve: Serve, path: str) -> None:
    """A probe gets its answer, and HEAD the same without a body."""
    running = await serve()
    assert status_of(await running.say(request(path, b"", method="GET"))) == 200
    head = await running.say(request(path, b"", method="HEAD"))
    assert (status_of(head), body_of(head)) == (200, b"")


async def test_what_is_no_http_is_told_so(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Rubbish gets a 400 that quotes nothing, the connection ends, and no traceback is written."""
    running = await serve()
    with caplog.at_level(logging.DEBUG):
        answer = await running.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03secret-word")
    assert status_of(answer) == 400
    assert json.loads(body_of(answer))["error"]
    everything = answer + running.house.log.getvalue().encode() + caplog.text.encode()
    assert not [word for word in (b"secret-word", b"Traceback", b"httptools") if word in everything]


async def test_an_upgrade_is_ignored(serve: Serve) -> None:
    """A request that asks for another protocol is answered in this one."""
    running = await serve()
    answer = await running.say(request("/events", EVENT, BUS, "Upgrade: websocket"))
    assert status_of(answer) in (200, 400)


async def test_a_chunked_body_is_read(serve: Serve) -> None:
    """A body of unknown length is taken, however it is cut, also with a trailer."""
    running = await serve()
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, EVENT[i : i + 1]) for i in range(len(EVENT))) + b"0\r\nX: y\r\n\r\n"
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{BUS}\r\n\r\n"
    assert status_of(await running.say(head.encode() + chunks)) == 200
    assert running.house.payloads() == [EVENT]


async def test_a_body_in_many_pieces_is_read(serve: Serve) -> None:
    """A sender may take its time within the limit."""
    running = await serve()
    async with connected(running) as (reader, writer):
        for byte in request("/events", EVENT, BUS):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert status_of(await reader.read()) == 200
    assert running.house.payloads() == [EVENT]


async def test_broken_chunks_are_no_event(serve: Serve) -> None:
    """A body whose framing breaks is turned away at once, however it is cut."""
    running = await serve()
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{BUS}\r\n\r\n".encode()
    assert status_of(await running.say(head + b"ZZ\r\n{}\r\n0\r\n\r\n")) == 503
    async with connected(running) as (reader, writer):
        writer.write(head + b"2\r\n{}\r\n")
        await writer.drain()
        await until(lambda: running.listener.shared.held_bytes > 0)
        writer.write(b"ZZ\r\n{}\r\n0\r\n\r\n")
        async with asyncio.timeout(60):
            assert status_of(await reader.read()) == 503
    assert running.house.spool.appends == 0
    assert running.house.rejections() == {("/events", "body_broken"): 2}


async def test_a_client_that_hangs_up_leaves_nothing(serve: Serve) -> None:
    """Half a body is no event; the listener goes on."""
    running = await serve()
    for _ in range(3):
        async with connected(running) as (_, writer):
            writer.write(request("/events", EVENT[:10], BUS, length=len(EVENT)))
            await writer.drain()
    await until(lambda: running.house.rejections().get(("/events", "disconnected"), 0) == 3)
    assert status_of(await running.say(request("/events", EVENT, BUS))) == 200
    assert running.house.spool.appends == 1
    assert "Traceback" not in running.house.log.getvalue()


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_body_above_the_limit_is_not_read_to_its_end(serve: Serve, *, is_chunked: bool) -> None:
    """Declared or not, a body that is too large is answered 413 and its connection ends."""
    running = await serve(body_bytes_max=50_000)
    async with connected(running) as (reader, writer):
        if is_chunked:
            head = f"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{BUS}\r\n\r\n"
            writer.write(head.encode() + b"FFFF\r\n" + bytes(0xFFFF) + b"\r\n")
        else:
            writer.write(request("/events", bytes(10), BUS, length=50_001))
        async with asyncio.timeout(60):
            answer = await reader.read()
    assert status_of(answer) == 413
    assert b"connection: close" in answer.lower()
    assert running.house.rejections() == {("/events", "body_too_large"): 1}


async def test_a_stranger_is_answered_before_the_body(serve: Serve) -> None:
    """Who has no key is told so without sending a body, and `100 Continue` is for those who have."""
    running = await serve()
    async with connected(running) as (reader, writer):
        writer.write(request("/events", b"", "Expect: 100-continue", length=1_000))
        async with asyncio.timeout(60):
            assert status_of(await reader.read()) == 401
    async with connected(running) as (reader, writer):
        writer.write(request("/events", b"", "Expect: 100-continue", BUS, length=len(EVENT)))
        async with asyncio.timeout(60):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(EVENT)
            assert status_of(await reader.read()) == 200


async def test_a_slow_body_is_turned_away_for_later(serve: Serve) -> None:
    """A body that does not arrive within its time is answered 503 and its connection ends."""
    running = await serve(limits=ListenerLimits(body_read_max_s=0.1))
    async with connected(running) as (reader, writer):
        writer.write(request("/events", EVENT[:5], BUS, length=len(EVENT)))
        async with asyncio.timeout(60):
            answer = await reader.read()
    assert status_of(answer) == 503
    assert b"Retry-After" in answer
    assert running.house.rejections() == {("/events", "body_slow"): 1}


@pytest.mark.parametrize("data", [b"", b"POST /ev", b"POST /events HTTP/1.1\r\nHost: x\r\nX-A: b"])
async def test_a_slow_head_is_cut_off(serve: Serve, data: bytes) -> None:
    """A connection that does not get through the head of a request is closed after its time."""
    running = await serve(limits=ListenerLimits(idle_max_s=0.2))
    assert await running.say(data) == b""


async def test_bodies_together_have_a_limit(serve: Serve) -> None:
    """Many large bodies at once do not add up in memory: the one too many is turned away for later."""
    running = await serve(limits=ListenerLimits(held_bytes_max=60_000))
    part = bytes(40_000)
    async with connected(running) as (_, first), connected(running) as (reader, second):
        first.write(request("/events", part, BUS, length=90_000))
        await first.drain()
        await until(lambda: running.listener.shared.held_bytes >= len(part))
        second.write(request("/events", part, BUS, length=90_000))
        async with asyncio.timeout(60):
            assert status_of(await reader.read()) == 503
    await until(lambda: not running.listener.shared.held_bytes)


async def test_idle_connections_yield_to_new_ones(serve: Serve) -> None:
    """Above the limit the connection that waits for nothing longest goes, so that a probe always gets its answer."""
    running = await serve(limits=ListenerLimits(connections_max=3))
    async with connected(running) as (oldest, _), connected(running) as (reader, writer), connected(running):
        await until(lambda: len(running.listener.shared.connections) == 3)
        writer.write(request("/livez", b"", method="GET").replace(b"Connection: close\r\n", b""))
        assert await reader.readuntil(b"}")
        assert status_of(await running.say(request("/livez", b"", method="GET"))) == 200
        assert await oldest.read() == b""
        writer.write(request("/livez", b"", method="GET"))
        assert status_of(await reader.read()) == 200
    assert running.house.rejections() == {("other", "too_many_connections"): 1}
    assert "error" not in running.house.log.getvalue()


async def test_busy_connections_do_not_yield(serve: Serve) -> None:
    """A body that is being read goes only when nobody is idle, and a request that waits for its commit never."""
    running = await serve(limits=ListenerLimits(connections_max=2))
    spool = running.house.spool
    spool.holds = True
    async with connected(running) as (stored, first), connected(running) as (cut, second):
        first.write(request("/events", EVENT, BUS))
        second.write(request("/events", EVENT[:5], BUS, length=len(EVENT)))
        await until(lambda: bool(running.listener.shared.reading) and spool.appends == 1)
        assert status_of(await running.say(request("/livez", b"", method="GET"))) == 200
        assert await cut.read() == b""
        async with connected(running) as (_, third):
            third.write(request("/events", EVENT, BUS))
            await until(lambda: spool.appends == 2)
            with suppress(ConnectionError):
                assert await running.say(request("/livez", b"", method="GET")) == b""
            spool.commit()
            assert status_of(await stored.read()) == 200


async def test_requests_in_a_row_on_one_connection(serve: Serve) -> None:
    """A connection is kept, and requests sent without waiting are answered in their order."""
    running = await serve()
    one = f"POST /events HTTP/1.1\r\nHost: x\r\n{BUS}\r\nContent-Length: {len(EVENT)}\r\n\r\n".encode() + EVENT
    answer = await running.say(one * 40 + request("/v1/batch", b"{}"))
    assert answer.count(b"HTTP/1.1 200 OK") == 40
    assert answer.rindex(b"HTTP/1.1 401") > answer.rindex(b"HTTP/1.1 200")


async def test_a_large_batch_lets_others_through(serve: Serve) -> None:
    """While a large batch is cut into its events, a small request is answered."""
    running = await serve(body_bytes_max=10_000_000)
    batch = b"[" + b",".join(b'{"id":"%d"}' % number for number in range(5_000)) + b"]"
    async with connected(running) as (large, first), connected(running) as (small, second):
        first.write(request("/events", batch, BUS))
        await until(lambda: bool(running.listener.shared.in_flight))
        second.write(request("/events", EVENT, BUS))
        assert status_of(await small.read()) == 200
        assert running.house.spool.appends == 1
        assert b'"accepted":5000' in await large.read()


async def test_a_client_that_does_not_read_is_not_read(connect: Callable[..., Any]) -> None:
    """Nothing more is read from who does not take its answers, or waits for too many; then it goes on."""
    client = connect(limits=ListenerLimits(requests_waiting_max=4))
    client.house.spool.holds = True
    one = f"POST /events HTTP/1.1\r\nHost: x\r\n{BUS}\r\nContent-Length: {len(EVENT)}\r\n\r\n".encode() + EVENT
    client.send(one * 4)
    assert not client.is_paused
    client.send(one)
    assert client.is_paused
    client.connection.pause_writing()
    while client.house.spool.waiting:
        client.house.spool.commit()
    assert client.received.count(b"HTTP/1.1 200") == 5
    assert client.is_paused
    client.connection.resume_writing()
    assert not client.is_paused
    client.connection.expire()
    assert client.is_closed


async def test_half_a_connection_is_enough_for_the_answer(serve: Serve) -> None:
    """Who says that it sends no more is answered all the same; who says so in the middle is not."""
    running = await serve()
    kept = request("/events", EVENT, BUS).replace(b"Connection: close\r\n", b"")
    assert status_of(await running.say(kept, then_close=True)) == 200
    assert await running.say(kept[:-1], then_close=True) == b""
    assert await running.say(kept[:20], then_close=True) == b""
    assert running.house.rejections() == {("/events", "disconnected"): 1}


async def test_a_bug_is_a_500_without_a_word_of_it(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody expected asks the sender to come back, and tells its type and place to the log alone."""
    running = await serve()
    running.house.spool.refusal = ValueError("secret-word in the error's text")
    with caplog.at_level(logging.DEBUG):
        answer = await running.say(request("/events", EVENT, BUS))
    assert status_of(answer) == 500
    log = running.house.log.getvalue()
    assert "request.crashed" in log
    assert "ValueError" in log
    assert ".py:" in log
    assert b"secret-word" not in answer + log.encode() + caplog.text.encode()
    assert "Traceback" not in log + caplog.text


@pytest.mark.parametrize("place", ["head", "elements", "webhook", "spool"])
def test_a_bug_at_any_place_is_a_500(connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Wherever it happens, the request is answered, nothing is held, and the connection goes on."""

    def broken(*_: object, **__: object) -> Any:
        raise LookupError("secret-word")

    client = connect()
    receiver = client.shared.receiver
    mac = hmac.new(b"whsec-of-the-webhook", f"{NOW_MS}.".encode() + EVENT, hashlib.sha256).hexdigest()
    signed = request("/webhooks/courier", EVENT, f"courier-signature: t={NOW_MS},signature={mac}")
    raw = (signed if place == "webhook" else request("/events", EVENT, BUS)).replace(b"Connection: close\r\n", b"")
    broken_method = {"head": "admit", "elements": "_envelopes", "webhook": "accept_webhook"}.get(place)
    if broken_method is None:
        client.house.spool.refusal = LookupError("secret-word")
    else:
        monkeypatch.setattr(receiver, broken_method, broken)
    assert status_of(client.send(raw)) == 500
    assert b"secret-word" not in client.received
    client.received.clear()
    assert status_of(client.send(request("/livez", b"", method="GET"))) == 200
    assert (client.shared.held_bytes, client.shared.in_flight) == (0, 0)
    assert client.house.rejections() == {("other", "internal_error"): 1}


@pytest.mark.parametrize("place", ["committed", "rolled_back", "request_answered"])
def test_a_bug_behind_the_spool_leaves_nobody_waiting(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Who cannot be told what the spool said is told to come back, or cut off, and does not wait for ever."""

    def broken(*_: object, **__: object) -> Any:
        raise LookupError("secret-word")

    client = connect()
    client.house.spool.holds = place != "rolled_back"
    if place == "rolled_back":
        client.house.spool.refusal = SpoolFull("full", retry_after_s=1)
    monkeypatch.setattr(client.house.reporter if place == "request_answered" else client.shared.receiver, place, broken)
    kept = request("/events", EVENT, BUS).replace(b"Connection: close\r\n", b"")
    client.send(kept, kept)
    while client.house.spool.waiting:
        client.house.spool.commit()
    assert client.is_closed
    assert (client.received == b"") if place == "request_answered" else (status_of(client.received) == 500)
    assert b"secret-word" not in client.received
    client.hang_up()
    assert (client.shared.held_bytes, client.shared.in_flight) == (0, 0)


async def test_large_bodies_take_turns(connect: Callable[..., Any]) -> None:
    """However many large bodies wait to be judged, a turn of the loop judges a step of one: others come in between."""
    client, loop, seen = connect(), asyncio.get_running_loop(), ""
    is_done = asyncio.Event()

    def judge() -> None:
        nonlocal seen
        seen += "j"

    def others() -> None:
        nonlocal seen
        seen += "o"
        if seen.count("j") < 9:
            loop.call_soon(others)
        else:
            is_done.set()

    for _ in range(9):
        client.shared.in_turn(judge)
    loop.call_soon(others)
    await is_done.wait()
    assert seen == "jo" * 9


@pytest.mark.parametrize("is_lost", [False, True])
async def test_nothing_overtakes_on_one_connection(connect: Callable[..., Any], *, is_lost: bool) -> None:
    """The events of a request that is read in steps are stored before those of the requests behind it."""
    client = connect()
    key = "Authorization: Bearer key-of-the-source"

    def batch(number: int, events: int) -> bytes:
        body = b",".join(b'{"userId":"u","messageId":"%d-%d"}' % (number, one) for one in range(events))
        return request("/inbound/rudderstack", b"[%b]" % body, key).replace(b"Connection: close\r\n", b"")

    client.send(batch(0, 450), batch(1, 1), batch(2, 450), batch(3, 1))
    if is_lost:
        client.hang_up()
    await until(lambda: not client.shared.in_flight)
    stored = [json.loads(payload)["messageId"] for payload in client.house.payloads()]
    assert [number for number, _ in groupby(one.partition("-")[0] for one in stored)] == ["0", "1", "2", "3"]
    assert len(stored) == 902
    assert is_lost or re.findall(rb"HTTP/1.1 (\d+)", client.received) == [b"202"] * 4
    assert client.shared.held_bytes == 0


def test_what_bodies_unpack_to_is_counted(connect: Callable[..., Any]) -> None:
    """Small packed bodies do not become large ones beyond the limit of all bodies."""
    client = connect(limits=ListenerLimits(held_bytes_max=50_000))
    events = b"\n".join(b'{"id":"%d","pad":"%b"}' % (number, b"x" * 900) for number in range(60))
    packed = gzip.compress(events)
    assert len(packed) < 5_000
    assert status_of(client.send(request("/events", packed, BUS, "Content-Encoding: gzip"))) == 503
    assert client.house.spool.appends == client.shared.held_bytes == 0


@pytest.mark.parametrize(
    ("files_max", "expected"), [(resource.RLIM_INFINITY, 10), (1_024, 10), (136, 10), (12, 6)], ids=str
)
async def test_there_are_never_more_connections_than_files(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, files_max: int, expected: int
) -> None:
    """Clients leave the process files for its own work, also where it may open few."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files_max, files_max))
    running = await serve(limits=ListenerLimits(connections_max=10))
    assert running.listener.shared.connections_max == expected


async def test_an_address_in_use_names_its_setting(serve: Serve) -> None:
    """A port that is taken is a mistake in the settings, and the error says in which one."""
    running = await serve()
    other = listener_of(running.house, [("127.0.0.1", 0), ("127.0.0.1", running.listener.ports[0])])
    with pytest.raises(SettingsInvalid, match=r"FORWARDER_LISTEN.*127\.0\.0\.1:\d+.*already"):
        await other.run()


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
async def test_an_address_that_is_not_ours_names_its_setting(build_house: Callable[..., Any], host: str) -> None:
    """An address of another machine, or none, cannot be listened on, and the error says so."""
    house = build_house()
    with pytest.raises(SettingsInvalid, match="FORWARDER_LISTEN"):
        await listener_of(house, [(host, 0)]).start()
    assert not house.health.is_listening


async def test_one_value_serves_both_stacks(build_house: Callable[..., Any]) -> None:
    """`[::]` takes IPv4 and IPv6, and several addresses are served side by side."""
    house = build_house()
    listener = listener_of(house, [("::", 0), ("127.0.0.1", 0)])
    await listener.start()
    task = asyncio.create_task(listener.run())
    both, other = listener.ports
    for host, port in (("127.0.0.1", both), ("::1", both), ("127.0.0.1", other)):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        await writer.wait_closed()
    assert house.log.getvalue().count("listener.started") == 2
    with pytest.raises(SettingsInvalid, match=r"FORWARDER_LISTEN.*\[::\]:\d+.*already"):
        await listener_of(house, [("::", both)]).start()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_port_is_free_again_at_once(serve: Serve) -> None:
    """A daemon that restarts can listen where the one before it had clients a moment ago."""
    running = await serve()
    async with connected(running):
        await running.listener.drain()
        await running.task
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", running.listener.ports[0]))


async def test_a_drain_finishes_what_is_in_hand(serve: Serve) -> None:
    """While stopping, what was admitted is stored and answered, what comes is 503, and nobody new gets in."""
    running = await serve()
    spool = running.house.spool
    spool.holds = True
    port = running.listener.ports[0]
    async with connected(running) as (first_reader, first), connected(running) as (second_reader, second):
        first.write(request("/events", EVENT, BUS).replace(b"Connection: close\r\n", b""))
        await spool.asked.wait()
        draining = asyncio.create_task(running.listener.drain())
        await until(lambda: running.listener.shared.is_draining)
        with pytest.raises(OSError, match=r".*"):
            await asyncio.open_connection("127.0.0.1", port)
        second.write(request("/events", EVENT, BUS).replace(b"Connection: close\r\n", b""))
        async with asyncio.timeout(60):
            refused = await second_reader.read()
        assert status_of(refused) == 503
        assert b"Connection: close" in refused
        assert not draining.done()
        spool.commit()
        async with asyncio.timeout(60):
            assert status_of(await first_reader.read()) == 200
            await draining
            await running.task


async def test_a_drain_does_not_wait_for_a_slow_sender(serve: Serve) -> None:
    """A body that is half read when the daemon stops gets a moment, then 503."""
    running = await serve()
    async with connected(running) as (reader, writer):
        writer.write(request("/events", EVENT[:5], BUS, length=len(EVENT)))
        await writer.drain()
        await until(lambda: running.listener.shared.held_bytes > 0)
        async with asyncio.timeout(60):
            await running.listener.drain()
            assert status_of(await reader.read()) == 503
            await running.task
    assert running.house.rejections() == {("/events", "draining"): 1}


async def test_a_drain_closes_idle_connections(serve: Serve) -> None:
    """Connections that wait for nothing do not keep the daemon from stopping."""
    running = await serve()
    async with connected(running) as (reader, _):
        await until(lambda: len(running.listener.shared.idle) == 1)
        async with asyncio.timeout(60):
            await running.listener.drain()
            await running.task
            assert await reader.read() == b""
    assert not running.health.is_listening


async def test_a_cancelled_listener_lets_go(serve: Serve) -> None:
    """At the deadline the listener is cancelled with requests in hand, and nothing of it is left."""
    running = await serve()
    spool = running.house.spool
    spool.holds = True
    async with connected(running) as (_, writer):
        writer.write(request("/events", EVENT, BUS))
        await spool.asked.wait()
        running.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(60):
                await running.task
    gc.collect()


async def test_the_log_tells_where_is_listened(serve: Serve) -> None:
    """Start and stop are told once each, with the address."""
    running = await serve()
    await running.listener.start()  # a second start changes nothing
    port = running.listener.ports[0]
    await running.listener.drain()
    await running.task
    log = running.house.log.getvalue()
    assert log.count("listener.started") == log.count("listener.stopped") == 1
    assert str(port) in log


@pytest.mark.parametrize(
    ("request_line", "endpoint", "status"),
    [
        ("GET /livez", "health", 200),
        ("GET /nowhere", "other", 404),
        ("POST /events", "/events", 401),
        ("DELETE /v1/track?x=1", "/v1", 405),
        ("POST /webhooks/courier/", "/webhooks/courier", 401),
        (f"POST /events HTTP/1.1\r\n{BUS}\r\nX: x", "/events", 200),
    ],
)
async def test_answers_are_counted_by_endpoint_and_status(
    serve: Serve, request_line: str, endpoint: str, status: int
) -> None:
    """Every answer is in the metrics, under its endpoint, with its time; those not given yet are there as 0."""
    running = await serve()
    value = running.house.metrics.registry.get_sample_value
    labels = {"endpoint": endpoint, "status": str(status)}
    assert value("forwarder_answers_total", labels) in (0, None)
    line, separator, rest = request_line.partition(" HTTP/1.1")
    head = f"{line} HTTP/1.1{rest}\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(EVENT)}\r\n\r\n"
    assert f" {status} ".encode() in (await running.say(head.encode() + EVENT))[:20]
    assert value("forwarder_answers_total", labels) == 1
    assert value("forwarder_answer_duration_seconds_count", {"endpoint": endpoint}) == 1
    assert value("forwarder_answer_duration_seconds_bucket", {"endpoint": endpoint, "le": "10.0"}) == 1
    assert separator or not rest


def test_every_reason_is_known_beforehand() -> None:
    """Each word that a refusal is counted under is among those that metrics show from the start."""
    folder = Path(inspect.getfile(PublicListener)).parents[1]
    asked = re.compile(
        r"""(?:Rejected\(\s*[^",()]*(?:\([^()]*\))?[^",()]*,|later\(|unknown\([^",]*,|_rejected\([^",]*,)\s*"(\w+)\""""
    )
    used = {reason for path in folder.rglob("*.py") for reason in asked.findall(path.read_text())}
    assert len(used) > 15
    assert used <= set(REJECTIONS)
