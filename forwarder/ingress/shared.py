"""What all connections of the public listener share: limits, whom they ask, what they count, and who must go first."""

import asyncio
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import PurePath
from typing import Protocol

from forwarder.ingress.receiver import Receiver
from forwarder.ingress.replies import ONE_ACCEPTED, Reply, wire
from forwarder.ingress.routing import UNKNOWN_ENDPOINT, Routing
from forwarder.ports import Spool
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """All positive. Times are kept by a sweep, so they may be exceeded by its interval (a second at most)."""

    idle_max_s: float = 75.0  # between two requests, and from a connection's start to the end of a request's head
    body_read_max_s: float = 60.0
    linger_max_s: float = 1.0  # what a sender whose body is not read gets to hear why
    close_max_s: float = 5.0  # what a client gets to take its last answer
    head_bytes_max: int = 65_536
    headers_max: int = 256
    connections_max: int = 4_096
    requests_waiting_max: int = 64  # of one connection; then it is not read until they are answered
    held_bytes_max: int = 134_217_728  # of all bodies and heads that are being read, judged or stored
    is_proxied: bool = False  # connections may begin with a PROXY protocol header


class Client(Protocol):
    """A connection, as those who count it see it."""

    deadline_s: float

    def network(self, forwarded: bytes) -> str:
        """Return the network that the client is in."""

    def expire(self) -> None:
        """Do what is due at the deadline."""

    def close(self) -> None:
        """End when what was written is sent."""

    def abort(self) -> None:
        """End at once."""


class Shared:
    """Belongs to one event loop."""

    def __init__(
        self,
        *,
        routing: Routing,
        receiver: Receiver,
        spool: Spool,
        reporter: Reporter,
        limits: ListenerLimits,
        tracing: Tracing | None = None,
    ) -> None:
        self.routing = routing
        self.receiver = receiver
        self.spool = spool
        self.reporter = reporter
        self.limits = limits
        self.tracing = tracing  # None: nothing is traced
        self.connections_max = limits.connections_max
        self.connections: set[Client] = set()
        # Those that may go for a new one, oldest first: without a request, and in the middle of a body.
        self.idle: dict[Client, None] = {}
        self.reading: dict[Client, None] = {}
        self.in_flight = 0  # requests that are not answered
        self.held_bytes = 0
        self.held_bytes_max = limits.held_bytes_max
        self.is_draining = False
        self._steps: deque[Callable[[], None]] = deque()
        self._is_answered = asyncio.Event()
        self._is_empty = asyncio.Event()
        self.now_s = 0.0  # of the loop, as of the last sweep
        self.date = b""
        self.one_accepted = b""
        self.tick(0.0)

    def tick(self, now_s: float) -> None:
        """Take the time, once a sweep rather than with every request."""
        self.now_s = now_s
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
        self.one_accepted = wire(ONE_ACCEPTED, date=self.date)

    def opened(self, client: Client) -> None:
        """Count a new client; above the limit the oldest that waits for nothing goes, else the newest."""
        if len(self.connections) >= self.connections_max:
            victim = next(iter(self.idle), None) or next(iter(self.reading), client)
            self.lost(victim)
            self.reporter.request_rejected(UNKNOWN_ENDPOINT, "too_many_connections", client.network(b""))
            victim.abort()
            if victim is client:
                return
        self.connections.add(client)
        self.idle[client] = None

    def lost(self, client: Client) -> None:
        """Count a client off."""
        self.connections.discard(client)
        self.idle.pop(client, None)
        self.reading.pop(client, None)
        if not self.connections:
            self._is_empty.set()

    def note_answered(self) -> None:
        """Be told, while draining, that a request was answered."""
        if not self.in_flight:
            self._is_answered.set()

    async def until_answered(self) -> None:
        """Wait until no request is in flight."""
        while self.in_flight:
            self._is_answered.clear()
            await self._is_answered.wait()

    async def until_empty(self) -> None:
        """Wait until no client is connected."""
        while self.connections:
            self._is_empty.clear()
            await self._is_empty.wait()

    def in_turn(self, step: Callable[[], None]) -> None:
        """Have a step of judging a large body taken: one in each turn of the loop, in the order in which they came.

        So a crowd of large bodies holds up nobody for longer than one does; what was taken in before is delivered
        between them, out of memory.
        """
        self._steps.append(step)
        if len(self._steps) == 1:
            asyncio.get_running_loop().call_soon(self._take_step)

    def _take_step(self) -> None:
        step = self._steps.popleft()
        if self._steps:
            asyncio.get_running_loop().call_soon(self._take_step)
        step()

    def crashed(self, error: Exception) -> Reply:
        """Tell of a bug of ours by type and place; the sender must come back."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePath(frame.filename).name}:{frame.lineno}"
        self.reporter.request_crashed(UNKNOWN_ENDPOINT, error=type(error).__name__, where=where)
        return Reply(500, b'{"error":"internal error"}')
