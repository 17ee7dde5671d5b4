"""Open the spool's database: pragmas, schema, versions, and what a file that cannot be used is called."""

import os
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import apsw

from forwarder.errors import SpoolUnusable

DATABASE_NAME = "spool.db"
SCHEMA_VERSION = 1
_PAGE_BYTES = 4096
_CACHE_KIB = 65_536
_BUSY_MS = 5_000
_LOG_BYTES_KEPT = 33_554_432


class Reader(Protocol):
    """A connection as those see it who read: rows are typed by who knows the schema."""

    def execute(self, statements: str, bindings: Any = None, /) -> Any:
        """Run a statement."""

    def pragma(self, name: str, /) -> Any:
        """Return a setting or a fact of the database."""


def prepare_folder(folder: Path) -> None:
    """Make the data folder and close it to others; raises `SpoolUnusable` with the remedy."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A mounted volume may belong to root and be ours through its group only: its mode is its owner's.
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)
    except OSError as error:
        raise SpoolUnusable(
            f"{folder} cannot be used as the data folder ({error.strerror}): "
            "give FORWARDER_DATA_DIR a folder that this user may write"
        ) from error


def open_writer(folder: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the one writing connection, and make the schema where there is none."""
    path = folder / DATABASE_NAME
    try:
        _create_private(path)
        connection = apsw.Connection(str(path), vfs=vfs, statementcachesize=200)
        connection.set_busy_timeout(_BUSY_MS)
        connection.pragma("page_size", _PAGE_BYTES)
        connection.pragma("auto_vacuum", "INCREMENTAL")
        connection.pragma("journal_mode", "WAL")
        # FULL syncs the log at every commit: without it a 2xx would not survive a power cut.
        connection.pragma("synchronous", "FULL")
        connection.pragma("wal_autocheckpoint", 0)
        # A long reader lets the log grow; once it was folded it is cut back to this.
        connection.pragma("journal_size_limit", _LOG_BYTES_KEPT)
        connection.pragma("cache_size", -_CACHE_KIB)
        connection.pragma("temp_store", "MEMORY")
        _migrate(connection, path)
    except (apsw.Error, OSError) as error:
        raise unusable(path, error) from error
    return connection


def open_reader(folder: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open a connection that cannot change anything; raises `SpoolUnusable` where there is no spool."""
    path = folder / DATABASE_NAME
    if not path.exists():
        raise SpoolUnusable(f"{folder} holds no spool: has the daemon ever run with this FORWARDER_DATA_DIR?")
    try:
        # Read-write, or the log of a daemon that was killed could not be read; query_only keeps it a reader.
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        connection.set_busy_timeout(_BUSY_MS)
        connection.pragma("query_only", 1)
        _refuse_newer(connection, path)
    except apsw.Error as error:
        raise unusable(path, error) from error
    return connection


def _create_private(path: Path) -> None:
    # Made before SQLite does, which would follow the umask; its -wal and -shm take the mode over.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def _migrate(connection: apsw.Connection, path: Path) -> None:
    version = _refuse_newer(connection, path)
    if version == SCHEMA_VERSION:
        return
    schema = resources.files("forwarder.spool.store").joinpath("schema.sql").read_text("utf-8")
    with connection:
        connection.execute(schema)
        connection.pragma("user_version", SCHEMA_VERSION)


def _refuse_newer(connection: apsw.Connection, path: Path) -> int:
    version = int(connection.pragma("user_version"))
    if version > SCHEMA_VERSION:
        raise SpoolUnusable(
            f"{path} was written by a newer forwarder (schema {version}, this one knows {SCHEMA_VERSION}): "
            "run that version, or give FORWARDER_DATA_DIR another folder"
        )
    return version


def unusable(path: Path, error: Exception) -> SpoolUnusable:
    """Say what to do about a database, or its folder, that cannot be opened."""
    if isinstance(error, (apsw.NotADBError, apsw.CorruptError)):
        return SpoolUnusable(
            f"{path} is damaged ({error}): keep a copy, restore it from a backup or recover it with "
            "`sqlite3 spool.db .recover`, or move the folder away to start empty"
        )
    return SpoolUnusable(f"{path} cannot be opened ({error}): check the folder's owner, its mode and the disk")
