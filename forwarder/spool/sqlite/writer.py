"""The one thread that writes: it takes what is queued, commits it together, and tells the event loop once.

Group commit is sized by what is queued, never by a timer: while one commit syncs, the next one gathers.
A job that fails does not fail its commit-mates: the group is rolled back and each tried alone. A full
disk shuts the endpoints and defers settlements until they can be written. No error of a job or of housekeeping ends the
thread; should it end all the same, everything that waits is rolled back, and the spool hears of it.
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
from forwarder.spool.sqlite.appends import Intake
from forwarder.spool.sqlite.checkpoints import Checkpoints
from forwarder.spool.sqlite.faults import DAMAGE_ERRORS, DISK_ERRORS, RETRY_AFTER_S, words
from forwarder.spool.sqlite.files import FileWatch, Reserve
from forwarder.spool.sqlite.group_commit import GroupCommit
from forwarder.spool.sqlite.transaction import Memory
from forwarder.spool.sqlite.writer_jobs import AppendJob, Commit, Condition, Job

_GROUP_MAX = 2_000  # jobs in one commit
_IDLE_S = 0.5


class Writer:
    """Own the writing connection and its thread."""

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        limits: SpoolLimits,
        clock: Clock,
        reserve: Reserve,
        watch: FileWatch,
        checkpoints: Checkpoints,
        refusal: str,
        tell: Callable[[Commit], None],
        committed: Callable[[float], None],
        condition_changed: Callable[[Condition], None],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._reserve = reserve
        self._watch = watch
        self._checkpoints = checkpoints
        self._tell = tell
        self._condition_changed = condition_changed
        self._ended = ended
        self._group = GroupCommit(connection, limits=limits, clock=clock, committed=committed)
        self.condition = Condition(refusal)
        self._queue: SimpleQueue[AppendJob | Job | None] = SimpleQueue()
        self._in_hand: Sequence[AppendJob | Job] = ()
        self._deferred: list[Job] = []
        self._file_fault = ""
        self._busy_since_s: float | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    @property
    def memory(self) -> Memory:
        """Return what the thread knows as of its last commit."""
        return self._group.memory

    def start(self) -> None:
        """Start the threads."""
        self._checkpoints.start()
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
        error: BaseException | None = None
        try:
            while not self._is_closing:
                self._turn()
            self._finish()
        except BaseException as broken:  # noqa: BLE001 - whatever it was, nobody may wait for a thread that ended
            error = broken
            self._checkpoints.stop()
            self._connection.close()
        finally:
            self.abandon()
            self._ended(error)

    def _turn(self) -> None:
        jobs = self._in_hand = self._take()
        self._busy_since_s = self._clock.monotonic_s()
        self._group.look_at_clock()
        if not jobs:
            self._look_at_files()
        else:
            self._commit(jobs)
        self._in_hand = ()
        if self._deferred or self.condition.refusal:
            self._recover()
        self._checkpoints.look()
        self._tidy()
        self._busy_since_s = None

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
        if self._deferred or self.condition.refusal:
            jobs = self._turn_away(jobs)
            if not jobs:
                return
        try:
            commit = self._attempt(jobs)
        except DISK_ERRORS as error:
            self._meet_full_disk(error)
            self._commit_singly(self._turn_away(jobs))
        except Exception:  # noqa: BLE001 - one of them is the culprit: each is tried alone and hears its own error
            self._commit_singly(jobs)
        else:
            self._tell(commit)

    def _commit_singly(self, jobs: Sequence[AppendJob | Job]) -> None:
        for job in jobs:
            try:
                self._tell(self._attempt([job]))
            except DISK_ERRORS as error:
                self._meet_full_disk(error)
                self._defer_or_fail(job, error, self._no_room())
            except apsw.Error as error:
                self._meet_damage(error)
                cannot = SpoolFull(f"the spool cannot write ({type(error).__name__})", retry_after_s=RETRY_AFTER_S)
                self._defer_or_fail(job, error, cannot)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any one job
                self._fail(job, error)

    def _attempt(self, jobs: Sequence[AppendJob | Job]) -> Commit:
        commit = self._group.commit(jobs)
        if commit.intake is not None:
            self._answer([job for job in jobs if type(job) is AppendJob], commit.intake, commit)
        return commit

    def _answer(self, appends: Sequence[AppendJob], intake: Intake, commit: Commit) -> None:
        """Answer the appends of a commit, if it is in the files that a restart will find."""
        self._look_at_files()
        if self._file_fault:
            refusal = SpoolFull(self._file_fault, retry_after_s=RETRY_AFTER_S)
            commit.answers = [(job.on_rollback, refusal) for job in appends]
            return
        commit.answers = [
            (job.on_rollback if type(answer) is SpoolFull else job.on_commit, answer)
            for job, answer in zip(appends, intake.answers, strict=True)
        ]

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
        return SpoolFull(self.condition.refusal or "the disk is full", retry_after_s=RETRY_AFTER_S)

    def _fail(self, job: AppendJob | Job, error: Exception) -> None:
        call: Callable[[Any], None]
        if isinstance(job, AppendJob):
            call = job.on_rollback
            if not isinstance(error, SpoolFull | SpoolClosed):
                error = SpoolClosed(f"the spool could not take this ({type(error).__name__})")
        else:
            call = job.failed
        self._tell(Commit(calls=[(call, error)], last_sequence=self.memory.sequence))

    def _defer_or_fail(self, job: AppendJob | Job, error: Exception, refusal: SpoolFull) -> None:
        if isinstance(job, Job) and job.is_settlement:
            self._deferred.append(job)
            self._set_condition(words(error), len(self._deferred))
        else:
            self._fail(job, refusal)

    def _meet_damage(self, error: Exception) -> None:
        if isinstance(error, DAMAGE_ERRORS):
            self._tell(Commit(last_sequence=self.memory.sequence, is_damaged=True))

    def _meet_full_disk(self, error: Exception) -> None:
        self._reserve.give_up()
        self._set_condition(words(error), len(self._deferred))

    def _look_at_files(self) -> None:
        fault = self._watch.fault()
        if fault != self._file_fault:
            self._file_fault = fault
            self._set_condition(fault, len(self._deferred))

    def _recover(self) -> None:
        """Write down what was deferred, oldest first; then take new events again once the reserve is back."""
        while self._deferred:
            try:
                self._tell(self._attempt([self._deferred[0]]))
            except Exception as error:  # noqa: BLE001 - still no room; tried again at the next turn
                self._meet_damage(error)
                self._set_condition(words(error), len(self._deferred))
                return
            self._deferred.pop(0)
            self._set_condition(self.condition.refusal, len(self._deferred))
        self._look_at_files()
        if self._file_fault:
            return
        self._checkpoints.checkpoint()
        self._set_condition(self._reserve.build(), 0)

    def _set_condition(self, refusal: str, deferred: int) -> None:
        condition = Condition(refusal, deferred)
        if condition != self.condition:
            self.condition = condition
            self._condition_changed(condition)

    def _tidy(self) -> None:
        """Tidy as long as nobody waits; what cannot be tidied now is tidied later, and the thread goes on."""
        if self._deferred or self._file_fault:
            return
        try:
            while True:
                done = self._group.tidy(is_idle=self._queue.empty(), is_pressed=bool(self.condition.refusal))
                if done is None:
                    return
                if done.evicted:
                    self._tell(done)
                self._busy_since_s = self._clock.monotonic_s()
                # On a full disk each step is moved into the database first: room may be what the next one waits for.
                if self.condition.refusal or not self._queue.empty():
                    return
        except Exception as error:  # noqa: BLE001 - whatever it was
            self._meet_damage(error)

    def _finish(self) -> None:
        if self._deferred:
            self._recover()
        self._checkpoints.stop()
        self._checkpoints.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with contextlib.suppress(apsw.Error):  # a full disk: the log is left beside the database, nothing is lost
            self._connection.close()

    def abandon(self) -> None:
        """Tell whoever still waits that nothing will come of it. The thread's last act; after it anybody's."""
        left: list[AppendJob | Job] = [*self._in_hand, *self._deferred]
        self._in_hand, self._deferred = (), []
        with contextlib.suppress(Empty):
            while True:
                job = self._queue.get_nowait()
                left += [job] if job is not None else []
        for job in left:
            self._fail(job, SpoolClosed("the spool closed before this could be written"))
