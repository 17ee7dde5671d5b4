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

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Envelope, RouteName, State
from forwarder.ports import EventQuery
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.spool_acts import give_back, leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
SMALL = SpoolLimits(reserve_bytes=65_536)


async def lease(spool: SqliteSpool, *, fresh: int = 100, retry: int = 100) -> list[int]:
    """Lease what there is."""
    leases = await leased(spool, OUT, fresh=fresh, retry=retry, size=10**7)
    return [one.sequence for one in leases]


async def eventually(check: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(within_s):
        while not check():  # noqa: ASYNC110 - another thread's doing is watched from outside
            await asyncio.sleep(0.02)


async def test_settlements_are_kept_until_the_disk_has_room(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], disk: Any, reporter: Any, make_envelope: Callable[..., Envelope]
) -> None:
    """While settling cannot commit, nothing is leased and nothing is lost; then all of it is written down."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(n) for n in range(1, 6)])
    assert await lease(spool, fresh=3) == [1, 2, 3]
    disk.is_full = True
    settling = [
        asyncio.create_task(settle(spool, [1], State.DELIVERED)),
        asyncio.create_task(settle(spool, [2], State.DEAD, reason="refused")),
        asyncio.create_task(give_back(spool, [3], 0)),
    ]
    await eventually(lambda: any(fact.startswith("waiting") for fact in reporter.facts))
    assert await lease(spool) == []
    assert await spool.lease_newest(OUT) is None
    with pytest.raises(SpoolFull) as refused:
        await stored(spool, [make_envelope(6)])
    assert refused.value.retry_after_s > 0
    facts = await spool.facts()
    assert not facts.is_accepting
    assert facts.refusal
    assert facts.totals[OUT].pending == 5
    assert not any(task.done() for task in settling)
    disk.is_full = False
    await asyncio.wait_for(asyncio.gather(*settling), 5)
    await eventually(lambda: "accepting" in reporter.facts)
    assert await lease(spool) == [3, 4, 5]
    await stored(spool, [make_envelope(6)])
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.delivered, totals.dead, totals.pending) == (6, 1, 1, 4)
    assert totals.is_balanced()


async def test_the_first_refused_append_stores_nothing(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], disk: Any, reporter: Any, make_envelope: Callable[..., Envelope]
) -> None:
    """The append that finds the disk full is refused whole, and its key stays unknown."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    disk.is_full = True
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(1), make_envelope(2)])
    assert reporter.facts[0].startswith("refusing")
    disk.is_full = False
    await eventually(lambda: "accepting" in reporter.facts)
    assert (await stored(spool, [make_envelope(1)])).accepted == 1
    assert [row.sequence for row in (await spool.events(EventQuery())).rows] == [1]


async def test_a_damaged_event_met_on_a_full_disk_holds_up_nobody(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    disk: Any,
    reporter: Any,
    make_envelope: Callable[..., Envelope],
    tmp_path: Path,
) -> None:
    """It cannot be set aside while nothing can be written; then it is, and its user's next one follows."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(n, partition="u") for n in (1, 2)])
    await give_back(spool, await lease(spool))
    other = apsw.Connection(str(tmp_path / "data" / "spool.db"))
    other.set_busy_timeout(60_000)
    other.execute("UPDATE events_outbound SET payload = 'rotten' WHERE sequence = 1")
    other.close()
    disk.is_full = True
    assert await lease(spool) == []
    assert reporter.facts == ["refusing: the disk is full"]
    disk.is_full = False
    await eventually(lambda: "accepting" in reporter.facts)
    assert await lease(spool) == [2]
    assert "quarantined 1" in reporter.facts


async def test_new_events_are_taken_again_only_when_a_commit_was_seen_to_succeed(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    disk: Any,
    reporter: Any,
    make_envelope: Callable[..., Envelope],
    tmp_path: Path,
) -> None:
    """A reserve that could be built, or a file that came back, says nothing of the disk under the database."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    disk.is_full = True
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(1)])
    path, aside = tmp_path / "data" / "spool.db", tmp_path / "aside"
    for _ in range(3):  # each is a turn of the writer
        with pytest.raises(SpoolFull, match="the disk is full"):
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
        with pytest.raises(SpoolFull, match="the disk is full"):
            await spool.put("a", b"b")
    assert reporter.facts == ["refusing: the disk is full"]
    disk.is_full = False
    await eventually(lambda: "accepting" in reporter.facts)
    assert (tmp_path / "data" / "spool.reserve").stat().st_size == SMALL.reserve_bytes
    assert (await stored(spool, [make_envelope(1)])).accepted == 1


