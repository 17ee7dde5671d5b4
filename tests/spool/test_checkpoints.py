"""The write-ahead log is shortened, whatever keeps the checkpoints' own connection from opening at first."""

import threading
from pathlib import Path

import apsw

from forwarder.spool.sqlite.writer import Checkpoints


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
