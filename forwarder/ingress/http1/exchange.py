"""One request and its answer: from the judged head over the body and the spool's word to the bytes that are written."""

import asyncio
from time import monotonic
from typing import Protocol

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ingress.admission import Admission
from forwarder.ingress.cors import readable
from forwarder.ingress.cutting import Steps
from forwarder.ingress.endpoints import BodyFormat
from forwarder.ingress.http1.shared import Shared
from forwarder.ingress.replies import ONE_ACCEPTED, Reply, too_much, wire
from forwarder.ingress.routing import UNKNOWN_ENDPOINT
from forwarder.model import Envelope, Receipt


class Answering(Protocol):
    """The connection that a request came on."""

    def flush(self) -> None:
        """Write the answers that are ready, in the order of the requests."""


class Exchange:
    """One request and its answer. The spool calls it back; who has hung up by then is not answered."""

    __slots__ = (
        "admission",
        "body",
        "closes",
        "connection",
        "endpoint",
        "expects_continue",
        "held_bytes",
        "is_head",
        "is_http_1_0",
        "lingers",
        "output",
        "reply",
        "shared",
        "started_s",
    )

    def __init__(self, connection: Answering, shared: Shared) -> None:
        self.connection: Answering | None = connection
        self.shared = shared
        self.admission: Admission | None = None  # None when the answer does not depend on the body
        self.endpoint = UNKNOWN_ENDPOINT  # in metrics, where there is no admission that knows better
        self.reply: Reply | None = None  # the answer of a request whose body is not read
        self.output: bytes | None = None  # the answer on the wire, while those before it are not ready
        self.body: bytes | bytearray = b""
        self.held_bytes = 0
        self.closes = False
        self.lingers = False  # more may come that nobody reads; the sender shall hear why all the same
        self.is_head = False
        self.is_http_1_0 = False
        self.expects_continue = False
        self.started_s = monotonic()
        shared.in_flight += 1

    def receive(self) -> None:
        """Judge the whole body and hand its events to the spool."""
        admission = self.admission
        assert admission is not None  # noqa: S101  a request without one has its reply
        body, self.body = self.body, b""
        if isinstance(body, bytearray):
            body = bytes(body)
        receiver = self.shared.receiver
        if admission.endpoint.body_format is not BodyFormat.WEBHOOK:
            self._step(receiver.accept(admission, body))
            return
        try:
            self._store(receiver.accept_webhook(admission, body))
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
        shared = self.shared
        shared.held_bytes -= self.held_bytes
        self.held_bytes, self.body = 0, b""
        shared.in_flight -= 1
        if shared.is_draining:
            shared.note_answered()
        connection, self.connection = self.connection, None
        if connection is None:
            return
        endpoint = self.endpoint if self.admission is None else self.admission.endpoint.name
        shared.reporter.request_answered(endpoint, reply.status, monotonic() - self.started_s)
        if reply is ONE_ACCEPTED and not (self.closes or self.is_http_1_0 or shared.is_draining):
            self.output = shared.one_accepted
        else:
            self._write(reply)
        connection.flush()

    def abandon(self) -> None:
        """Let go of everything: the request will never be whole."""
        self.connection = None
        self.finish(ONE_ACCEPTED)  # nobody hears it

    def release(self) -> None:
        """Give back what is held of the body."""
        self.shared.held_bytes -= self.held_bytes
        self.held_bytes, self.body = 0, b""

    def _write(self, reply: Reply) -> None:
        admission = self.admission
        if admission is not None and admission.origin:
            reply = readable(reply, admission.origin)
        self.closes = self.closes or self.shared.is_draining
        kept = b"keep-alive" if self.is_http_1_0 else b""
        self.output = wire(
            reply, date=self.shared.date, connection=b"close" if self.closes else kept, has_body=not self.is_head
        )

    def _step(self, steps: Steps[list[Envelope] | Reply]) -> None:
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
            if shared.held_bytes > shared.held_bytes_max:
                self.finish(shared.receiver.reject(self.admission.endpoint, too_much()))
                return
        shared.spool.append(found, on_commit=self.committed, on_rollback=self.rolled_back)


class Served(Answering, Protocol):
    """The connection whose requests are read."""

    def begin(self) -> Exchange:
        """Return a new exchange, in the order of the requests."""

    def wait_for_body(self, exchange: Exchange) -> None:
        """Be told that a body is wanted and not whole yet."""

    def end_of_body(self) -> None:
        """Be told that no body is being read any more."""