@pytest.mark.parametrize("budget_bytes", range(0, 60_000, 6_000))
async def test_a_disk_that_fills_at_any_point_keeps_the_books(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    disk: Any,
    reporter: Any,
    make_envelope: Callable[..., Envelope],
    budget_bytes: int,
) -> None:
    """Wherever in a transaction the last byte goes, each append is whole or refused."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(0)])
    await lease(spool)
    disk.budget_bytes = budget_bytes
    appends = [stored(spool, [make_envelope(n), make_envelope(n + 100)]) for n in range(1, 20)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    settling = asyncio.create_task(settle(spool, [1], State.DELIVERED))
    await asyncio.sleep(0.01)  # settling meets the full disk
    disk.budget_bytes = None
    await asyncio.wait_for(settling, 5)
    await eventually(lambda: not reporter.facts or reporter.facts[-1] == "accepting")
    taken = sum(1 for result in results if not isinstance(result, BaseException))
    assert all(isinstance(result, SpoolFull) for result in results if isinstance(result, BaseException))
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.delivered) == (1 + 2 * taken, 1)
    assert totals.is_balanced()
    assert len((await spool.events(EventQuery(limit=100))).rows) == totals.accepted


async def test_a_disk_that_cannot_be_written_is_like_a_full_one(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], disk: Any, reporter: Any, make_envelope: Callable[..., Envelope]
) -> None:
    """An I/O error turns new events away until it passes."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    disk.is_broken = True
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(1)])
    disk.is_broken = False
    await eventually(lambda: "accepting" in reporter.facts)
    assert (await stored(spool, [make_envelope(1)])).accepted == 1


async def test_closing_on_a_full_disk_ends(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    disk: Any,
    make_envelope: Callable[..., Envelope],
    tmp_path: Path,
) -> None:
    """What could not be settled is told so, and is pending after the next start."""
    spool = await open_sqlite(limits=SMALL, vfs=disk.vfs_name)
    await stored(spool, [make_envelope(1)])
    await lease(spool)
    disk.is_full = True
    settling = asyncio.create_task(settle(spool, [1], State.DELIVERED))
    await asyncio.sleep(0.05)  # settling meets the full disk
    await asyncio.wait_for(spool.close(), 5)
    with pytest.raises(SpoolClosed):
        await settling
    disk.is_full = False
    again = await open_sqlite(tmp_path / "data", limits=SMALL, vfs=disk.vfs_name)
    assert await lease(again) == [1]


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
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    reporter: Any,
    make_envelope: Callable[..., Envelope],
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
    leases = await lease(spool, fresh=1_000)
    assert leases
    await asyncio.wait_for(settle(spool, leases, State.DELIVERED), 5)
    assert (await spool.facts()).totals[OUT].delivered == len(leases)
    stuffing.unlink()
    await eventually(lambda: reporter.facts[-1] == "accepting")
    assert (await stored(spool, [make_envelope(number)])).accepted == 1
    assert (await spool.facts()).totals[OUT].is_balanced()
    await spool.close()


async def test_a_disk_that_history_fills_recovers_by_itself(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    reporter: Any,
    make_envelope: Callable[..., Envelope],
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
    await asyncio.wait_for(settle(spool, await lease(spool, fresh=1_000), State.DELIVERED), 5)
    await eventually(lambda: reporter.facts[-1] == "accepting", within_s=60)
    assert any(fact.startswith("yielded") for fact in reporter.facts)
    assert (await stored(spool, [make_envelope(number)])).accepted == 1
    totals = (await spool.facts()).totals[OUT]
    assert totals.is_balanced()
    assert totals.delivered == number - 1
    await spool.close()
