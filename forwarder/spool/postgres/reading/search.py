"""List and count events: walk along what a filter selects, newest first, and check every event against its row.

One statement looks at the next events of the walk, so that what is rare is found without the events between crossing
the network. Bounded in time: what takes longer than the query's `budget_s` is cut off, says so, and can be gone on
with. A text search is bounded in rows, too.
"""

from collections.abc import Callable

import asyncpg

from forwarder.archive_port import EventPage, EventQuery
from forwarder.model import State
from forwarder.spool.codes import route_code
from forwarder.spool.page_walk import PageWalk
from forwarder.spool.postgres.reading.criteria import Criteria, wanted_reasons
from forwarder.spool.postgres.reading.standing import read_rows

_CHUNK_FIRST = 256  # events of the first statement
_CHUNK_FIRST_TEXT = 16  # of a search in payloads, which may have megabytes
_CHUNK_MAX = 16_384
_WINDOW_MAX = 262_144  # sequences, of which many may be purged
_LAST = 2**62
# Two ranges of sequences are joined best side by side; for the rest of the transaction.
_BOUNDS = """
SELECT coalesce((SELECT min(sequence) FROM forwarder.events), 1),
  coalesce((SELECT max(sequence) FROM forwarder.events), 0), set_config('enable_mergejoin', 'on', true)
"""
_IS_NEAR = """
SELECT coalesce(max(sequence), 0) - (SELECT min(least(floors[1], floors[2])) FROM forwarder.floors) <= $1
FROM forwarder.events
"""
_REASON_IDS = (
    "SELECT reason_id FROM forwarder.reasons WHERE state = ANY($1::smallint[]) "
    "AND ($2::text IS NULL OR reason = $2) AND ($3::smallint IS NULL OR route = $3)"
)


async def search(connection: asyncpg.Connection, query: EventQuery, *, now_s: Callable[[], float]) -> EventPage:
    """Return one page; `now_s` is a monotonic clock."""
    return await _Walk(connection, query, now_s).page()


class _Walk(PageWalk):
    _criteria: Criteria

    def __init__(self, connection: asyncpg.Connection, query: EventQuery, now_s: Callable[[], float]) -> None:
        chunk = max(_CHUNK_FIRST, query.limit + 1) if query.text is None else _CHUNK_FIRST_TEXT
        super().__init__(query, now_s, chunk=chunk)
        self._connection = connection
        self._low = 1 if query.after_sequence is None else query.after_sequence + 1
        self._high = _LAST if query.before_sequence is None else query.before_sequence - 1

    async def _begin(self) -> bool:
        """Have the criteria, and stay between the oldest and the newest event; False where nothing can be found."""
        query, ids = self._query, None
        if (wanted := wanted_reasons(query)) is not None:
            rows = await self._connection.fetch(_REASON_IDS, wanted[1], wanted[0], route_code(query.route))
            ids = [row[0] for row in rows]
            if not ids:
                return False
        is_near = query.state is State.PENDING and await self._connection.fetchval(_IS_NEAR, _CHUNK_MAX)
        self._criteria = Criteria(query, ids, is_near=is_near)
        if self._criteria.is_windowed:  # all between two sequences are looked at
            first, last, _ = await self._connection.fetchrow(_BOUNDS)
            self._low, self._high = max(self._low, first), min(self._high, last)
        return True

    async def page(self) -> EventPage:
        if not await self._begin():
            return self._answer(None)
        while self._low <= self._high:
            began_s = self._now_s()
            chunk = self._room()
            low, high = self._window(chunk)
            found = await self._look(low, high, chunk)
            if found["beyond"] is not None:
                return self._answer(found["beyond"] + (-1 if self._is_up else 1))
            reached = found["reached"]
            if self._criteria.is_windowed:
                reached = high if self._is_up else low
            elif found["candidates"] < chunk:
                break
            self._go_on(reached)
            if self._low > self._high:
                break
            if self._is_spent():
                return self._answer(reached, is_cut=True)
            most = _WINDOW_MAX if self._criteria.is_windowed else _CHUNK_MAX
            self._pace(self._now_s() - began_s, most=most)
        return self._answer(None)

    def _window(self, chunk: int) -> tuple[int, int]:
        if not self._criteria.is_windowed:
            return self._low, self._high
        if self._is_up:
            return self._low, min(self._high, self._low + chunk - 1)
        return max(self._low, self._high - chunk + 1), self._high

    async def _look(self, low: int, high: int, chunk: int) -> asyncpg.Record:
        limit = self._query.limit
        room = limit - self._matched if limit else _LAST
        found = await self._connection.fetchrow(
            self._criteria.statement, low, high, chunk, room, *self._criteria.values
        )
        self._scanned += found["scanned"]
        self._matched += found["matched"]
        if found["reached_ms"] is not None:
            self._reached_ms = found["reached_ms"]
        if limit and found["found"]:
            self._rows += await read_rows(self._connection, found["found"])
        return found

    def _go_on(self, reached: int) -> None:
        if self._is_up:
            self._low = reached + 1
        else:
            self._high = reached - 1
