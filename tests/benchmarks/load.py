"""The sender and the data plane of a benchmark, in one process: post events, time the answers, count what arrives.

It stands alone, so that it can be pinned to a core of its own, and prints one JSON object. Every request is made and
signed before the clock starts; each connection sends its next one when it has its answer. Absent: what is measured
(`run`).
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import orjson
import uvloop
from aiohttp import web

SECRET = "benchmark-secret"  # invented, for both sides of one run
EVENTS_KEY = "benchmark-events-key"
_NDJSON_LINES = 100


def webhook(number: int) -> bytes:
    """Return the body of one webhook in Courier's shape, about 700 bytes, of a message of its own."""
    at_ms = 1_750_000_000_000 + number
    return orjson.dumps(
        {
            "type": "message:updated",
            "data": {
                "id": f"1-{number:08x}-15f7d6ba51bf229857c037a7",
                "status": "DELIVERED",
                "enqueued": at_ms,
                "sent": at_ms + 1_974,
                "delivered": at_ms + 34_991,
                "event": "SFTYJKSF0241SVH2TWY97TTFFTQG",
                "notification": "SFTYJKSF0241SVH2TWY97TTFFTQG",
                "recipient": f"user-{number % 5_000}",
                "recipientId": f"user-{number % 5_000}",
                "providers": [
                    {
                        "provider": "sendgrid",
                        "status": "DELIVERED",
                        "channel": {"key": "email", "name": "Email", "template": "SFTYJKSF0241SVH2TWY97TTFFTQG"},
                        "sent": at_ms + 1_974,
                        "delivered": at_ms + 34_991,
                        "reference": {"x-message-id": f"msg-{number:012d}", "pool": "transactional"},
                    }
                ],
            },
        }
    )


def requests(*, port: int, path: str, events: int, offset: int) -> Iterator[bytes]:
    """Yield whole HTTP requests, ready to be written: signed webhooks, or NDJSON of a hundred for `/events`."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    if path == "/events":
        head += f"Authorization: Bearer {EVENTS_KEY}\r\n"
        for first in range(offset, offset + events, _NDJSON_LINES):
            body = b"\n".join(webhook(number) for number in range(first, first + _NDJSON_LINES))
            yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        return
    for number in range(offset, offset + events):
        body = webhook(number)
        at_ms = str(time.time_ns() // 1_000_000)
        signature = hmac.digest(SECRET.encode(), at_ms.encode() + b"." + body, hashlib.sha256).hex()
        signed = f"courier-signature: t={at_ms},signature={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        yield (head + signed).encode() + body


@dataclass(slots=True)
class Tally:
    """What the sender saw."""

    todo: Iterator[bytes]
    done: asyncio.Future[None]
    open_connections: int
    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection: write, wait for the whole answer, write the next."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._transport: asyncio.WriteTransport | None = None
        self._answer = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by inheritance
        self._next()

    def data_received(self, data: bytes) -> None:
        """Go on once the answer is whole."""
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, length = head.lower().partition(b"content-length: ")
        if len(body) < int(length.split(b"\r\n", 1)[0]):
            return
        self._tally.latencies_s.append(time.perf_counter() - self._sent_s)
        if not head.startswith(b"HTTP/1.1 200"):
            self._tally.refused += 1
        self._answer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the run: a server that hangs up in the middle is a failure."""
        if not self._tally.done.done():
            self._tally.done.set_exception(exc or ConnectionResetError("the server hung up"))

    def _next(self) -> None:
        request = next(self._tally.todo, None)
        if self._transport is not None and request is not None:
            self._sent_s = time.perf_counter()
            self._transport.write(request)
            return
        self._tally.open_connections -= 1
        if self._tally.open_connections == 0 and not self._tally.done.done():
            self._tally.done.set_result(None)


class DataPlane:
    """A data plane that answers `ok` at once and remembers the messageIds."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.received = 0
        self.last_s = 0.0
        self.has_all = asyncio.Event()
        self._expected = 0

    def expect(self, events: int) -> None:
        """Set `has_all` at so many different messageIds."""
        self._expected = events

    async def batch(self, request: web.Request) -> web.Response:
        """Take `POST /v1/batch`."""
        body = await request.read()
        if body[:2] == b"\x1f\x8b":  # aiohttp has unpacked it where the header said so
            body = zlib.decompress(body, wbits=31)
        events = orjson.loads(body)["batch"]
        self.received += len(events)
        self.seen.update(event["messageId"] for event in events)
        self.last_s = time.perf_counter()
        if self._expected and len(self.seen) >= self._expected:
            self.has_all.set()
        return web.Response(text="ok")


async def serve(plane: DataPlane, port: int) -> web.AppRunner:
    """Start the data plane."""
    app = web.Application(client_max_size=8_000_000)
    app.router.add_post("/v1/batch", plane.batch)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def measure(options: argparse.Namespace) -> dict[str, float]:
    """Send everything, wait until it has arrived where that is asked for, and return the figures."""
    plane = DataPlane()
    runner = await serve(plane, options.sink_port) if options.sink_port else None
    loop = asyncio.get_running_loop()
    prepared = list(requests(port=options.port, path=options.path, events=options.events, offset=options.offset))
    tally = Tally(iter(prepared), loop.create_future(), min(options.connections, len(prepared)))
    if runner:
        plane.expect(options.events)
    started_s = time.perf_counter()
    for _ in range(tally.open_connections):
        await loop.create_connection(lambda: Connection(tally), "127.0.0.1", options.port)
    await tally.done
    sent_s = time.perf_counter() - started_s
    if runner:
        async with asyncio.timeout(120):
            await plane.has_all.wait()
        await runner.cleanup()
    ordered = sorted(tally.latencies_s)
    return {
        "sent": options.events,
        "refused": tally.refused,
        "sent_per_s": options.events / sent_s,
        "p50_ms": ordered[len(ordered) // 2] * 1_000,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1_000,
        "delivered": len(plane.seen),
        "duplicates": plane.received - len(plane.seen),
        "delivered_per_s": options.events / (plane.last_s - started_s) if runner else 0.0,
    }


def main() -> None:
    """Read the options, run once, print the figures."""
    parser = argparse.ArgumentParser(description="Post events to a local port and count what arrives.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/webhooks/courier")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--sink-port", type=int, default=0)
    print(json.dumps(uvloop.run(measure(parser.parse_args()))))  # noqa: T201 - this is its result


if __name__ == "__main__":
    main()
