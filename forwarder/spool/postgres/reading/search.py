"""List and count events: walk along what a filter selects, newest first, and check every event against its row.

One statement looks at the next events of the walk, so that what is rare is found without the events between crossing
the network. Bounded in time: what takes longer than the query's `budget_s` is cut off, says so, and can be gone on
with. A text search is bounded in rows, too.
"""

from collections.abc import Callable

import asyncpg

from forwarder.archive_port import EventPage, EventQuery, EventRow
from forwarder.model import State
from forwarder.spool.codes import ROUTE_CODES
from forwarder.spool.postgres.reading.criteria import Criteria, wanted_reasons
from forwarder.spool.postgres.reading.standing import read_rows

_CHUNK_FIRST = 256  # events of the first statement
_CHUNK_FIRST_TEXT = 16  # of a search in payloads, which may have megabytes
_CHUNK_MAX = 16_384
_WINDOW_MAX = 262_144  # sequences, of which many may be purged
_CHUNK_S = 0.02  # a statement that took less is followed by one over twice as many, another by one over half
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
    deadline_s = now_s() + query.budget_s
    ids: list[int] | None = None
    if (wanted := wanted_reasons(query)) is not None:
        route = None if query.route is None else ROUTE_CODES[query.route]
        ids = [row[0] for row in await connection.fetch(_REASON_IDS, wanted[1], wanted[0], route)]
        if not ids:
            return EventPage(rows=(), next_before=None, is_cut=False)
    is_near = query.state is State.PENDING and await connection.fetchval(_IS_NEAR, _CHUNK_MAX)
    walk = _Walk(connection, query, Criteria(query, ids, is_near=is_near), now_s, deadline_s)
    await walk.bound()
    return await walk.page()


class _Walk:
    def __init__(
        self,
        connection: asyncpg.Connection,
        query: EventQuery,
        criteria: Criteria,
        now_s: Callable[[], float],
        deadline_s: float,
    ) -> None:
        self._connection = connection
        self._query = query
        self._criteria = criteria
        self._now_s = now_s
        self._deadline_s = deadline_s
        self._is_up = query.after_sequence is not None
        self._low = 1 if query.after_sequence is None else query.after_sequence + 1
        self._high = _LAST if query.before_sequence is None else query.before_sequence - 1
        self._chunk = max(_CHUNK_FIRST, query.limit + 1) if query.text is None else _CHUNK_FIRST_TEXT
        self._rows: list[EventRow] = []
        self._matched = 0
        self._scanned = 0
        self._reached_ms: int | None = None

    async def bound(self) -> None:
        """Stay between the oldest and the newest event, where all between two sequences are looked at."""
        if self._criteria.is_windowed:
            first, last, _ = await self._connection.fetchrow(_BOUNDS)
            self._low, self._high = max(self._low, first), min(self._high, last)

    async def page(self) -> EventPage:
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
            if self._query.text is not None and self._scanned >= self._query.scan_max:
                return self._answer(reached, is_cut=True)
            now_s = self._now_s()
            if now_s > self._deadline_s:
                return self._answer(reached, is_cut=True)
            self._pace(now_s - began_s)
        return self._answer(None)

    def _pace(self, took_s: float) -> None:
        most = _WINDOW_MAX if self._criteria.is_windowed else _CHUNK_MAX
        self._chunk = min(2 * self._chunk, most) if took_s < _CHUNK_S else max(1, self._chunk // 2)

    def _window(self, chunk: int) -> tuple[int, int]:
        if not self._criteria.is_windowed:
            return self._low, self._high
        if self._is_up:
            return self._low, min(self._high, self._low + chunk - 1)
        return max(self._low, self._high - chunk + 1), self._high

    def _room(self) -> int:
        """Return how many events the next statement may look at."""
        if self._query.text is None:
            return self._chunk
        return max(1, min(self._chunk, self._query.scan_max - self._scanned))

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

    def _answer(self, continued: int | None, *, is_cut: bool = False) -> EventPage:
        return EventPage(
            rows=tuple(self._rows),
            next_before=None if self._is_up else continued,
            next_after=continued if self._is_up else None,
            is_cut=is_cut,
            matched=self._matched,
            scanned=self._scanned,
            reached_ms=self._reached_ms,
        )
