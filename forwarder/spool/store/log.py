"""Fold SQLite's write-ahead log back into the database, when it has grown or at the end.

SQLite's own way of doing so is off: it would happen within whichever commit is the thousandth.
"""

import apsw


class WriteAheadLog:
    """Watch the log's length and fold it. Lives on the writer thread."""

    def __init__(self, connection: apsw.Connection, *, pages_max: int) -> None:
        self._connection = connection
        self._pages_max = pages_max
        self._pages = 0
        connection.set_wal_hook(self._count)

    def is_long(self) -> bool:
        """Tell whether it should be folded."""
        return self._pages >= self._pages_max

    def fold(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        """Fold as much as readers allow; a disk that refuses leaves the log as it is."""
        try:
            self._connection.wal_checkpoint(mode=mode)
        except apsw.Error:
            return
        self._pages = 0

    def _count(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK
