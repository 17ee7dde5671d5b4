"""The spool on SQLite: where events survive kill -9 and power loss until their destination said yes.

The front of the house: it opens and closes, and hands each call to who knows about it: `Lending` for
leases, `Commits` for what is written, the archive for what is read. SQL is in `store/` and `reading/`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import apsw

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Attempt, Demand, Envelope, Lease, Receipt, RouteName, Settlement
from forwarder.ports import AuditRow, Clock
from forwarder.spool.capacity import incoming_bytes
from forwarder.spool.commits import Commits
from forwarder.spool.front import ArchiveFront
from forwarder.spool.lending import Lending
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.reading.archive import Live, SqliteArchive
from forwarder.spool.store.attempts import record
from forwarder.spool.store.codes import ROUTE_CODES
from forwarder.spool.store.database import open_writer, prepare_folder, unusable
from forwarder.spool.store.disk import Reserve
from forwarder.spool.store.jobs import Condition, Notice
from forwarder.spool.store.lock import FolderLock
from forwarder.spool.store.replay import chunks, discard, requeue
from forwarder.spool.store.transaction import Transaction
from forwarder.spool.store.writer import Writer
from forwarder.telemetry.reporter import Reporter

_RETRY_AFTER_S = 10


class SqliteSpool(ArchiveFront):
    """A spool and its archive in one folder, owned by one process. See `ports.Spool` and `ports.Archive`."""

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
        self._is_damage_told = False
        self._is_closed = False
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """Show the folder and the desks."""
        return f"SqliteSpool({self._folder}, {self._lending!r})"

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
        self._commits = Commits(self._loop, self._writer.submit)
        self._lending = Lending(self._loop, self._commits, limits=self._limits, clock=self._clock)
        self._archive = self._reader = await SqliteArchive.open(
            self._folder, vfs=vfs, live=self._live, clock=self._clock
        )
        self._writer.start()
        await self._lending.start()

    def _make_writer(self, vfs: str | None) -> Writer:
        connection = open_writer(self._folder, vfs=vfs)
        try:
            return Writer(
                connection,
                limits=self._limits,
                clock=self._clock,
                reserve=Reserve(self._folder, size_bytes=self._limits.reserve_bytes),
                tell=self._tell,
                condition_changed=self._tell_condition,
            )
        except apsw.Error as error:
            connection.close()
            raise unusable(self._folder, error) from error

    # --- Spool ---

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Store the envelopes in one transaction; see `ports.Spool.append`."""
        if self._is_closed:
            on_rollback(SpoolClosed("the spool is closed"))
            return
        if self._condition.refusal:
            on_rollback(SpoolFull(self._condition.refusal, retry_after_s=_RETRY_AFTER_S))
            return

        def done(receipt: Receipt) -> None:
            if self._refused:
                self._hear_cap("", ())
            on_commit(receipt)

        def failed(error: Exception) -> None:
            if isinstance(error, SpoolFull):
                self._hear_cap(str(error), envelopes)
            on_rollback(error if isinstance(error, SpoolFull | SpoolClosed) else SpoolClosed(str(error)))

        self._commits.append(envelopes, done, failed)

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events at hand; see `ports.Spool.lease`."""
        self._refuse_closed()
        return self._lending.lease(ROUTE_CODES[route], demand)

    async def refill(self, route: RouteName, demand: Demand) -> None:
        """Read what of a demand is on disk only, so that the next lease has all of it at hand."""
        await self._lending.refill(ROUTE_CODES[route], demand)

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lend the newest due event; see `ports.Spool.lease_newest`."""
        self._refuse_closed()
        return await self._lending.lease_newest(ROUTE_CODES[route])

    def on_work(self, route: RouteName, wake: Callable[[], None]) -> None:
        """Register the listener of a route; see `ports.Spool.on_work`."""
        self._lending.on_work(ROUTE_CODES[route], wake)

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a lent event's progress; see `ports.Spool.note`."""
        self._refuse_closed()

        def work(transaction: Transaction) -> None:
            transaction.execute("INSERT OR REPLACE INTO progress (sequence, data) VALUES (?, ?)", (sequence, progress))

        await self._commits.run(work, heard=lambda _: self._lending.noted(sequence, progress), must_succeed=True)

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of lent events; see `ports.Spool.record`."""
        self._refuse_closed()
        lent = self._lending.lent_of(sequences)
        with contextlib.suppress(SpoolFull):  # the log of attempts is what a full disk can do without
            await self._commits.run(partial(record, sequences=lent, attempt=attempt))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle leased events or give them back; see `ports.Spool.settle`."""
        self._refuse_closed()
        await self._lending.settle(settlements)

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False) -> int:
        """Make settled events pending again; see `ports.Spool.requeue`."""
        self._refuse_closed()
        count = 0
        for chunk in chunks(sequences):
            count += await self._commits.run(
                partial(requeue, sequences=chunk, everything=everything), heard=self._heard_requeued
            )
        return count

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead events as discarded; see `ports.Spool.discard`."""
        self._refuse_closed()
        count = 0
        for chunk in chunks(sequences):
            count += await self._commits.run(partial(discard, sequences=chunk))
        return count

    async def put(self, key: str, value: bytes) -> None:
        """Keep a small value; see `ports.Spool.remember`. Raises ValueError above the limit."""
        self._refuse_closed()
        if len(value) > self._limits.value_bytes_max:
            raise ValueError(f"{key}: {len(value)} bytes are more than {self._limits.value_bytes_max}")
        await self._commits.run(lambda t: t.execute("INSERT OR REPLACE INTO remembered VALUES (?, ?)", (key, value)))

    async def get(self, key: str) -> bytes | None:
        """Return what `remember` kept, or None."""
        self._refuse_closed()
        return await self._reader.get(key)

    async def close(self) -> None:
        """Refuse what comes, commit what is in hand, checkpoint, release the lock. Idempotent."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._is_closed = True
        self._lending.close()
        await self._reader.close()
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        # The last notices were posted before the thread ended; let them be heard.
        await asyncio.sleep(0)
        self._commits.end()
        self._lock.release()

    # --- Archive: what `ArchiveFront` does not do ---

    async def write_audit(self, row: AuditRow) -> None:
        """Add to the audit log; see `ports.Archive.write_audit`."""
        self._refuse_closed()
        values = (row.at_ms, row.who, row.action, row.detail)
        await self._commits.run(
            lambda t: t.execute("INSERT INTO audit (at_ms, who, action, detail) VALUES (?, ?, ?, ?)", values)
        )

    # --- Probeable ---

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the writer turned lately; see `ports.Probeable`."""
        return self._is_closed or self._writer.is_alive(now_s=now_s, within_s=within_s)

    # --- inside ---

    def _heard_requeued(self, count: int) -> None:
        if count:
            self._lending.reset()

    def _tell(self, notice: Notice) -> None:
        """Take a notice from the writer thread to the loop's."""
        # After the loop has closed nobody is left to hear it; what was committed is committed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear, notice)

    def _hear(self, notice: Notice) -> None:
        self._lending.hear(notice)
        for sequence in notice.quarantined:
            self._reporter.row_quarantined(sequence=sequence)
        if notice.is_damaged and not self._is_damage_told:
            self._is_damage_told = True
            self._reporter.spool_damaged()
        if notice.yielded:
            self._reporter.history_yielded(events=notice.yielded)
        for call, result in notice.calls:
            try:
                call(result)
            except Exception as error:  # noqa: BLE001 - a bug in one must not leave the others waiting for ever
                self._loop.call_exception_handler({"message": "a commit could not be heard", "exception": error})

    def _tell_condition(self, condition: Condition) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear_condition, condition)

    def _hear_condition(self, condition: Condition) -> None:
        before, self._condition = self._condition, condition
        if condition.refusal and not before.refusal:
            self._reporter.spool_refusing(reason=condition.refusal)
        if before.refusal and not condition.refusal:
            self._reporter.spool_accepting()
        if condition.owed and not before.owed:
            self._reporter.settlement_waiting(reason=condition.refusal, events=condition.owed)
        if bool(condition.owed) != bool(before.owed):
            self._lending.hear_owing(is_owing=bool(condition.owed))

    def _hear_cap(self, reason: str, envelopes: Sequence[Envelope]) -> None:
        """Report when appends begin to be refused for the cap, and when they are taken again."""
        if self._condition.refusal:
            return
        before, self._refused = self._refused, incoming_bytes(envelopes)
        if reason and not before:
            self._reporter.spool_refusing(reason=reason)
        if before and not reason:
            self._reporter.spool_accepting()

    def _live(self) -> Live:
        """Return what the archive cannot read: the books of the last commit as one, and how the writer is."""
        return Live(self._writer.memory.books, self._writer.condition.refusal, self._limits, self._refused)
