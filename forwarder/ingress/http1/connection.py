"""One client's connection: what it reads goes to its reader, the answers leave in the order of the requests.

It holds no timer: the listener's sweep looks at `deadline_s`.
"""

import asyncio
from collections import deque
from math import inf
from typing import cast

from forwarder.ingress.http1 import proxy_protocol
from forwarder.ingress.http1.exchange import Exchange
from forwarder.ingress.http1.proxy_protocol import NotProxyProtocol
from forwarder.ingress.http1.request_reader import RequestReader
from forwarder.ingress.http1.shared import Shared
from forwarder.ingress.replies import later

_PIECE_BYTES = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """What speaks to one client."""

    __slots__ = ("_is_blocked", "_is_paused", "_preface", "_queue", "_reader", "_shared", "_transport", "deadline_s")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(self, shared)
        self._queue: deque[Exchange] = deque()  # not answered yet, in the order of the requests
        self._preface: bytes | None = b""  # what there is of a PROXY protocol header; None: it is done
        self._is_paused = False  # too many requests wait
        self._is_blocked = False  # the client does not take its answers
        self.deadline_s = inf

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.deadline_s = self._shared.now_s + self._shared.limits.idle_max_s
        self._shared.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client. What was handed to the spool is stored all the same."""
        del exc
        self._reader.close()
        self._forget_waiting()
        self._transport = None
        self._shared.lost(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        if self._reader.is_over:
            return
        if self._preface is not None:
            data = self._without_preface(data)
            if not data:
                return
        if len(data) <= _PIECE_BYTES:
            self._reader.feed(data)
        else:
            self._feed_in_pieces(data)
        if not self._is_paused and len(self._queue) > self._shared.limits.requests_waiting_max:
            self._is_paused = True
            self._pause_or_resume()

    def eof_received(self) -> bool:
        """Answer what waits, if all of it came."""
        if self._reader.exchange is not None or not self._queue:
            return False
        self._reader.is_over = True
        self._queue[-1].closes = True
        return True

    def pause_writing(self) -> None:
        """Read nothing from a client that does not take its answers; its deadline goes on."""
        self._is_blocked = True
        self._pause_or_resume()

    def resume_writing(self) -> None:
        """Go on reading."""
        self._is_blocked = False
        self._pause_or_resume()

    # --- the reader's side ---

    def begin(self) -> Exchange:
        """Return a new exchange, in the order of the requests."""
        shared = self._shared
        exchange = Exchange(self, shared)
        self._queue.append(exchange)
        shared.idle.pop(self, None)
        self.deadline_s = inf
        return exchange

    def wait_for_body(self, exchange: Exchange) -> None:
        """Count the connection among those that read, and let the sender go on."""
        shared = self._shared
        if self not in shared.reading:
            shared.reading[self] = None
            self.deadline_s = shared.now_s + shared.limits.body_read_max_s
        self._invite(exchange)

    def end_of_body(self) -> None:
        """Wait for nothing but the spool."""
        self._shared.reading.pop(self, None)
        self.deadline_s = inf

    # --- the exchanges' and the listener's side ---

    def flush(self) -> None:
        """Write the answers that are ready, in the order of the requests."""
        queue, transport, shared = self._queue, self._transport, self._shared
        assert transport is not None  # noqa: S101  an exchange of a lost connection does not come here
        while queue and (output := queue[0].output) is not None:
            exchange = queue.popleft()
            transport.write(output)
            if exchange.closes:
                self._end(transport, lingers=exchange.lingers)
                return
        if not queue:
            shared.idle[self] = None
            self.deadline_s = shared.now_s + shared.limits.idle_max_s
        elif queue[0] is self._reader.exchange:
            self._invite(queue[0])
        if self._is_paused and len(queue) <= shared.limits.requests_waiting_max // 2:
            self._is_paused = False
            self._pause_or_resume()

    def expire(self) -> None:
        """Do what is due at the deadline: turn a slow body away, end everything else."""
        if self._reader.exchange is None or self._reader.is_over:
            self.abort()
        else:
            self._reader.reject_slow_body()

    def abort(self) -> None:
        """End at once, whatever is unanswered."""
        self._reader.is_over = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End when what was written is sent."""
        self._reader.is_over = True
        if self._transport is not None:
            self._transport.close()

    # --- inside ---

    def _invite(self, exchange: Exchange) -> None:
        """Let a sender go on that waits to be told so; not before the answers to earlier requests."""
        if exchange.expects_continue and self._queue[0] is exchange and self._transport is not None:
            exchange.expects_continue = False
            self._transport.write(_CONTINUE)

    def _end(self, transport: asyncio.Transport, *, lingers: bool) -> None:
        shared = self._shared
        self._forget_waiting()
        self._reader.is_over = True
        if lingers and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            self.deadline_s = shared.now_s + shared.limits.linger_max_s
        else:
            transport.close()
            self.deadline_s = shared.now_s + shared.limits.close_max_s

    def _forget_waiting(self) -> None:
        for waiting in self._queue:
            waiting.connection = None
        self._queue.clear()

    def _pause_or_resume(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_blocked or self._is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _feed_in_pieces(self, data: bytes) -> None:
        # What the reader counts, it counts by pieces.
        for start in range(0, len(data), _PIECE_BYTES):
            if self._reader.is_over:
                return
            self._reader.feed(data[start : start + _PIECE_BYTES])

    def _without_preface(self, data: bytes) -> bytes:
        """Take a PROXY protocol header off; return b"" while it is not whole."""
        assert self._preface is not None  # noqa: S101  the caller looked
        data = self._preface + data
        try:
            length = proxy_protocol.length_of(data, is_expected=self._shared.limits.is_proxied)
        except NotProxyProtocol as error:
            self._preface = None
            self._reader.reject_head(later("proxy_protocol", f"PROXY protocol: {error}"))
            return b""
        self._preface = data if length is None else None
        return b"" if length is None else data[length:]
