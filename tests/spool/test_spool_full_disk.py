"""A full disk turns new events away and nothing else: no crash, no loss, and it recovers by itself."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from forwarder.archive_port import EventQuery
from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Envelope, RouteName, State
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite.database import DATABASE_NAME
from forwarder.spool.sqlite.files import words
from stand_ins.spool_acts import give_back, numbers, settle, stored
from stand_ins.waiting import wait_until

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]
SMALL = SpoolLimits(reserve_bytes=65_536)


async def test_settlements_are_kept_until_the_disk_has_room(
    open_sqlite: OpenSqlite, disk: Any, reporter: Any, make_envelope: MakeEnvelope
) -> None:
    """While settling cannot commit, nothing is leased and nothing is lost; then all of it is written down."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(n) for n in range(1, 6)])
    assert await numbers(spool, fresh=3) == [1, 2, 3]
    disk.is_full = True
    settling = [
        asyncio.create_task(settle(spool, [1], State.DELIVERED)),
        asyncio.create_task(settle(spool, [2], State.DEAD, reason="refused")),
        asyncio.create_task(give_back(spool, [3], 0)),
    ]
    await wait_until(lambda: any(fact.startswith("waiting") for fact in reporter.facts))
    assert await numbers(spool) == []
    assert await spool.lease_newest(OUT) is None
    with pytest.raises(SpoolFull) as refused:
        await stored(spool, [make_envelope(6)])
    assert refused.value.retry_after_s > 0
    facts = await spool.facts()
    assert not facts.is_accepting
    assert facts.refusal == "the disk is full"
    assert facts.totals[OUT].pending == 5
    assert not any(task.done() for task in settling)
    disk.is_full = False
    await asyncio.wait_for(asyncio.gather(*settling), 60)
    await wait_until(lambda: "accepting" in reporter.facts)
    assert await numbers(spool) == [3, 4, 5]
    await stored(spool, [make_envelope(6)])
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.delivered, totals.dead, totals.pending) == (6, 1, 1, 4)
    assert totals.is_balanced()


async def test_a_damaged_event_met_on_a_full_disk_holds_up_nobody(
    open_sqlite: OpenSqlite,
    disk: Any,
    reporter: Any,
    make_envelope: MakeEnvelope,
    tmp_path: Path,
) -> None:
    """It cannot be set aside while nothing can be written; then it is, and its user's next one follows."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(n, partition="u") for n in (1, 2)])
    await give_back(spool, await numbers(spool))
    other = apsw.Connection(str(tmp_path / "data" / "spool.db"))
    other.set_busy_timeout(60_000)
    other.execute("UPDATE events_outbound SET payload = 'rotten' WHERE sequence = 1")
    other.close()
    disk.is_full = True
    assert await numbers(spool) == []
    assert reporter.facts == ["refusing: the disk is full"]
    disk.is_full = False
    await wait_until(lambda: "accepting" in reporter.facts)
    assert await numbers(spool) == [2]
    assert "quarantined 1" in reporter.facts


@pytest.mark.parametrize(
    ("fault", "said"), [("is_full", "the disk is full"), ("is_broken", "the disk cannot be written")]
)
async def test_new_events_are_taken_again_only_when_a_commit_was_seen_to_succeed(
    open_sqlite: OpenSqlite,
    disk: Any,
    reporter: Any,
    make_envelope: MakeEnvelope,
    tmp_path: Path,
    *,
    fault: str,
    said: str,
) -> None:
    """A reserve that could be built, or a file that came back, says nothing of the disk under the database."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    setattr(disk, fault, True)
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(1), make_envelope(2)])
    path, aside = tmp_path / "data" / "spool.db", tmp_path / "aside"
    for _ in range(3):  # each is a turn of the writer
        with pytest.raises(SpoolFull, match=said):
            await spool.put("a", b"b")
    path.rename(aside)
    with pytest.raises(SpoolFull):
        await spool.put("a", b"b")
    with pytest.raises(SpoolFull, match="was deleted"):
        await spool.put("a", b"b")
    aside.rename(path)
    with pytest.raises(SpoolFull):
        await spool.put("a", b"b")
    for _ in range(2):
        with pytest.raises(SpoolFull, match=said):
            await spool.put("a", b"b")
    assert reporter.facts == [f"refusing: {said}"]
    setattr(disk, fault, False)
    await wait_until(lambda: "accepting" in reporter.facts)
    assert (tmp_path / "data" / "spool.reserve").stat().st_size == SMALL.reserve_bytes
    assert (await stored(spool, [make_envelope(1)])).accepted == 1


