"""The public listener: sockets, time-outs and limits around the doors and the health endpoints.

It stands on aiohttp's low-level server, without application, router or middleware, because every request pays for
those. Deliberately absent: any judgement of a request; see `receive`.
"""

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath

from aiohttp import HttpVersion11, StreamReader, web

from forwarder.errors import SettingsInvalid
from forwarder.telemetry.reporter import Reporter
from forwarder.web.admission import DRAIN_RETRY_S, draining, too_large
from forwarder.web.answers import Rejected
from forwarder.web.connection import Server
from forwarder.web.cross_origin import preflight, readable
from forwarder.web.doors import UNAVAILABLE, Reply, Words
from forwarder.web.health import Health
from forwarder.web.listening import why_not
from forwarder.web.receive import UNKNOWN_ENDPOINT, Receiver
from forwarder.web.writing import answer

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_DRAIN_READ_S = 1.0  # what a half-read body still gets once the daemon stops
_CLOSE_S = 0.5  # for answers on their way when the connections are closed


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """What one client, and all of them together, may cost."""

    keepalive_s: float = 75.0  # an idle connection, and one that does not get through its request's head
    body_read_max_s: float = 60.0
    head_line_bytes_max: int = 8_190  # the request line, and each header
    headers_max: int = 100
    connections_max: int = 4_096
    bodies_bytes_max: int = 134_217_728  # of all bodies that are being read or stored, beside those that came at once
    read_buffer_bytes: int = 65_536


