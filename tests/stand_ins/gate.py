"""A TCP proxy on loopback that cuts connections, lets nothing through, or hangs up.

Absent: any knowledge of what is said. Where a connection goes is asked for each one anew.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from stand_ins.listener import HOST, free_port

_PIECE = 65_536
_LOOK_AGAIN_S = 0.05
_BACKLOG = 1_024  # a test that opens hundreds at once holds up this loop


class Gate:
    """Use it as an async context manager. `upstream` returns a port on loopback, or None: then it hangs up."""

    def __init__(self, upstream: Callable[[], int | None]) -> None:
        self.upstream = upstream
        self.port = free_port()
        self.opened = 0  # connections that were passed on
        self.is_shut = False  # new connections are hung up on
        self._flows = asyncio.Event()
        self._flows.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Take connections."""
        self._server = await asyncio.start_server(self._begin, HOST, self.port, backlog=_BACKLOG)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take none any more, and cut those there are."""
        if self._server is not None:
            self._server.close()
        self._flows.set()
        while self._serving:
            self.cut()
            await asyncio.wait(self._serving, timeout=_LOOK_AGAIN_S)

    def cut(self) -> int:
        """Break every connection, as a middlebox that restarts; return how many there were."""
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for writer in pair:
                writer.transport.abort()
        return len(pairs)

    def stall(self) -> None:
        """Let nothing through from now on, and break nothing: a network that went away without a word."""
        self._flows.clear()

    def flow(self) -> None:
        """Let through again, what waited first."""
        self._flows.set()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = None if self.is_shut else self.upstream()
        if port is None:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(HOST, port)
        except OSError:
            writer.transport.abort()
            return
        self.opened += 1
        pair = writer, back
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))
        finally:
            self._pairs.discard(pair)
            for one in pair:
                one.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._flows.wait()
                writer.write(piece)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
