"""What the tests of the endpoints share: a spool that can be full or shut, a clock, and a receiver between them."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from itertools import count
from typing import Any

import pytest
import structlog

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ingress.admission import Admission, EndpointSettings
from forwarder.ingress.browsers import Documents, readable
from forwarder.ingress.connection import Connection
from forwarder.ingress.endpoints import BodyFormat
from forwarder.ingress.receiver import Receiver
from forwarder.ingress.replies import Reply
from forwarder.ingress.routing import Health, Routing
from forwarder.ingress.shared import ListenerLimits, Shared
from forwarder.model import Envelope, Receipt, RouteName
from forwarder.spool.limits import SpoolLimits
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.memory_spool import MemorySpool

NOW_MS = 1_767_225_640_123
WEBHOOK_SECRET = "whsec-of-the-webhook"
EVENTS_KEY = "key-of-the-bus"
INBOUND_KEY = "key-of-the-source"
SETTINGS = EndpointSettings(
    routes=frozenset(RouteName),
    webhook_secrets=("retired-secret", WEBHOOK_SECRET),
    events_keys=(EVENTS_KEY,),
    inbound_keys=("retired-key", INBOUND_KEY),
    body_bytes_max=100_000,
    signature_age_max_s=93_600,
)


class WilfulSpool(MemorySpool):
    """The spool in memory, whose commits a test can hold back and make in any order, or refuse."""

    def __init__(self) -> None:
        super().__init__(limits=SpoolLimits(), clock=HandClock(NOW_MS))
        self.appends = 0
        self.asked = asyncio.Event()
        self.refusal: Exception | None = None
        self.holds = False
        self.waiting: list[Callable[[], None]] = []

    @property
    def kept(self) -> list[Envelope]:
        """What is stored, in its order."""
        return [record.envelope for record in self._records.by_sequence.values()]

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Store the envelopes now or later, or refuse them; another error than a spool's is a bug."""
        self.appends += 1
        self.asked.set()
        if isinstance(self.refusal, SpoolFull | SpoolClosed):
            on_rollback(self.refusal)
            return
        if self.refusal is not None:
            raise self.refusal
        self.waiting.append(partial(super().append, envelopes, on_commit=on_commit, on_rollback=on_rollback))
        while self.waiting and not self.holds:
            self.commit()

    def commit(self, index: int = 0) -> None:
        """Commit one of the appends that wait."""
        self.waiting.pop(index % len(self.waiting))()


def accepted(receiver: Receiver, admission: Admission, body: bytes) -> list[Envelope] | Reply:
    """Judge a body in one go."""
    if admission.endpoint.body_format is BodyFormat.WEBHOOK:
        return receiver.accept_webhook(admission, body)
    steps = receiver.accept(admission, body)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: list[Envelope] | Reply = done.value
            return found


@dataclass
class House:
    """A receiver with everything around it at hand, but sockets."""

    receiver: Receiver
    routing: Routing
    health: Health
    spool: WilfulSpool
    metrics: Metrics
    log: StringIO
    reporter: Reporter
    clock: HandClock = field(default_factory=lambda: HandClock(NOW_MS))
    headers: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, body: bytes, method: str = "POST", **headers: str) -> Reply:
        """Send a request through every step; header names are given with underscores."""
        named = {
            name.replace("_", "-").encode(): value.encode("utf-8", "surrogateescape")
            for name, value in (self.headers | headers).items()
        }
        judged = self.routing.judge(method.encode(), path.encode(), named)
        reply = judged if isinstance(judged, Reply) else self._answer(judged, body)
        if reply.rejection is not None:
            self.reporter.request_rejected(*reply.rejection)
        return readable(reply, judged.origin) if isinstance(judged, Admission) and judged.origin else reply

    def _answer(self, judged: Admission, body: bytes) -> Reply:
        found = accepted(self.receiver, judged, body)
        if isinstance(found, Reply):
            return found
        replies: list[Reply] = []
        self.spool.append(
            found,
            on_commit=lambda receipt: replies.append(self.receiver.committed(judged, receipt)),
            on_rollback=lambda error: replies.append(self.receiver.rolled_back(judged, error)),
        )
        return replies[0]

    def rejections(self) -> dict[tuple[str, str], float]:
        """Return how often each endpoint turned away for each reason."""
        return {
            (sample.labels["endpoint"], sample.labels["reason"]): sample.value
            for metric in self.metrics.rejected.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.value
        }

    def payloads(self) -> list[bytes]:
        """Return what is kept."""
        return [envelope.payload for envelope in self.spool.kept]


