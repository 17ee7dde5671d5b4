"""The public listener: its sockets, the sweep that keeps every connection's time, and how it stops."""

import asyncio
import ctypes
import errno
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from forwarder.errors import SettingsInvalid
from forwarder.ingress.browsers import Documents
from forwarder.ingress.connection import Connection
from forwarder.ingress.receiver import Receiver
from forwarder.ingress.routing import ENDPOINT_NAMES, Health, Routing
from forwarder.ingress.shared import ListenerLimits, Shared
from forwarder.ports import Spool
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import Tracing

_SWEEP_EVERY_S = 1.0
_DRAIN_READ_S = 1.0  # what a half-read body still gets once the daemon stops
_CLOSE_S = 0.5  # for answers on their way when the connections are closed
_TRIM_ABOVE_BYTES = 16_777_216
_BACKLOG = 1_024
_BOTH_STACKS = "::"
_FILES_FOR_OTHERS = 128  # spool, operator listener, connections to the vendors


Address = tuple[str, int]


class PublicListener:
    """What the outside reaches (`ports.Worker`). Made without a loop; `start` and `run` belong to one loop."""

    name = "listener"

    def __init__(
        self,
        *,
        addresses: Sequence[Address],
        receiver: Receiver,
        health: Health,
        spool: Spool,
        reporter: Reporter,
        limits: ListenerLimits | None = None,
        public_url: str = "",
        tracing: Tracing | None = None,
    ) -> None:
        """Keep where to listen (port 0: the system chooses) and whom to ask."""
        self._addresses = addresses
        self.ports = [port for _, port in addresses]  # once it is started, those that are listened on
        self._health = health
        self._reporter = reporter
        self._receiver = receiver
        limits = limits or ListenerLimits()
        self.shared = Shared(
            routing=Routing(receiver, health, Documents(receiver, public_url=public_url)),
            receiver=receiver,
            spool=spool,
            reporter=reporter,
            limits=limits,
            tracing=tracing,
        )
        shortest_s = min(limits.idle_max_s, limits.body_read_max_s, limits.linger_max_s)
        self._sweep_every_s = min(_SWEEP_EVERY_S, shortest_s / 4)
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._held_bytes_peak = 0
        self._is_started = False
        self._is_drained = asyncio.Event()

    async def start(self) -> None:
        """Open the sockets. Raises `SettingsInvalid` when an address cannot be listened on. Idempotent."""
        if self._is_started:
            return
        shared = self.shared
        shared.connections_max = min(shared.limits.connections_max, _connections_that_fit())
        self._sweep()
        try:
            self._servers = await _listen(lambda: Connection(shared), self._addresses)
        except BaseException:
            self._stop_sweeping()
            raise
        self.ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        for name in ENDPOINT_NAMES:
            self._reporter.endpoint_opened(name)
        self._is_started = True
        self._health.is_listening = True
        for (host, _), port in zip(self._addresses, self.ports, strict=True):
            self._reporter.listener_started(host=host, port=port, endpoints=self._receiver.open_paths())

    async def run(self) -> None:
        """Serve until drained or cancelled; `start` first if that was not done."""
        try:
            await self.start()
            await self._is_drained.wait()
        finally:
            await self._close()

    async def drain(self) -> None:
        """Let nobody in any more, answer 503 on the connections there are, and wait for what is in hand."""
        shared = self.shared
        self._receiver.drain()
        self._health.is_draining = shared.is_draining = True
        for server in self._servers:
            server.close()
        soon_s = asyncio.get_running_loop().time() + _DRAIN_READ_S
        for client in shared.reading:
            client.deadline_s = min(client.deadline_s, soon_s)
        await shared.until_answered()
        self._is_drained.set()

    async def _close(self) -> None:
        self._health.is_listening = False
        for server in self._servers:
            server.close()
        for client in list(self.shared.connections):
            client.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.shared.until_empty()
        for client in list(self.shared.connections):
            client.abort()
        await asyncio.sleep(0)
        self._stop_sweeping()
        if self._is_started:
            self._is_started = False
            self._reporter.listener_stopped()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._sweep_every_s, self._sweep)  # first: whatever happens, the next one comes
        now_s = loop.time()
        self.shared.tick(now_s)
        for client in [client for client in self.shared.connections if client.deadline_s <= now_s]:
            client.expire()
        held_bytes = self.shared.held_bytes
        self._held_bytes_peak = max(self._held_bytes_peak, held_bytes)
        if self._held_bytes_peak - held_bytes > _TRIM_ABOVE_BYTES:
            self._held_bytes_peak = held_bytes
            _give_memory_back()

    def _stop_sweeping(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()


def _give_memory_back() -> None:
    """Ask the C library for what it keeps of memory that was let go of; one that cannot (musl) keeps little."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _connections_that_fit() -> int:
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files_max == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(files_max - _FILES_FOR_OTHERS, files_max // 2)


async def _listen(make: Callable[[], asyncio.Protocol], addresses: Sequence[Address]) -> list[asyncio.Server]:
    """Listen on every address, on all or none; `::` takes IPv4, too. Raises `SettingsInvalid`."""
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    for host, port in addresses:
        try:
            if host == _BOTH_STACKS:
                server = await loop.create_server(make, sock=_both_stacks(port), backlog=_BACKLOG)
            else:
                server = await loop.create_server(make, host, port, reuse_address=True, backlog=_BACKLOG)
        except OSError as error:
            for opened in servers:
                opened.close()
            raise SettingsInvalid(_why_not(host, port, error)) from None
        servers.append(server)
    return servers


def _why_not(host: str, port: int, error: OSError) -> str:
    """Return what to tell people of an address that could not be listened on."""
    where = f"FORWARDER_LISTEN: cannot listen on {f'[{host}]' if ':' in host else host}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where}, because something listens there already. Stop that, or set another port."
        case errno.EACCES:
            return f"{where}, because that port is for privileged processes. Set one above 1023."
        case _:
            return f"{where} ({error.strerror or type(error).__name__}). Set an address of this machine."


def _both_stacks(port: int) -> socket.socket:
    # The event loops would listen on IPv6 alone.
    made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((_BOTH_STACKS, port))
    except OSError:
        made.close()
        raise
    return made
