"""Disks with behaviour: one whose power can be cut, one that fills up; and what a spool is opened with."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from forwarder.model import Envelope, Labels
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.disk import Disk
from stand_ins.spool_acts import an_envelope

START_MS = 1_700_000_000_000
_vfs_numbers = itertools.count()


class RecordingReporter(Reporter):
    """A reporter that also remembers what it was told about the spool."""

    def __init__(self) -> None:
        super().__init__(Metrics(), structlog.get_logger())
        self.facts: list[str] = []

    def spool_refusing(self, *, reason: str) -> None:
        """Remember."""
        self.facts.append(f"refusing: {reason}")

    def spool_accepting(self) -> None:
        """Remember."""
        self.facts.append("accepting")

    def history_yielded(self, *, events: int) -> None:
        """Remember."""
        self.facts.append(f"yielded {events}")

    def row_quarantined(self, *, sequence: int) -> None:
        """Remember."""
        self.facts.append(f"quarantined {sequence}")

    def spool_damaged(self) -> None:
        """Remember."""
        self.facts.append("damaged")

    def settlement_waiting(self, *, reason: str, events: int) -> None:
        """Remember."""
        self.facts.append(f"waiting: {reason}, {events}")


OpenSqlite = Callable[..., Awaitable[SqliteSpool]]


@pytest.fixture
def clock() -> HandClock:
    """Return a clock that stands still until moved."""
    return HandClock(START_MS)


@pytest.fixture
def reporter() -> RecordingReporter:
    """Return a reporter that remembers."""
    return RecordingReporter()


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Return a disk with behaviour."""
    one = Disk(f"disk-{next(_vfs_numbers)}")
    yield one
    one.unregister()


@pytest.fixture
async def open_sqlite(tmp_path: Path, clock: HandClock, reporter: RecordingReporter) -> AsyncIterator[OpenSqlite]:
    """Return how to open a spool on SQLite; all are closed at the end."""
    opened: list[SqliteSpool] = []

    async def open_one(
        folder: Path | None = None, *, limits: SpoolLimits | None = None, vfs: str | None = None
    ) -> SqliteSpool:
        spool = await SqliteSpool.open(
            folder or tmp_path / "data", limits=limits or SpoolLimits(), clock=clock, reporter=reporter, vfs=vfs
        )
        opened.append(spool)
        return spool

    yield open_one
    for spool in opened:
        await spool.close()


@pytest.fixture
def make_envelope(clock: HandClock) -> Callable[..., Envelope]:
    """Return how to make an envelope; the number makes its key."""

    def make(number: int, *, labels: Labels | None = None, **more: Any) -> Envelope:
        usual = Labels(type="t", event="e", message_id=f"m{number}", user_id=f"u{number % 3}")
        return an_envelope(number, at_ms=clock.now_ms, labels=labels or usual, **more)

    return make
