"""The one thread that writes: it takes what is queued, commits it together, and tells the event loop once.

Group commit is sized by what is queued, never by a timer: while one commit syncs, the next one gathers.
A job that fails does not fail its commit-mates: the group is rolled back and each tried alone. A full
disk shuts the doors and keeps settlements until they can be written.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import apsw

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ports import Clock
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.disk import Reserve
from forwarder.spool.store.faults import DAMAGE_ERRORS, DISK_ERRORS, RETRY_AFTER_S, cannot_write, words
from forwarder.spool.store.housekeeping import Housekeeping
from forwarder.spool.store.intake import take_in
from forwarder.spool.store.jobs import AppendJob, Condition, Job, Notice
from forwarder.spool.store.keys import KnownKeys
from forwarder.spool.store.log import WriteAheadLog
from forwarder.spool.store.settlement import RowsDamaged
from forwarder.spool.store.transaction import Memory, Transaction, load_memory

_GROUP_MAX = 2_000  # jobs in one commit
_IDLE_S = 0.5


class Writer:
    """Own the writing connection and its thread."""

    name = "spool writer"

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        limits: SpoolLimits,
        clock: Clock,
        reserve: Reserve,
        tell: Callable[[Notice], None],
        condition_changed: Callable[[Condition], None],
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._clock = clock
        self._reserve = reserve
        self._tell = tell
        self._condition_changed = condition_changed
        self.memory: Memory = load_memory(connection)
        self.condition = Condition()
        self._keys = KnownKeys(connection, retention_s=limits.retention_s)
        self._housekeeping = Housekeeping(connection, limits, self._keys)
        self._queue: SimpleQueue[AppendJob | Job | None] = SimpleQueue()
        self._owed: list[Job] = []
        self._log = WriteAheadLog(connection, pages_max=limits.wal_pages_max)
        self._busy_since_s: float | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    def start(self) -> None:
        """Take the reserve and start the thread."""
        if not self._reserve.build(is_first=True):
            self._set_condition("the disk is full", 0)
        self._thread.start()

    def submit(self, job: AppendJob | Job) -> None:
        """Queue a job. Called on the event loop's thread."""
        self._queue.put(job)

    def stop(self) -> None:
        """Queue the end: what was queued before it is still committed."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to end. Not on the event loop's thread."""
        self._thread.join()

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the writer turned lately, or had nothing to do."""
        busy_since_s = self._busy_since_s
        return self._thread.is_alive() and (busy_since_s is None or now_s - busy_since_s < within_s)

    # --- the thread ---

    def _run(self) -> None:
        while not self._is_closing:
            jobs = self._take()
            self._busy_since_s = self._clock.monotonic_s()
            if jobs:
                self._commit(jobs)
            if self._owed or self.condition.refusal:
                self._recover()
            self._tidy()
            self._busy_since_s = None
        self._finish()

    def _take(self) -> list[AppendJob | Job]:
        queue = self._queue
        jobs: list[AppendJob | Job] = []
        try:
            job = queue.get(timeout=_IDLE_S)
            while True:
                if job is None:
                    self._is_closing = True
                    return jobs
                jobs.append(job)
                if len(jobs) >= _GROUP_MAX:
                    return jobs
                job = queue.get_nowait()
        except Empty:
            return jobs

    def _commit(self, jobs: Sequence[AppendJob | Job]) -> None:
        if self._owed or self.condition.refusal:
            jobs = self._turn_away(jobs)
            if not jobs:
                return
        try:
            notice = self._attempt(jobs)
        except DISK_ERRORS as error:
            self._give_up_reserve(error)
            self._commit_singly(self._turn_away(jobs))
        except Exception:  # noqa: BLE001 - one of them is the culprit: each is tried alone and hears its own error
            self._commit_singly(jobs)
        else:
            self._tell(notice)

    def _commit_singly(self, jobs: Sequence[AppendJob | Job]) -> None:
        for job in jobs:
            try:
                self._tell(self._attempt_around_damage(job))
            except DISK_ERRORS as error:
                self._give_up_reserve(error)
                if isinstance(job, Job) and job.must_succeed:
                    self._owe(job, error)
                else:
                    self._fail(job, self._no_room())
            except apsw.Error as error:
                self._hear_damage(error)
                if isinstance(job, Job) and job.must_succeed:
                    self._owe(job, error)
                else:
                    self._fail(job, cannot_write(error))
            except Exception as error:  # noqa: BLE001 - the thread must outlive any one job
                self._fail(job, error)

    def _attempt_around_damage(self, job: AppendJob | Job) -> Notice:
        """Set aside the damaged rows that a job meets, until it meets no more.

        SQLite refuses to write in a transaction that has met a damaged page, so that takes one of its own.
        """
        while True:
            try:
                return self._attempt([job])
            except RowsDamaged as damage:
                notice = self._attempt([Job(damage.set_aside, _ignore, _ignore)])
                notice.is_unsettling = True
                self._tell(notice)

    def _attempt(self, jobs: Sequence[AppendJob | Job]) -> Notice:
        connection = self._connection
        transaction = Transaction(connection, self.memory, self._limits, now_ms=self._clock.wall_ms())
        notice = Notice()
        connection.execute("BEGIN IMMEDIATE")
        try:
            appends = [job for job in jobs if isinstance(job, AppendJob)]
            if appends:
                notice.intake = take_in(transaction, self._keys, [job.envelopes for job in appends])
                _answer(appends, notice)
            for job in jobs:
                if isinstance(job, Job):
                    notice.calls.append((job.done, job.work(transaction)))
            if transaction.is_changed():
                transaction.write_books()
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        transaction.keep()
        self._keys.keep()
        notice.last_sequence = transaction.sequence
        notice.quarantined = transaction.quarantined
        return notice

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._keys.forget_changes()
        self._housekeeping.forget_changes()

    def _turn_away(self, jobs: Sequence[AppendJob | Job]) -> list[Job]:
        """Refuse what would fill the disk further; return the settlements and what only reads."""
        kept: list[Job] = []
        for job in jobs:
            if isinstance(job, Job) and (job.must_succeed or job.is_read):
                kept.append(job)
            else:
                self._fail(job, self._no_room())
        return kept

    def _no_room(self) -> SpoolFull:
        return SpoolFull(self.condition.refusal or "the disk is full", retry_after_s=RETRY_AFTER_S)

    def _fail(self, job: AppendJob | Job, error: Exception) -> None:
        self._tell(Notice(last_sequence=self.memory.sequence, calls=[(job.failed, error)]))

    def _owe(self, job: Job, error: Exception) -> None:
        self._owed.append(job)
        self._set_condition(words(error), len(self._owed))

    def _hear_damage(self, error: Exception) -> None:
        if isinstance(error, DAMAGE_ERRORS):
            self._tell(Notice(last_sequence=self.memory.sequence, is_damaged=True))

    def _give_up_reserve(self, error: Exception) -> None:
        self._reserve.give_up()
        self._set_condition(words(error), len(self._owed))

    def _recover(self) -> None:
        """Write down what is owed, oldest first; then open the doors once the reserve is back."""
        while self._owed:
            try:
                self._tell(self._attempt_around_damage(self._owed[0]))
            except Exception as error:  # noqa: BLE001 - still no room; tried again at the next turn
                self._hear_damage(error)
                self._set_condition(words(error), len(self._owed))
                return
            self._owed.pop(0)
            self._set_condition(self.condition.refusal, len(self._owed))
        self._log.fold()
        if self._reserve.build():
            self._set_condition("", 0)

    def _set_condition(self, refusal: str, owed: int) -> None:
        condition = Condition(refusal, owed)
        if condition != self.condition:
            self.condition = condition
            self._condition_changed(condition)

    def _tidy(self) -> None:
        if self._log.is_long():
            self._log.fold()
        if self._owed:
            return
        try:
            while self._is_tidying_due():
                self._tidy_once()
                self._busy_since_s = self._clock.monotonic_s()
                # On a full disk each step is folded first: room may be what the next one, and the doors, wait for.
                if self.condition.refusal or not self._queue.empty():
                    return
        except apsw.Error as error:
            self._roll_back()
            self._hear_damage(error)

    def _is_tidying_due(self) -> bool:
        self._housekeeping.is_pressed = bool(self.condition.refusal)
        return self._housekeeping.is_due(self.memory, now_ms=self._clock.wall_ms(), is_idle=self._queue.empty())

    def _tidy_once(self) -> None:
        transaction = Transaction(self._connection, self.memory, self._limits, now_ms=self._clock.wall_ms())
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yielded = self._housekeeping.step(transaction, is_idle=self._queue.empty())
            if transaction.is_changed():
                transaction.write_books()
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        transaction.keep()
        self._keys.keep()
        if yielded:
            self._tell(Notice(last_sequence=transaction.sequence, yielded=yielded))

    def _finish(self) -> None:
        if self._owed:
            self._recover()
        for job in self._owed:
            self._fail(job, SpoolClosed("the spool closed before the disk had room for this settlement"))
        self._log.fold(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with contextlib.suppress(apsw.Error):  # a full disk: the log is left beside the database, nothing is lost
            self._connection.close()


def _ignore(_result: Any) -> None:
    """Hear nothing: the notice itself tells of quarantined rows."""


def _answer(appends: Sequence[AppendJob], notice: Notice) -> None:
    for job, answer in zip(appends, notice.intake.answers, strict=True):
        if isinstance(answer, SpoolFull):
            notice.calls.append((job.failed, answer))
        else:
            notice.calls.append((job.done, answer))
