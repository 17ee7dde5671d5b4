"""Up to which sequence nothing of this replica's partitions is pending that was never given back: it only rises.

What is not committed yet may turn up below what a look finds. So a look counts once every append that ran then is over;
other transactions, of whatever age, keep nothing up.
"""

from collections.abc import Collection

from forwarder.spool.postgres.lease_statements import FIRST
from forwarder.spool.postgres.reconnecting import Connection

_KEEP_EVERY = 10_000  # sequences, which are read once more at most after a replica was lost
_LOOK_MAX = 20_000
# Whoever draws a sequence holds one of these before, and until its end.
_APPENDING = """
SELECT virtualtransaction FROM pg_locks WHERE mode = 'RowExclusiveLock'
AND relation IN ('forwarder.events'::regclass, 'forwarder.occurrences'::regclass)
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Floors:
    """The floors of one share of the partitions; a new share has new ones."""

    def __init__(self, floors: tuple[int, int], partitions: Collection[int]) -> None:
        self.by_route = list(floors)
        self._partitions = sorted(partitions)
        self._kept = sum(floors)
        self._next = 0  # where the last look ended
        self._waits_for: frozenset[str] | None = None
        self._opened = 0  # the connection of that look

    async def look(self, connection: Connection, writing: Connection) -> None:
        """Raise them as far as is certain by now, and keep them for whoever owns the partitions next."""
        async with connection.statement() as session:
            running = frozenset(row[0] for row in await session.fetch(_APPENDING))
        if self._waits_for is None:
            self._waits_for = running
        if self._waits_for & running:
            return
        async with connection.snapshot() as session:
            if connection.opened != self._opened:  # perhaps another server, which lacks what the last look found
                self._opened, self._next = connection.opened, 0
            newest = await session.fetchval("SELECT max(sequence) FROM forwarder.events") or 0
            for route, floor in enumerate(self.by_route):
                if floor < self._next:
                    first = await session.fetchval(FIRST, route, self._partitions, floor, self._next)
                    self.by_route[route] = self._next if first is None else first - 1
        self._next, self._waits_for = min(newest, max(self.by_route) + _LOOK_MAX), None
        if sum(self.by_route) >= self._kept + _KEEP_EVERY:
            self._kept = sum(self.by_route)
            async with writing.transaction() as session:
                await session.execute(
                    "INSERT INTO forwarder.floors SELECT no, $1 FROM unnest($2::smallint[]) AS no ORDER BY no "
                    "ON CONFLICT (no) DO UPDATE SET floors = excluded.floors",
                    self.by_route,
                    self._partitions,
                )
