"""One client's connection as the event loop sees it; the answers leave in the order of the requests.

It holds no timer: the listener's sweep looks at `deadline_s`. A proxy may put a header before the first byte (PROXY
protocol, versions 1 and 2; HAProxy's proxy-protocol.txt). A connection without one is served, too: the address in it
could be forged, and health checks of the machine itself send none.
"""

import asyncio
from typing import cast

import httptools

from forwarder.errors import ForwarderError
from forwarder.ingress.replies import later
from forwarder.ingress.request_reader import RequestReader
from forwarder.ingress.shared import Shared

_PIECE_BYTES = 65_536

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_PREFIX = b"PROXY "
_V1_BYTES_MAX = 107  # of the whole line, by the specification
_V2_HEAD_BYTES = 16
_V2_VERSION = 2
_V2_BYTES_MAX = 4_096  # of everything after the head; addresses and the usual extensions take a few hundred


class NotProxyProtocol(ForwarderError):
    """The connection begins like a PROXY protocol header and goes on as none, or one is not expected."""


class Connection(RequestReader):
    """What speaks to one client: it reads as its base does, and answers."""

    __slots__ = ("_is_blocked", "_is_paused", "_preface")

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._preface: bytes | None = b""  # what there is of a PROXY protocol header; None: it is done
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
                self._shared.reporter.request_rejected(exchange.admission.endpoint.name, "disconnected")
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
            length = _length_of(data, is_expected=self._shared.limits.is_proxied)
        except NotProxyProtocol as error:
            self._preface = None
            self._reject_head(later("proxy_protocol", f"PROXY protocol: {error}"))
            return b""
        self._preface = data if length is None else None
        return b"" if length is None else data[length:]


def _length_of(data: bytes, *, is_expected: bool) -> int | None:
    """Return how many bytes the header is long, 0 when there is none, None while that cannot be told.

    Raises `NotProxyProtocol`.
    """
    is_v1, is_v2 = data.startswith(V1_PREFIX), data.startswith(V2_SIGNATURE)
    if not (is_v1 or is_v2):
        return None if V1_PREFIX.startswith(data) or V2_SIGNATURE.startswith(data) else 0
    if not is_expected:
        raise NotProxyProtocol("it is spoken to this listener; set FORWARDER_PROXY_PROTOCOL=true")
    return _length_of_v1(data) if is_v1 else _length_of_v2(data)


def _length_of_v1(data: bytes) -> int | None:
    end = data.find(b"\r\n", 0, _V1_BYTES_MAX)
    if end < 0 and len(data) >= _V1_BYTES_MAX:
        raise NotProxyProtocol("its line does not end")
    return None if end < 0 else end + 2


def _length_of_v2(data: bytes) -> int | None:
    if len(data) < _V2_HEAD_BYTES:
        return None
    size = int.from_bytes(data[14:16], "big")
    if data[12] >> 4 != _V2_VERSION or size > _V2_BYTES_MAX:
        raise NotProxyProtocol("its header is not as the protocol has it")
    return _V2_HEAD_BYTES + size if len(data) >= _V2_HEAD_BYTES + size else None
