"""Narrow windows: what happens between a commit and its hearing, at the end, and when the clock jumps."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from forwarder.errors import NoSuchEvent, SpoolClosed, SpoolFull, SpoolUnusable
from forwarder.model import Envelope, Labels, Lease, RouteName, State
from forwarder.spool.held_leases import AHEAD_MS_MAX, is_due
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite.files import LOCK_NAME, FolderLock, Reserve, words
from forwarder.spool.sqlite.transaction import Account
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import Work, give_back, leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]


async def lease(spool: SqliteSpool | MemorySpool, *, fresh: int = 100) -> Sequence[Lease]:
    """Lease what there is."""
    return await leased(spool, OUT, fresh=fresh, retry=100, size=10**7)


async def numbers(spool: SqliteSpool | MemorySpool, *, fresh: int = 100) -> list[int]:
    """Lease what there is, and return the sequences."""
    return [one.sequence for one in await lease(spool, fresh=fresh)]


def look(tmp_path: Path, sql: str) -> list[Any]:
    """Read the database beside its owner."""
    connection = apsw.Connection(str(tmp_path / "data" / "spool.db"), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def spoil(tmp_path: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    page = look(tmp_path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{table}'")[0][0]  # noqa: S608 - our own words
    with (tmp_path / "data" / "spool.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


async def eventually(check: Callable[[], Awaitable[bool]], *, within_s: float = 60.0) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(within_s):
        while not await check():  # noqa: ASYNC110 - the writer thread turns by itself
            await asyncio.sleep(0.005)


async def test_a_probe_never_lends_what_was_settled_meanwhile(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """An event that is leased and settled while a probe reads it is not leased to the probe."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 3)])
    assert await numbers(spool, fresh=1) == [1]
    await give_back(spool, [1], 0, counts=False)
    # All three are queued before the loop turns, so that their commits are heard in one turn.
    probing = asyncio.create_task(spool.lease_newest(OUT))
    await asyncio.sleep(0)
    leased = await numbers(spool)
    await settle(spool, leased, State.DELIVERED)
    newest = await probing
    both = leased + ([newest.sequence] if newest is not None else [])
    assert len(both) == len(set(both))
    await settle(spool, both, State.DELIVERED)
    assert await numbers(spool) == []
    assert (await spool.facts()).totals[OUT].delivered == 2


