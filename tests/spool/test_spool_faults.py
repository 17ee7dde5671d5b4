"""What a hostile week found: files that vanish, writers that die, side tables that rot, clocks that go back."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import apsw
import pytest

from forwarder.errors import SpoolClosed, SpoolFull, SpoolUnusable, WorkerEnded
from forwarder.model import Demand, Envelope, Receipt, Recurrence, RouteName, State
from forwarder.spool.lease_window import Wanted
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool, housekeeping, known_keys, transaction
from forwarder.spool.sqlite.database import (
    DATABASE_NAME,
    LAYOUT,
    _migrate,
    open_reader,
    open_writer,
    prepare_folder,
)
from forwarder.spool.sqlite.files import FileWatch, foreign_owner, unusable
from forwarder.spool.sqlite.housekeeping import Retention
from forwarder.spool.sqlite.refill import refill
from forwarder.spool.sqlite.transaction import Transaction
from forwarder.spool.sqlite.writer import Checkpoints
from stand_ins.spool_acts import give_back, leased, settle, stored
from stand_ins.waiting import wait_until

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ANY = Demand(fresh_max=100, retry_max=100, bytes_max=10**7)


async def numbers(
    spool: SqliteSpool, route: RouteName = OUT, *, fresh: int = 100, retry: int = 100, replay: int | None = None
) -> list[int]:
    """Lease what there is, and return the sequences."""
    return [lease.sequence for lease in await leased(spool, route, fresh=fresh, retry=retry, replay=replay)]


# --- files that vanish ---


def vanish(folder: Path, name: str) -> None:
    """Delete a file of the folder, or the folder."""
    if name == ".":
        shutil.rmtree(folder)
    else:
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal", "spool.lock", "."])
async def test_a_file_deleted_under_the_running_daemon_shuts_the_doors(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path, name: str
) -> None:
    """Nothing is acknowledged that a restart would not find, and people are told which file and what to do."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1)])
    vanish(tmp_path / "data", name)
    with pytest.raises(SpoolFull, match="was deleted under the running daemon"):
        await stored(spool, [make_envelope(2)])
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(3)])
    facts = await spool.facts()
    assert not facts.is_accepting
    assert "stop it and start it again" in facts.refusal
    assert reporter.facts[0].startswith("refusing")
    assert 1 in await numbers(spool)  # what was taken before is delivered as long as this process lives
    await asyncio.wait_for(settle(spool, [1], State.DELIVERED), 5)


async def test_a_file_that_was_replaced_is_noticed_without_any_append(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path
) -> None:
    """A copy moved into its place is not the open file; back in its place, new events are taken again."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1)])
    path, aside = tmp_path / "data" / "spool.db", tmp_path / "aside"
    path.rename(aside)
    path.write_bytes(b"another")
    await wait_until(lambda: bool(reporter.facts))
    assert "was replaced" in reporter.facts[0]
    aside.rename(path)
    await wait_until(lambda: reporter.facts[-1] == "accepting")
    assert (await stored(spool, [make_envelope(2)])).accepted == 1


def test_a_file_that_cannot_be_looked_at_was_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told to put back what lies where it lay: the disk's own words are passed on, until it answers again."""
    path = tmp_path / "spool.db"
    path.write_bytes(b"")
    watch = FileWatch((path,))

    def fails(*_: object, **__: object) -> os.stat_result:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fails)
        fault = watch.fault()
        with pytest.raises(OSError, match="Input/output error"):
            FileWatch((path,))
    assert "spool.db cannot be looked at (Input/output error)" in fault
    assert "deleted" not in fault
    assert watch.fault() == ""


# --- writers that die ---


