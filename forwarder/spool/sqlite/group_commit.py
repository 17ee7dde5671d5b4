"""Commit what waits together, so that each job is answered once, whatever the disk does. On the writer thread.

A job that fails does not fail its commit-mates: the group is rolled back and each tried alone. A full disk shuts the
endpoints and defers settlements until they can be written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import apsw

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ports import Clock
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite.appends import take_in
from forwarder.spool.sqlite.files import DAMAGE_ERRORS, DISK_ERRORS, DISK_RETRY_AFTER_S, FileWatch, Reserve, words
from forwarder.spool.sqlite.housekeeping import Housekeeping
from forwarder.spool.sqlite.jobs import AppendJob, Callbacks, Commit, Condition, Job
from forwarder.spool.sqlite.known_keys import KnownKeys
from forwarder.spool.sqlite.transaction import Transaction, load_memory, write_mark


class GroupCommit:
    """Work jobs off, all or none in one transaction; memory follows the disk."""

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        limits: SpoolLimits,
        clock: Clock,
        reserve: Reserve,
        watch: FileWatch,
        refusal: str,
        callbacks: Callbacks,
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._clock = clock
        self._reserve = reserve
        self._watch = watch
        self._callbacks = callbacks
        self.memory = load_memory(connection)
        self._keys = KnownKeys(connection, retention_s=limits.retention_s, now_ms=clock.wall_ms())
        self._housekeeping = Housekeeping(connection, limits, self._keys)
        self.condition = Condition(refusal)
        self._deferred: list[Job] = []
        self._file_fault = ""

    def work_off(self, jobs: Sequence[AppendJob | Job]) -> None:
        """Do them in one commit if that can be; while nothing new is taken, only the settlements among them."""
        if self._deferred or self.condition.refusal:
            jobs = self._turn_away(jobs)
        if not jobs:
            return
        try:
            commit = self._commit(jobs)
        except DISK_ERRORS as error:
            self._meet_full_disk(error)
            self._work_off_singly(self._turn_away(jobs))
        except Exception:  # noqa: BLE001 - one of them is the culprit: each is tried alone and hears its own error
            self._work_off_singly(jobs)
        else:
            self._callbacks.on_commit(commit)

    def _work_off_singly(self, jobs: Sequence[AppendJob | Job]) -> None:
        for job in jobs:
            try:
                self._callbacks.on_commit(self._commit([job]))
            except DISK_ERRORS as error:
                self._meet_full_disk(error)
                self._defer_or_fail(job, error, self._no_room())
            except apsw.Error as error:
                self._meet_damage(error)
                cannot = SpoolFull(f"the spool cannot write ({type(error).__name__})", retry_after_s=DISK_RETRY_AFTER_S)
                self._defer_or_fail(job, error, cannot)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any one job
                self._fail(job, error)

    # --- transactions ---

    def _commit(self, jobs: Sequence[AppendJob | Job]) -> Commit:
        """Do them in one transaction, synced to disk; raises what any of them raises, and then none is done."""
        commit = Commit()
        appends = [job for job in jobs if type(job) is AppendJob]

        def work(transaction: Transaction) -> None:
            if appends:
                commit.intake = take_in(transaction, self._keys, [job.envelopes for job in appends])
            for job in jobs:
                if type(job) is Job:
                    commit.calls.append((job.done, job.work(transaction)))

        transaction = self._in_transaction(work)
        commit.last_sequence, commit.quarantined = transaction.sequence, transaction.quarantined
        if commit.intake is not None:
            # It is acknowledged only if it is in the files that a restart will find.
            self.look_at_files()
            lost = SpoolFull(self._file_fault, retry_after_s=DISK_RETRY_AFTER_S) if self._file_fault else None
            answers = commit.intake.answers if lost is None else [lost] * len(appends)
            commit.answers = list(zip(appends, answers, strict=True))
        return commit

    def _in_transaction(self, work: Callable[[Transaction], None]) -> Transaction:
        connection = self._connection
        transaction = Transaction(connection, self.memory, self._limits, now_ms=self._clock.wall_ms())
        connection.execute("BEGIN IMMEDIATE")
        try:
            work(transaction)
            transaction.write_totals()
            transaction.weigh()
            began_s = self._clock.monotonic_s()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._keys.forget_changes()
            self._housekeeping.forget_changes()
            raise
        self._callbacks.on_synced(self._clock.monotonic_s() - began_s)
        transaction.keep()
        self._keys.keep()
        return transaction

    # --- between commits ---

    def look_at_clock(self) -> None:
        """Notice a wall clock that was set back."""
        self._housekeeping.look_at_clock(now_ms=self._clock.wall_ms(), monotonic_s=self._clock.monotonic_s())

    def look_at_files(self) -> None:
        """Notice files that are gone, replaced, or back."""
        fault = self._watch.fault()
        if fault != self._file_fault:
            self._file_fault = fault
            if fault:  # once it is over, `recover` looks whether the disk can be written, too
                self._set_condition(fault)

    def recover(self, checkpoint: Callable[[], object]) -> None:
        """Write down what was deferred, oldest first; then take new events again, if the disk can be written.

        Only a commit shows that, and the reserve: room that the file system tells of may not be ours.
        """
        while self._deferred:
            try:
                self._callbacks.on_commit(self._commit([self._deferred[0]]))
            except Exception as error:  # noqa: BLE001 - still no room; tried again at the next turn
                self._meet_damage(error)
                self._set_condition(words(error))
                return
            self._deferred.pop(0)
            self._set_condition(self.condition.refusal)
        if not self.condition.refusal:
            return
        self.look_at_files()
        if not self._file_fault:
            checkpoint()
            self._set_condition(self._try_disk() or self._reserve.build())

    def _try_disk(self) -> str:
        """Return why nothing can be written, "" when it can."""
        try:
            self._in_transaction(lambda transaction: write_mark(transaction, "recovered_ms", transaction.now_ms))
        except DISK_ERRORS as error:
            return words(error)
        return ""

    def tidy(self, *, is_idle: bool) -> bool:
        """Do one step of housekeeping; tell whether the next one may follow at once.

        What cannot be tidied now is tidied later, whatever went wrong.
        """
        is_pressed = bool(self.condition.refusal)
        if self._deferred or self._file_fault:
            return False
        evicted = 0

        def work(transaction: Transaction) -> None:
            nonlocal evicted
            evicted = self._housekeeping.step(transaction, is_idle=is_idle)

        try:
            self._housekeeping.is_pressed = is_pressed
            if not self._housekeeping.is_due(self.memory, now_ms=self._clock.wall_ms(), is_idle=is_idle):
                return False
            self._in_transaction(work)
        except Exception as error:  # noqa: BLE001 - whatever it was
            self._meet_damage(error)
            return False
        if evicted:
            self._callbacks.on_commit(Commit(evicted=evicted))
        # On a full disk each step is moved into the database first: room may be what the next one waits for.
        return not is_pressed

    # --- what cannot be written ---

    def abandon(self, jobs: Sequence[AppendJob | Job]) -> None:
        """Tell those of these jobs, and of the deferred ones, that nothing will come of it."""
        left, self._deferred = [*jobs, *self._deferred], []
        for job in left:
            self._fail(job, SpoolClosed("the spool closed before this could be written"))

    def _turn_away(self, jobs: Sequence[AppendJob | Job]) -> list[Job]:
        """Refuse what would fill the disk further; return the settlements."""
        kept: list[Job] = []
        for job in jobs:
            if isinstance(job, Job) and job.is_settlement:
                kept.append(job)
            else:
                self._fail(job, self._no_room())
        return kept

    def _no_room(self) -> SpoolFull:
        return SpoolFull(self.condition.refusal or "the disk is full", retry_after_s=DISK_RETRY_AFTER_S)

    def _fail(self, job: AppendJob | Job, error: Exception) -> None:
        call: Callable[[Any], None]
        if isinstance(job, AppendJob):
            call = job.on_rollback
            if not isinstance(error, SpoolFull | SpoolClosed):
                error = SpoolClosed(f"the spool could not take this ({type(error).__name__})")
        else:
            call = job.failed
        self._callbacks.on_commit(Commit(calls=[(call, error)]))

    def _defer_or_fail(self, job: AppendJob | Job, error: Exception, refusal: SpoolFull) -> None:
        if isinstance(job, Job) and job.is_settlement:
            self._deferred.append(job)
            self._set_condition(words(error))
        else:
            self._fail(job, refusal)

    def _meet_damage(self, error: Exception) -> None:
        if isinstance(error, DAMAGE_ERRORS):
            self._callbacks.on_commit(Commit(is_damaged=True))

    def _meet_full_disk(self, error: Exception) -> None:
        self._reserve.give_up()
        self._set_condition(words(error))

    def _set_condition(self, refusal: str) -> None:
        condition = Condition(refusal, len(self._deferred))
        if condition != self.condition:
            self.condition = condition
            self._callbacks.on_condition(condition)
