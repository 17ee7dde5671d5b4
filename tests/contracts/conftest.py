"""What the contract suites run against."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import structlog

from forwarder.archive_port import Archive
from forwarder.model import Attempt, Envelope, Labels
from forwarder.ports import Spool
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import an_envelope

START_MS = 1_700_000_000_000


class SpoolAndArchive(Spool, Archive, Protocol):
    """What both kinds are."""


OpenSpool = Callable[[SpoolLimits], Awaitable[SpoolAndArchive]]
MakeEnvelope = Callable[..., Envelope]


@pytest.fixture
def clock() -> HandClock:
    """Return a clock that stands still until moved."""
    return HandClock(START_MS)


@pytest.fixture(params=["sqlite", "memory", "postgres"])
async def open_spool(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[OpenSpool]:
    """Return how to open a spool of each kind; all are closed at the end."""
    opened: list[SpoolAndArchive] = []
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""

    async def open_one(limits: SpoolLimits) -> SpoolAndArchive:
        spool: SpoolAndArchive
        if request.param == "memory":
            spool = MemorySpool(limits=limits, clock=clock)
        elif request.param == "postgres":
            reporter = Reporter(Metrics(), structlog.get_logger())
            spool = await PostgresSpool.open(lambda: url, limits=limits, clock=clock, reporter=reporter)
        else:
            reporter = Reporter(Metrics(), structlog.get_logger())
            spool = await SqliteSpool.open(tmp_path / "data", limits=limits, clock=clock, reporter=reporter)
        opened.append(spool)
        return spool

    yield open_one
    for spool in opened:
        await spool.close()


@pytest.fixture
async def spool(open_spool: OpenSpool) -> SpoolAndArchive:
    """Return an empty spool with the usual limits."""
    return await open_spool(SpoolLimits())


@pytest.fixture
def make_envelope(clock: HandClock) -> MakeEnvelope:
    """Return how to make an envelope; the number makes its key."""

    def make(number: int, *, labels: Labels | None = None, **more: Any) -> Envelope:
        usual = Labels(type="t", event="e", message_id=f"m{number}", user_id=f"u{number % 3}")
        return an_envelope(number, at_ms=clock.now_ms, labels=labels or usual, **more)

    return make


@pytest.fixture
def failed_attempt() -> Attempt:
    """Return an exchange that must be made again."""
    return Attempt(
        at_ms=START_MS,
        duration_ms=3,
        operation="POST /v1/batch",
        status=503,
        outcome="try_later",
        reason="503",
        answer=b"busy",
    )
