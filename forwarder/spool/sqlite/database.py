"""Open the spool's database: pragmas, the layout and its migrations, and who may; a thread to read with."""

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TypeVar

import apsw

from forwarder.errors import SpoolTooNew, SpoolUnusable
from forwarder.spool.sqlite.files import (
    DAMAGE_ERRORS,
    DISK_ERRORS,
    DISK_FULL,
    FileWatch,
    FolderLock,
    Reserve,
    is_no_room,
    unusable,
    words,
)
from forwarder.spool.sqlite.transaction import PAGE_BYTES, Reader

T = TypeVar("T")
DATABASE_NAME = "spool.db"
LAYOUT = 4
# From each layout to the next one, forward only. 1 was never released: it is drained by what wrote it.
MIGRATIONS: Mapping[int, str] = {
    2: """
        ALTER TABLE audit ADD COLUMN count INTEGER;
        ALTER TABLE audit ADD COLUMN outcome TEXT NOT NULL DEFAULT '';
        ALTER TABLE attempts ADD COLUMN mapping TEXT NOT NULL DEFAULT '';
        ALTER TABLE settled ADD COLUMN status INTEGER;
        ALTER TABLE given_back ADD COLUMN status INTEGER;
        UPDATE settled SET status = (
            SELECT coalesce(status, 0) FROM attempts WHERE attempts.attempt_id = settled.attempt_id
        ) WHERE attempt_id IS NOT NULL;
        CREATE INDEX settled_troubled ON settled (route, last, attempts, status)
            WHERE attempts > 1 OR status NOT BETWEEN 200 AND 299;
        ALTER TABLE given_back RENAME COLUMN is_retry TO kind;
        ALTER TABLE given_back ADD COLUMN replayed_ms INTEGER;
        CREATE INDEX given_back_by_age ON given_back (route, replayed_ms, sequence);
    """,
    3: """
        ALTER TABLE events_outbound ADD COLUMN trace TEXT;
        ALTER TABLE events_inbound ADD COLUMN trace TEXT;
    """,
}
_CACHE_KIB = 4_096
_READER_CACHE_KIB = 4_096
_BUSY_MS = 5_000
_LOG_BYTES_KEPT = 33_554_432


def prepare_folder(folder: Path) -> None:
    """Make the data folder and close it to others; raises `SpoolUnusable` with the remedy."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A mounted volume may belong to root and be ours through its group only: its mode is its owner's.
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)
    except OSError as error:
        raise unusable(folder, error) from error


def open_writer(folder: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the one writing connection, and make or migrate the layout; raises what SQLite and the disk raise."""
    path = folder / DATABASE_NAME
    _create_private(path)
    connection = apsw.Connection(str(path), vfs=vfs, statementcachesize=200)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        _refuse_foreign(connection, path)
        connection.pragma("page_size", PAGE_BYTES)
        connection.pragma("auto_vacuum", "INCREMENTAL")
        connection.pragma("journal_mode", "WAL")
        # FULL syncs the log at every commit: without it a 2xx would not survive a power cut.
        connection.pragma("synchronous", "FULL")
        connection.pragma("wal_autocheckpoint", 0)
        # A long reader lets the log grow; once a checkpoint is through it is cut back to this.
        connection.pragma("journal_size_limit", _LOG_BYTES_KEPT)
        connection.pragma("cache_size", -_CACHE_KIB)
        connection.pragma("temp_store", "MEMORY")
        # What is deleted, or moved to another page, is zeroed where the page is written anyway: see `erasure`.
        connection.pragma("secure_delete", "FAST")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_folder(folder: Path, reserve: Reserve, *, vfs: str | None = None) -> tuple[apsw.Connection, str]:
    """Open the writing connection and take the reserve; return why nothing new can be taken, "" when it can.

    Where the disk is full it opens with the room that the reserve holds. Raises `SpoolUnusable` with the remedy.
    """
    try:
        try:
            connection = open_writer(folder, vfs=vfs)
        except (OSError, *DISK_ERRORS) as error:
            if isinstance(error, OSError) and not is_no_room(error):
                raise
            reserve.give_up()
            return open_writer(folder, vfs=vfs), DISK_FULL
    except (apsw.Error, OSError) as error:
        raise unusable(folder / DATABASE_NAME, error) from error
    refusal = reserve.build(is_first=True)
    if refusal not in ("", DISK_FULL):
        connection.close()
        raise SpoolUnusable(refusal)
    return connection, refusal


