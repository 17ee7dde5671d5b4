"""One request and its answer: from the judged head over the body and the spool's word to the bytes that are written."""

import asyncio
from functools import partial
from time import monotonic
from typing import Protocol

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ingress.admission import Admission
from forwarder.ingress.browsers import readable
from forwarder.ingress.cutting import Steps
from forwarder.ingress.endpoints import WEBHOOK
from forwarder.ingress.replies import ONE_ACCEPTED, Reply, too_much, wire
from forwarder.ingress.routing import UNKNOWN_ENDPOINT
from forwarder.ingress.shared import Shared
from forwarder.model import Envelope, Receipt
from forwarder.telemetry.tracing import EndReceipt

_AT_ONCE_BYTES_MAX = 8_192  # a larger body is judged when its turn comes


class Answering(Protocol):
    """The connection that a request came on."""

    last: "Exchange | None"  # the last request that was not judged at once

    def network(self, forwarded: bytes) -> str:
        """Return the network that the client is in; see `peer.network_of`."""

    def flush(self) -> None:
        """Write the answers that are ready, in the order of the requests."""

    def abort(self) -> None:
        """End at once."""


class Exchange:
    """One request and its answer. The spool calls it back; who has hung up by then is not answered."""

    __slots__ = (
        "admission",
        "behind",
        "body",
        "closes",
        "connection",
        "endpoint",
        "expects_continue",
        "forwarded",
        "held_bytes",
        "is_head",
        "is_http_1_0",
        "is_over",
        "is_waiting",
        "lingers",
        "output",
        "reply",
        "shared",
        "started_s",
        "traced",
        "traceparent",
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
        self.forwarded = b""  # for whom a proxy says that it asks
        self.closes = self.is_head = self.is_http_1_0 = self.expects_continue = False
        self.lingers = False  # more may come that nobody reads; the sender shall hear why all the same
        self.is_waiting = False  # to be judged, or for the rest of it
        self.behind: Exchange | None = None  # the next request of the connection, while this one waits
        self.is_over = False
        self.started_s = monotonic()
        self.traceparent = b""  # only taken where tracing is on
        self.traced: EndReceipt | None = None  # what ends the span of the receipt
        shared.in_flight += 1

    def receive(self) -> None:
        """Judge the whole body and hand its events to the spool, behind those that came before on its connection."""
        connection = self.connection
        if connection is not None and connection.last is not None:
            before, connection.last = connection.last, None
            if before.is_waiting:
                before.behind = connection.last = self
                self.is_waiting = True
                return
        self.judge()
        if self.is_waiting and connection is not None:
            connection.last = self

    def judge(self) -> None:
        """Judge the whole body, at once or in steps."""
        admission, shared = self.admission, self.shared
        assert admission is not None  # noqa: S101  a request without one has its reply
        body, self.body = self.body, b""
        if type(body) is not bytes:
            body = bytes(body)
        try:
            if admission.endpoint is WEBHOOK:
                self._store(shared.receiver.accept_webhook(admission, body))
                return
            steps = shared.receiver.accept(admission, body)
            if len(body) > _AT_ONCE_BYTES_MAX:
                self._step_in_turn(steps)
            else:
                self._step(steps)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a bug of ours and the sender must come back
            self._crashed(error)

    def judge_behind(self) -> None:
        """Judge what had to wait for the request before it."""
        self.is_waiting = False
        self.judge()
        if not self.is_waiting:
            self._let_next()

    def committed(self, receipt: Receipt) -> None:
        """Answer for what is on disk now (`Spool.append`'s `on_commit`)."""
        assert self.admission is not None  # noqa: S101  only an admitted request is stored
        try:
            self.finish(self.shared.receiver.committed(self.admission, receipt))
        except Exception as error:  # noqa: BLE001  as above
            self._crashed(error, closes=True)

    def rolled_back(self, error: SpoolFull | SpoolClosed) -> None:
        """Answer for what was not stored (`Spool.append`'s `on_rollback`)."""
        assert self.admission is not None  # noqa: S101  only an admitted request is stored
        try:
            self.finish(self.shared.receiver.rolled_back(self.admission, error))
        except Exception as bug:  # noqa: BLE001  as above
            self._crashed(bug, closes=True)

    def finish(self, reply: Reply) -> None:
        """Answer, now or when those before it are answered, and let go of everything."""
        shared, connection = self.shared, self.connection
        if not self.is_over:
            self.is_over = True
            shared.held_bytes -= self.held_bytes
            self.held_bytes, self.body = 0, b""
            shared.in_flight -= 1
            if shared.is_draining:
                shared.note_answered()
            if reply.rejection is not None:
                self.count_rejection(reply.rejection)
            if self.traced is not None:
                self.traced(reply.status)
        if connection is None:
            return
        endpoint = self.endpoint if self.admission is None else self.admission.endpoint.name
        shared.reporter.request_answered(endpoint, reply.status, monotonic() - self.started_s)
        if reply is ONE_ACCEPTED and not (self.closes or self.is_http_1_0 or shared.is_draining):
            self.output = shared.one_accepted
        else:
            self.output = self._wire(reply)
        connection.flush()
        self.connection = None

    def abandon(self) -> None:
        """Let go of everything: the request will never be whole."""
        reply, self.connection = self.reply or ONE_ACCEPTED, None
        self.finish(reply)  # nobody hears it

    def count_rejection(self, rejection: tuple[str, str]) -> None:
        """Count that the request was turned away, by endpoint, reason and the sender's network."""
        network = "" if self.connection is None else self.connection.network(self.forwarded)
        self.shared.reporter.request_rejected(*rejection, network)

    def release(self) -> None:
        """Give back what is held of the body."""
        self.shared.held_bytes -= self.held_bytes
        self.held_bytes, self.body = 0, b""

    def _wire(self, reply: Reply) -> bytes:
        admission = self.admission
        if admission is not None and admission.origin:
            reply = readable(reply, admission.origin)
        self.closes = self.closes or self.shared.is_draining
        kept = b"keep-alive" if self.is_http_1_0 else b""
        return wire(
            reply, date=self.shared.date, connection=b"close" if self.closes else kept, has_body=not self.is_head
        )

    def _step(self, steps: Steps[list[Envelope] | Reply]) -> None:
        try:
            next(steps)
        except StopIteration as done:
            found: list[Envelope] | Reply = done.value
        else:
            self._step_in_turn(steps)
            return
        self._store(found)

    def _step_in_turn(self, steps: Steps[list[Envelope] | Reply]) -> None:
        self.is_waiting = True
        self.shared.in_turn(partial(self._step_on, steps))

    def _step_on(self, steps: Steps[list[Envelope] | Reply]) -> None:
        self.is_waiting = False
        try:
            self._step(steps)
        except Exception as error:  # noqa: BLE001  as above
            self._crashed(error)
        if not self.is_waiting:
            self._let_next()

    def _let_next(self) -> None:
        # Not at once: a hundred of them would be a hundred calls deep.
        behind, self.behind = self.behind, None
        if behind is not None:
            asyncio.get_running_loop().call_soon(behind.judge_behind)

    def _store(self, found: list[Envelope] | Reply) -> None:
        if not isinstance(found, list):
            self.finish(found)
            return
        shared, admission = self.shared, self.admission
        if admission is not None and admission.is_packed:
            unpacked = sum(len(envelope.payload) for envelope in found)
            self.held_bytes += unpacked
            shared.held_bytes += unpacked
            if shared.held_bytes > shared.held_bytes_max:
                self.finish(shared.receiver.reject(admission.endpoint, too_much()))
                return
        if shared.tracing is not None and admission is not None:
            found, self.traced = shared.tracing.receive(
                found,
                origin=admission.endpoint.name,
                traceparent=self.traceparent.decode("latin-1"),
                started_s=self.started_s,
            )
        shared.spool.append(found, on_commit=self.committed, on_rollback=self.rolled_back)

    def _crashed(self, error: Exception, *, closes: bool = False) -> None:
        """Answer for a bug of ours; where not even that can be done, the connection ends and the sender comes back."""
        self.closes = self.closes or closes
        try:
            reply = self.shared.crashed(error)
            if self.output is None:
                self.finish(reply)
                return
        except Exception:  # noqa: BLE001  as above
            self.closes = True
        if self.connection is not None:
            self.connection.abort()
