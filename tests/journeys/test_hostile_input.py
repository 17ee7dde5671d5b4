"""Whatever is thrown at the endpoints: a clear answer, the daemon stays, nothing of it in the logs."""

import asyncio
import contextlib
import gzip
import io
import json
import resource
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import pytest

from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import COURIER_SCHEDULE_S, LoadDriver
from forwarder.demo.signing import signed
from forwarder.demo.workflow import Workflow
from forwarder.model import RouteName
from stand_ins.data_plane import DataPlane
from stand_ins.process import DaemonProcess
from stand_ins.waiting import wait_until

pytestmark = pytest.mark.journey

OUTBOUND = RouteName.COURIER_TO_RUDDERSTACK.value
MARK = "payload-mark"
OBJECT = f'{{"type":"message:updated","data":{{"id":"{MARK}","status":"SENT","recipient":"{MARK}"%s}}}}'


@dataclass(frozen=True, kw_only=True)
class Throw:
    """One hostile request to the webhook endpoint and the statuses that are right for it."""

    name: str
    body: bytes
    right: frozenset[int]
    secret: str | None = "right"  # "right", "wrong", or None for unsigned
    headers: tuple[tuple[str, str], ...] = ()
    age_s: int = 0


GZIP = (("Content-Encoding", "gzip"),)
TAKEN = frozenset({200})
THROWS = (
    Throw(name="unsigned", body=b"{}", secret=None, right=frozenset({401})),
    Throw(
        name="garbled signature",
        body=b"{}",
        secret=None,
        headers=(("courier-signature", "t=1,signature=zz"),),
        right=frozenset({401, 429}),
    ),
    Throw(name="wrong secret", body=(OBJECT % "").encode(), secret="wrong", right=frozenset({429})),
    Throw(name="signed last week", body=(OBJECT % "").encode(), age_s=7 * 86_400, right=frozenset({429})),
    Throw(name="empty", body=b"", right=TAKEN),
    Throw(name="no json", body=f"{MARK} is no json".encode(), right=TAKEN),
    Throw(name="cut off", body=(OBJECT % "").encode()[:-2], right=TAKEN),
    Throw(name="array", body=f'["{MARK}"]'.encode(), right=TAKEN),
    Throw(name="duplicate keys", body=(OBJECT % f',"id":"{MARK}2"').encode(), right=TAKEN),
    Throw(name="NaN", body=(OBJECT % ',"sent":NaN').encode(), right=TAKEN),
    Throw(name="infinity", body=(OBJECT % ',"sent":-Infinity').encode(), right=TAKEN),
    Throw(name="lone surrogate", body=(OBJECT % ',"error":"\\ud800"').encode(), right=TAKEN),
    Throw(name="broken utf-8", body=(OBJECT % ',"error":"\u00ff"').encode("latin-1"), right=TAKEN),
    Throw(name="nul", body=(OBJECT % ',"error":"\\u0000"').encode(), right=TAKEN),
    Throw(name="huge number", body=(OBJECT % f',"sent":{"9" * 5000}').encode(), right=TAKEN),
    Throw(name="negative time", body=(OBJECT % ',"sent":-99999999999999').encode(), right=TAKEN),
    Throw(name="300 levels", body=(OBJECT % f',"x":{"[" * 300}{"]" * 300}').encode(), right=TAKEN),
    Throw(name="100000 levels", body=(OBJECT % f',"x":{"[" * 100_000}{"]" * 100_000}').encode(), right=TAKEN),
    Throw(name="7 MB", body=b'{"x":"' + b"y" * 7_000_000 + b'"}', right=frozenset({413})),
    Throw(name="gzip", body=gzip.compress((OBJECT % ',"n":1').encode()), headers=GZIP, right=TAKEN),
    Throw(name="no gzip", body=b"{}", headers=GZIP, right=frozenset({200, 400})),
    Throw(name="gzip bomb", body=gzip.compress(b" " * 100_000_000, 9), headers=GZIP, right=frozenset({413})),
    Throw(name="brotli", body=b"{}", headers=(("Content-Encoding", "br"),), right=frozenset({415})),
)