class PublicListener:
    """The daemon's public door (`ports.Worker`). Made without a loop; `start` and `run` belong to one loop."""

    name = "listener"

    def __init__(
        self,
        *,
        host: str,
        port: int,
        receiver: Receiver,
        health: Health,
        reporter: Reporter,
        limits: ListenerLimits | None = None,
    ) -> None:
        """Keep where to listen (port 0: the system chooses) and whom to ask."""
        self._host = host
        self._port = port
        self._receiver = receiver
        self._health = health
        self._reporter = reporter
        self._limits = limits or ListenerLimits()
        self._server: Server | None = None
        self._sockets: asyncio.Server | None = None
        self._in_flight = 0
        self.held_bytes = 0  # of bodies that did not come at once
        self._is_idle = asyncio.Event()
        self._is_drained = asyncio.Event()
        self._readers: set[asyncio.Timeout] = set()

    @property
    def port(self) -> int:
        """The port that is listened on; before `start` the one that was asked for."""
        if self._sockets is None or not self._sockets.sockets:
            return self._port
        port: int = self._sockets.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Open the doors. Raises `SettingsInvalid` when the address cannot be listened on. Idempotent."""
        if self._sockets is not None:
            return
        limits = self._limits
        server = Server(
            self._respond,
            reporter=self._reporter,
            connections_max=limits.connections_max,
            keepalive_timeout=limits.keepalive_s,
            max_line_size=limits.head_line_bytes_max,
            max_field_size=limits.head_line_bytes_max,
            max_headers=limits.headers_max,
            lingering_time=1.0,  # so that a sender still hears why its body was not read to the end
            read_bufsize=limits.read_buffer_bytes,
            auto_decompress=False,  # Courier may have signed the packed bytes, and unpacking has limits of its own
        )
        try:
            self._sockets = await asyncio.get_running_loop().create_server(
                server, self._host, self._port, reuse_address=True, backlog=1024
            )
        except OSError as error:
            raise SettingsInvalid(why_not("FORWARDER_LISTEN", self._host, self._port, error)) from None
        self._server = server
        self._health.is_listening = True
        self._reporter.listener_started(host=self._host, port=self.port)

    async def run(self) -> None:
        """Serve until drained or cancelled; `start` first if that was not done."""
        try:
            await self.start()
            await self._is_drained.wait()
        finally:
            await self._close()

    async def drain(self) -> None:
        """Let nobody in any more, answer 503 on the connections there are, and wait for what is in hand."""
        self._receiver.drain()
        self._health.is_draining = True
        if self._sockets is not None:
            self._sockets.close()
        soon = asyncio.get_running_loop().time() + _DRAIN_READ_S
        for reader in self._readers:
            if not reader.expired():
                reader.reschedule(min(soon, reader.when() or soon))
        while self._in_flight:
            self._is_idle.clear()
            await self._is_idle.wait()
        self._is_drained.set()

    async def _close(self) -> None:
        self._health.is_listening = False
        if self._sockets is not None:
            self._sockets.close()
        if self._server is not None:
            self._server.pre_shutdown()  # idle connections end at once
            await asyncio.sleep(0)
            await self._server.shutdown(_CLOSE_S)
            self._reporter.listener_stopped()
            self._server = None

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        try:
            reply = await self._reply(request)
        except ConnectionError:  # the client hung up; there is nobody to answer
            self._reporter.request_rejected(UNKNOWN_ENDPOINT, "disconnected")
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it is a bug of ours and the sender must come back
            reply = self._crashed(error)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._is_idle.set()
        reply = readable(reply, request.path, request.headers.get)
        return answer(reply, request, closes=self._receiver.is_draining)

    async def _reply(self, request: web.BaseRequest) -> Reply:
        method, path = request.method, request.path
        if (reply := self._health.reply(method, path)) is not None:
            return reply
        if (reply := preflight(method, path, request.headers.get)) is not None:
            return reply
        admission = self._receiver.admit(method, path, request.headers.get)
        content = request.content
        if isinstance(admission, Reply):
            # A body that is still under way will not be read: the connection is of no more use.
            return admission if content.is_eof() else replace(admission, closes=True)
        if content.is_eof():  # the usual case: the body came with its head
            return await self._receiver.receive(admission, content.read_nowait())
        if request.version >= HttpVersion11 and request.headers.get("expect", "").lower() == "100-continue":
            await request.writer.write(_CONTINUE)
            request.writer.output_size = 0  # the answer itself has not begun
        body = bytearray()
        try:
            rejected = await self._read(content, body)
            if rejected is None:
                return await self._receiver.receive(admission, bytes(body))
            return replace(self._receiver.reject(admission, rejected), closes=True)
        finally:
            self.held_bytes -= len(body)

    async def _read(self, content: StreamReader, body: bytearray) -> Rejected | None:
        """Read the rest of a body, within the limits of time and size; return why that did not work."""
        body_bytes_max, bodies_bytes_max = self._receiver.body_bytes_max, self._limits.bodies_bytes_max
        try:
            with self._reading() as timeout:
                async with timeout:
                    while chunk := await content.readany():
                        body += chunk
                        self.held_bytes += len(chunk)
                        if len(body) > body_bytes_max:
                            return too_large(body_bytes_max)
                        if self.held_bytes > bodies_bytes_max:
                            return _come_back("too_much_at_once", "too many large bodies at once")
        except TimeoutError:
            return draining() if self._receiver.is_draining else _come_back("body_slow", "the body came too slowly")
        except web.RequestPayloadError:
            return _come_back("body_broken", "the body did not come as its head announced it")
        return None

    @contextmanager
    def _reading(self) -> Iterator[asyncio.Timeout]:
        timeout = asyncio.timeout(self._limits.body_read_max_s)
        self._readers.add(timeout)
        try:
            yield timeout
        finally:
            self._readers.discard(timeout)

    def _crashed(self, error: Exception) -> Reply:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePath(frame.filename).name}:{frame.lineno}"
        self._reporter.request_crashed(UNKNOWN_ENDPOINT, error=type(error).__name__, where=where)
        return replace(Rejected(500, "internal_error", "internal error").reply(Words.JSON), closes=True)


def _come_back(reason: str, message: str) -> Rejected:
    return Rejected(UNAVAILABLE, reason, message, gateway="Service Unavailable", retry_after_s=DRAIN_RETRY_S)