def build(**changes: Any) -> House:
    """Make a receiver whose settings differ from the usual ones in what is given."""
    log, metrics, spool = StringIO(), Metrics(), WilfulSpool()
    reporter = Reporter(
        metrics,
        structlog.wrap_logger(
            structlog.PrintLogger(log),
            processors=[structlog.processors.JSONRenderer()],
            wrapper_class=structlog.BoundLogger,
        ),
    )
    numbers: Iterator[int] = count()
    receiver = Receiver(
        replace(SETTINGS, **changes),
        clock=HandClock(NOW_MS),
        reporter=reporter,
        unique=lambda: next(numbers).to_bytes(16, "big"),
    )
    health = Health(clock=HandClock(NOW_MS))
    routing = Routing(receiver, health, Documents(receiver))
    return House(receiver, routing, health, spool, metrics, log, reporter)


@pytest.fixture
def house() -> House:
    """Return a receiver with the usual settings."""
    return build()


@pytest.fixture
def build_house() -> Callable[..., House]:
    """Return what makes a receiver with other settings."""
    return build


@pytest.fixture
def sign() -> Callable[..., str]:
    """Return what makes Courier's header for a body."""

    def made(body: bytes, *, secret: str = WEBHOOK_SECRET, at_ms: int = NOW_MS) -> str:
        mac = hmac.new(secret.encode(), f"{at_ms}.".encode() + body, hashlib.sha256)
        return f"t={at_ms},signature={mac.hexdigest()}"

    return made


class Client(asyncio.Transport):
    """A client without a socket: what it sends is fed to a connection, what it is answered is kept."""

    def __init__(self, shared: Shared, house: House) -> None:
        super().__init__({"peername": ("198.51.100.9", 4711)})
        self.shared = shared
        self.house = house
        self.received = bytearray()
        self.is_closed = False
        self.is_paused = False
        self.connection = Connection(shared)
        self.connection.connection_made(self)

    def send(self, *parts: bytes) -> bytes:
        """Send the parts, each as one piece off the wire, as long as anybody listens; return all that was answered."""
        for part in parts:
            if part and not self.is_closed:
                self.connection.data_received(part)
        return bytes(self.received)

    def hang_up(self) -> None:
        """End the connection as the event loop does."""
        self.is_closed = True
        self.connection.connection_lost(None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take an answer."""
        self.received += data

    def is_closing(self) -> bool:
        """Tell whether the server has closed."""
        return self.is_closed

    def can_write_eof(self) -> bool:
        """Tell that half a connection can be closed."""
        return True

    def write_eof(self) -> None:
        """Hear no more answers."""

    def pause_reading(self) -> None:
        """Send nothing for a while."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Go on sending."""
        self.is_paused = False

    def close(self) -> None:
        """Be closed by the server."""
        self.is_closed = True

    def abort(self) -> None:
        """Be cut off by the server."""
        self.is_closed = True


def shared_of(house: House, limits: ListenerLimits | None = None) -> Shared:
    """Return what the connections to a house have in common."""
    return Shared(
        routing=house.routing,
        receiver=house.receiver,
        spool=house.spool,
        reporter=house.reporter,
        limits=limits or ListenerLimits(),
    )


@pytest.fixture
def connect() -> Callable[..., Client]:
    """Return what makes a client of a house with given settings and limits."""

    def made(*, limits: ListenerLimits | None = None, **changes: Any) -> Client:
        house = build(**changes)
        return Client(shared_of(house, limits), house)

    return made
