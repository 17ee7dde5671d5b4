"""Bytes in, requests out: the reading half of one connection, with the limits of heads and bodies.

llhttp (in httptools) parses, with none of its leniencies; what it lets through and a proxy might read otherwise is
refused here. What is not wanted of a request is answered at once and never read.
"""

import asyncio
from collections import deque
from math import inf
from typing import Any

import httptools

from forwarder.ingress.endpoints import BY_TARGET, ReplyFormat
from forwarder.ingress.exchange import Answering, Exchange
from forwarder.ingress.replies import Rejected, Reply, draining, head_too_large, later, not_http, too_large, too_much
from forwarder.ingress.routing import UNKNOWN_ENDPOINT, endpoint_name, split
from forwarder.ingress.shared import Client, Shared

_HEADER_BYTES = 4  # of a header beside its name and value
_ONCE = frozenset({b"content-length", b"transfer-encoding", b"host"})  # twice, they may be read in two ways
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestReader(asyncio.Protocol, Answering, Client):
    """What a connection reads. `exchange` is the request whose body is being read, the last one that began."""

    __slots__ = (
        "_headers",
        "_is_resuming",
        "_is_waiting",
        "_measures",
        "_parser",
        "_queue",
        "_repeated",
        "_shared",
        "_target",
        "_transport",
        "_unread_bytes",
        "deadline_s",
        "exchange",
        "is_over",
        "last",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeated: list[bytes] = []  # names of headers that came again
        self._queue: deque[Exchange] = deque()  # not answered yet, in the order of the requests
        self._unread_bytes = 0  # since the last piece of a body, or in a head that is not whole yet
        self._measures = False  # whether a head may be too large
        self._is_waiting = False  # for the rest of a body
        self._is_resuming = False  # reading the body of a request that asked for another protocol
        self.exchange: Exchange | None = None
        self.last: Exchange | None = None  # see `exchange.Answering`
        self.is_over = False  # nothing more is read
        self.deadline_s = inf

    # --- what the parser calls ---

    def on_url(self, part: bytes) -> None:
        """Take a piece of the target."""
        if not self._is_resuming:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is not looked at."""
        if self.exchange is not None:
            return
        name = name.lower()
        if name in self._headers:
            self._repeated.append(name)
        else:
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Judge the head of a request."""
        if self.is_over:
            return
        if self._is_resuming:
            self._is_resuming = False
            return
        shared, parser, headers, target = self._shared, self._parser, self._headers, self._target
        is_kept = parser.should_keep_alive()
        version = "1.1" if is_kept and b"connection" not in headers else parser.get_http_version()
        if (
            version != "1.1"
            or self._measures
            or self._repeated
            or len(headers) > shared.limits.headers_max
            or b"transfer-encoding" in headers
        ) and (rejected := self._judge_form(version)) is not None:
            self._reject_head(rejected)
            return
        exchange = self.exchange = self._begin()
        self._target, self._headers = b"", {}
        if self._repeated or self._unread_bytes:
            self._forget_head()
        method = parser.get_method()
        exchange.closes, exchange.is_head = not is_kept, method == b"HEAD"
        exchange.is_http_1_0 = version == "1.0"
        if b"expect" in headers:
            exchange.expects_continue = version == "1.1" and headers[b"expect"].strip().lower() == b"100-continue"
        exchange.forwarded = headers.get(b"x-forwarded-for", b"")
        if shared.tracing is not None:
            exchange.traceparent = headers.get(b"traceparent", b"")
        if b"upgrade" in headers and parser.should_upgrade():
            self._is_resuming = True
            self._headers = {name: headers[name] for name in _ONCE if name in headers}
        try:
            judged = shared.routing.judge(method, target, headers)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a bug of ours and the sender must come back
            judged = shared.crashed(error)
        if isinstance(judged, Reply):
            exchange.reply, exchange.endpoint = judged, endpoint_name(target)
        else:
            exchange.admission = judged

    def on_body(self, part: bytes) -> None:
        """Take a piece of a body, within the limits of one and of all."""
        exchange = self.exchange
        if exchange is None or exchange.reply is not None:
            return
        shared = self._shared
        if self._unread_bytes:
            self._forget_unread()
        exchange.held_bytes += len(part)
        shared.held_bytes += len(part)
        if exchange.held_bytes > shared.receiver.body_bytes_max:
            self._refuse(exchange, too_large(shared.receiver.body_bytes_max))
        elif shared.held_bytes > shared.held_bytes_max:
            self._refuse(exchange, too_much())
        elif not exchange.body:
            exchange.body = part
        elif isinstance(exchange.body, bytearray):
            exchange.body += part
        else:
            exchange.body = bytearray(exchange.body) + part

    def on_message_complete(self) -> None:
        """Hand a whole request over to be judged, stored and answered."""
        exchange = self.exchange
        if exchange is None or self._is_resuming or self.is_over:
            return
        self.exchange = None
        if self._unread_bytes or self._is_waiting:
            self._end_of_body()
        self.is_over = exchange.closes
        if exchange.reply is None:
            exchange.receive()
        else:
            exchange.finish(exchange.reply)

    def _begin(self) -> Exchange:
        """Return a new exchange, in the order of the requests."""
        exchange = Exchange(self, self._shared)
        self._queue.append(exchange)
        self._shared.idle.pop(self, None)
        self.deadline_s = inf
        return exchange

    def _invite(self, exchange: Exchange) -> None:
        """Let a sender go on that waits to be told so; not before the answers to earlier requests."""
        if exchange.expects_continue and self._queue[0] is exchange and self._transport is not None:
            exchange.expects_continue = False
            self._transport.write(_CONTINUE)

    def _reject_head(self, rejected: Rejected) -> None:
        """Turn a request away whose head is no good, in the words of the endpoint that it was for."""
        exchange, target = self._begin(), self._target
        self._forget_head()
        endpoint = BY_TARGET.get(split(target)[0])
        if endpoint is None:
            exchange.reply = rejected.reply(ReplyFormat.JSON, UNKNOWN_ENDPOINT)
        else:
            rejected.status = endpoint.status(rejected.status)
            exchange.reply, exchange.endpoint = self._shared.receiver.reject(endpoint, rejected), endpoint.name
        self._answer_unread(exchange, exchange.reply)

    def _reject_slow_body(self) -> None:
        """Turn the request away whose body is being read: its time is over."""
        exchange = self.exchange
        if exchange is not None:
            slow = later("body_slow", "the body came too slowly")
            self._reject_body(exchange, draining() if self._shared.is_draining else slow)

    def _end_of_body(self) -> None:
        self.exchange = None
        if self._unread_bytes:
            self._forget_unread()
        if self._is_waiting:
            self._is_waiting = False
            self._shared.reading.pop(self, None)
            self.deadline_s = inf

    def _forget_head(self) -> None:
        self._target = b""
        self._headers = {}
        if self._repeated:
            self._repeated = []
        if self._unread_bytes:
            self._forget_unread()

    def _count_unread(self, size: int) -> None:
        self._unread_bytes += size
        self._shared.held_bytes += size

    def _forget_unread(self) -> None:
        self._shared.held_bytes -= self._unread_bytes
        self._unread_bytes = 0

    def _judge_form(self, version: str) -> Rejected | None:
        """Judge size and form of a head: is it too large, or may a proxy in front have read another request?"""
        headers, limits = self._headers, self._shared.limits
        if len(headers) + len(self._repeated) > limits.headers_max:
            return head_too_large()
        if self._measures:
            size = sum(len(name) + len(value) + _HEADER_BYTES for name, value in headers.items())
            if len(self._target) + size > limits.head_bytes_max:
                return head_too_large()
        if version not in ("1.1", "1.0") or (self._repeated and not _ONCE.isdisjoint(self._repeated)):
            return not_http()
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (version == "1.0" or coding.strip().lower() != b"chunked"):
            return not_http()
        return None

    def _refuse(self, exchange: Exchange, rejected: Rejected) -> None:
        """Decide to turn an admitted request away, and let go of what there is of its body."""
        assert exchange.admission is not None  # noqa: S101  only an admitted request's body is read
        exchange.release()
        exchange.reply = self._shared.receiver.reject(exchange.admission.endpoint, rejected)

    def _reject_body(self, exchange: Exchange, rejected: Rejected) -> None:
        """Turn a request away in the middle of its body."""
        if exchange.reply is None:
            self._refuse(exchange, rejected)
        assert exchange.reply is not None  # noqa: S101  it has been refused
        self._answer_unread(exchange, exchange.reply)

    def _answer_unread(self, exchange: Exchange, reply: Reply) -> None:
        """Answer a request whose body is not read to its end; the connection is of no more use."""
        exchange.closes = exchange.lingers = self.is_over = True
        self._end_of_body()
        exchange.finish(reply)

    def _broken(self) -> None:
        """Turn away what the parser does not take."""
        exchange = self.exchange
        if self.is_over:
            return
        if exchange is None:
            self._reject_head(not_http())
            return
        rejected = later("body_broken", "the body did not come as its head announced it")
        if exchange.admission is not None:
            rejected.status = exchange.admission.endpoint.status(rejected.status)
        self._reject_body(exchange, rejected)

    def _resume(self, rest: bytes) -> None:
        """Read the body of a request that asked for another protocol, which the parser takes for its end."""
        if not self._is_resuming or self.is_over:  # CONNECT: nothing more is understood
            self.is_over = True
            return
        framing = b"".join(b"%b: %b\r\n" % header for header in self._headers.items())
        self._headers = {}
        try:
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
            if rest and not self.is_over:
                self._parser.feed_data(rest)
        except httptools.HttpParserUpgrade as upgrade:
            self._resume(rest[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._broken()

    def _read_head_on(self, size: int, *, is_head_begun: bool) -> None:
        """Wait for the rest of a head, within its limit."""
        self._count_unread(size)
        shared = self._shared
        is_too_large = is_head_begun and self._unread_bytes > shared.limits.head_bytes_max
        if is_too_large or shared.held_bytes > shared.held_bytes_max:
            self._reject_head(head_too_large())

    def _read_on(self, exchange: Exchange, stuck_bytes: int) -> None:
        """Wait for the rest of a body, if it is wanted."""
        self._count_unread(stuck_bytes)
        if exchange.reply is not None:
            self._answer_unread(exchange, exchange.reply)
        elif self._unread_bytes > self._shared.limits.head_bytes_max:
            self._broken()
        else:
            if not self._is_waiting:
                self._is_waiting = True
                self._shared.reading[self] = None
                self.deadline_s = self._shared.now_s + self._shared.limits.body_read_max_s
            self._invite(exchange)
