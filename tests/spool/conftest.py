"""Disks with behaviour: one whose power can be cut, one that fills up; and what a spool is opened with."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import structlog

from forwarder.model import Envelope, Labels, RouteName
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

START_MS = 1_700_000_000_000
_vfs_numbers = itertools.count()


class ManualClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def wall_ms(self) -> int:
        """Return the time it was set to."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """Return the same in seconds."""
        return self.now_ms / 1000


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


class DiskFile(apsw.VFSFile):
    """A file of a `Disk`."""

    def __init__(self, disk: "Disk", name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        filename = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._name = Path(filename).name

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        """Write, unless the disk is full."""
        if self._disk.is_full or not self._disk.spend(len(data)):
            raise apsw.FullError("injected")
        if self._disk.is_broken:
            raise apsw.IOError("injected")
        super().xWrite(data, offset)
        self._disk.wrote(self._name, bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        """Truncate."""
        super().xTruncate(newsize)
        self._disk.truncated(self._name, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        """Make what was written durable, unless the disk lies."""
        before = self._disk.unsynced(self._name)
        super().xSync(flags)
        self._disk.synced(self._name, before)


class Disk(apsw.VFS):
    """A disk that keeps apart what was synced. It can be full, and its power can be cut."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.vfs_name = name
        self.is_full = False
        self.is_broken = False
        self.is_lying = False  # says that it synced, but did not
        self.budget_bytes: int | None = None
        self._durable: dict[str, bytearray] = {}
        self._unsynced: dict[str, list[tuple[int, bytes | None]]] = {}

    def xOpen(self, name: Any, flags: list[int]) -> DiskFile:  # noqa: N802 - SQLite's name
        """Open a file of this disk."""
        return DiskFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - SQLite's name
        """Delete a file, for good."""
        super().xDelete(filename, syncdir)
        self._durable.pop(Path(filename).name, None)
        self._unsynced.pop(Path(filename).name, None)

    def spend(self, size: int) -> bool:
        """Take from the budget; False when it is used up."""
        if self.budget_bytes is None:
            return True
        self.budget_bytes -= size
        return self.budget_bytes >= 0

    def wrote(self, name: str, data: bytes, offset: int) -> None:
        """Hear of a write that a power cut would lose."""
        self._unsynced.setdefault(name, []).append((offset, data))

    def truncated(self, name: str, size: int) -> None:
        """Hear of a truncation."""
        self._unsynced.setdefault(name, []).append((size, None))

    def unsynced(self, name: str) -> list[tuple[int, bytes | None]]:
        """Take what a sync that begins now makes durable; what another thread writes meanwhile is not of it."""
        return [] if self.is_lying else self._unsynced.pop(name, [])

    def synced(self, name: str, written: list[tuple[int, bytes | None]]) -> None:
        """Hear that a sync is done."""
        if not written:
            return
        image = self._durable.setdefault(name, bytearray())
        for offset, data in written:
            if data is None:
                del image[offset:]
                continue
            image.extend(bytes(max(0, offset + len(data) - len(image))))
            image[offset : offset + len(data)] = data

    def cut_power(self, folder: Path) -> None:
        """Put what a power cut would have left into a folder."""
        folder.mkdir(mode=0o700)
        for name, image in list(self._durable.items()):
            if not name.endswith("-shm"):
                (folder / name).write_bytes(bytes(image))


OpenSqlite = Callable[..., Awaitable[SqliteSpool]]


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands still until moved."""
    return ManualClock()


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
async def open_sqlite(tmp_path: Path, clock: ManualClock, reporter: RecordingReporter) -> AsyncIterator[OpenSqlite]:
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
def make_envelope(clock: ManualClock) -> Callable[..., Envelope]:
    """Return how to make an envelope; the number makes its key."""

    def make(
        number: int,
        *,
        partition: str = "",
        route: RouteName = RouteName.COURIER_TO_RUDDERSTACK,
        payload: bytes | None = None,
        labels: Labels | None = None,
    ) -> Envelope:
        return Envelope(
            route=route,
            event_key=number.to_bytes(16, "big"),
            partition_key=partition,
            received_at_ms=clock.now_ms,
            payload=b'{"n":%d}' % number if payload is None else payload,
            source="webhook",
            labels=labels or Labels(type="t", event="e", message_id=f"m{number}", user_id=f"u{number % 3}"),
        )

    return make
