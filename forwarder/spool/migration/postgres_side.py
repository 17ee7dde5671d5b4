"""A spool on Postgres as an end of a move."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from forwarder.spool.codes import ROUTES, Account
from forwarder.spool.migration.postgres_reading import READ
from forwarder.spool.migration.postgres_writing import WRITE, make
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
from forwarder.spool.postgres.connecting import Connector
from forwarder.spool.postgres.layout import LOCK, UNFINISHED, has_schema
from forwarder.spool.postgres.layout_steps import LAYOUT, look
from forwarder.spool.postgres.reconnecting import AWAY, words
from forwarder.spool.postgres.transaction import ACCOUNTS, read_totals

__all__ = ["AWAY", "PostgresSource", "PostgresTarget", "words"]
_LIVE = "SELECT host FROM forwarder.replicas WHERE until >= clock_timestamp() LIMIT 1"
_IS_USED = """
SELECT (SELECT is_called FROM forwarder.event_sequence) OR EXISTS (SELECT FROM forwarder.audit)
  OR EXISTS (SELECT FROM forwarder.kept_values WHERE key = 'links')
"""
_NOBODY_ELSE = "LOCK TABLE forwarder.events IN ACCESS EXCLUSIVE MODE"
_SHAPE = """
SELECT coalesce((SELECT min(sequence) FROM forwarder.events), 0),
  (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM forwarder.event_sequence),
  (SELECT coalesce(max(attempt_id), 0) FROM forwarder.attempts),
  (SELECT coalesce(max(audit_id), 0) FROM forwarder.audit)
