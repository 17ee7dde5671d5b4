"""The one thread that writes, and what keeps its log short.

What one turn of the event loop submits is handed over at its end, at once: handed over one by one, the thread would
take the first job alone, and contend for the interpreter with the loop that still makes the others. The thread has all
that is queued committed together: sized by what is queued, never by a timer, for while one commit syncs, the next one
gathers. Only what nobody waits for may wait a moment for company. No error of a job or of housekeeping ends the
thread; should it end all the same, everything that waits is rolled back, and the spool hears of it.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import apsw

from forwarder.errors import SpoolUnusable
from forwarder.ports import Clock
from forwarder.spool.sqlite.group_commit import GroupCommit
from forwarder.spool.sqlite.jobs import AppendJob, Callbacks, Job

_GROUP_MAX = 2_000  # jobs in one commit, or a few more
_IDLE_S = 0.5
_COMPANY_S = 0.005  # how long jobs wait that may
_REST_PAGES_MAX = 500  # of the log, that the writer may move itself


class Writer:
    """Own the writing connection and its thread."""

    def __init__(
        self,
        connection: apsw.Connection,
        group: GroupCommit,
        *,
        checkpoints: "Checkpoints",
        clock: Clock,
        callbacks: Callbacks,
    ) -> None:
        self._connection = connection
        self._group = group
        self._checkpoints = checkpoints
        self._clock = clock
        self._callbacks = callbacks
        self._submitted: list[AppendJob | Job] = []  # in this turn of the event loop
        self._queue: SimpleQueue[Sequence[AppendJob | Job] | None] = SimpleQueue()
        self._in_hand: Sequence[AppendJob | Job] = ()
        self._busy_since_s: float | None = None
        self._is_closing = False
        self._truncations: deque[Callable[[bool], object]] = deque()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        self._checkpoints.start()
        self._thread.start()

    def submit(self, job: AppendJob | Job) -> None:
        """Queue a job at the end of this turn of the event loop. Called on its thread."""
        if not self._submitted:
            asyncio.get_running_loop().call_soon(self.hand_over)
        self._submitted.append(job)

    def hand_over(self) -> None:
        """Queue what was submitted. Called on the event loop's thread."""
        if self._submitted:
            self._queue.put(self._submitted)
            self._submitted = []

    def truncate_log(self, done: Callable[[bool], object]) -> None:
        """Have the log moved into the database and cut to nothing; `done` hears on the thread whether it was."""
        self._truncations.append(done)

    def stop(self) -> None:
        """Queue the end: what was submitted before it is still committed."""
        self.hand_over()
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to end. Not on the event loop's thread."""
        self._thread.join()

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the writer turned lately, or had nothing to do."""
        busy_since_s = self._busy_since_s
        return self._thread.is_alive() and (busy_since_s is None or now_s - busy_since_s < within_s)

    def abandon(self) -> None:
        """Tell whoever still waits that nothing will come of it. The thread's last act; after it anybody's."""
        left, self._in_hand = list(self._in_hand), ()
        with contextlib.suppress(Empty):
            while True:
                left += self._queue.get_nowait() or ()
        self._group.abandon(left)

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
            self._callbacks.on_end(error)

    def _turn(self) -> None:
        jobs = self._in_hand = self._take()
        self._busy_since_s = self._clock.monotonic_s()
        self._group.look_at_clock()
        if jobs:
            self._group.work_off(jobs)
        else:
            self._group.look_at_files()
        self._in_hand = ()
        self._group.recover(self._checkpoints.checkpoint)
        self._checkpoints.look()
        while self._truncations:
            self._truncations.popleft()(self._checkpoints.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE))
        while self._group.tidy(is_idle=self._queue.empty()) and self._queue.empty():
            self._busy_since_s = self._clock.monotonic_s()
        self._busy_since_s = None

    def _take(self) -> list[AppendJob | Job]:
        jobs: list[AppendJob | Job] = []
        wait_s, until_s = _IDLE_S, 0.0
        try:
            while len(jobs) < _GROUP_MAX:
                more = self._queue.get(wait_s > 0.0, max(0.0, wait_s))
                if more is None:
                    self._is_closing = True
                    break
                until_s = until_s or self._clock.monotonic_s() + _COMPANY_S
                jobs += more
                wait_s = until_s - self._clock.monotonic_s() if all(map(_may_wait, jobs)) else 0.0
        except Empty:
            pass
        return jobs

    def _finish(self) -> None:
        self._group.recover(self._checkpoints.checkpoint)
        self._checkpoints.stop()
        self._checkpoints.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with contextlib.suppress(apsw.Error):  # a full disk: the log is left beside the database, nothing is lost
            self._connection.close()


class Checkpoints:
    """Move SQLite's write-ahead log back into the database, on a connection and a thread of its own.

    SQLite's own way of doing so is off: it would happen within whichever commit is the thousandth. A checkpoint
    beside a busy writer never reaches the log's end, and a log whose end was not reached grows: so the thread does
    the bulk, and the writer the few pages that are left. Everything but the thread's own work is on the writer thread.
    """

    def __init__(
        self, connection: apsw.Connection, open_connection: Callable[[], apsw.Connection], *, pages_max: int
    ) -> None:
        self._connection = connection
        self._open_connection = open_connection
        self._pages_max = pages_max
        self._pages = 0  # in the log
        self._moved = 0  # of them, in the database
        self._wanted = threading.Event()
        self._is_running = False
        self._is_ended = False
        connection.set_wal_hook(self._count)
        self._thread = threading.Thread(target=self._run, name="spool-checkpoints", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._is_ended = True
        self._wanted.set()
        self._thread.join()

    def look(self) -> None:
        """See to the log after a commit; returns at once."""
        if self._pages < self._pages_max or self._is_running:
            return
        if 0 < self._moved <= self._pages <= self._moved + _REST_PAGES_MAX:
            self.checkpoint()
        else:
            self._is_running = True
            self._wanted.set()

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> bool:
        """Do it here and now, as far as readers allow; a disk that refuses leaves the log as it is, and is told."""
        self._moved = 0
        try:
            self._connection.wal_checkpoint(mode=mode)
        except apsw.Error:
            return False
        self._pages = 0
        return True

    def _run(self) -> None:
        connection = self._opened()
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._is_ended:
                break
            connection = connection or self._opened()
            self._moved = 0
            if connection is not None:
                with contextlib.suppress(apsw.Error):
                    _, self._moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._is_running = False
        if connection is not None:
            connection.close()

    def _opened(self) -> apsw.Connection | None:
        try:
            return self._open_connection()
        except (apsw.Error, SpoolUnusable):  # too many open files, say: tried again when the log is long
            return None

    def _count(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._pages:
            self._moved = 0  # the log began anew
        self._pages = pages
        return apsw.SQLITE_OK


def _may_wait(job: AppendJob | Job) -> bool:
    return type(job) is Job and job.may_wait