async def test_a_writer_that_ends_leaves_nobody_waiting(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every append that waits is rolled back, what follows is refused, and the daemon hears of it."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1)])
    assert await numbers(spool) == [1]
    running = asyncio.create_task(spool.run())

    def dies() -> None:
        raise SystemExit

    monkeypatch.setattr(spool._writer._checkpoints, "look", dies)  # noqa: SLF001 - where no error can come from
    appends = [asyncio.create_task(stored(spool, [make_envelope(n)])) for n in range(2, 40)]
    answers = await asyncio.wait_for(asyncio.gather(*appends, return_exceptions=True), 5)
    assert all(isinstance(answer, Receipt | SpoolClosed) for answer in answers)
    with pytest.raises(WorkerEnded, match="SystemExit"):
        await asyncio.wait_for(running, 5)
    for late in (stored(spool, [make_envelope(99)]), settle(spool, [1], State.DELIVERED), spool.put("a", b"")):
        with pytest.raises(SpoolClosed):
            await asyncio.wait_for(late, 5)
    await wait_until(lambda: not spool.is_alive(now_s=0, within_s=5))


async def test_an_append_behind_a_writer_that_just_ended_is_rolled_back(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued after the thread's last act and before the loop hears of it does not wait for ever."""
    spool = await open_sqlite()

    def dies() -> None:
        raise SystemExit

    monkeypatch.setattr(spool._writer._checkpoints, "look", dies)  # noqa: SLF001 - where no error can come from
    spool._writer.join()  # noqa: SLF001 - its end is posted, and not heard while the loop stands still
    answers: list[Receipt | SpoolFull | SpoolClosed] = []
    spool.append([make_envelope(1)], on_commit=answers.append, on_rollback=answers.append)
    assert answers == []
    await wait_until(lambda: bool(answers))
    assert [type(answer) for answer in answers] == [SpoolClosed]


async def test_nothing_is_asked_of_the_database_behind_a_commit(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails right behind a commit takes nothing back: it is told as stored, leased and settled once."""
    spool = await open_sqlite()
    measure = transaction.pages_of

    def fails_behind_a_commit(connection: Any) -> tuple[int, int]:
        if not connection.in_transaction:
            raise apsw.IOError("a failing disk")
        return measure(connection)

    monkeypatch.setattr(transaction, "pages_of", fails_behind_a_commit)
    assert (await stored(spool, [make_envelope(1)])).accepted == 1
    assert await numbers(spool) == [1]
    await asyncio.wait_for(settle(spool, [1], State.DELIVERED), 5)
    assert (await stored(spool, [make_envelope(1)])).duplicates == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), KeyError("a bug"), apsw.ConstraintError("a bug"), MemoryError()]
)
async def test_an_error_in_housekeeping_never_ends_the_writer(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever its type: appends go on."""

    def breaks(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(housekeeping.Housekeeping, "step", breaks)
    spool = await open_sqlite()
    for number in range(1, 5):
        assert (await stored(spool, [make_envelope(number)])).accepted == 1
    assert await numbers(spool) == [1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore")
async def test_an_error_in_the_lease_queue_keeps_no_receipt_back(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A committed append is answered though the queue could not take it, and is leased all the same."""
    spool = await open_sqlite()
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(spool._leasing.queues[0], "arrived", breaks)  # noqa: SLF001 - where no error can come from
    assert (await asyncio.wait_for(stored(spool, [make_envelope(1)]), 5)).accepted == 1
    assert await numbers(spool) == [1]
    assert len(errors) == 1


# --- side tables that rot ---


# --- leases that leak, orders that turn ---


async def test_due_events_that_nobody_takes_are_not_read_again_and_again(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """With all retry slots busy a lease reads no retry and holds none; once a slot is free it reads what fits."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, route=IN, partition=f"u{n}") for n in range(1, 201)])
    await give_back(spool, await numbers(spool, IN, fresh=200), clock.now_ms + 1_000)
    clock.now_ms += 2_000
    queue = spool._leasing.queues[1]  # noqa: SLF001 - what it holds is the promise
    for _ in range(50):
        assert await numbers(spool, IN, retry=0) == []
        assert len(queue._held) == 0  # noqa: SLF001 - as above
    assert await numbers(spool, IN, retry=3) == [1, 2, 3]
    assert len(queue._held) == 0  # noqa: SLF001 - as above


async def test_a_rate_limited_event_counts_as_a_retry(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """What was given back with a time, failed or not, takes retry slots: also over a restart, and when unchanged."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 5)])
    await numbers(spool, fresh=2)
    await give_back(spool, [1, 2], clock.now_ms + 50, counts=False)
    clock.now_ms += 50
    assert await numbers(spool, retry=0) == [3, 4]
    assert await numbers(spool, fresh=0, retry=1) == [1]
    await give_back(spool, [1], 0, counts=False)
    assert await numbers(spool, retry=0) == []
    await spool.close()
    spool = await open_sqlite()
    assert await numbers(spool, retry=0) == [3, 4]
    leases = await leased(spool, OUT, fresh=0)
    assert [(lease.sequence, lease.attempt, lease.is_retry) for lease in leases] == [(1, 1, True), (2, 1, True)]


async def test_users_events_keep_their_order_when_replayed_one_after_the_other(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """A user's second event is never leased before the first, requeued in either order, at once or later."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, partition="u") for n in range(1, 4)])
    for order in ([1], [2], [3]):
        assert await numbers(spool) == order
        await settle(spool, order, State.DEAD, reason="refused")
    for first, second in ((1, 2), (2, 1)):
        await spool.requeue([first])
        await spool.requeue([second])
        assert await numbers(spool) == [1]
        assert await numbers(spool) == []
        await settle(spool, [1], State.DEAD, reason="refused")
        assert await numbers(spool) == [2]
        await settle(spool, [2], State.DEAD, reason="refused")
    await spool.requeue([2])
    assert await numbers(spool) == [2]
    await spool.requeue([1])
    await give_back(spool, [2], 0, counts=False)
    assert [lease.sequence for lease in spool.lease(OUT, ANY)] == []  # the first is on disk only as yet
    assert await numbers(spool) == [1]
    await settle(spool, [1], State.DELIVERED)
    assert await numbers(spool) == [2]


async def test_a_follower_is_not_read_before_an_older_one_that_was_replayed(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """Asked for as the oldest of its partition, it is none any more when the read comes to it."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, partition="u") for n in range(1, 4)])
    assert await numbers(spool) == [1]
    await settle(spool, [1], State.DEAD, reason="refused")
    wanted = Wanted(after=3, fresh_max=0, bytes_max=10**6, due_max=(-1, -1, -1), promoted=(2,), known=frozenset())
    connection = open_reader(tmp_path / "data")
    assert [lease.sequence for lease in refill(connection, 0, wanted, now_ms=0).promoted] == [2]
    await spool.requeue([1])
    assert refill(connection, 0, wanted, now_ms=0).promoted == []
    connection.close()


async def test_a_retry_given_back_unchanged_is_leased_again(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """As often as it is drained, its attempts as they were; a restart in between changes nothing."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1)])
    await numbers(spool)
    await give_back(spool, [1], clock.now_ms + 10, reason="busy")
    clock.now_ms += 10
    for turn in range(4):
        (lease,) = await leased(spool, OUT)
        assert lease.attempt == 2
        await give_back(spool, [1], 0, counts=False)
        if turn == 2:
            await spool.close()
            spool = await open_sqlite()
    assert (await spool.event(1)).row.reason == "busy"


async def test_a_long_replay_does_not_drop_the_window(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """A replay in many commits leaves what waits in memory where it is: nothing is read anew but the replayed."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 1_301)])
    await settle(spool, await numbers(spool, fresh=1_200), State.DELIVERED)
    queue = spool._leasing.queues[0]  # noqa: SLF001 - what it holds is the promise
    before = queue.generation
    assert await spool.requeue(range(1, 1_201)) == 1_200
    assert (queue.generation, len(queue.window)) == (before, 100)
    assert await numbers(spool, fresh=0, replay=1_000) == list(range(1, 1_001))


# --- keys and clocks ---


async def test_keys_age_below_any_size(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any) -> None:
    """A quiet customer's equal event is a duplicate within the retention, and new sixty days later; also restarted."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1), make_envelope(2)])
    clock.now_ms += 6 * DAY_MS
    assert (await stored(spool, [make_envelope(1)])).duplicates == 1
    await spool.close()
    spool = await open_sqlite()
    assert (await stored(spool, [make_envelope(1)])).duplicates == 1
    clock.now_ms += 54 * DAY_MS
    assert (await stored(spool, [make_envelope(1)])).accepted == 1
    await spool.close()
    spool = await open_sqlite()
    assert (await stored(spool, [make_envelope(2), make_envelope(1)])) == Receipt(accepted=1, duplicates=1)


async def test_keys_never_need_more_than_a_bounded_number_of_tables(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many keys a retention holds, their tables are few, and each key is known."""
    monkeypatch.setattr(known_keys, "KEYS_IN_MEMORY_MAX", 10)
    monkeypatch.setattr(known_keys, "KEYS_PER_BUCKET_MAX", 20)
    monkeypatch.setattr(known_keys, "BUCKETS_MAX", 8)
    spool = await open_sqlite()
    for first in range(1, 801, 40):
        await stored(spool, [make_envelope(n) for n in range(first, first + 40)])
    reader = apsw.Connection(str(tmp_path / "data" / DATABASE_NAME), flags=apsw.SQLITE_OPEN_READWRITE)
    sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name GLOB 'keys_*'"
    await wait_until(lambda: reader.execute("SELECT sum(keys) FROM key_buckets").get == 800)
    assert reader.execute(sql).get == 8
    reader.close()
    assert (await stored(spool, [make_envelope(n) for n in range(1, 802)])) == Receipt(accepted=1, duplicates=800)


async def test_duplicates_are_known_after_a_restart(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """What was stored before a restart is a duplicate after it, on its own route."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, route=IN if n == 3 else OUT) for n in range(1, 4)])
    await settle(spool, await numbers(spool), State.DELIVERED)
    await spool.close()
    spool = await open_sqlite()
    again = [make_envelope(1), make_envelope(2), make_envelope(3)]
    assert await stored(spool, again) == Receipt(accepted=1, duplicates=2)


def occurrence(make_envelope: MakeEnvelope) -> Envelope:
    """Return an audience's calculation, the same at every time."""
    one = make_envelope(1)
    recurrence = Recurrence(resend_s=1_200, resend_max_s=1_200, subject=None, side="calculated")
    return Envelope(
        route=one.route,
        event_key=one.event_key,
        partition_key="",
        received_at_ms=one.received_at_ms,
        payload=one.payload,
        recurrence=recurrence,
    )


async def test_a_clock_set_back_makes_no_new_occurrence_a_resend(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """After the clock went back an equal audience event is new; a copy right behind it is a resend."""
    spool = await open_sqlite()
    assert (await stored(spool, [occurrence(make_envelope)])).accepted == 1
    clock.now_ms -= HOUR_MS
    assert (await stored(spool, [occurrence(make_envelope)])).accepted == 1
    clock.now_ms -= 50
    assert (await stored(spool, [occurrence(make_envelope)])).duplicates == 1


async def test_time_that_passed_counts_though_the_clock_was_set_back(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seventy minutes after the first one, on a clock that was set back by an hour, it is a new occurrence."""
    start_ms, set_back_ms = clock.now_ms, 0
    monkeypatch.setattr(clock, "monotonic_s", lambda: (clock.now_ms + set_back_ms) / 1000, raising=False)
    spool = await open_sqlite()
    assert (await stored(spool, [occurrence(make_envelope)])).accepted == 1
    set_back_ms = HOUR_MS
    clock.now_ms = start_ms + 10_000
    await stored(spool, [make_envelope(2)])  # the writer looks at both clocks, and tidies behind this commit
    await stored(spool, [make_envelope(3)])
    clock.now_ms = start_ms + 10 * 60_000
    assert (await stored(spool, [occurrence(make_envelope)])).accepted == 1


# --- set-up and words ---


def test_an_owner_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual first container mistake: whose the folder is, who we are, and the chown that heals it."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_321)
    owner = foreign_owner(tmp_path)
    assert "(uid 0)" in owner
    assert "runs as uid 4321" in owner
    assert f"chown -R 4321 {tmp_path}" in owner
    lock = tmp_path / "spool.lock"
    lock.write_text("")
    path, stat = tmp_path / DATABASE_NAME, os.stat

    def denied(of: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if of == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(of, *args, **kwargs)

    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(SpoolUnusable, match=f"Permission denied.*chown -R 4321 {tmp_path}`"):
        open_reader(tmp_path)  # a folder of the daemon's, looked at by somebody else
    assert f"chown -R 4321 {tmp_path}`" in str(unusable(lock, PermissionError(13, "Permission denied")))


# --- layouts ---


def test_a_folder_of_layout_2_becomes_one_of_today() -> None:
    """Tables and indexes are what a new folder has; settled events know the status of the answer they ended with."""
    old, new = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    new.execute(resources.files("forwarder.spool.sqlite").joinpath("schema.sql").read_text("utf-8"))
    old.execute((Path(__file__).parent / "layout_2.sql").read_text("utf-8"))
    old.execute("INSERT INTO attempts VALUES (7, 1, 1, 'o', 503, 'x', '', x''), (8, 1, 1, 'o', NULL, 'x', '', x'')")
    for last, attempt_id in ((1, 7), (2, 8), (3, None)):
        old.execute("INSERT INTO settled VALUES (0, ?, ?, 4, 1, 1, NULL, ?, 0)", (last, last, attempt_id))
    old.execute("INSERT INTO given_back VALUES (9, 0, 1, 1, 5, 2, 4, NULL)")
    old.execute("INSERT INTO events_inbound VALUES (9, x'', 'u', 1, 'v1', 't', 'e', 'm', 'u', 2, 0, x'7b7d')")
    old.execute("INSERT INTO audit (at_ms, who, action, detail) VALUES (1, 'page', 'replay', '1 events: 1')")
    old.pragma("user_version", 2)
    _migrate(old)
    assert old.pragma("user_version") == LAYOUT
    assert [row[0] for row in old.execute("SELECT status FROM settled ORDER BY last")] == [503, 0, None]
    assert old.execute("SELECT count, outcome FROM audit").fetchall() == [(None, "")]
    assert old.execute("SELECT kind, attempts, replayed_ms FROM given_back").fetchall() == [(1, 2, None)]
    assert old.execute("SELECT payload, trace FROM events_inbound").fetchall() == [(b"{}", None)]
    names = "SELECT type, name FROM sqlite_schema ORDER BY name"
    assert old.execute(names).fetchall() == new.execute(names).fetchall()
    columns = (
        'SELECT t.name, c.name, c.type, "notnull", pk FROM sqlite_schema t, pragma_table_info(t.name) c ORDER BY 1, 2'
    )
    assert old.execute(columns).fetchall() == new.execute(columns).fetchall()


async def test_a_folder_of_the_first_version_says_what_drains_it(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
    """Layout 1 was never released: it is left alone, and drained by what wrote it."""
    (tmp_path / "data").mkdir()
    connection = apsw.Connection(str(tmp_path / "data" / DATABASE_NAME))
    connection.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY)")
    connection.pragma("user_version", 1)
    connection.close()
    before = (tmp_path / "data" / DATABASE_NAME).read_bytes()
    with pytest.raises(SpoolUnusable, match=r"run 0\.1 on it until `forwarder status` shows nothing waiting"):
        await open_sqlite()
    assert (tmp_path / "data" / DATABASE_NAME).read_bytes() == before


def test_layouts_are_migrated_forward_step_by_step(tmp_path: Path) -> None:
    """Each step is whole or not at all, and numbered; what fails leaves the last whole one."""
    prepare_folder(tmp_path)
    connection = open_writer(tmp_path)
    assert connection.pragma("user_version") == LAYOUT
    steps = {LAYOUT: "CREATE TABLE one (a); INSERT INTO one VALUES (1)", LAYOUT + 1: "CREATE TABLE two (a); nonsense"}
    with pytest.raises(apsw.SQLError):
        _migrate(connection, layout=LAYOUT + 2, migrations=steps)
    assert connection.pragma("user_version") == LAYOUT + 1
    assert connection.execute("SELECT name FROM sqlite_schema WHERE name IN ('one', 'two')").fetchall() == [("one",)]
    steps[LAYOUT + 1] = "CREATE TABLE two (a)"
    _migrate(connection, layout=LAYOUT + 2, migrations=steps)
    assert connection.pragma("user_version") == LAYOUT + 2
    assert connection.execute("SELECT a FROM one").get == 1
    connection.close()


# --- a full disk at the start ---


# --- a backlog older than the retention ---


async def test_a_backlog_older_than_the_retention_is_not_walked(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tidying looks at what is past the retention alone: its statements do not grow with what is pending."""
    spool = await open_sqlite(limits=SpoolLimits(retention_s=1_000))
    await stored(spool, [make_envelope(n) for n in range(1, 5_001)])
    await settle(spool, await numbers(spool, fresh=10), State.DELIVERED)
    clock.now_ms += 10 * DAY_MS
    looked: list[Sequence[int]] = []
    step = Retention.step

    def counted(self: Any, transaction: Transaction, *, before_ms: int) -> bool:
        before = transaction.connection.total_changes()
        done = step(self, transaction, before_ms=before_ms)
        looked.append((transaction.connection.total_changes() - before, int(done)))
        return done

    monkeypatch.setattr(Retention, "step", counted)
    await stored(spool, [make_envelope(5_001)])
    await wait_until(lambda: bool(looked) and looked[-1][1] == 1)
    assert all(is_done for _, is_done in looked)
    assert (await spool.facts()).totals[OUT].pending == 4_991


def test_a_connection_that_could_not_be_opened_is_opened_later(tmp_path: Path) -> None:
    """With no file descriptor left at the start the thread goes on, and the log is shortened once there is one."""
    path = str(tmp_path / "a.db")
    writer = apsw.Connection(path)
    writer.pragma("journal_mode", "WAL")
    writer.pragma("wal_autocheckpoint", 0)
    tries: list[int] = []
    second_try = threading.Event()

    def opened() -> apsw.Connection:
        tries.append(1)
        if len(tries) == 1:
            raise apsw.CantOpenError("unable to open database file")
        second_try.set()
        return apsw.Connection(path)

    checkpoints = Checkpoints(writer, opened, pages_max=1)
    checkpoints.start()
    writer.execute("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(40000))")
    checkpoints.look()
    assert second_try.wait(30)
    checkpoints.stop()
    assert len(tries) == 2
    writer.close()
