"""A spool on SQLite as an end of a move. Its calls block, so they run on another thread; one at a time."""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import apsw
import msgspec

from forwarder.spool.codes import Account
from forwarder.spool.migration.sqlite_reading import READ
from forwarder.spool.migration.sqlite_writing import WRITE, prepare_writing
from forwarder.spool.migration.two_ends import (
    ANOTHER,
    COUNTED,
    KEPT,
    OWN,
    Counts,
    Cursor,
    Mark,
    MigrationFailed,
    Shape,
    digest_of,
    route_counts,
    table_counts,
)
from forwarder.spool.sqlite.database import DATABASE_NAME, find_database, open_writer, prepare_folder
from forwarder.spool.sqlite.files import FolderLock
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader, read_mark

T = TypeVar("T")
MOVED_NAME = "spool.db.moved"
_BEGUN_NAME = "migration"  # a folder: the database in it is no spool yet


class _Side:
    """A database in a folder that no daemon uses meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FolderLock(folder)
        self._connection: apsw.Connection | None = None

    async def _do(self, work: Callable[[apsw.Connection], T]) -> T:
        assert self._connection is not None  # noqa: S101 - opened by the first call
        return await asyncio.to_thread(work, self._connection)

    async def close(self) -> None:
        """Close it and let daemons have the folder."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.close)
        self._lock.release()

    async def counts(self) -> Counts:
        """Count what it holds."""
        return await self._do(_counts)


class SqliteSource(_Side):
    """See `two_ends.Source`. Keep it until `close`: the folder is locked."""

    async def shape(self) -> Shape:
        """Open it; raises `SpoolLocked` while a daemon has the folder, and `SpoolUnusable` where there is none."""
        find_database(self._folder)
        self._lock.acquire()
        self._connection = await asyncio.to_thread(open_writer, self._folder)
        return await self._do(_shape)

    async def read(self, part: str, cursor: Cursor) -> tuple[Sequence[Any], Cursor]:
        """Return the next rows of a part."""
        return await self._do(lambda connection: READ[part](connection, cursor))

    async def retire(self) -> str:
        """Rename it; the log is in it once it is closed."""
        moved = self._folder / MOVED_NAME
        if self._connection is None and (self._folder / DATABASE_NAME).exists():
            await self.shape()
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.close)
            await asyncio.to_thread(_rename, self._folder / DATABASE_NAME, moved)
        return str(moved)


class SqliteTarget(_Side):
    """See `two_ends.Target`: made in a folder of its own, and put in its place at the end."""

    async def is_counted(self) -> bool:
        """Open it; tell whether only its place is missing. Raises `SpoolLocked` while a daemon has the folder."""
        await asyncio.to_thread(prepare_folder, self._folder)
        self._lock.acquire()
        if (self._folder / DATABASE_NAME).exists():
            raise MigrationFailed(
                f"{self._folder} holds a spool already: move its {DATABASE_NAME} away, or give this command another "
                "FORWARDER_DATA_DIR"
            )
        begun = self._folder / _BEGUN_NAME
        await asyncio.to_thread(prepare_folder, begun)
        self._connection = await asyncio.to_thread(open_writer, begun)
        return await self._do(_mark) == COUNTED

    async def begin(self, shape: Shape) -> Mark:
        """Make an empty one, or go on; raises `MigrationFailed` for one that was begun from another spool."""
        return await self._do(lambda connection: _begin(connection, shape, self._folder / _BEGUN_NAME))

    async def write(self, part: str, rows: Sequence[Any], mark: Mark) -> None:
        """Store rows and the mark."""

        def work(connection: apsw.Connection) -> None:
            with connection:
                WRITE[part](connection, rows)
                _keep(connection, KEPT[1], mark)

        await self._do(work)

    async def note_counted(self) -> None:
        """Note that all is here."""
        await self._do(lambda connection: _keep(connection, KEPT[1], COUNTED))

    async def publish(self) -> None:
        """Put it in its place."""
        begun, place = self._folder / _BEGUN_NAME, self._folder / DATABASE_NAME
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.close)  # its log is in it then
        await asyncio.to_thread(_rename, begun / DATABASE_NAME, place)
        await asyncio.to_thread(_tidy, self._folder, begun)