"""
_COUNTS = {
    **table_counts("forwarder."),
    "waiting by themselves": "SELECT count(*) FROM forwarder.work",
    "progress": "SELECT count(*) FROM forwarder.progress",
    "event types": "SELECT count(*) FROM (SELECT DISTINCT route, type, event FROM forwarder.event_types) t",
    "keys": "SELECT count(DISTINCT known_key) FROM forwarder.known_keys",
}
_KEPT_EVENTS = """
SELECT e.route, coalesce(o.state, 0) AS state, count(*), coalesce(sum(length(e.payload)), 0)::bigint AS size
FROM forwarder.events e LEFT JOIN forwarder.outcomes o ON o.sequence = e.sequence GROUP BY 1, 2
"""


class _Side:
    """One connection, open from the first call to `close`; nothing but this runs on the database meanwhile."""

    def __init__(self, read_url: Callable[[], str], *, retention_s: int) -> None:
        self._connector = Connector(read_url)
        self._retention_s = retention_s
        self._opened: asyncpg.Connection | None = None

    async def _connection(self) -> asyncpg.Connection:
        if self._opened is None:
            self._opened = await self._connector.open()
        return self._opened

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await self._connection()
        async with connection.transaction():
            # What is written may take its time; what is committed must be on disk.
            await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL synchronous_commit = on")
            yield connection

    async def close(self) -> None:
        """End the connection."""
        if self._opened is not None and not self._opened.is_closed():
            await self._opened.close(timeout=5)
        self._opened = None

    async def counts(self) -> Counts:
        """Count what it holds."""
        connection = await self._connection()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("SET LOCAL statement_timeout = 0")
            counts = {name: int(await connection.fetchval(sql)) for name, sql in _COUNTS.items()}
            events = await connection.fetch(_KEPT_EVENTS)
            amounts = await read_totals(connection)
        for route in range(len(ROUTES)):
            these = [row for row in events if row["route"] == route]
            kept = {row["state"]: row["count"] for row in these}
            accounts = dict(enumerate(amounts[route * ACCOUNTS : (route + 1) * ACCOUNTS]))
            counts |= route_counts(route, kept, sum(row["size"] for row in these), accounts)
        return counts


class PostgresSource(_Side):
    """See `two_ends.Source`."""

    async def shape(self) -> Shape:
        """Look at it; raises `MigrationFailed` where there is none, or where a replica lives."""
        connection = await self._connection()
        if not await has_schema(connection):
            raise MigrationFailed("the database holds no spool: has a daemon ever run on it?")
        found = await look(connection)
        if found.step != LAYOUT:
            raise MigrationFailed(
                f"the database has layout {found.step}, and this version moves {LAYOUT} only: where that is lower, run "
                "its daemon once"
            )
        await _refuse_live(connection)
        accepted = sum((await read_totals(connection))[Account.ACCEPTED :: ACCOUNTS])
        first, last, attempt, line = await connection.fetchrow(_SHAPE)
        values = await connection.fetch(f"SELECT key, value FROM forwarder.kept_values WHERE {OWN}")  # noqa: S608 - our own words
        return Shape(first, last, attempt, line, accepted, digest_of((row[0], row[1]) for row in values))

    async def read(self, part: str, cursor: Cursor) -> tuple[Sequence[Any], Cursor]:
        """Return the next rows of a part."""
        connection = await self._connection()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await READ[part](connection, cursor, self._retention_s)

    async def retire(self) -> str:
        """Rename the schema."""
        connection = await self._connection()
        if not await has_schema(connection):
            return "(already away)"
        await _refuse_live(connection)
        number = await connection.fetchval(
            "SELECT coalesce(max(substr(nspname, 17)::integer), 0) + 1 FROM pg_namespace "
            "WHERE nspname ~ '^forwarder_moved_[0-9]+$'"
        )
        name = f"forwarder_moved_{number:d}"
        await connection.execute(f"ALTER SCHEMA forwarder RENAME TO {name}")
        return f"the schema {name}"


class PostgresTarget(_Side):
    """See `two_ends.Target`: its layout has a number that no daemon starts on until it is published."""

    async def is_counted(self) -> bool:
        """Tell whether only its number is missing."""
        connection = await self._connection()
        return await has_schema(connection) and await _mark(connection) == COUNTED

    async def begin(self, shape: Shape) -> Mark:
        """Make an empty one, or go on; raises `MigrationFailed` where there is a spool already."""
        async with self._writing() as connection:
            await connection.execute(LOCK)
            if await has_schema(connection):
                if not await _is_untouched(connection):
                    return await _go_on(connection, shape)
                await connection.execute("DROP SCHEMA forwarder CASCADE")
            mark = Mark(0, None)
            await make(connection, shape)
            await _keep(connection, KEPT[0], shape)
            await _keep(connection, KEPT[1], mark)
            return mark

    async def write(self, part: str, rows: Sequence[Any], mark: Mark) -> None:
        """Store rows and the mark."""
        async with self._writing() as connection:
            await WRITE[part](connection, rows, self._retention_s)
            await _keep(connection, KEPT[1], mark)

    async def note_counted(self) -> None:
        """Note that all is here."""
        await _keep(await self._connection(), KEPT[1], COUNTED)

    async def publish(self) -> None:
        """Give the layout its number."""
        async with self._writing() as connection:
            await connection.execute("DELETE FROM forwarder.kept_values WHERE key = ANY($1::text[])", list(KEPT))
            await connection.execute("DELETE FROM forwarder.layout WHERE number = $1", UNFINISHED)


async def _refuse_live(connection: asyncpg.Connection) -> None:
    host = await connection.fetchval(_LIVE)
    if host is not None:
        raise MigrationFailed(
            f"a daemon runs on the database (on {host}, or it did less than 30 s ago): stop every replica first"
        )


async def _is_untouched(connection: asyncpg.Connection) -> bool:
    """Tell whether a daemon made it that took in nothing, and nobody did anything there. Raises where one lives."""
    await connection.execute(_NOBODY_ELSE)  # a daemon may be about to take in its first event
    if (await look(connection)).is_unfinished or await connection.fetchval(_IS_USED):
        return False
    await _refuse_live(connection)
    return True


async def _mark(connection: asyncpg.Connection) -> Mark | None:
    """Return how far a move into this database is; None where there is none."""
    if not (await look(connection)).is_unfinished:
        return None
    value = await connection.fetchval("SELECT value FROM forwarder.kept_values WHERE key = $1", KEPT[1])
    return msgspec.json.decode(value, type=Mark)


async def _go_on(connection: asyncpg.Connection, shape: Shape) -> Mark:
    mark = await _mark(connection)
    if mark is None:
        raise MigrationFailed(
            "the database holds a spool already: use another database, or, where what is in it is not wanted, "
            "remove it with `DROP SCHEMA forwarder CASCADE`"
        )
    begun = await connection.fetchval("SELECT value FROM forwarder.kept_values WHERE key = $1", KEPT[0])
    if msgspec.json.decode(begun, type=Shape) != shape:
        raise MigrationFailed(f"{ANOTHER}: to begin anew, `DROP SCHEMA forwarder CASCADE` in the database")
    return mark


async def _keep(connection: asyncpg.Connection, name: str, value: object) -> None:
    await connection.execute(
        "INSERT INTO forwarder.kept_values (key, value) VALUES ($1, $2) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        name,
        msgspec.json.encode(value),
    )