def headers_of(throw: Throw, secret: str) -> dict[str, str]:
    """Sign the request as the throw wants it."""
    headers = dict(throw.headers)
    if throw.secret is not None:
        key = secret if throw.secret == "right" else "some-other-secret"
        headers |= signed(throw.body, key, time.time_ns() // 1_000_000 - throw.age_s * 1000)
    return headers


async def test_every_hostile_request_gets_a_clear_answer_and_the_daemon_stays(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
    outbound: dict[str, str],
) -> None:
    """Each throw is answered as it should be, in JSON with an `error` when refused; a good event still arrives."""
    daemon = make_daemon(outbound)
    await daemon.start()
    plane.on_stored = None  # hostile events have no facts; the good one is looked for by itself
    wrong: list[str] = []
    taken = 0

    for throw in THROWS:
        async with http.post(
            f"{daemon.url}/webhooks/courier",
            data=io.BytesIO(throw.body),
            headers=headers_of(throw, outbound["COURIER_WEBHOOK_SECRET"]),
        ) as response:
            answer = await response.json()
            taken += response.status == 200
            if response.status not in throw.right:
                wrong.append(f"{throw.name}: {response.status} {answer}")
            if response.status != 200 and not answer.get("error"):
                wrong.append(f"{throw.name}: no error in {answer}")
            if response.status in {429, 503} and "Retry-After" not in response.headers:
                wrong.append(f"{throw.name}: no Retry-After")
            if MARK in str(answer):
                wrong.append(f"{throw.name}: the answer quotes the payload")
    assert wrong == []

    driver = LoadDriver(http, daemon.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02)
    good = Workflow(seed=31).sample("SENT", time.time_ns() // 1_000_000)
    assert await driver.webhook(good, outbound["COURIER_WEBHOOK_SECRET"])
    totals = await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0)
    assert totals["accepted"] == sum(count for state, count in totals.items() if state != "accepted")
    assert totals["accepted"] <= taken + 1
    assert any(event["properties"].get("id") == good.facts.key[1] for event in plane.events)
    assert plane.vanished == []
    assert not plane.is_wedged
    assert await daemon.stop() == 0


async def test_broken_http_is_answered_or_dropped_and_the_daemon_stays(
    make_daemon: Callable[[dict[str, str]], DaemonProcess], http: aiohttp.ClientSession, outbound: dict[str, str]
) -> None:
    """Bytes that are no HTTP, endless headers, half requests: the next good request is served."""
    daemon = make_daemon(outbound)
    await daemon.start()
    for raw in (
        b"\x00\xff\x13\x37 payload-mark\r\n\r\n",
        b"POST /webhooks/courier HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /webhooks/courier HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\npayload-mark",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"payload-mark" * 20_000 + b"\r\n\r\n",
        b"POST /webhooks/courier HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\npayload-mark",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(raw)
        if writer.can_write_eof():
            writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()

    async with http.get(f"{daemon.url}/livez") as response:
        assert response.status == 200
    assert await daemon.stop() == 0


async def test_strangers_write_no_error_lines(
    make_daemon: Callable[[dict[str, str]], DaemonProcess], http: aiohttp.ClientSession, outbound: dict[str, str]
) -> None:
    """Bodies that are begun and broken off, resets, more connections than fit: counted, and no alarm in the log."""
    daemon = make_daemon(outbound)
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, files_max[1]))  # the daemon's, so that few connections fill it
    try:
        await daemon.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files_max)
    signature = headers_of(Throw(name="", body=b"x", right=TAKEN), outbound["COURIER_WEBHOOK_SECRET"])
    heads = "".join(f"{name}: {value}\r\n" for name, value in signature.items())
    begun = f"POST /webhooks/courier HTTP/1.1\r\nHost: x\r\n{heads}Content-Length: 5000000\r\n\r\n".encode()
    for is_reset in (False, True):
        raw = socket.create_connection(("127.0.0.1", daemon.replicas[0].port))
        raw.sendall(begun + b"x" * 100_000)
        if is_reset:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    crowd = [socket.create_connection(("127.0.0.1", one.port)) for one in daemon.replicas for _ in range(260)]

    async def counted(endpoint: str, reason: str) -> list[float]:
        name, found = f'forwarder_rejected_total{{endpoint="{endpoint}",reason="{reason}"}} ', []
        for one in daemon.replicas:
            async with http.get(f"{one.operator_url}/metrics") as answer:
                rows = (await answer.text()).splitlines()
            found.append(sum(float(row.removeprefix(name)) for row in rows if row.startswith(name)))
        return found

    async def are_counted() -> bool:
        broken_off = await counted("/webhooks/courier", "disconnected")
        return sum(broken_off) == 2 and all(await counted("other", "too_many_connections"))

    await wait_until(are_counted)
    for one in crowd:
        one.close()
    assert await daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.logs().splitlines() if line.startswith("{")]
    assert {line["event"] for line in lines} >= {"request.rejected"}
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
