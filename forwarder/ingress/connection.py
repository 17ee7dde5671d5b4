"""One client's connection as the event loop sees it; the answers leave in the order of the requests.

It holds no timer: the listener's sweep looks at `deadline_s`.
"""

import asyncio
from typing import cast

import httptools

from forwarder.ingress.peer import NotProxyProtocol, address_in, length_of, network_of
from forwarder.ingress.replies import later
from forwarder.ingress.request_reader import RequestReader
from forwarder.ingress.shared import Shared

_PIECE_BYTES = 65_536


class Connection(RequestReader):
    """What speaks to one client: it reads as its base does, and answers."""

    __slots__ = ("_is_blocked", "_is_paused", "_named", "_preface")

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._preface: bytes | None = b""  # what there is of a PROXY protocol header; None: it is done
        self._named = ""  # who connected to the proxy, by that header
        self._is_paused = False  # too many requests wait
        self._is_blocked = False  # the client does not take its answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.deadline_s = self._shared.now_s + self._shared.limits.idle_max_s
        self._shared.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client. What was handed to the spool is stored all the same."""
        del exc
        self._let_go()
        self._forget_waiting()
        self._transport = None
        self._shared.lost(self)

    def data_received(self, data: bytes) -> None:
        """Read bytes, judge what they make whole, and answer what they break."""
        if self.is_over:
            return
        if self._preface is not None or len(data) > _PIECE_BYTES:
            for piece in self._pieces(data):
                self.data_received(piece)
            return
        exchange, is_head_begun = self.exchange, bool(self._target)
        held_bytes = 0 if exchange is None else exchange.held_bytes
        self._measures = is_head_begun or len(data) > self._shared.limits.head_bytes_max
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._resume(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._broken()
        current = self.exchange
        if current is not None:
            is_stuck = current is exchange and current.held_bytes == held_bytes
            self._read_on(current, len(data) if is_stuck else 0)
        elif self._target:
            self._read_head_on(len(data), is_head_begun=is_head_begun)
        if not self._is_paused and len(self._queue) > self._shared.limits.requests_waiting_max:
            self._is_paused = True
            self._pause_or_resume()

    def eof_received(self) -> bool:
        """Answer what waits, if all of it came."""
        if self.exchange is not None or not self._queue:
            return False
        self.is_over = True
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
        elif queue[0] is self.exchange:
            self._invite(queue[0])
        if self._is_paused and len(queue) <= shared.limits.requests_waiting_max // 2:
            self._is_paused = False
            self._pause_or_resume()

    def network(self, forwarded: bytes) -> str:
        """Return the network that the client is in; see `peer.network_of`."""
        if not self._named and self._transport is not None:
            peer = self._transport.get_extra_info("peername")
            self._named = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        return network_of(self._named, forwarded)

    def expire(self) -> None:
        """Do what is due at the deadline: turn a slow body away, end everything else."""
        if self.exchange is None or self.is_over:
            self.abort()
        else:
            self._reject_slow_body()

    def abort(self) -> None:
        """End at once, whatever is unanswered."""
        self.is_over = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End when what was written is sent."""
        self.is_over = True
        if self._transport is not None:
            self._transport.close()

    # --- inside ---

    def _end(self, transport: asyncio.Transport, *, lingers: bool) -> None:
        shared = self._shared
        self._forget_waiting()
        self.is_over = True
        if lingers and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            self.deadline_s = shared.now_s + shared.limits.linger_max_s
        else:
            transport.close()
            self.deadline_s = shared.now_s + shared.limits.close_max_s

    def _let_go(self) -> None:
        """Let go of what was read and is not whole."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            if exchange.reply is None and exchange.admission is not None and not self.is_over:
                exchange.count_rejection((exchange.admission.endpoint.name, "disconnected"))
            exchange.abandon()
        self._forget_head()
        self.is_over = True
        self._parser = None  # they hold each other: without this only the garbage collector would end them

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

    def _pieces(self, data: bytes) -> list[bytes]:
        """Cut what was read behind a PROXY protocol header into pieces: what is counted is counted by them."""
        if self._preface is not None:
            data = self._without_preface(data)
        return [data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES)]

    def _without_preface(self, data: bytes) -> bytes:
        """Take a PROXY protocol header off; return b"" while it is not whole."""
        assert self._preface is not None  # noqa: S101  the caller looked
        data = self._preface + data
        try:
            length = length_of(data, is_expected=self._shared.limits.is_proxied)
        except NotProxyProtocol as error:
            self._preface = None
            self._reject_head(later("proxy_protocol", f"PROXY protocol: {error}"))
            return b""
        if length is None:
            self._preface = data
            return b""
        self._preface = None
        self._named = address_in(data[:length]) if length else ""
        return data[length:]
