"""The spool on SQLite: where events survive kill -9 and power loss until their destination said yes.

It opens and closes, and hands each call to who knows about it: the writer, `Leasing`, the archive for what is read.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from forwarder.archive_port import AuditRow
from forwarder.errors import SpoolClosed, SpoolFull, WorkerEnded
from forwarder.model import Attempt, Demand, Envelope, Lease, Receipt, RouteName, Settlement
from forwarder.ports import Clock, Erased
from forwarder.spool.alone import Alone
from forwarder.spool.codes import ROUTE_CODES
from forwarder.spool.erasing import Eraser
from forwarder.spool.leasing import Leasing
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite.database import ReadThread, open_checkpointer, open_folder, prepare_folder, watch_files
from forwarder.spool.sqlite.erasure import Scrubber
from forwarder.spool.sqlite.files import DISK_RETRY_AFTER_S, FolderLock, Reserve, unusable
from forwarder.spool.sqlite.group_commit import GroupCommit
from forwarder.spool.sqlite.jobs import AppendJob, AwaitedWork, Callbacks, News
from forwarder.spool.sqlite.queue_reads import QueueReads
from forwarder.spool.sqlite.reading.archive import Live, SqliteArchive
from forwarder.spool.sqlite.runs import record
from forwarder.spool.sqlite.settlement import discard, quarantine, requeue, settle
from forwarder.spool.sqlite.transaction import Transaction, change_value, write_audit_line
from forwarder.spool.sqlite.writer import Checkpoints, Writer
from forwarder.telemetry.reporter import Reporter

_CHUNK = 500  # events in one commit, so that a long replay delays nobody


class SqliteSpool(SqliteArchive, Alone):
    """A spool, its archive and a `ports.Worker` in one folder: its `run` raises when the writer ended unasked."""

    name = "spool writer"

    def __init__(self, folder: Path, lock: FolderLock, limits: SpoolLimits, clock: Clock, reporter: Reporter) -> None:
        super().__init__(live=self._live_facts, clock=clock)
        self._folder = folder
        self._lock = lock
        self._limits = limits
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._news = News(self._loop, reporter)
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
        reserve = Reserve(self._folder, size_bytes=self._limits.reserve_bytes)
        connection, refusal = await asyncio.to_thread(open_folder, self._folder, reserve, vfs=vfs)
        try:
            self._writer = await asyncio.to_thread(self._make_writer, connection, reserve, refusal, vfs)
        except BaseException:
            connection.close()
            raise
        self._work = AwaitedWork(self._loop, self._writer.submit)
        self._reads = await ReadThread.open(self._folder, name="spool-reader", vfs=vfs)
        self._leasing = self._news.leasing = Leasing(
            self._loop,
            QueueReads(await ReadThread.open(self._folder, name="spool-refill", vfs=vfs)),
            limits=self._limits,
            clock=self._clock,
            last_sequence=self._group.memory.sequence,
            damaged=self._quarantine,
            read_failed=self._news.hear_read_failure,
        )
        self._scrubber = Scrubber(self._work, self._writer)
        self._eraser = Eraser(self._scrubber.erase, self._leasing)
        self._news.hear_condition(self._group.condition)
        self._writer.start()
        await self._leasing.start()

    def _make_writer(self, connection: apsw.Connection, reserve: Reserve, refusal: str, vfs: str | None) -> Writer:
        callbacks = Callbacks(
            on_commit=self._post(self._news.hear),
            on_synced=self._reporter.spool_committed,
            on_condition=self._post(self._news.hear_condition),
            on_end=self._post(self._hear_ended),
        )
        try:
            self._group = GroupCommit(
                connection,
                limits=self._limits,
                clock=self._clock,
                reserve=reserve,
                watch=watch_files(self._folder, self._lock),
                refusal=refusal,
                callbacks=callbacks,
            )
        except (apsw.Error, OSError, TypeError, ValueError) as error:
            raise unusable(self._folder, error) from error
        open_beside = partial(open_checkpointer, self._folder, vfs=vfs)
        checkpoints = Checkpoints(connection, open_beside, pages_max=self._limits.wal_pages_max)
        return Writer(connection, self._group, checkpoints=checkpoints, clock=self._clock, callbacks=callbacks)

    def _post(self, hear: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return how the writer thread tells something to the loop's."""

        def tell(news: Any) -> None:
            # After the loop has closed nobody is left to hear it; what was committed is committed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(hear, news)

        return tell

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
        elif self._news.condition.refusal:
            on_rollback(SpoolFull(self._news.condition.refusal, retry_after_s=DISK_RETRY_AFTER_S))
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
        claims = self._leasing.claims.take(settlements)
        if claims:
            await self._work.run(
                partial(settle, claims=claims),
                on_commit=partial(self._leasing.settled, claims),
                on_rollback=partial(self._leasing.claims.drop, claims),
                is_settlement=True,
                # Of a partition the next event can be leased only then.
                may_wait=not any(claim.leases[0].envelope.partition_key for claim in claims),
            )

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a leased event's progress; see `ports.Spool.note`."""
        self._refuse_closed()

        def work(transaction: Transaction) -> None:
            transaction.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, 0)", (sequence, progress))

        self._leasing.claims.note_begins(sequence)
        await self._work.run(
            work,
            on_commit=lambda _: self._leasing.noted(sequence, progress),
            on_rollback=lambda: self._leasing.claims.note_ended(sequence),
            is_settlement=True,
        )

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of leased events; see `ports.Spool.record`."""
        self._refuse_closed()
        leased = self._leasing.claims.leased_of(sequences)
        with contextlib.suppress(SpoolFull):  # the log of attempts is what a full disk can do without
            await self._work.run(partial(record, sequences=leased, attempt=attempt))

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False, is_replay: bool = True) -> int:
        """Make settled events pending again; see `ports.Spool.requeue`."""
        self._refuse_closed()
        count = 0
        for chunk in _chunks(sequences):
            work = partial(requeue, sequences=chunk, everything=everything, is_replay=is_replay)
            counts, _ = await self._work.run(work, on_commit=lambda result: self._leasing.requeued(*result))
            count += sum(counts)
        return count

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead events as discarded; see `ports.Spool.discard`."""
        self._refuse_closed()
        return sum([await self._work.run(partial(discard, sequences=chunk)) for chunk in _chunks(sequences)])

    async def erase(self, sequences: Sequence[int]) -> Erased:
        """Erase what these events hold; see `ports.Spool.erase`."""
        return await self._eraser.erase(sequences)

    async def scrub(self, user_ids: Sequence[str]) -> bool:
        """Let what was erased leave the files; see `ports.Spool.scrub`."""
        return await self._scrubber.scrub(user_ids)

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a small value by what `change` makes of it; see `ports.Spool.change`."""
        self._refuse_closed()
        return await self._work.run(partial(change_value, key=key, change=change, limits=self._limits))

    async def close(self) -> None:
        """Refuse what comes, commit what is in hand, checkpoint, release the lock. Idempotent."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._is_closed = True
        self._work.refuse()
        self._is_done.set()
        self._leasing.close()
        await self._leasing.end()
        await self._reads.close()
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        # What the thread told last was posted before it ended; let it be heard.
        await asyncio.sleep(0)
        self._work.end()
        self._lock.release()

    # --- Archive: what `SqliteArchive` does not do ---

    async def write_audit(self, row: AuditRow, *, number: int | None = None) -> int:
        """Add to the audit log; see `archive_port.Archive.write_audit`."""
        return await self._work.run(partial(write_audit_line, row=row, number=number))

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

    async def _quarantine(self, route: int, sequences: Sequence[int]) -> None:
        work = partial(quarantine, route=route, sequences=sequences)
        with contextlib.suppress(SpoolFull, SpoolClosed):
            await self._work.run(work, on_commit=self._leasing.moved, on_rollback=self._leasing.damage_stays)

    def _hear_ended(self, error: BaseException | None) -> None:
        if error is not None:
            self._failure = error
            self._leasing.close()
            self._work.end()
            self._is_done.set()
            self._writer.hand_over()
            self._writer.abandon()  # what was queued while the news of the end was on its way

    def _live_facts(self) -> Live:
        """Return what the archive cannot read: the totals of the last commit as one, and how the writer is."""
        return Live(self._group.memory.totals, self._group.condition.refusal, self._limits, self._news.refused)


def _chunks(sequences: Sequence[int]) -> list[Sequence[int]]:
    """Return them in parts that fit a commit each."""
    return [sequences[start : start + _CHUNK] for start in range(0, len(sequences), _CHUNK)]
