"""A spool with a million settled events, made in a minute, and the real daemon over it.

They go through the spool itself, a few thousand in a commit. Absent: what is asked (the test).
"""

import asyncio
import shutil
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import structlog

from forwarder.model import Attempt, Envelope, Labels, Lease, RouteName, Settled, Settlement, State
from forwarder.ports import AuditRow
from forwarder.spool.appending import stored
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.process import DaemonProcess
from stand_ins.spool_acts import leased

EVENTS = 1_000_000
RARE = 17  # the sequence of an event that has its name, user, message and reason to itself, at the far end
_AGO_MS = 518_400_000  # six days: all within the retention
_CHUNK = 4_000
_AUDITS = 5_000
_STATUSES = ("Sent", "Delivered", "Opened", "Clicked")
_MORE = (
    '{"library":{"name":"analytics.js","version":"3.11.14"},"locale":"de-DE","userAgent":"Mozilla/5.0 (X11; Linux '
    'x86_64) AppleWebKit/537.36","page":{"path":"/cart","title":"Cart"},"campaign":{"name":"autumn","medium":"email",'
    '"source":"newsletter"},"timezone":"Europe/Berlin"}}}'
)


class PastClock:
    """A clock that the making of the events moves."""

    def __init__(self) -> None:
        self.now_ms = time.time_ns() // 1_000_000 - _AGO_MS

    def wall_ms(self) -> int:
        """Return the time."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """Return the time in seconds."""
        return self.now_ms / 1000


def envelope(n: int, at_ms: int) -> Envelope:
    """Return an event: four statuses a message outbound; calls of 200 names inbound, two of five events."""
    message, user = n // 4, f"user-{(n // 4) * 40_503 % 50_000}"
    is_inbound = message % 5 >= 3
    if is_inbound:
        kind = "identify" if n % 10 == 0 else "track"
        event, message_id = (kind if n % 10 == 0 else f"Product Viewed {n * 7_919 % 200}"), f"call-{n}"
    else:
        kind, event, message_id = "message:updated", f"Message {_STATUSES[n % 4]}", f"1-{message}-15f7d6ba51bf2298"
    if n == RARE:
        event, message_id, user = "Rare Event", "rare-message", "rare-user"
    if is_inbound:
        payload = (
            f'{{"type":"track","event":"{event}","userId":"{user}","messageId":"{message_id}",'
            f'"properties":{{"order_id":"order-{n}","value":{n % 900}}},"context":{_MORE}'
        )
    else:
        payload = (
            f'{{"type":"message:updated","data":{{"id":"{message_id}","status":"{event[8:].upper()}",'
            f'"recipient":"{user}","providers":[{{"provider":"sendgrid","status":"SENT"}}],"more":{_MORE}'
        )
    return Envelope(
        route=RouteName.RUDDERSTACK_TO_COURIER if is_inbound else RouteName.COURIER_TO_RUDDERSTACK,
        event_key=(n * 2_654_435_761 % 2**64).to_bytes(8, "big") * 2,
        partition_key="",
        received_at_ms=at_ms,
        payload=payload.encode(),
        source="rudderstack" if is_inbound else "webhook",
        labels=Labels(type=kind, event=event, message_id=message_id, user_id=user),
    )


def outcome(lease: Lease) -> tuple[State, str]:
    """Return what became of an event: states by a spread-out remainder, and their reasons."""
    n = lease.sequence
    x, is_inbound = n * 2_654_435_761 % 100, lease.envelope.route is RouteName.RUDDERSTACK_TO_COURIER
    if n == RARE:
        return State.DEAD, "the destination refused it: field 600 is invalid"
    if x < (60 if is_inbound else 93):
        return State.DELIVERED, ""
    if is_inbound and x < 90:
        return State.UNMAPPED, f"nothing is linked to {lease.envelope.labels.event}"
    if x < (93 if is_inbound else 97):
        return State.FILTERED, "this event is not among FORWARDER_EVENTS"
    return State.DEAD, f"the destination refused it: field {300 + 100 * is_inbound + n % 30} is invalid"


def settlements(leases: Sequence[Lease], at_ms: int) -> list[Settlement]:
    """Return how a chunk is settled."""
    groups: defaultdict[tuple[State, str], list[int]] = defaultdict(list)
    for lease in leases:
        groups[outcome(lease)].append(lease.sequence)
    attempt = Attempt(
        at_ms=at_ms,
        duration_ms=87,
        operation="POST /v1/batch",
        status=200,
        outcome="delivered",
        reason="",
        answer=b"OK",
    )
    return [Settled(sequences, state, reason, attempt) for (state, reason), sequences in groups.items()]


async def fill(folder: Path) -> None:
    """Make the spool in an empty folder."""
    clock = PastClock()
    reporter = Reporter(Metrics(), structlog.get_logger())
    spool = await SqliteSpool.open(folder, limits=SpoolLimits(), clock=clock, reporter=reporter)
    for first in range(1, EVENTS + 1, _CHUNK):
        clock.now_ms += _AGO_MS * _CHUNK // EVENTS
        await stored(spool, [envelope(n, clock.now_ms) for n in range(first, first + _CHUNK)])
        for route in RouteName:
            await spool.settle(settlements(await leased(spool, route, fresh=_CHUNK), clock.now_ms))
    for n in range(_AUDITS):
        await spool.write_audit(
            AuditRow(at_ms=clock.now_ms, who="page (127.0.0.1)", action="replay", detail=f"event {n}")
        )
    await spool.close()


@pytest.fixture(scope="session")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder whose `data` holds a million events; its 650 MB do not outlive the session."""
    folder = tmp_path_factory.mktemp("million")
    (folder / "data").mkdir(mode=0o700)
    asyncio.run(fill(folder / "data"))
    yield folder
    shutil.rmtree(folder / "data")


@pytest.fixture
async def daemon(million: Path) -> AsyncIterator[DaemonProcess]:
    """Run the daemon over the million, both routes, with vendors that are not there: it only shows."""
    settings = {
        "RUDDERSTACK_WRITE_KEY": "scale-write-key",
        "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
        "COURIER_WEBHOOK_SECRET": "scale-webhook-secret",
        "FORWARDER_EVENTS_KEY": "scale-events-key",
        "FORWARDER_INBOUND_KEYS": "scale-inbound-key",
        "COURIER_API_KEY": "scale-api-key",
        "COURIER_API_URL": "http://127.0.0.1:9",
    }
    running = DaemonProcess(folder=million, settings=settings)
    await running.start(ready_max_s=60)
    yield running
    await running.stop()