def _tidy(folder: Path, begun: Path) -> None:
    connection = open_writer(folder)
    connection.execute("DELETE FROM kept_values WHERE key IN (?, ?)", KEPT)
    connection.close()
    shutil.rmtree(begun)


def _mark(connection: apsw.Connection) -> Mark | None:
    row = connection.execute("SELECT value FROM kept_values WHERE key = ?", (KEPT[1],)).fetchone()
    return None if row is None else msgspec.json.decode(row[0], type=Mark)


def _rename(path: Path, to: Path) -> None:
    """Rename a closed database for good."""
    path.replace(to)
    descriptor = os.open(to.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin(connection: apsw.Connection, shape: Shape, folder: Path) -> Mark:
    row = connection.execute("SELECT value FROM kept_values WHERE key = ?", (KEPT[0],)).fetchone()
    mark = _mark(connection)
    if row is None or mark is None:
        mark = Mark(0, None)
        with connection:
            _keep(connection, KEPT[0], shape)
            _keep(connection, KEPT[1], mark)
            prepare_writing(connection, shape)
    elif msgspec.json.decode(row[0], type=Shape) != shape:
        raise MigrationFailed(f"{ANOTHER}: remove {folder} to begin anew")
    return mark


def _keep(connection: apsw.Connection, name: str, value: object) -> None:
    connection.execute("INSERT OR REPLACE INTO kept_values VALUES (?, ?)", (name, msgspec.json.encode(value)))


def _one(connection: Reader, sql: str, *values: object) -> int:
    row = connection.execute(sql, values).fetchone()
    return int(row[0] or 0) if row else 0


def _shape(connection: Reader) -> Shape:
    firsts = [_one(connection, f"SELECT min(sequence) FROM {table}") for table in EVENT_TABLES]  # noqa: S608 - our own words, as all below
    return Shape(
        first_sequence=min((first for first in firsts if first), default=0),
        last_sequence=_one(connection, "SELECT amount FROM totals WHERE account = ?", int(Account.SEQUENCE)),
        last_attempt=_one(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'attempts'"),
        last_audit=_one(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'audit'"),
        accepted=_one(connection, "SELECT sum(amount) FROM totals WHERE account = ?", int(Account.ACCEPTED)),
        values=digest_of(connection.execute(f"SELECT key, value FROM kept_values WHERE {OWN}").fetchall()),  # noqa: S608 - our own words
    )


def _counts(connection: apsw.Connection) -> Counts:
    connection.create_scalar_function("crc32", _checksum, 1)
    also = {
        "waiting by themselves": "SELECT count(*) FROM given_back",
        "progress": "SELECT count(*) FROM progress",
        "event types": "SELECT count(*) FROM event_types",
        "keys": f"SELECT count(*) FROM ({_all_keys(connection)})",  # noqa: S608 - our own words
    }
    counts = {name: _one(connection, sql) for name, sql in {**table_counts(""), **also}.items()}
    for route, table in enumerate(EVENT_TABLES):
        whole = f"SELECT sum(length(payload)) FROM {table} WHERE crc32(payload) = checksum"  # noqa: S608 - our own words
        by_state = dict(
            connection.execute(
                "SELECT coalesce((SELECT CASE WHEN s.first <= e.sequence THEN s.state END FROM settled s "  # noqa: S608 - ours too
                f"WHERE s.route = ? AND s.last >= e.sequence ORDER BY s.last LIMIT 1), 0), count(*) FROM {table} e "
                "GROUP BY 1",
                (route,),
            )
        )
        amounts = dict(connection.execute("SELECT account, amount FROM totals WHERE route = ?", (route,)))
        counts |= route_counts(route, by_state, _one(connection, whole), amounts)
    return counts


def _checksum(*payload: Any) -> int | None:
    return None if payload[0] is None else crc32(payload[0])


def _all_keys(connection: apsw.Connection) -> str:
    buckets = [row[0] for row in connection.execute("SELECT bucket FROM key_buckets ORDER BY bucket")]
    after = read_mark(connection, "keys_sealed_to")
    parts = [f"SELECT key FROM keys_{bucket}" for bucket in buckets]  # noqa: S608 - our own integers
    for route, table in enumerate(EVENT_TABLES):
        whole = f"CAST(event_key || x'0{route}' AS BLOB)"
        parts.append(f"SELECT {whole} FROM {table} WHERE sequence > {after}")  # noqa: S608 - our own words
    return " UNION ".join(parts)
