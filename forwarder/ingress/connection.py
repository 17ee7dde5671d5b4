"""One client's connection: bytes in, requests judged and stored, answers out in the order of the requests.

llhttp (in httptools) parses, with none of its leniencies; what it lets through and a proxy might read otherwise is
refused here. The protocol keeps its own limits and holds no timer: the listener's sweep looks at `deadline_s`.
"""

import asyncio
from collections import deque
from math import inf
from typing import Any, cast

import httptools

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ingress import proxy_protocol
from forwarder.ingress.admission import Admission
from forwarder.ingress.cors import readable
from forwarder.ingress.endpoints import BY_TARGET, BodyFormat, ReplyFormat
from forwarder.ingress.proxy_protocol import NotProxyProtocol
from forwarder.ingress.receiver import Steps
from forwarder.ingress.replies import ONE_ACCEPTED, Rejected, Reply, later, too_large, wire
from forwarder.ingress.routing import UNKNOWN_ENDPOINT, split
from forwarder.ingress.shared import Shared
from forwarder.model import Envelope, Receipt

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_AT_ONCE_BYTES = 65_536  # of a body with many events: above it they are read in steps, so that others get a turn
_HEADER_BYTES = 4  # of a header beside its name and value
_ONCE = frozenset({b"content-length", b"transfer-encoding", b"host"})  # twice, they may be read in two ways


class Exchange:
    """One request and its answer. The spool calls it back; who has hung up by then is not answered."""

    __slots__ = (
        "admission",
        "body",
        "closes",
        "connection",
        "expects_continue",
        "held_bytes",
        "is_head",
        "is_http_1_0",
        "lingers",
        "output",
        "reply",
        "shared",
    )

    def __init__(self, connection: "Connection", shared: Shared) -> None:
        self.connection: Connection | None = connection
        self.shared = shared
        self.admission: Admission | None = None  # None when the answer does not depend on the body
        self.reply: Reply | None = None  # the answer of a request whose body is not read
        self.output: bytes | None = None  # the answer on the wire, while those before it are not ready
        self.body: bytes | bytearray = b""
        self.held_bytes = 0
        self.closes = False
        self.lingers = False  # more may come that nobody reads; the sender shall hear why all the same
        self.is_head = False
        self.is_http_1_0 = False
        self.expects_continue = False
        shared.in_flight += 1

    def receive(self) -> None:
        """Judge the whole body and hand its events to the spool."""
        admission = self.admission
        assert admission is not None  # noqa: S101  a request without one has its reply
        body, self.body = self.body, b""
        if isinstance(body, bytearray):
            body = bytes(body)
        receiver = self.shared.receiver
        if len(body) > _AT_ONCE_BYTES and admission.endpoint.body_format is not BodyFormat.WEBHOOK:
            self._step(receiver.accept_in_steps(admission, body))
            return
        try:
            self._store(receiver.accept(admission, body))
        except Exception as error:  # noqa: BLE001  whatever it is, it is a bug of ours and the sender must come back
            self.finish(self.shared.crashed(error))

    def committed(self, receipt: Receipt) -> None:
        """Answer for what is on disk now (`Spool.append`'s `on_commit`)."""
        assert self.admission is not None  # noqa: S101  only an admitted request is stored
        self.finish(self.shared.receiver.committed(self.admission, receipt))

    def rolled_back(self, error: SpoolFull | SpoolClosed) -> None:
        """Answer for what was not stored (`Spool.append`'s `on_rollback`)."""
        assert self.admission is not None  # noqa: S101  only an admitted request is stored
        self.finish(self.shared.receiver.rolled_back(self.admission, error))

    def finish(self, reply: Reply) -> None:
        """Answer, now or when those before it are answered, and let go of everything."""
        self.release()
        shared = self.shared
        shared.answered()
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if reply is ONE_ACCEPTED and not (self.closes or self.is_http_1_0 or shared.is_draining):
            self.output = shared.one_accepted
        else:
            self._write(reply)
        connection.flush()

    def release(self) -> None:
        """Give back what is held of the body."""
        self.shared.held_bytes -= self.held_bytes
        self.held_bytes = 0
        self.body = b""

    def _write(self, reply: Reply) -> None:
        admission = self.admission
        if admission is not None and admission.origin:
            reply = readable(reply, admission.origin)
        self.closes = self.closes or self.shared.is_draining
        kept = b"keep-alive" if self.is_http_1_0 else b""
        self.output = wire(
            reply, date=self.shared.date, connection=b"close" if self.closes else kept, has_body=not self.is_head
        )

    def _step(self, steps: Steps) -> None:
        try:
            next(steps)
        except StopIteration as done:
            found: list[Envelope] | Reply = done.value
        except Exception as error:  # noqa: BLE001  a bug of ours, as above
            self.finish(self.shared.crashed(error))
            return
        else:
            asyncio.get_running_loop().call_soon(self._step, steps)
            return
        try:
            self._store(found)
        except Exception as error:  # noqa: BLE001  a bug of ours, as above
            self.finish(self.shared.crashed(error))

    def _store(self, found: list[Envelope] | Reply) -> None:
        if not isinstance(found, list):
            self.finish(found)
            return
        shared = self.shared
        if self.admission is not None and self.admission.is_packed:
            unpacked = sum(len(envelope.payload) for envelope in found)
            self.held_bytes += unpacked
            shared.held_bytes += unpacked
            if shared.is_full():
                self.finish(shared.receiver.reject(self.admission.endpoint, _too_much()))
                return
        shared.spool.append(found, on_commit=self.committed, on_rollback=self.rolled_back)


