"""Move SQLite's write-ahead log back into the database, on a connection and a thread of its own.

SQLite's own way of doing so is off: it would happen within whichever commit is the thousandth. A checkpoint beside a
busy writer never reaches the log's end, and a log whose end was not reached grows: so the thread does the bulk, and the
writer the few pages that are left.
"""

import contextlib
import threading
from collections.abc import Callable

import apsw

from forwarder.errors import SpoolUnusable

_REST_PAGES_MAX = 500  # that the writer may do itself


class Checkpoints:
    """Watch the log's length and shorten it. Everything but the thread's own work is on the writer thread."""

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

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        """Do it here and now, as far as readers allow; a disk that refuses leaves the log as it is."""
        self._moved = 0
        try:
            self._connection.wal_checkpoint(mode=mode)
        except apsw.Error:
            return
        self._pages = 0

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