async def test_a_probe_that_is_cancelled_leaves_nothing_lent(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """A probe's caller that goes away at any moment leaves the newest to the others."""
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    await stored(spool, [make_envelope(n, partition="p" if n == 3 else "") for n in range(1, 4)])
    for turns in range(4):
        probing = asyncio.create_task(spool.lease_newest(OUT))
        for _ in range(turns):
            await asyncio.sleep(0)
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        await spool.put("turn", b"")  # the probe's own commit is heard before this one
    assert await numbers(spool) == [1, 2, 3]


async def test_progress_is_known_though_its_caller_went_away(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """Progress that was committed is on the next lease, even if who noted it was cancelled."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1)])
    await lease(spool)
    noting = asyncio.create_task(spool.note(1, b"half"))
    await asyncio.sleep(0)
    noting.cancel()
    await asyncio.gather(noting, return_exceptions=True)
    await give_back(spool, [1], 0, counts=False)
    assert [one.progress for one in await lease(spool)] == [b"half"]


async def test_a_long_replay_ends_when_the_spool_closes(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """A replay in several commits is told that the spool closed; it never waits for a thread that has ended."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 1_201)])
    await settle(spool, await numbers(spool, fresh=2_000), State.DELIVERED)
    replaying = asyncio.create_task(spool.requeue(range(1, 1_201)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(spool.close())
    async with asyncio.timeout(60):
        await closing
        with pytest.raises(SpoolClosed):
            await replaying


async def test_appends_that_wait_at_the_end_are_answered(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Every append that was under way when the spool closed hears that it is stored, and it is, or that it is not."""
    spool = await open_sqlite()
    appending = [asyncio.create_task(stored(spool, [make_envelope(n)])) for n in range(1, 301)]
    await asyncio.sleep(0)
    appending[0].cancel()
    async with asyncio.timeout(60):
        await spool.close()
        answers = await asyncio.gather(*appending, return_exceptions=True)
    kept = sum(1 for answer in answers if not isinstance(answer, BaseException))
    again = await open_sqlite()
    assert kept <= (await again.facts()).totals[OUT].accepted <= kept + 1


def test_a_time_too_far_ahead_is_due() -> None:
    """What is due later than anybody waits is due now: the clock was wrong."""
    now_ms = 1_700_000_000_000
    assert is_due(now_ms, now_ms=now_ms)
    assert not is_due(now_ms + 1, now_ms=now_ms)
    assert not is_due(now_ms + AHEAD_MS_MAX, now_ms=now_ms)
    assert is_due(now_ms + AHEAD_MS_MAX + 1, now_ms=now_ms)


@pytest.mark.parametrize("is_restarted", [False, True], ids=["in one run", "across a restart"])
@pytest.mark.parametrize("counts", [True, False], ids=["after a failure", "after a hold"])
async def test_a_clock_that_came_back_frees_what_waits(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any, *, is_restarted: bool, counts: bool
) -> None:
    """Events given back while the clock was years ahead are leased once it is right again."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, partition="p" if n == 2 else "") for n in range(1, 4)])
    await lease(spool)
    right_ms = clock.now_ms
    clock.now_ms += 10**11
    await give_back(spool, [1, 2], clock.now_ms + 60_000, counts=counts)
    assert await numbers(spool) == []
    clock.now_ms = right_ms
    await give_back(spool, [3], clock.now_ms + 60_000, counts=counts)
    if is_restarted:
        await spool.close()
        spool = await open_sqlite()
    assert await Work(spool).wait(within_s=60)
    assert await numbers(spool) == [1, 2]
    newest = await spool.lease_newest(OUT)
    assert newest is None
    await settle(spool, [1, 2], State.DELIVERED)
    clock.now_ms += 60_000
    assert await numbers(spool) == [3]
    await settle(spool, [3], State.DELIVERED)
    assert await numbers(spool) == []
    assert (await spool.facts()).totals[OUT].delivered == 3


async def test_the_newest_may_be_one_from_a_wrong_clock(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """A probe finds what waits for a time that a wrong clock made."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 3)])
    await lease(spool)
    await give_back(spool, [2], clock.now_ms + 10**11)
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert newest.sequence == 2


async def test_types_are_counted_to_their_limit(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Only so many distinct types get a row, over restarts; events of others are stored all the same."""
    limits = SpoolLimits(event_types_max=3)

    def of_type(number: int) -> Envelope:
        return make_envelope(number, labels=Labels(type="track", event=f"e{number}"))

    spool = await open_sqlite(limits=limits)
    await stored(spool, [of_type(n) for n in range(2)])
    await spool.close()
    spool = await open_sqlite(limits=limits)
    await stored(spool, [of_type(n) for n in range(2, 6)])
    await stored(spool, [of_type(n) for n in range(6, 8)])
    assert len(await spool.event_types(OUT, limit=100)) == 3
    assert (await spool.facts()).totals[OUT].accepted == 8


async def test_a_purged_damaged_row_leaves_the_dead_bytes_right(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any, tmp_path: Path
) -> None:
    """A damaged row that is past the retention takes nothing from what the others weigh."""
    limits = SpoolLimits(retention_s=100)
    spool = await open_sqlite(limits=limits)
    await stored(spool, [make_envelope(1, payload=b"x" * 5_000)])
    await spool.close()
    connection = apsw.Connection(str(tmp_path / "data" / "spool.db"))
    connection.execute("UPDATE events_outbound SET payload = 'rotten'")
    connection.close()
    spool = await open_sqlite(limits=limits)
    assert await numbers(spool) == []
    assert (await spool.facts()).corrupt_rows == 1
    clock.now_ms += 200_000

    async def is_purged() -> bool:
        return not look(tmp_path, "SELECT sequence FROM events_outbound")

    await eventually(is_purged)
    await spool.close()
    amounts = look(tmp_path, "SELECT account, amount FROM totals")
    assert dict(amounts).get(Account.DEAD_BYTES, 0) == 0


async def test_what_is_lent_is_not_quarantined(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path
) -> None:
    """Damage on disk to an event in hand does not settle it a second time."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 4)])
    await lease(spool)
    await settle(spool, [3], State.DELIVERED)
    connection = apsw.Connection(str(tmp_path / "data" / "spool.db"))
    connection.set_busy_timeout(5_000)
    connection.execute("UPDATE events_outbound SET payload = 'rotten' WHERE sequence = 1")
    connection.close()
    assert await spool.requeue([3]) == 1  # everything is read anew
    assert await numbers(spool) == [3]
    await settle(spool, [1, 2, 3], State.DELIVERED)
    totals = (await spool.facts()).totals[OUT]
    assert (totals.pending, totals.delivered, totals.dead) == (0, 3, 0)
    assert reporter.facts == []


async def half_settled(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Leave a folder with ten events, five of them delivered."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 11)])
    await settle(spool, await numbers(spool, fresh=5), State.DELIVERED)
    await spool.close()


async def test_a_queue_that_cannot_be_read_is_alarmed(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path
) -> None:
    """Damage that no event can be blamed for makes one alarm; nothing is leased, and the totals stay as they were."""
    await half_settled(open_sqlite, make_envelope)
    spoil(tmp_path, "given_back")
    spool = await open_sqlite()
    assert await numbers(spool) == []
    assert reporter.facts == ["damaged"]
    facts = await spool.facts()
    totals = facts.totals[OUT]
    assert (totals.accepted, totals.pending, totals.delivered) == (10, 5, 5)
    assert facts.oldest_pending_ms[OUT] is None
    with pytest.raises(SpoolUnusable, match="the database is damaged"):
        await spool.event(6)


async def test_settlements_that_damage_keeps_out_hold_everything(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path
) -> None:
    """Where settling meets damage, nothing more is leased or taken in, and the refusal names the remedy."""
    await half_settled(open_sqlite, make_envelope)
    spoil(tmp_path, "settled_by_age")
    spool = await open_sqlite()
    settling = asyncio.create_task(settle(spool, await numbers(spool), State.DELIVERED))

    async def is_refusing() -> bool:
        return not (await spool.facts()).is_accepting

    await eventually(is_refusing)
    facts = await spool.facts()
    assert "the database is damaged" in facts.refusal
    assert "restore it from a backup" in facts.refusal
    assert (facts.totals[OUT].pending, facts.totals[OUT].delivered) == (5, 5)
    assert await numbers(spool) == []
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(11)])
    await spool.close()
    with pytest.raises(SpoolClosed):
        await settling
    assert reporter.facts.count("damaged") == 1


async def test_books_that_cannot_be_read_are_refused(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """A spool without its totals is not opened; the error names the remedy."""
    await half_settled(open_sqlite, make_envelope)
    spoil(tmp_path, "totals")
    with pytest.raises(SpoolUnusable, match="restore it from a backup"):
        await open_sqlite()


async def test_a_reserve_that_cannot_be_given_up_does_not_end_the_writer(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, disk: Any, tmp_path: Path
) -> None:
    """A disk that became read-only keeps its reserve, too: the writer outlives that, and goes on once it may."""
    spool = await open_sqlite(limits=SpoolLimits(reserve_bytes=4_096), vfs=disk.vfs_name)
    await stored(spool, [make_envelope(1)])
    await lease(spool)
    reserve = tmp_path / "data" / "spool.reserve"
    reserve.unlink()
    (reserve / "in the way").mkdir(parents=True)
    disk.is_broken = True
    settling = asyncio.create_task(settle(spool, [1], State.DELIVERED))

    async def is_refusing() -> bool:
        return not (await spool.facts()).is_accepting

    await eventually(is_refusing)
    disk.is_broken = False
    (reserve / "in the way").rmdir()
    reserve.rmdir()
    async with asyncio.timeout(60):
        await settling
    assert (await spool.facts()).totals[OUT].delivered == 1


def spoil_leaf(tmp_path: Path, index: int) -> None:
    """Overwrite one page of events."""
    pages = look(
        tmp_path, "SELECT pageno FROM dbstat WHERE name = 'events_outbound' AND pagetype = 'leaf' ORDER BY pageno"
    )
    with (tmp_path / "data" / "spool.db").open("r+b") as file:
        file.seek((int(str(pages[index][0])) - 1) * 4096)
        file.write(b"\xff" * 4096)


async def test_a_partition_passes_over_a_page_that_cannot_be_read(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """Settling an event whose followers cannot be read frees the first one behind them."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, partition="p", payload=b"x" * 600) for n in range(1, 31)])
    await spool.close()
    spoil_leaf(tmp_path, 2)
    spool = await open_sqlite()
    applied: list[int] = []
    while leased := await numbers(spool):
        assert len(leased) == 1
        applied += leased
        await settle(spool, leased, State.DELIVERED)
    facts = await spool.facts()
    assert applied == sorted(applied)
    assert 0 < facts.corrupt_rows < 10
    assert len(applied) + facts.corrupt_rows == 30
    assert facts.totals[OUT].is_balanced()


async def test_a_probe_passes_over_a_page_that_cannot_be_read(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """Where the newest cannot be read they are set aside, and the newest that can is leased."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, payload=b"x" * 600) for n in range(1, 3_001)])
    await spool.close()
    spoil_leaf(tmp_path, -1)
    spool = await open_sqlite()
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert newest.sequence + (await spool.facts()).corrupt_rows == 3_000
    assert (await spool.facts()).corrupt_rows > 0


async def test_a_feed_of_large_events_is_cut(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Large payloads are read a few megabytes at a time, and all of them are leased in the end."""
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    for number in range(1, 4):
        await stored(spool, [make_envelope(number, payload=b"x" * 5_000_000)])
    leased: list[int] = []
    while some := await numbers(spool):
        leased += some
    assert leased == [1, 2, 3]


def test_a_reserve_without_its_folder_is_not_built(tmp_path: Path) -> None:
    """Where the folder is gone there is no reserve, no error, and no talk of a full disk."""
    for is_first in (False, True):
        refusal = Reserve(tmp_path / "gone", size_bytes=4_096).build(is_first=is_first)
        assert "cannot be written" in refusal
        assert "full" not in refusal


def test_a_lock_without_room_for_the_pid_holds(tmp_path: Path) -> None:
    """A lock file that takes no bytes locks all the same, and is given back once or twice."""
    (tmp_path / LOCK_NAME).symlink_to("/dev/full")
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()


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


async def test_a_pending_event_that_cannot_be_read_is_not_shown(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """Until it is set aside, an event on a damaged page is unknown to who looks it up."""
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    await stored(spool, [make_envelope(n, payload=b"x" * 600) for n in range(1, 3_001)])
    await spool.close()
    spoil_leaf(tmp_path, -1)
    spool = await open_sqlite()
    with pytest.raises(NoSuchEvent):
        await spool.event(3_000)


async def test_dead_events_in_memory_weigh_nothing_after_the_retention(make_envelope: MakeEnvelope, clock: Any) -> None:
    """What was purged leaves room for new events, and stays in the totals."""
    spool = MemorySpool(limits=SpoolLimits(bytes_max=6_000, retention_s=100), clock=clock)
    await stored(spool, [make_envelope(1, payload=b"x" * 4_000)])
    await lease(spool)
    await settle(spool, [1], State.DEAD, reason="refused")
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(2, payload=b"x" * 4_000)])
    clock.now_ms += 200_000
    await stored(spool, [make_envelope(2, payload=b"x" * 4_000)])
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.dead, totals.pending) == (2, 1, 1)
