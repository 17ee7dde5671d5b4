"""List events: intersect what each filter selects, newest first, and check every hit against its row.

Bounded in time: a combination of filters that hardly ever meets is cut off after `_BUDGET_S`, says so, and
can be gone on with. A text search is bounded in rows too.
"""

from collections.abc import Callable, Sequence

import apsw

from forwarder.model import State
from forwarder.ports import EventPage, EventQuery, EventRow
from forwarder.spool.sqlite.label_index import KIND_EVENT, KIND_MESSAGE, KIND_ROUTE, KIND_USER, built_to
from forwarder.spool.sqlite.reading.standing import EventValues, damaged_row, event_row, event_values, standing_of
from forwarder.spool.sqlite.reading.streams import (
    LabelStream,
    RunStream,
    Stream,
    TableStream,
    TimeStream,
    UnionStream,
    UnsettledStream,
    label_needle,
)
from forwarder.spool.sqlite.transaction import (
    EVENT_TABLES,
    PENDING,
    ROUTE_CODES,
    STATE_CODES,
    Reader,
    floor_mark,
    read_mark,
)

_BUDGET_S = 0.12


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
        self._routes = [ROUTE_CODES[query.route]] if query.route is not None else [0, 1]
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
            if self._has_text(row):
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
        row = self._connection.execute("SELECT amount FROM totals WHERE route = 0 AND account = 10").fetchone()
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
        state = self._query.state
        for route in self._routes:
            try:
                values = event_values(self._connection, route, sequence)
            except apsw.CorruptError:
                row = self._damaged(route, sequence)
                if row is not None:
                    return row
                continue
            if values is not None and self._matches(values):
                standing = standing_of(self._connection, route, sequence)
                is_meant = state is None or standing.state == STATE_CODES[state]
                if is_meant and self._query.reason in (None, standing.reason):
                    return event_row(route, values, standing)
        return None

    def _damaged(self, route: int, sequence: int) -> EventRow | None:
        """Show that there is an event where its row cannot be read; it has no labels to match."""
        query = self._query
        if query.event is not None or query.user_id is not None or query.message_id is not None:
            return None
        row = damaged_row(self._connection, route, sequence)
        is_meant = row is not None and query.state in (None, row.state) and query.reason in (None, row.reason)
        return row if is_meant else None

    def _matches(self, values: EventValues) -> bool:
        query = self._query
        return (
            query.event in (None, values[4])
            and query.message_id in (None, values[5])
            and query.user_id in (None, values[6])
            and (query.received_from_ms is None or values[1] >= query.received_from_ms)
            and (query.received_to_ms is None or values[1] < query.received_to_ms)
        )

    def _has_text(self, row: EventRow) -> bool:
        if self._query.text is None:
            return True
        needle = self._query.text.encode("utf-8", "replace")
        table = EVENT_TABLES[ROUTE_CODES[row.route]]
        sql = f"SELECT instr(payload, ?) FROM {table} WHERE sequence = ?"  # noqa: S608 - our own words
        try:
            found = self._connection.execute(sql, (needle, row.sequence)).fetchone()
        except apsw.CorruptError:
            return False
        return bool(found and found[0])

    # --- what to walk along ---

    def _choose_streams(self) -> list[Stream]:
        query = self._query
        streams: list[Stream] = []
        labels = (
            (KIND_MESSAGE, "message_id", query.message_id),
            (KIND_USER, "user_id", query.user_id),
            (KIND_EVENT, "event", query.event),
        )
        streams += [
            self._label(kind, label_needle(value), f"{column} = ?", value)
            for kind, column, value in labels
            if value is not None
        ]
        if query.reason is not None:
            streams.append(self._reason(query.reason))
        elif query.state is not None:
            streams.append(self._state(query.state))
        if query.route is not None and query.state is None:
            streams.append(self._label(KIND_ROUTE, bytes([ROUTE_CODES[query.route] + 1]), "1"))
        if query.received_from_ms is not None or query.received_to_ms is not None:
            streams.append(TimeStream(self._connection, query, self._built_to, is_up=self._is_up))
        return streams or [self._events("1")]

    def _events(self, condition: str, *values: object) -> Stream:
        tables = [EVENT_TABLES[route] for route in self._routes]
        streams = [TableStream(self._connection, table, condition, values, is_up=self._is_up) for table in tables]
        return UnionStream(streams, is_up=self._is_up)

    def _label(self, kind: int, needle: bytes, condition: str, *values: object) -> Stream:
        rest = self._events(f"{condition} AND sequence >= ?", *values, self._built_to)
        return LabelStream(
            self._connection, kind=kind, needle=needle, built_to=self._built_to, rest=rest, is_up=self._is_up
        )

    def _state(self, state: State) -> Stream:
        if state is State.PENDING:
            streams = [stream for route in self._routes for stream in self._pending(route)]
        else:
            streams = [self._runs("route = ? AND state = ?", r, STATE_CODES[state]) for r in self._routes]
        return UnionStream(streams, is_up=self._is_up)

    def _pending(self, route: int) -> Sequence[Stream]:
        """Return what was given back, and what never was: the latter lies above the floor."""
        floor = read_mark(self._connection, floor_mark(route))
        back = TableStream(self._connection, "given_back", "route = ?", (route,), is_up=self._is_up)
        return back, UnsettledStream(self._connection, route, floor=floor, is_up=self._is_up)

    def _reason(self, reason: str) -> Stream:
        ids = self._connection.execute("SELECT reason_id, state, route FROM reasons WHERE reason = ?", (reason,))
        streams: list[Stream] = []
        for reason_id, state, route in ids.fetchall():
            if self._query.state is not None and STATE_CODES[self._query.state] != state:
                continue
            if route not in self._routes:
                continue
            if state == PENDING:
                streams.append(
                    TableStream(self._connection, "given_back", "reason_id = ?", (reason_id,), is_up=self._is_up)
                )
            else:
                # Given apart, so that both are a range of the index.
                streams += [self._runs("reason_id = ? AND is_discarded = ?", reason_id, is_so) for is_so in (0, 1)]
        return UnionStream(streams, is_up=self._is_up)

    def _runs(self, condition: str, *values: object) -> Stream:
        return RunStream(self._connection, condition, values, is_up=self._is_up)
