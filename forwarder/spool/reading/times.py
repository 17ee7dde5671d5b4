"""Skip the blocks of events that a range of time cannot meet.

Sequences follow the time of arrival only roughly (a clock may be set back), so each block carries its
own earliest and latest time, and what is left is checked row by row.
"""

from forwarder.ports import EventQuery
from forwarder.spool.reading.streams import TableStream
from forwarder.spool.store.database import Reader
from forwarder.spool.store.segments import KIND_ROUTE, SEGMENT_EVENTS

_FOREVER_MS = 2**62


class BlockTimes:
    """The sequences that may have been received within the query's range."""

    def __init__(self, connection: Reader, query: EventQuery, built_to: int, *, is_up: bool) -> None:
        from_ms = query.received_from_ms if query.received_from_ms is not None else 0
        to_ms = query.received_to_ms if query.received_to_ms is not None else _FOREVER_MS
        rows = connection.execute(
            "SELECT segment FROM segments WHERE kind = ? AND high_ms >= ? AND low_ms < ? ORDER BY segment",
            (KIND_ROUTE, from_ms, to_ms),
        ).fetchall()
        self._blocks: list[int] = [row[0] for row in (rows if is_up else reversed(rows))]
        self._position = 0
        self._built_to = built_to
        self._is_up = is_up
        condition = "received_at_ms >= ? AND received_at_ms < ? AND sequence >= ?"
        self._rest = TableStream(connection, "events", condition, (from_ms, to_ms, built_to), is_up=is_up)

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on that may be in the range."""
        if self._is_up:
            found = self._seek_blocks(sequence)
            return self._rest.seek(max(sequence, self._built_to)) if found is None else found
        rest = self._rest.seek(sequence) if sequence >= self._built_to else None
        return self._seek_blocks(min(sequence, self._built_to - 1)) if rest is None else rest

    def _seek_blocks(self, sequence: int) -> int | None:
        while self._position < len(self._blocks):
            first = self._blocks[self._position] * SEGMENT_EVENTS
            last = first + SEGMENT_EVENTS - 1
            if self._is_up and sequence <= last:
                return max(sequence, first)
            if not self._is_up and sequence >= first:
                return min(sequence, last)
            self._position += 1
        return None
