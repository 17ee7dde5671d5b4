"""List events: intersect what each filter selects, newest first, and check every hit against its row.

Bounded in time: a combination of filters that hardly ever meets is cut off after `_BUDGET_S`, says so, and
can be gone on with. A text search is bounded in rows too.
"""

from collections.abc import Callable

import apsw

from forwarder.model import State
from forwarder.ports import EventPage, EventQuery, EventRow
from forwarder.spool.reading.rows import EVENT_COLUMNS, EventValues, damaged_row, event_row, is_pending
from forwarder.spool.reading.standings import standing_of
from forwarder.spool.reading.streams import PrintStream, Stream, TableStream, UnionStream, built_to, label_needle
from forwarder.spool.reading.times import BlockTimes
from forwarder.spool.store.codes import PENDING, ROUTE_CODES, ROUTES, STATE_CODES
from forwarder.spool.store.database import Reader
from forwarder.spool.store.segments import KIND_EVENT, KIND_MESSAGE, KIND_ROUTE, KIND_USER

_BUDGET_S = 0.12
_EVENT = f"SELECT {EVENT_COLUMNS} FROM events WHERE sequence = ?"  # noqa: S608 - our own columns
_HAS_TEXT = "SELECT instr(payload, ?) FROM events WHERE sequence = ?"


def search(connection: Reader, query: EventQuery, *, now_s: Callable[[], float]) -> EventPage:
    """Return one page; `now_s` is a monotonic clock."""
    return _Walk(connection, query, now_s).page()


