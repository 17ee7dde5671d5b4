"""List and count events: walk along what a filter selects, newest first, and check every event against its row.

One statement looks at the next events of the walk, so that what is rare is found without the events between crossing
the network. Bounded in time: what takes longer than the query's `budget_s` is cut off, says so, and can be gone on
with. A text search is bounded in rows, too.
"""

from collections.abc import Callable

import asyncpg

from forwarder.archive_port import EventPage, EventQuery, EventRow
from forwarder.spool.codes import ROUTE_CODES
from forwarder.spool.postgres.reading.criteria import Criteria, wanted_reasons
from forwarder.spool.postgres.reading.standing import read_rows

_CHUNK_FIRST = 256  # events of the first statement
_CHUNK_FIRST_TEXT = 16  # of a search in payloads, which may have megabytes
_CHUNK_MAX = 16_384
_CHUNK_S = 0.02  # a statement that took less is followed by one over twice as many, another by one over half
_LAST = 2**62
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
    return await _Walk(connection, query, Criteria(query, ids), now_s, deadline_s).page()


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

    async def page(self) -> EventPage:
        while self._low <= self._high:
            began_s = self._now_s()
            chunk = self._room()
            found = await self._look(chunk)
            if found["beyond"] is not None:
                return self._answer(found["beyond"] + (-1 if self._is_up else 1))
            if found["candidates"] < chunk:
                break
            self._go_on(found["reached"])
            if self._query.text is not None and self._scanned >= self._query.scan_max:
                return self._answer(found["reached"], is_cut=True)
            now_s = self._now_s()
            if now_s > self._deadline_s:
                return self._answer(found["reached"], is_cut=True)
            took_s = now_s - began_s
            self._chunk = min(2 * self._chunk, _CHUNK_MAX) if took_s < _CHUNK_S else max(1, self._chunk // 2)
        return self._answer(None)

    def _room(self) -> int:
        """Return how many events the next statement may look at."""
        if self._query.text is None:
            return self._chunk
        return max(1, min(self._chunk, self._query.scan_max - self._scanned))

    async def _look(self, chunk: int) -> asyncpg.Record:
        limit = self._query.limit
        room = limit - self._matched if limit else _LAST
        found = await self._connection.fetchrow(
            self._criteria.statement, self._low, self._high, chunk, room, *self._criteria.values
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
