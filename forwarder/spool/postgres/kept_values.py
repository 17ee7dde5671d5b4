"""Small values of the daemon's own that all replicas share: pauses, links, incidents, logins.

Each is changed in a transaction of its own, which locks nothing else, so that no two replicas wait for each other.
"""

import contextlib
from collections.abc import AsyncIterator, Callable

import asyncpg

from forwarder.errors import SpoolAway
from forwarder.spool.postgres.reconnecting import AWAY, Connection, words

_PUT = (
    "INSERT INTO forwarder.kept_values VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value "
    "RETURNING xmin::text"
)
# The row is there before it is locked: two that would both make it would not see each other.
_MAKE = "INSERT INTO forwarder.kept_values VALUES ($1, '') ON CONFLICT (key) DO NOTHING"
_LOCK = "SELECT value FROM forwarder.kept_values WHERE key = $1 FOR UPDATE"
_VERSIONS = "SELECT key, xmin::text AS version FROM forwarder.kept_values WHERE key = ANY($1::text[])"
_CHANGED = "SELECT key, xmin::text AS version, value FROM forwarder.kept_values WHERE key = ANY($1::text[])"


class KeptValues:
    """Put, get and change them; hear of those that other replicas changed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listeners: dict[str, list[Callable[[bytes], None]]] = {}
        self._versions: dict[str, str] = {}  # the row's version that the listeners know

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value. Raises `SpoolAway`."""
        async with self._told(), self._connection.transaction() as connection:
            version = await connection.fetchval(_PUT, key, value)
        self._versions[key] = version

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a value by what `change` makes of it; return that. Raises `SpoolAway`, and what `change` raises."""
        async with self._told(), self._connection.transaction() as connection:
            await connection.execute(_MAKE, key)
            before = await connection.fetchval(_LOCK, key)
            after = change(before or None)
            version = await connection.fetchval(_PUT, key, after)
        self._versions[key] = version
        return after

    def watch(self, key: str, heard: Callable[[bytes], None]) -> None:
        """Have `heard` called by `look` when another replica changed the value."""
        self._listeners.setdefault(key, []).append(heard)

    async def look(self) -> None:
        """Tell the listeners what changed since the last look. Raises `SpoolAway`."""
        if not self._listeners:
            return
        async with self._told(), self._connection.statement() as connection:
            rows = await connection.fetch(_VERSIONS, list(self._listeners))
        changed = [row["key"] for row in rows if self._versions.get(row["key"]) != row["version"]]
        if not changed:
            return
        async with self._told(), self._connection.statement() as connection:
            rows = await connection.fetch(_CHANGED, changed)
        for row in rows:
            self._versions[row["key"]] = row["version"]
            for heard in self._listeners[row["key"]]:
                heard(row["value"])

    @contextlib.asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        try:
            yield
        except SpoolAway:
            raise
        except (*AWAY, asyncpg.PostgresError) as error:
            raise SpoolAway(words(error)) from None
