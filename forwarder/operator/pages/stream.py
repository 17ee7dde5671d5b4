"""The live stream of the page: server-sent events, from one poller for all who look.

The daemon is asked once a second whoever and however many look, and not at all when nobody does. A client that does
not keep up loses messages, is told how many rows, and slows nobody. Deliberately absent: what the parts look like.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web

from forwarder.errors import ForwarderError
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.pages.filters import read_filters
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.topic import News, Topic
from forwarder.ports import Archive, Clock, EventQuery, EventRow, SpoolFacts
from forwarder.telemetry.reporter import Reporter

CLIENTS_MAX: Final = 16
_NEWS_MAX: Final = 8  # that wait for one client
TICK_S: Final = 1.0
_WRITE_MAX_S: Final = 10.0  # then the client is gone, whatever its socket says
_RETRY_MS: Final = 1_500
_SEQUENCE_DIGITS_MAX: Final = 18

Parts = Callable[[SpoolFacts], Mapping[str, str]]


@dataclass(eq=False, slots=True, kw_only=True)
class _Client:
    """One page that looks. `query` None: it shows no list. Of the status only the last one waits to be sent."""

    query: EventQuery | None
    wants_parts: bool
    status: bytes = b""
    news: deque[bytes] = field(default_factory=deque)
    lost_rows: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def tell_status(self, text: bytes) -> None:
        """Let the page know how things are, instead of what it has not heard yet."""
        self.status = text
        self.ready.set()

    def tell_news(self, text: bytes, *, rows: int) -> None:
        """Queue what is new, or lose it, counted, when the page does not keep up."""
        if len(self.news) >= _NEWS_MAX:
            self.lost_rows += rows
            return
        self.news.append(text)
        self.ready.set()

    def take(self) -> bytes:
        """Return what waits, as one text."""
        self.ready.clear()
        text = b"".join((self.status, *self.news))
        self.status = b""
        self.news.clear()
        return text


class Stream:
    """`ports.Worker`: poll while somebody looks, until drained. `serve` is the handler of `/api/stream`."""

    name = "stream"

    def __init__(
        self,
        *,
        archive: Archive,
        clock: Clock,
        reporter: Reporter,
        render: Renderer,
        parts: Parts,
        guard: OperatorGuard,
        tick_s: float = TICK_S,
    ) -> None:
        self._archive = archive
        self._clock = clock
        self._reporter = reporter
        self._render = render
        self._parts = parts
        self._guard = guard
        self._tick_s = tick_s
        self._clients: set[_Client] = set()
        self._topics: dict[EventQuery, Topic] = {}
        self._somebody = asyncio.Event()
        self._drained = asyncio.Event()

    # --- what the daemon calls ---

    async def run(self) -> None:
        """Poll for those who look; see `ports.Worker`."""
        while not self._drained.is_set():
            if self._clients:
                await self._tick()
                await self._rest(self._tick_s)
            else:
                self._somebody.clear()
                await self._rest(None)

    async def drain(self) -> None:
        """Say goodbye to everybody and make `run` return."""
        self._drained.set()
        self._somebody.set()
        for client in self._clients:
            client.tell_status(message("bye", {}))

    # --- what the listener calls ---

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Stream until the client leaves, its login ends, or the daemon stops."""
        if self._drained.is_set():
            raise web.HTTPServiceUnavailable(reason="the daemon is stopping")
        if len(self._clients) >= CLIENTS_MAX:
            raise web.HTTPServiceUnavailable(reason=f"{CLIENTS_MAX} pages look already", headers={"Retry-After": "5"})
        client = _client(request)
        self._clients.add(client)
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            await response.write(f"retry: {_RETRY_MS}\n\n".encode())
            await self._catch_up(client, _after(request))
            self._somebody.set()
            await self._write(client, request, response)
        finally:
            self._leave(client)
        return response

    def _leave(self, client: _Client) -> None:
        self._clients.discard(client)
        if client.query is not None and all(client.query != other.query for other in self._clients):
            self._topics.pop(client.query, None)  # what nobody follows would grow old: the next one begins anew

    async def _write(self, client: _Client, request: web.Request, response: web.StreamResponse) -> None:
        try:
            while client.ready.is_set() or not self._drained.is_set():
                await client.ready.wait()
                admitted = self._guard.still_admits(headers=request.headers, cookies=request.cookies)
                async with asyncio.timeout(_WRITE_MAX_S):
                    await response.write(client.take() if admitted else message("ended", {}))
                if not admitted:
                    return
        except ConnectionError:
            return
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # an orderly end would wait for whoever does not read

    async def _catch_up(self, client: _Client, after: int | None) -> None:
        if client.query is None:
            return
        topic = self._topics.setdefault(client.query, Topic(self._archive, client.query))
        self._tell_news(client, await topic.join(after=after), {})

    # --- the poller ---

    async def _rest(self, seconds: float | None) -> None:
        waits_for = self._drained if seconds is not None else self._somebody
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await waits_for.wait()

    async def _tick(self) -> None:
        try:
            await self._look()
        except ForwarderError:
            return  # the spool is shut, or busy: the next tick tries again
        except Exception as error:  # noqa: BLE001  a page must not stop the daemon, whatever it stumbles over
            self._reporter.operator_failed(error)

    async def _look(self) -> None:
        clients = tuple(self._clients)
        facts = await self._archive.facts()
        now_ms = self._clock.wall_ms()
        plain = message("status", {"now_ms": now_ms, "parts": {}})
        full = plain
        if any(client.wants_parts for client in clients):
            full = message("status", {"now_ms": now_ms, "parts": dict(self._parts(facts))})
        for client in clients:
            client.tell_status(full if client.wants_parts else plain)
        await self._look_at_lists()

    async def _look_at_lists(self) -> None:
        for query, topic in tuple(self._topics.items()):
            news = await topic.look()
            drawn: dict[int, str] = {}
            for client in self._clients:
                if client.query == query:
                    self._tell_news(client, news, drawn)

    def _tell_news(self, client: _Client, news: News, drawn: dict[int, str]) -> None:
        """Queue what is new for one client; a row is drawn once for all of them."""
        if news.is_empty and not client.lost_rows:
            return
        skipped, client.lost_rows = news.skipped + client.lost_rows, 0
        told = {
            "rows": self._drawn(news.fresh, drawn),
            "changed": self._drawn(news.changed, drawn),
            "skipped": skipped,
            "is_more": news.is_more,
        }
        client.tell_news(message("events", told, sequence=news.newest), rows=len(news.fresh) + skipped)

    def _drawn(self, rows: Sequence[EventRow], drawn: dict[int, str]) -> list[dict[str, object]]:
        for row in rows:
            if row.sequence not in drawn:
                drawn[row.sequence] = self._render.text("event_row.html", row=row)
        return [{"sequence": row.sequence, "html": drawn[row.sequence]} for row in rows]


def message(name: str, value: Any, *, sequence: int | None = None) -> bytes:
    """Write one server-sent event; JSON has no line breaks of its own, so one data line holds it."""
    identity = b"id: %d\n" % sequence if sequence is not None else b""
    return b"%sevent: %s\ndata: %s\n\n" % (identity, name.encode(), orjson.dumps(value))


def _client(request: web.Request) -> _Client:
    watch = request.query.get("watch", "")
    query = read_filters(request.query, limit=EventQuery().limit).query if watch == "events" else None
    return _Client(query=query, wants_parts=watch == "overview")


def _after(request: web.Request) -> int | None:
    """Return the sequence to go on from: the browser's own on a reconnect, else the page's."""
    for text in (request.headers.get("Last-Event-ID", ""), request.query.get("after", "")):
        if text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS_MAX:
            return int(text)
    return None
