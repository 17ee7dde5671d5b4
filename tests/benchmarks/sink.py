"""Both destinations of a benchmark in one cheap process: a data plane that says `ok`, a Courier that takes its time.

Bodies are kept as they came and read after the clock stopped, so that the sink takes little of the core that it shares
with the load generator. `GET /count` reads what is new, but only when nothing arrived for a moment.
"""

import argparse
import asyncio
import re
import time
import zlib
from typing import cast

import httptools
import orjson
import uvloop

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
_MESSAGE_ID = re.compile(rb'"messageId":\s*"([^"]+)"')
_IDLE_S = 0.2


class Arrivals:
    """What arrived at both destinations."""

    def __init__(self, *, delay_s: float) -> None:
        self.delay_s = delay_s
        self.times_s: list[float] = []  # of each request, on the machine's monotonic clock
        self._bodies: list[bytes] = []
        self._seen: set[bytes] = set()
        self._received = 0

    def take(self, body: bytes) -> None:
        """Keep a batch for later."""
        self.times_s.append(time.monotonic())
        self._bodies.append(body)

    def count(self) -> dict[str, object]:
        """Return the account of what arrived; `events` and `distinct` lag behind while requests come in."""
        if self.times_s and time.monotonic() - self.times_s[-1] > _IDLE_S:
            for body in self._bodies:
                text = zlib.decompress(body, wbits=31) if body[:2] == b"\x1f\x8b" else body
                ids = _MESSAGE_ID.findall(text)
                self._received += len(ids)
                self._seen.update(ids)
            self._bodies.clear()
        return {
            "requests": len(self.times_s),
            "events": self._received,
            "distinct": len(self._seen),
            "last_s": self.times_s[-1] if self.times_s else 0.0,
        }


class Connection(asyncio.Protocol):
    """One connection of the daemon's clients, or of the benchmark itself."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._path = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Begin a request."""
        self._path, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer."""
        if self._path.startswith(b"/v1/"):
            self._arrivals.take(self._body)
            self._say(b"text/plain", b"ok")
        elif self._path == b"/count":
            self._say(b"application/json", orjson.dumps(self._arrivals.count()))
        elif self._path == b"/times":
            self._say(b"application/json", orjson.dumps(self._arrivals.times_s))
        else:  # a call to Courier
            self._arrivals.times_s.append(time.monotonic())
            self._loop.call_later(self._arrivals.delay_s, self._say, b"application/json", b'{"status":"SUCCESS"}')

    def _say(self, kind: bytes, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_OK % (kind, len(body), body))


async def serve(port: int, delay_s: float) -> None:
    """Serve until the process is ended."""
    arrivals = Arrivals(delay_s=delay_s)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(arrivals), "127.0.0.1", port, backlog=512)
    await asyncio.Event().wait()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description="Stand in for both destinations of a benchmark.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="how long Courier takes for each call")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.delay_ms / 1_000))


if __name__ == "__main__":
    main()