def open_checkpointer(folder: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the connection that moves the log into the database."""
    connection = apsw.Connection(str(folder / DATABASE_NAME), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    connection.pragma("synchronous", "FULL")
    connection.pragma("wal_autocheckpoint", 0)
    return connection


def find_database(folder: Path) -> Path:
    """Return where a folder's database is; raises `SpoolUnusable` where there is none, or none that we may see."""
    path = folder / DATABASE_NAME
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        nothing = f"{folder} holds no spool: has the daemon ever run with this FORWARDER_DATA_DIR?"
        raise SpoolUnusable(nothing) from None
    except OSError as error:
        raise unusable(path, error) from error
    return path


def open_reader(folder: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open a connection that cannot change anything; raises `SpoolUnusable` where that cannot be."""
    path = find_database(folder)
    try:
        # Read-write, or the log of a daemon that was killed could not be read; query_only keeps it a reader.
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        connection.set_busy_timeout(_BUSY_MS)
        connection.pragma("query_only", 1)
        connection.pragma("cache_size", -_READER_CACHE_KIB)
        _refuse_foreign(connection, path)
    except apsw.Error as error:
        raise unusable(path, error) from error
    return connection


def watch_files(folder: Path, lock: FolderLock) -> FileWatch:
    """Return who tells whether the database's files are still the ones that are open."""
    path = folder / DATABASE_NAME
    return FileWatch((folder, path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"), lock.path))


def _create_private(path: Path) -> None:
    # Made before SQLite does, which would follow the umask; its -wal and -shm take the mode over.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    if path.stat().st_uid == os.geteuid():
        path.chmod(0o600)


def _migrate(connection: apsw.Connection, *, layout: int = LAYOUT, migrations: Mapping[int, str] = MIGRATIONS) -> None:
    """Bring the database to the layout, step by step, each step whole or not at all."""
    found = int(connection.pragma("user_version"))
    if found == 0:
        with connection:
            connection.execute(resources.files("forwarder.spool.sqlite").joinpath("schema.sql").read_text("utf-8"))
            connection.pragma("user_version", layout)
        return
    for number in range(found, layout):
        with connection:
            connection.execute(migrations[number])
            connection.pragma("user_version", number + 1)


def _refuse_foreign(connection: apsw.Connection, path: Path) -> None:
    layout = int(connection.pragma("user_version"))
    if layout > LAYOUT:
        raise SpoolTooNew(
            f"{path} was written by a newer forwarder (layout {layout}, this one knows {LAYOUT}): "
            "run that version, or give FORWARDER_DATA_DIR another folder"
        )
    if layout == 1:
        raise SpoolUnusable(
            f"{path} has the layout of forwarder 0.1, which this version cannot read: run 0.1 on it until "
            "`forwarder status` shows nothing waiting, then move the folder away or give FORWARDER_DATA_DIR another one"
        )


class ReadThread:
    """A connection that cannot change anything, on a thread of its own: one read after the other."""

    def __init__(self, connection: apsw.Connection, executor: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._executor = executor

    @classmethod
    async def open(cls, folder: Path, *, name: str, vfs: str | None = None) -> "ReadThread":
        """Open a folder for reading; raises what `open_reader` raises."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        try:
            opened = asyncio.get_running_loop().run_in_executor(executor, partial(open_reader, folder, vfs=vfs))
            return cls(await opened, executor)
        except BaseException:
            executor.shutdown(wait=False)
            raise

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Do work over one moment of the database; raises `SpoolUnusable` for what damage brings to light."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(self._in_one_view, work))

    async def close(self) -> None:
        """Wait for what is under way, and close the connection. Once."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.close)
        self._executor.shutdown(wait=False)

    def _in_one_view(self, work: Callable[[Reader], T]) -> T:
        self._connection.execute("BEGIN")
        try:
            return work(self._connection)
        except DAMAGE_ERRORS as error:
            raise SpoolUnusable(words(error)) from error
        finally:
            self._connection.execute("ROLLBACK")
