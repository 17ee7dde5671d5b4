"""The spool on SQLite: where events survive kill -9 and power loss until their destination said yes.

The front of the house: it opens and closes, and hands each call to who knows about it: the writer for what is written,
`Leasing` for leases, the archive for what is read.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from forwarder.errors import SpoolClosed, SpoolFull, SpoolUnusable, WorkerEnded
from forwarder.model import Attempt, Demand, Envelope, Lease, Receipt, RouteName, Settlement
from forwarder.ports import AuditRow, Clock
from forwarder.spool.capacity import incoming_bytes
from forwarder.spool.front import ArchiveFront
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite.attempts import record
from forwarder.spool.sqlite.checkpoints import Checkpoints
from forwarder.spool.sqlite.codes import ROUTE_CODES
from forwarder.spool.sqlite.database import (
    DATABASE_NAME,
    open_checkpointer,
    open_reader,
    open_writer,
    prepare_folder,
)
from forwarder.spool.sqlite.faults import DAMAGE_ERRORS, DISK_ERRORS, DISK_FULL, RETRY_AFTER_S, is_no_room, unusable
from forwarder.spool.sqlite.files import FileWatch, FolderLock, Reserve
from forwarder.spool.sqlite.intake import Intake
from forwarder.spool.sqlite.leasing import Leasing
from forwarder.spool.sqlite.reading.archive import Live, SqliteArchive
from forwarder.spool.sqlite.requeue import chunks, discard, requeue
from forwarder.spool.sqlite.settlement import quarantine, settle
from forwarder.spool.sqlite.transaction import Transaction
from forwarder.spool.sqlite.writer import AppendJob, Commit, Condition, Job, Writer
from forwarder.telemetry.reporter import Reporter

T = TypeVar("T")


class SqliteSpool(ArchiveFront):
    """A spool and its archive in one folder, owned by one process.

    `ports.Spool`, `ports.Archive`, and a `ports.Worker`: its `run` raises when the writer ended unasked.
    """

    name = "spool writer"

    def __init__(self, folder: Path, lock: FolderLock, limits: SpoolLimits, clock: Clock, reporter: Reporter) -> None:
        self._folder = folder
        self._lock = lock
        self._limits = limits
        self._clock = clock
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._condition = Condition()
        self._refused: dict[RouteName, int] = {}  # what the last append would have added, if the cap refused it
        self._pending: set[asyncio.Future[Any]] = set()
        self._is_damage_told = False
        self._is_closed = False
        self._is_done = asyncio.Event()  # drained, or the writer ended
        self._failure: BaseException | None = None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """Show the folder and the queues."""
        return f"SqliteSpool({self._folder}, {self._leasing!r})"

    @classmethod
    async def open(
        cls, data_dir: Path, *, limits: SpoolLimits, clock: Clock, reporter: Reporter, vfs: str | None = None
    ) -> "SqliteSpool":
        """Open the folder's spool, making both where there is none.

        Raises `SpoolLocked` when another process owns it and `SpoolUnusable`, with the remedy, when it
        cannot be opened. `vfs` names an SQLite VFS (tests cut the power with one).
        """
        prepare_folder(data_dir)
        lock = FolderLock(data_dir)
        lock.acquire()
        spool = cls(data_dir, lock, limits, clock, reporter)
        try:
            await spool._start(vfs)
        except BaseException:
            lock.release()
            raise
        return spool

    async def _start(self, vfs: str | None) -> None:
        self._writer = await asyncio.to_thread(self._make_writer, vfs)
        self._archive = self._reader = await SqliteArchive.open(
            self._folder, vfs=vfs, live=self._live, clock=self._clock
        )
        self._leasing = Leasing(
            self._loop,
            await asyncio.to_thread(open_reader, self._folder, vfs=vfs),
            limits=self._limits,
            clock=self._clock,
            last_sequence=self._writer.memory.sequence,
            damaged=self._quarantine,
            read_failed=self._hear_read_failure,
        )
        self._hear_condition(self._writer.condition)
        self._writer.start()
        await self._leasing.start()

    def _make_writer(self, vfs: str | None) -> Writer:
        """Open the database; where the disk is full, with the room that the reserve holds."""
        path = self._folder / DATABASE_NAME
        reserve = Reserve(self._folder, size_bytes=self._limits.reserve_bytes)
        refusal = ""
        try:
            try:
                connection = open_writer(self._folder, vfs=vfs)
            except (OSError, *DISK_ERRORS) as error:
                if isinstance(error, OSError) and not is_no_room(error):
                    raise
                reserve.give_up()
                connection, refusal = open_writer(self._folder, vfs=vfs), DISK_FULL
        except (apsw.Error, OSError) as error:
            raise unusable(path, error) from error
        try:
            refusal = refusal or _take_reserve(reserve)
            return Writer(
                connection,
                limits=self._limits,
                clock=self._clock,
                reserve=reserve,
                watch=FileWatch((self._folder, path, *_beside(path), self._lock.path)),
                checkpoints=Checkpoints(
                    connection,
                    partial(open_checkpointer, self._folder, vfs=vfs),
                    pages_max=self._limits.wal_pages_max,
                ),
                refusal=refusal,
                tell=self._tell,
                committed=lambda duration_s: self._reporter.spool_committed(duration_s=duration_s),
                condition_changed=self._tell_condition,
                ended=self._tell_ended,
            )
        except apsw.Error as error:
            connection.close()
            raise unusable(path, error) from error
        except BaseException:
            connection.close()
            raise

    # --- Spool ---

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Store the envelopes in one transaction; see `ports.Spool.append`."""
        if self._is_closed or self._failure is not None:
            on_rollback(SpoolClosed("the spool is closed"))
        elif self._condition.refusal:
            on_rollback(SpoolFull(self._condition.refusal, retry_after_s=RETRY_AFTER_S))
        else:
            self._writer.submit(AppendJob(envelopes, on_commit, on_rollback))

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events at hand; see `ports.Spool.lease`."""
        self._refuse_closed()
        return self._leasing.lease(ROUTE_CODES[route], demand)

    async def refill(self, route: RouteName, demand: Demand) -> None:
        """Read what of a demand is on disk only, so that the next lease has all of it at hand."""
        await self._leasing.refill(ROUTE_CODES[route], demand)

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lease the newest due event; see `ports.Spool.lease_newest`."""
        self._refuse_closed()
        return await self._leasing.lease_newest(ROUTE_CODES[route])

    def on_work(self, route: RouteName, wake: Callable[[], None]) -> None:
        """Register the listener of a route; see `ports.Spool.on_work`."""
        self._leasing.on_work(ROUTE_CODES[route], wake)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle leased events or give them back; see `ports.Spool.settle`."""
        self._refuse_closed()
        claims = self._leasing.claim(settlements)
        if claims:
            await self._run(
                partial(settle, claims=claims),
                heard=partial(self._leasing.settled, claims),
                missed=partial(self._leasing.unclaim, claims),
                is_settlement=True,
            )

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a leased event's progress; see `ports.Spool.note`."""
        self._refuse_closed()

        def work(transaction: Transaction) -> None:
            transaction.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, 0)", (sequence, progress))

        self._leasing.notes(sequence)
        await self._run(
            work,
            heard=lambda _: self._leasing.noted(sequence, progress),
            missed=lambda: self._leasing.note_ended(sequence),
            is_settlement=True,
        )

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of leased events; see `ports.Spool.record`."""
        self._refuse_closed()
        leased = self._leasing.leased_of(sequences)
        with contextlib.suppress(SpoolFull):  # the log of attempts is what a full disk can do without
            await self._run(partial(record, sequences=leased, attempt=attempt))

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False) -> int:
        """Make settled events pending again; see `ports.Spool.requeue`."""
        self._refuse_closed()
        count = 0
        for chunk in chunks(sequences):
            counts, _ = await self._run(
                partial(requeue, sequences=chunk, everything=everything),
                heard=lambda result: self._leasing.requeued(*result),
            )
            count += sum(counts)
        return count

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead events as discarded; see `ports.Spool.discard`."""
        self._refuse_closed()
        count = 0
        for chunk in chunks(sequences):
            count += await self._run(partial(discard, sequences=chunk))
        return count

    async def put(self, key: str, value: bytes) -> None:
        """Keep a small value; see `ports.Spool.put`. Raises ValueError above the limit."""
        self._refuse_closed()
        if len(value) > self._limits.value_bytes_max:
            raise ValueError(f"{key}: {len(value)} bytes are more than {self._limits.value_bytes_max}")
        await self._run(lambda t: t.execute("INSERT OR REPLACE INTO kept_values VALUES (?, ?)", (key, value)))

    async def get(self, key: str) -> bytes | None:
        """Return what `put` kept, or None."""
        self._refuse_closed()
        return await self._reader.get(key)

    async def close(self) -> None:
        """Refuse what comes, commit what is in hand, checkpoint, release the lock. Idempotent."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._is_closed = True
        self._is_done.set()
        self._leasing.close()
        await self._leasing.end()
        await self._reader.close()
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        # What the thread told last was posted before it ended; let it be heard.
        await asyncio.sleep(0)
        for future in list(self._pending):
            if not future.done():
                future.set_exception(SpoolClosed("the spool is closed"))
        self._lock.release()

    # --- Archive: what `ArchiveFront` does not do ---

    async def write_audit(self, row: AuditRow) -> None:
        """Add to the audit log; see `ports.Archive.write_audit`."""
        self._refuse_closed()
        values = (row.at_ms, row.who, row.action, row.detail)
        await self._run(
            lambda t: t.execute("INSERT INTO audit (at_ms, who, action, detail) VALUES (?, ?, ?, ?)", values)
        )

    # --- Worker and Probeable ---

    async def run(self) -> None:
        """Wait for the end; raises `WorkerEnded` when the writer ended unasked. See `ports.Worker`."""
        await self._is_done.wait()
        if self._failure is not None:
            raise WorkerEnded(f"the spool's writer ended ({type(self._failure).__name__}): please report it")

    async def drain(self) -> None:
        """Let `run` return; see `ports.Worker`. What is in hand is committed when the spool is closed."""
        self._is_done.set()

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the writer turned lately; see `ports.Probeable`."""
        return self._is_closed or self._writer.is_alive(now_s=now_s, within_s=within_s)

    # --- inside ---

    async def _run(
        self,
        work: Callable[[Transaction], T],
        *,
        heard: Callable[[T], None] | None = None,
        missed: Callable[[], None] | None = None,
        is_settlement: bool = False,
    ) -> T:
        """Do work in the next commit. `heard` is told its result in the order of the commits, `missed` that it failed.

        A caller that is cancelled stops waiting; the work is done and heard all the same.
        """
        if self._is_closed or self._failure is not None:
            raise SpoolClosed("the spool is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

        def done(result: T) -> None:
            if not future.done():
                future.set_result(result)
            if heard is not None:
                heard(result)

        def failed(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)
            if missed is not None:
                missed()

        self._writer.submit(Job(work, done, failed, is_settlement))
        return await future

    async def _quarantine(self, route: int, sequences: Sequence[int]) -> None:
        with contextlib.suppress(SpoolFull, SpoolClosed):  # then the next read meets them again
            await self._run(partial(quarantine, route=route, sequences=sequences), heard=self._leasing.moved)

    def _tell(self, commit: Commit) -> None:
        """Take a commit from the writer thread to the loop's."""
        # After the loop has closed nobody is left to hear it; what was committed is committed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear, commit)

    def _hear(self, commit: Commit) -> None:
        """Answer those who appended, feed the queues, tell the others. An error in one keeps the news from no other."""
        for call, result in commit.answers:
            self._call(call, result)
        if commit.intake is not None:
            try:
                self._leasing.arrived(commit.intake, last_sequence=commit.last_sequence)
            except Exception as error:  # noqa: BLE001 - what the queues may have missed is on disk
                self._tell_error("new events could not be queued", error)
                self._leasing.reset()
            self._hear_cap(commit.intake)
        for call, result in commit.calls:
            self._call(call, result)
        for sequence in commit.quarantined:
            self._reporter.row_quarantined(sequence=sequence)
        if commit.is_damaged:
            self._hear_damage()
        if commit.evicted:
            self._reporter.history_yielded(events=commit.evicted)

    def _call(self, call: Callable[[Any], None], result: object) -> None:
        try:
            call(result)
        except Exception as error:  # noqa: BLE001 - a bug in one must not leave the others waiting for ever
            self._tell_error("a commit could not be heard", error)

    def _tell_error(self, message: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})

    def _hear_damage(self) -> None:
        if not self._is_damage_told:
            self._is_damage_told = True
            self._reporter.spool_damaged()

    def _hear_read_failure(self, error: Exception) -> None:
        if isinstance(error, (*DAMAGE_ERRORS, SpoolUnusable)):
            self._hear_damage()
        elif not isinstance(error, DISK_ERRORS):
            self._tell_error("waiting events could not be read", error)

    def _tell_condition(self, condition: Condition) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear_condition, condition)

    def _hear_condition(self, condition: Condition) -> None:
        before, self._condition = self._condition, condition
        if condition.refusal and not before.refusal:
            self._reporter.spool_refusing(reason=condition.refusal)
        if before.refusal and not condition.refusal:
            self._reporter.spool_accepting()
        if condition.deferred and not before.deferred:
            self._reporter.settlement_waiting(reason=condition.refusal, events=condition.deferred)
        if bool(condition.deferred) != bool(before.deferred):
            self._leasing.is_deferring = bool(condition.deferred)
            self._leasing.wake()

    def _hear_cap(self, intake: Intake) -> None:
        """Report when appends begin to be refused for the cap, and when they are taken again."""
        if self._condition.refusal:
            return
        before = self._refused
        if intake.refusals:
            envelopes, full = intake.refusals[-1]
            self._refused = incoming_bytes(envelopes)
            if not before:
                self._reporter.spool_refusing(reason=str(full))
        elif before:
            self._refused = {}
            self._reporter.spool_accepting()

    def _tell_ended(self, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear_ended, error)

    def _hear_ended(self, error: BaseException | None) -> None:
        if error is not None:
            self._failure = error
            self._leasing.close()
            for future in list(self._pending):
                if not future.done():
                    future.set_exception(SpoolClosed("the spool's writer ended"))
            self._is_done.set()

    def _live(self) -> Live:
        """Return what the archive cannot read: the totals of the last commit as one, and how the writer is."""
        return Live(self._writer.memory.totals, self._writer.condition.refusal, self._limits, self._refused)


def _take_reserve(reserve: Reserve) -> str:
    refusal = reserve.build(is_first=True)
    if refusal not in ("", DISK_FULL):
        raise SpoolUnusable(refusal)
    return refusal


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