class _Walk:
    def __init__(self, connection: Reader, query: EventQuery, now_s: Callable[[], float]) -> None:
        self._connection = connection
        self._query = query
        self._now_s = now_s
        self._deadline_s = now_s() + _BUDGET_S
        self._is_up = query.after_sequence is not None
        self._built_to = built_to(connection)
        self._streams = self._choose_streams()
        self._rows: list[EventRow] = []
        self._scanned = 0
        self._last: int | None = None
        self._reached_ms: int | None = None

    def page(self) -> EventPage:
        sequence = start = self._start()
        while True:
            found = self._next(sequence)
            if found is None:
                return self._answer(is_more=False)
            if found != start and self._is_spent():
                self._last = found + 1 if not self._is_up else found - 1
                return self._answer(is_more=True, is_cut=True)
            sequence = found - 1 if not self._is_up else found + 1
            row = self._row(found)
            if row is None:
                continue
            if self._has_text(found):
                if len(self._rows) >= self._query.limit:
                    return self._answer(is_more=True)
                self._rows.append(row)
            self._scanned += 1
            self._reached_ms = row.received_at_ms
            self._last = found

    def _answer(self, *, is_more: bool, is_cut: bool = False) -> EventPage:
        continued = self._last if is_more else None
        return EventPage(
            rows=tuple(self._rows),
            next_before=None if self._is_up else continued,
            next_after=continued if self._is_up else None,
            is_cut=is_cut,
            scanned=self._scanned,
            reached_ms=self._reached_ms,
        )

    def _start(self) -> int:
        query = self._query
        if query.after_sequence is not None:
            return query.after_sequence + 1
        if query.before_sequence is not None:
            return query.before_sequence - 1
        # The last one ever given, so that the walk begins near something even where a page is damaged.
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return 0 if row is None else int(row[0])

    def _is_spent(self) -> bool:
        if self._query.text is not None and self._scanned >= self._query.scan_max:
            return True
        return self._now_s() > self._deadline_s

    def _next(self, sequence: int) -> int | None:
        """Return the next sequence that is in every stream."""
        agreed = 0
        index = 0
        count = len(self._streams)
        leaps = 0
        while agreed < count:
            found = self._streams[index].seek(sequence)
            if found is None or not self._is_within(found):
                return None
            agreed = agreed + 1 if found == sequence else 1
            sequence = found
            index = (index + 1) % count
            leaps += 1
            if leaps % 256 == 0 and self._now_s() > self._deadline_s:
                return sequence
        return sequence

    def _is_within(self, sequence: int) -> bool:
        before = self._query.before_sequence
        return sequence > 0 and (before is None or sequence < before)

    def _row(self, sequence: int) -> EventRow | None:
        """Return the event's row if it really matches."""
        try:
            values: EventValues | None = self._connection.execute(_EVENT, (sequence,)).fetchone()
        except apsw.CorruptError:
            return self._damaged(sequence)
        if values is None or not self._matches(values):
            return None
        standing = standing_of(self._connection, values[1], sequence)
        is_meant = self._query.state is None or standing.state == STATE_CODES[self._query.state]
        return event_row(values, standing) if is_meant else None

    def _damaged(self, sequence: int) -> EventRow | None:
        """Show that there is an event where its row cannot be read; it has no labels to match."""
        query = self._query
        if query.event is not None or query.user_id is not None or query.message_id is not None:
            return None
        for route in (0, 1):
            standing = standing_of(self._connection, route, sequence)
            if not is_pending(standing) and query.route in (None, ROUTES[route]):
                return damaged_row(sequence, route, standing)
        return None

    def _matches(self, values: EventValues) -> bool:
        query = self._query
        return (
            query.route in (None, ROUTES[values[1]])
            and query.event in (None, values[5])
            and query.message_id in (None, values[6])
            and query.user_id in (None, values[7])
            and (query.received_from_ms is None or values[2] >= query.received_from_ms)
            and (query.received_to_ms is None or values[2] < query.received_to_ms)
        )

    def _has_text(self, sequence: int) -> bool:
        if self._query.text is None:
            return True
        needle = self._query.text.encode("utf-8", "replace")
        try:
            row = self._connection.execute(_HAS_TEXT, (needle, sequence)).fetchone()
        except apsw.CorruptError:
            return False
        return bool(row and row[0])

    # --- what to walk along ---

    def _choose_streams(self) -> list[Stream]:
        query = self._query
        streams: list[Stream] = []
        labels = (
            (KIND_MESSAGE, "message_id", query.message_id),
            (KIND_USER, "user_id", query.user_id),
            (KIND_EVENT, "event", query.event),
        )
        streams += [self._label(kind, column, value) for kind, column, value in labels if value is not None]
        if query.reason is not None:
            streams.append(self._reason(query.reason))
        elif query.state is not None:
            streams.append(self._state(query.state))
        if query.route is not None and query.state is None:
            streams.append(self._route(ROUTE_CODES[query.route]))
        if query.received_from_ms is not None or query.received_to_ms is not None:
            streams.append(BlockTimes(self._connection, query, self._built_to, is_up=self._is_up))
        return streams or [self._table("events", "1")]

    def _table(self, table: str, condition: str, *values: object) -> TableStream:
        return TableStream(self._connection, table, condition, values, is_up=self._is_up)

    def _label(self, kind: int, column: str, value: str) -> Stream:
        return self._prints(kind, label_needle(value), f"{column} = ?", value)

    def _route(self, code: int) -> Stream:
        return self._prints(KIND_ROUTE, bytes([code + 1]), "route = ?", code)

    def _prints(self, kind: int, needle: bytes, condition: str, value: object) -> Stream:
        rest = self._table("events", f"{condition} AND sequence >= ?", value, self._built_to)
        return PrintStream(
            self._connection, kind=kind, needle=needle, built_to=self._built_to, rest=rest, is_up=self._is_up
        )

    def _state(self, state: State) -> Stream:
        routes = [ROUTE_CODES[self._query.route]] if self._query.route is not None else [0, 1]
        if state is State.PENDING:
            tables = [self._table(t, "route = ?", r) for r in routes for t in ("ready", "blocked", "retries")]
        else:
            tables = [self._table("outcomes", "route = ? AND state = ?", r, STATE_CODES[state]) for r in routes]
        return UnionStream(tables, is_up=self._is_up)

    def _reason(self, reason: str) -> Stream:
        ids = self._connection.execute("SELECT reason_id, state, route FROM reasons WHERE reason = ?", (reason,))
        streams: list[Stream] = []
        for reason_id, state, route in ids.fetchall():
            if self._query.state is not None and STATE_CODES[self._query.state] != state:
                continue
            if self._query.route is not None and ROUTE_CODES[self._query.route] != route:
                continue
            if state == PENDING:
                streams.append(self._table("retries", "reason_id = ?", reason_id))
            else:
                # Given apart, so that both are a range of the index.
                streams += [
                    self._table("outcomes", "reason_id = ? AND is_discarded = ?", reason_id, discarded)
                    for discarded in (0, 1)
                ]
        return UnionStream(streams, is_up=self._is_up)