class Connection(asyncio.Protocol):
    """What speaks to one client."""

    __slots__ = (
        "_exchange",
        "_headers",
        "_is_blocked",
        "_is_deaf",
        "_is_paused",
        "_is_resuming",
        "_measures",
        "_parser",
        "_preface",
        "_queue",
        "_repeated",
        "_shared",
        "_target",
        "_transport",
        "_unread_bytes",
        "deadline_s",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._preface: bytes | None = b"" if shared.limits.is_proxied else None  # of PROXY protocol; None: it is done
        self._queue: deque[Exchange] = deque()  # not answered yet, in the order of the requests
        self._exchange: Exchange | None = None  # whose body is being read; the last of the queue
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeated: list[bytes] = []  # names of headers that came again
        self._unread_bytes = 0  # since the last piece of a body, or in a head that is not whole yet
        self._measures = False  # whether a head may be too large
        self._is_resuming = False  # reading the body of a request that asked for another protocol
        self._is_deaf = False  # nothing more is read
        self._is_paused = False  # too many requests wait
        self._is_blocked = False  # the client does not take its answers
        self.deadline_s = inf

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._parser = httptools.HttpRequestParser(self)
        self.deadline_s = self._shared.now_s + self._shared.limits.idle_max_s
        self._shared.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client. What was handed to the spool is stored all the same."""
        del exc
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._abandon(exchange)
        for waiting in self._queue:
            waiting.connection = None
        self._queue.clear()
        self._forget_head()
        self._is_deaf = True
        self._parser = None  # it holds methods of this object: without this only the garbage collector would end both
        self._transport = None
        self._shared.lost(self)

    def eof_received(self) -> bool:
        """Answer what waits, if all of it came."""
        if self._exchange is not None or not self._queue:
            return False
        self._is_deaf = True
        self._queue[-1].closes = True
        return True

    def pause_writing(self) -> None:
        """Read nothing from a client that does not take its answers; its deadline goes on."""
        self._is_blocked = True
        self._pause()

    def resume_writing(self) -> None:
        """Go on reading."""
        self._is_blocked = False
        self._pause()

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        if self._preface is not None and not self._is_deaf:
            data = self._without_preface(data)
        if self._is_deaf or not data:
            return
        limits = self._shared.limits
        exchange = self._exchange
        held = 0 if exchange is None else exchange.held_bytes
        is_head_begun = bool(self._target)
        self._measures = is_head_begun or len(data) > limits.head_bytes_max
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._resume(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._broken()
        current = self._exchange
        if current is not None:
            self._read_on(current, len(data) if current is exchange and current.held_bytes == held else 0)
        elif self._target:
            self._unread(len(data), is_new=not is_head_begun)
        if len(self._queue) > limits.requests_waiting_max and not self._is_paused:
            self._is_paused = True
            self._pause()

    # --- the parser's side ---

    def on_url(self, part: bytes) -> None:
        """Take a piece of the target."""
        if not self._is_resuming:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is not looked at."""
        if self._exchange is not None:
            return
        name = name.lower()
        if name in self._headers:
            self._repeated.append(name)
        else:
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Judge the head of a request."""
        if self._is_deaf:
            return
        if self._is_resuming:
            self._is_resuming = False
            return
        shared, parser, headers, target = self._shared, self._parser, self._headers, self._target
        exchange = self._begin()
        count = len(headers) + len(self._repeated)
        if count > shared.limits.headers_max or (self._measures and self._is_head_too_large(headers, target)):
            self._reject_head(exchange, target, _head_too_large())
            return
        method = parser.get_method()
        is_kept = parser.should_keep_alive()
        version = "1.1" if is_kept and b"connection" not in headers else parser.get_http_version()
        if version not in ("1.0", "1.1") or self._is_ambiguous(headers, version):
            self._reject_head(exchange, target, _not_http())
            return
        self._forget_head()
        exchange.closes = not is_kept
        exchange.is_head = method == b"HEAD"
        exchange.is_http_1_0 = version == "1.0"
        if b"expect" in headers:
            exchange.expects_continue = version == "1.1" and headers[b"expect"].strip().lower() == b"100-continue"
        if b"upgrade" in headers and parser.should_upgrade():
            self._is_resuming = True
            self._headers = {name: headers[name] for name in _ONCE if name in headers}
        try:
            judged = shared.routing.judge(method, target, headers)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a bug of ours and the sender must come back
            judged = shared.crashed(error)
        if isinstance(judged, Reply):
            exchange.reply = judged
        else:
            exchange.admission = judged

    def on_body(self, part: bytes) -> None:
        """Take a piece of a body, within the limits of one and of all."""
        exchange = self._exchange
        if exchange is None or exchange.reply is not None or exchange.admission is None:
            return
        shared = self._shared
        self._forget_unread()
        exchange.held_bytes += len(part)
        shared.held_bytes += len(part)
        if exchange.held_bytes > shared.receiver.body_bytes_max:
            self._reject_body(exchange, too_large(shared.receiver.body_bytes_max))
        elif shared.is_full():
            self._reject_body(exchange, _too_much())
        elif not exchange.body:
            exchange.body = part
        elif isinstance(exchange.body, bytearray):
            exchange.body += part
        else:
            exchange.body = bytearray(exchange.body) + part

    def on_message_complete(self) -> None:
        """Judge a whole request."""
        exchange = self._exchange
        if exchange is None or self._is_resuming or self._is_deaf:
            return
        self._exchange = None
        self._forget_unread()
        self._shared.reading.pop(self, None)
        self.deadline_s = inf
        if exchange.closes:
            self._is_deaf = True
        if exchange.reply is None:
            exchange.receive()
        else:
            exchange.finish(exchange.reply)

    # --- the listener's side ---

    def flush(self) -> None:
        """Write the answers that are ready, in the order of the requests."""
        queue, transport = self._queue, self._transport
        assert transport is not None  # noqa: S101  an exchange of a lost connection does not come here
        while queue and (output := queue[0].output) is not None:
            exchange = queue.popleft()
            transport.write(output)
            if exchange.closes:
                self._end(lingers=exchange.lingers)
                return
        if not queue:
            self._shared.idle[self] = None
            self.deadline_s = self._shared.now_s + self._shared.limits.idle_max_s
        elif queue[0].expects_continue and queue[0] is self._exchange:
            self._continue(queue[0])
        if self._is_paused and len(queue) <= self._shared.limits.requests_waiting_max // 2:
            self._is_paused = False
            self._pause()

    def expire(self) -> None:
        """Do what is due at the deadline: turn a slow body away, end everything else."""
        exchange = self._exchange
        if exchange is None or self._is_deaf:
            self.abort()
            return
        if exchange.reply is None:
            slow = later("body_slow", "the body came too slowly")
            self._reject_body(exchange, self._shared.draining() if self._shared.is_draining else slow)
        self._answer_unread(exchange)

    def abort(self) -> None:
        """End at once, whatever is unanswered."""
        self._is_deaf = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End when what was written is sent."""
        self._is_deaf = True
        if self._transport is not None:
            self._transport.close()

    # --- inside ---

    def _begin(self) -> Exchange:
        shared = self._shared
        exchange = Exchange(self, shared)
        self._exchange = exchange
        self._queue.append(exchange)
        shared.idle.pop(self, None)
        self.deadline_s = shared.now_s + shared.limits.body_read_max_s
        return exchange

    def _forget_head(self) -> None:
        self._target = b""
        self._headers = {}
        if self._repeated:
            self._repeated = []
        self._forget_unread()

    def _forget_unread(self) -> None:
        if self._unread_bytes:
            self._shared.held_bytes -= self._unread_bytes
            self._unread_bytes = 0

    def _is_head_too_large(self, headers: dict[bytes, bytes], target: bytes) -> bool:
        size = len(target) + sum(len(name) + len(value) + _HEADER_BYTES for name, value in headers.items())
        return size > self._shared.limits.head_bytes_max

    def _is_ambiguous(self, headers: dict[bytes, bytes], version: str) -> bool:
        """Tell whether a proxy in front may have read another request than this."""
        if self._repeated and not _ONCE.isdisjoint(self._repeated):
            return True
        coding = headers.get(b"transfer-encoding")
        return coding is not None and (version == "1.0" or coding.strip().lower() != b"chunked")

    def _reject_head(self, exchange: Exchange, target: bytes, rejected: Rejected) -> None:
        """Turn a request away whose head is no good, in the words of the endpoint that it was for."""
        self._forget_head()
        endpoint = BY_TARGET.get(split(target)[0])
        if endpoint is None:
            self._shared.reporter.request_rejected(UNKNOWN_ENDPOINT, rejected.reason)
            exchange.reply = rejected.reply(ReplyFormat.JSON)
        else:
            rejected.status = endpoint.status(rejected.status)
            exchange.reply = self._shared.receiver.reject(endpoint, rejected)
        self._answer_unread(exchange)

    def _reject_body(self, exchange: Exchange, rejected: Rejected) -> None:
        """Turn an admitted request away for its body, and let go of what there is of it."""
        assert exchange.admission is not None  # noqa: S101  only an admitted request's body is read
        exchange.release()
        exchange.reply = self._shared.receiver.reject(exchange.admission.endpoint, rejected)

    def _answer_unread(self, exchange: Exchange) -> None:
        """Answer a request whose body is not read to its end; the connection is of no more use."""
        assert exchange.reply is not None  # noqa: S101  its callers saw to it
        exchange.closes = exchange.lingers = self._is_deaf = True
        self._exchange = None
        self._forget_unread()
        self._shared.reading.pop(self, None)
        self.deadline_s = inf
        exchange.finish(exchange.reply)

    def _broken(self) -> None:
        """Turn away what the parser does not take."""
        if self._is_deaf:
            return
        exchange = self._exchange
        if exchange is None:
            self._reject_head(self._begin(), self._target, _not_http())
            return
        if exchange.reply is None and exchange.admission is not None:
            rejected = later("body_broken", "the body did not come as its head announced it")
            rejected.status = exchange.admission.endpoint.status(rejected.status)
            self._reject_body(exchange, rejected)
        self._answer_unread(exchange)

    def _resume(self, rest: bytes) -> None:
        """Read the body of a request that asked for another protocol, which the parser takes for its end."""
        exchange = self._exchange
        if exchange is None or not self._is_resuming or self._is_deaf:  # CONNECT: nothing more is understood
            self._is_deaf = True
            return
        framing = b"".join(b"%b: %b\r\n" % header for header in self._headers.items())
        self._headers = {}
        try:
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
            if rest:
                self._parser.feed_data(rest)
        except httptools.HttpParserUpgrade as upgrade:
            self._resume(rest[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._broken()

    def _read_on(self, exchange: Exchange, unread_bytes: int) -> None:
        """Wait for the rest of a body, if it is wanted."""
        shared = self._shared
        self._unread_bytes += unread_bytes
        shared.held_bytes += unread_bytes
        if self._unread_bytes > shared.limits.head_bytes_max and exchange.reply is None:
            self._broken()
        elif exchange.reply is not None:
            self._answer_unread(exchange)
        else:
            shared.reading[self] = None
            if exchange.expects_continue and self._queue[0] is exchange:
                self._continue(exchange)

    def _continue(self, exchange: Exchange) -> None:
        exchange.expects_continue = False
        assert self._transport is not None  # noqa: S101  a body is read from a connection
        self._transport.write(_CONTINUE)

    def _unread(self, size: int, *, is_new: bool) -> None:
        """Count what there is of a head that is not whole yet."""
        shared = self._shared
        self._unread_bytes += size
        shared.held_bytes += size
        if shared.is_full() or (not is_new and self._unread_bytes > shared.limits.head_bytes_max):
            self._reject_head(self._begin(), self._target, _head_too_large())

    def _without_preface(self, data: bytes) -> bytes:
        assert self._preface is not None  # noqa: S101  the caller looked
        data = self._preface + data
        try:
            length = proxy_protocol.length_of(data)
        except NotProxyProtocol:
            self._preface = None
            self._reject_head(self._begin(), b"", _proxy_protocol("its header is not as the protocol has it"))
            return b""
        if length is None:
            self._preface = data
            return b""
        self._preface = None
        return data[length:]

    def _pause(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_blocked or self._is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _abandon(self, exchange: Exchange) -> None:
        """Let go of a request that will never be whole."""
        if exchange.reply is None and exchange.admission is not None:
            self._shared.reporter.request_rejected(exchange.admission.endpoint.name, "disconnected")
        exchange.connection = None
        exchange.finish(exchange.reply or ONE_ACCEPTED)

    def _end(self, *, lingers: bool) -> None:
        shared = self._shared
        for waiting in self._queue:
            waiting.connection = None
        self._queue.clear()
        self._is_deaf = True
        transport = self._transport
        assert transport is not None  # noqa: S101  the caller wrote to it
        if lingers and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            self.deadline_s = shared.now_s + shared.limits.linger_max_s
        else:
            transport.close()
            self.deadline_s = shared.now_s + shared.limits.close_max_s


def _not_http() -> Rejected:
    return Rejected(400, "not_http", "this is not HTTP/1.1 as it should be")


def _head_too_large() -> Rejected:
    return Rejected(431, "head_too_large", "the request's head is larger than 64 KiB, or has more than 256 headers")


def _too_much() -> Rejected:
    return later("too_much_at_once", "too many large bodies at once")


def _proxy_protocol(what: str) -> Rejected:
    return later("proxy_protocol", f"PROXY protocol: {what}")