@pytest.mark.parametrize("budget_bytes", range(0, 60_000, 6_000))
async def test_a_disk_that_fills_at_any_point_keeps_the_books(
    open_sqlite: OpenSqlite,
    disk: Any,
    reporter: Any,
    make_envelope: MakeEnvelope,
    budget_bytes: int,
) -> None:
    """Wherever in a transaction the last byte goes, each append is whole or refused."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(0)])
    await numbers(spool)
    disk.budget_bytes = budget_bytes
    appends = [stored(spool, [make_envelope(n), make_envelope(n + 100)]) for n in range(1, 20)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    settling = asyncio.create_task(settle(spool, [1], State.DELIVERED))
    await asyncio.sleep(0.01)  # settling meets the full disk
    disk.budget_bytes = None
    await asyncio.wait_for(settling, 60)
    await wait_until(lambda: not reporter.facts or reporter.facts[-1] == "accepting")
    taken = sum(1 for result in results if not isinstance(result, BaseException))
    assert all(isinstance(result, SpoolFull) for result in results if isinstance(result, BaseException))
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.delivered) == (1 + 2 * taken, 1)
    assert totals.is_balanced()
    assert len((await spool.events(EventQuery(limit=100))).rows) == totals.accepted


async def test_closing_on_a_full_disk_ends(
    open_sqlite: OpenSqlite,
    disk: Any,
    make_envelope: MakeEnvelope,
    tmp_path: Path,
) -> None:
    """What could not be settled is told so, and is pending after the next start."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(1)])
    await numbers(spool)
    disk.is_full = True
    settling = asyncio.create_task(settle(spool, [1], State.DELIVERED))
    await asyncio.sleep(0.05)  # settling meets the full disk
    await asyncio.wait_for(spool.close(), 60)
    with pytest.raises(SpoolClosed):
        await settling
    disk.is_full = False
    again = await open_sqlite(tmp_path / "data", limits=SMALL, vfs=disk.vfs_name)
    assert await numbers(again) == [1]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a real disk of three MiB; skip where that is not allowed."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() or mount is None or umount is None:
        pytest.skip("mounting needs root")
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(  # noqa: S603 - found on the path, fixed arguments
        [mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(  # noqa: S603 - as above
        [umount, "-l", folder], check=True
    )


async def test_a_real_disk_fills_and_recovers(
    open_sqlite: OpenSqlite,
    reporter: Any,
    make_envelope: MakeEnvelope,
    tiny_disk: Path,
) -> None:
    """On a disk of three MiB: refused when full, settled from the reserve, accepting once there is room."""
    limits = SpoolLimits(reserve_bytes=262_144, wal_pages_max=100)
    spool = await open_sqlite(tiny_disk / "data", limits=limits)
    stuffing = tiny_disk / "stuffing"
    stuffing.write_bytes(b"x" * 1_000_000)
    number = 0
    with contextlib.suppress(SpoolFull):
        while number < 10_000:
            number += 1
            await stored(spool, [make_envelope(number, payload=b"x" * 5_000)])
    assert number < 10_000
    leases = await numbers(spool, fresh=1_000)
    assert leases
    await asyncio.wait_for(settle(spool, leases, State.DELIVERED), 60)
    assert (await spool.facts()).totals[OUT].delivered == len(leases)
    stuffing.unlink()
    await wait_until(lambda: reporter.facts[-1] == "accepting")
    assert (await stored(spool, [make_envelope(number)])).accepted == 1
    assert (await spool.facts()).totals[OUT].is_balanced()
    await spool.close()


async def test_a_disk_that_history_fills_recovers_by_itself(
    open_sqlite: OpenSqlite,
    reporter: Any,
    make_envelope: MakeEnvelope,
    tiny_disk: Path,
) -> None:
    """Where the cap is larger than the disk, history yields and new events are taken again without anybody's help."""
    spool = await open_sqlite(tiny_disk / "data", limits=SpoolLimits(reserve_bytes=262_144, wal_pages_max=100))
    number = 0
    with contextlib.suppress(SpoolFull):
        while number < 10_000:
            number += 1
            await stored(spool, [make_envelope(number, payload=b"x" * 5_000)])
    assert number < 10_000
    await asyncio.wait_for(settle(spool, await numbers(spool, fresh=1_000), State.DELIVERED), 60)
    await wait_until(lambda: reporter.facts[-1] == "accepting", within_s=60)
    assert any(fact.startswith("yielded") for fact in reporter.facts)
    assert (await stored(spool, [make_envelope(number)])).accepted == 1
    totals = (await spool.facts()).totals[OUT]
    assert totals.is_balanced()
    assert totals.delivered == number - 1
    await spool.close()


def stuff(folder: Path) -> Path:
    """Fill a disk to its last byte."""
    stuffing = folder / "stuffing"
    with stuffing.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return stuffing


async def test_it_starts_on_a_full_disk(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tiny_disk: Path
) -> None:
    """With the room that its reserve holds: it delivers, settles, refuses new events until there is room."""
    limits = SpoolLimits(reserve_bytes=262_144)
    spool = await open_sqlite(tiny_disk / "data", limits=limits)
    await stored(spool, [make_envelope(n) for n in range(1, 6)])
    await spool.close()
    stuffing = stuff(tiny_disk)
    spool = await open_sqlite(tiny_disk / "data", limits=limits)
    with pytest.raises(SpoolFull, match="the disk is full"):
        await stored(spool, [make_envelope(9)])
    leases = await numbers(spool)
    assert leases == [1, 2, 3, 4, 5]
    await asyncio.wait_for(settle(spool, leases, State.DELIVERED), 60)
    assert reporter.facts[0] == "refusing: the disk is full"
    stuffing.unlink()
    await wait_until(lambda: reporter.facts[-1] == "accepting")
    assert (await stored(spool, [make_envelope(9)])).accepted == 1
    await spool.close()


async def test_a_lock_of_another_process_is_no_lack_of_room(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads why appends are refused learns of the other process, not of a full disk; when it ends, it goes on."""
    spool = await open_sqlite()
    spool._writer._connection.set_busy_timeout(10)  # noqa: SLF001 - five seconds are long
    del monkeypatch
    other = apsw.Connection(str(tmp_path / "data" / DATABASE_NAME))
    other.set_busy_timeout(2_000)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SpoolFull, match="locked the database"):
        await stored(spool, [make_envelope(1)])
    assert "locked the database" in reporter.facts[0]
    other.execute("ROLLBACK")
    other.close()
    await wait_until(lambda: reporter.facts[-1] == "accepting")


async def test_a_reserve_that_cannot_be_given_up_does_not_end_the_writer(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, disk: Any, tmp_path: Path
) -> None:
    """A disk that became read-only keeps its reserve, too: the writer outlives that, and goes on once it may."""
    spool = await open_sqlite(limits=SpoolLimits(reserve_bytes=4_096), vfs=disk.vfs_name)
    await stored(spool, [make_envelope(1)])
    await numbers(spool)
    reserve = tmp_path / "data" / "spool.reserve"
    reserve.unlink()
    (reserve / "in the way").mkdir(parents=True)
    disk.is_broken = True
    settling = asyncio.create_task(settle(spool, [1], State.DELIVERED))

    async def is_refusing() -> bool:
        return not (await spool.facts()).is_accepting

    await wait_until(is_refusing)
    disk.is_broken = False
    (reserve / "in the way").rmdir()
    reserve.rmdir()
    async with asyncio.timeout(60):
        await settling
    assert (await spool.facts()).totals[OUT].delivered == 1


@pytest.mark.parametrize(
    ("error", "part"),
    [
        pytest.param(apsw.FullError(), "the disk is full", id="full"),
        pytest.param(apsw.IOError(), "the disk cannot be written", id="broken"),
        pytest.param(apsw.BusyError(), "another process has locked the database", id="locked"),
        pytest.param(apsw.ReadOnlyError(), "the disk cannot be written", id="read-only"),
        pytest.param(apsw.CorruptError(), "recover it with", id="damaged"),
        pytest.param(apsw.ConstraintError(), "ConstraintError", id="a bug of ours"),
    ],
)
def test_each_error_has_its_words(error: Exception, part: str) -> None:
    """Who reads why nothing can be written learns whether to make room, to recover, or to report."""
    assert part in words(error)
