"""Spools of both kinds to move between, and one that holds something of everything."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from forwarder.archive_port import AuditRow, EventPage, EventQuery, EventRow
from forwarder.model import Attempt, Envelope, Labels, Recurrence, RouteName, State
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.spool_acts import give_back, leased, settle, stored

START_MS = 1_700_000_000_000
OUT, IN = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
OpenSpool = Callable[[], AbstractAsyncContextManager[Any]]


@pytest.fixture
def clock() -> HandClock:
    """Return a clock that stands still until moved."""
    return HandClock(START_MS)


@pytest.fixture
def open_sqlite(tmp_path: Path, clock: HandClock) -> OpenSpool:
    """Return how to open the spool of the folder."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        reporter = Reporter(Metrics(), structlog.get_logger())
        spool = await SqliteSpool.open(tmp_path / "data", limits=SpoolLimits(), clock=clock, reporter=reporter)
        try:
            yield spool
        finally:
            await spool.close()

    return opened


@pytest.fixture
def open_postgres(postgres_url: str, clock: HandClock) -> OpenSpool:
    """Return how to open the spool of the database."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        reporter = Reporter(Metrics(), structlog.get_logger())
        spool = await PostgresSpool.open(lambda: postgres_url, limits=SpoolLimits(), clock=clock, reporter=reporter)
        try:
            yield spool
        finally:
            await spool.close()

    return opened


def an_envelope(number: int, *, clock: HandClock, is_recurring: bool = False) -> Envelope:
    """Return the envelope of that number: the same one each time, on both routes in turn, of seven users."""
    user = f"u{number % 7}"
    return Envelope(
        route=IN if number % 3 == 0 else OUT,
        event_key=number.to_bytes(16, "big"),
        partition_key=user if number % 3 == 0 else "",
        received_at_ms=clock.now_ms,
        payload=b'{"n":%d,"of":"%s"}' % (number, user.encode()),
        source="webhook",
        labels=Labels(type="t", event=f"e{number % 2}", message_id=f"m{number}", user_id=user),
        trace=f"00-{number:032x}-{number:016x}-01" if number % 5 == 0 else "",
        recurrence=Recurrence(subject=b"s", side="in", resend_s=1_200, resend_max_s=93_600) if is_recurring else None,
    )


async def fill(spool: Any, clock: HandClock, *, events: int = 60) -> None:
    """Have a spool hold something of everything."""

    def attempt(status: int | None) -> Attempt:
        return Attempt(
            at_ms=clock.now_ms,
            duration_ms=7,
            operation="POST /v1/batch",
            status=status,
            outcome="x",
            reason="why",
            answer=b"answer",
            mapping="mark",
        )

    for number in range(1, events + 1):
        await stored(spool, [an_envelope(number, clock=clock)])
        clock.now_ms += 1_000
    await stored(spool, [an_envelope(1_000_000, clock=clock, is_recurring=True)])
    done: list[int] = []
    states = [State.DELIVERED, State.DELIVERED, State.FILTERED, State.UNMAPPED, State.DEAD, State.DEAD]
    for turn in range(events // 8):
        for route in (OUT, IN):
            for lease in await leased(spool, route, fresh=2):
                await spool.note(lease.sequence, b"plan of %d" % lease.sequence)
                if lease.sequence % 5 == 0 and not lease.is_retry:
                    await spool.record([lease.sequence], attempt(None))
                    await give_back(spool, [lease.sequence], clock.now_ms + 5_000, reason="busy", attempt=attempt(503))
                    continue
                state = states[(lease.sequence + turn) % 6]
                reason = "" if state is State.DELIVERED else f"{state.value} for {lease.sequence % 2}"
                await settle(spool, [lease.sequence], state, reason=reason, attempt=attempt(200 + 100 * turn))
                done.append(lease.sequence)
        clock.now_ms += 1_000
    dead = [row.sequence for row in await _rows(spool) if row.state is State.DEAD]
    await spool.discard(dead[:2])
    await spool.requeue(dead[2:4], everything=True)
    await spool.erase(done[:3])
    await spool.put("links", b"some links")
    await spool.put("pause", b"\x00\xff" * 40)
    await spool.write_audit(AuditRow(at_ms=clock.now_ms, who="page", action="replay", detail="state=dead", count=2))
    # What is in hand goes back when it is closed.


async def _rows(spool: Any) -> Sequence[EventRow]:
    page: EventPage = await spool.events(EventQuery(limit=1_000))
    return page.rows


Snapshot = dict[str, Any]


async def snapshot(spool: Any) -> Snapshot:
    """Return all that people see of a spool."""
    facts = await spool.facts()
    rows = await _rows(spool)
    return {
        "totals": facts.totals,
        "bytes": facts.unsettled_bytes,
        "oldest": facts.oldest_pending_ms,
        "retrying": facts.retrying,
        "dead": (facts.open_dead, facts.discarded),
        "rows": rows,
        "details": [await spool.event(row.sequence) for row in rows],
        "reasons": [await spool.reasons(None, state, limit=99) for state in State],
        "types": await spool.event_types(None, limit=99),
        "audit": await spool.audit(limit=99),
        "values": (await spool.get("links"), await spool.get("pause")),
    }


Filled = Callable[[OpenSpool], Awaitable[Snapshot]]


@pytest.fixture
def filled(clock: HandClock) -> Filled:
    """Return how to fill a spool; it is closed again, and what it held is told."""

    async def fill_one(opened: OpenSpool) -> Snapshot:
        async with opened() as spool:
            await fill(spool, clock)
        async with opened() as spool:
            return await snapshot(spool)

    return fill_one
