"""List and count events: intersect what each filter selects, newest first, and check every hit against its row.

The routes are walked side by side, in chunks: one statement tells which events of a chunk meet the filters on their own
row, their payload included. So a search reads hundreds of thousands of events in a second, and leaves the interpreter
to the others meanwhile. Bounded in time: what takes longer than the query's `budget_s` is cut off, says so, and can be
gone on with. A text search is bounded in rows, too.
"""

import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence

import apsw

from forwarder.model import State
from forwarder.ports import EventPage, EventQuery, EventRow
from forwarder.spool.sqlite.label_index import KIND_EVENT, KIND_MESSAGE, KIND_USER, built_to
from forwarder.spool.sqlite.reading.standing import Standing, damaged_row, event_row, event_values, standing_of
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

_CHUNK_FIRST = 16  # events of the first statement; payloads may have megabytes
_CHUNK_MAX = 1_024
_CHUNK_S = 0.02  # a statement that took less is followed by one over twice as many, another by one over half
_SUCCESS = (200, 299)
# What the index of these holds; in the words of the schema, or it is not used.
_TROUBLED = "(attempts > 1 OR status NOT BETWEEN 200 AND 299)"
_IN_ANY_CASE = "LIKE ? ESCAPE '\\'"
_LABELS = ("event", "message_id", "user_id")
_ANYTHING = (0, 2**62)

Found = tuple[int, int, bool]  # sequence, route, and whether it may be a match: else it says how far the walk is


def search(connection: Reader, query: EventQuery, *, now_s: Callable[[], float]) -> EventPage:
    """Return one page; `now_s` is a monotonic clock."""
    return _Walk(connection, query, now_s).page()


class _Walk:
    def __init__(self, connection: Reader, query: EventQuery, now_s: Callable[[], float]) -> None:
        self._connection = connection
        self._query = query
        self._now_s = now_s
        self._deadline_s = now_s() + query.budget_s
        self._is_up = query.after_sequence is not None
        routes = [ROUTE_CODES[query.route]] if query.route is not None else range(len(EVENT_TABLES))
        self._routes = {code: _Route(connection, query, code, now_s, self._deadline_s) for code in routes}
        self._chunk_max = _CHUNK_FIRST
        self._rows: list[EventRow] = []
        self._matched = 0
        self._scanned = 0
        self._last: int | None = None
        self._reached_ms: int | None = None

    def page(self) -> EventPage:
        chunk: list[Found] = []
        start = self._start()
        for found in heapq.merge(*[one.candidates(start) for one in self._routes.values()], reverse=not self._is_up):
            is_due = len(chunk) >= self._room() or self._now_s() > self._deadline_s
            if chunk and is_due and found[0] != chunk[-1][0]:  # both routes may offer the same one
                if self._is_full_after(chunk):
                    return self._answer(is_more=True)
                chunk = []
                if self._is_spent():
                    return self._answer(is_more=True, is_cut=True)
            if found[2]:
                chunk.append(found)
            elif not chunk:
                self._last = found[0] - 1 if self._is_up else found[0] + 1
                return self._answer(is_more=True, is_cut=True)
        return self._answer(is_more=bool(chunk) and self._is_full_after(chunk))

    def _answer(self, *, is_more: bool, is_cut: bool = False) -> EventPage:
        continued = self._last if is_more else None
        return EventPage(
            rows=tuple(self._rows),
            next_before=None if self._is_up else continued,
            next_after=continued if self._is_up else None,
            is_cut=is_cut,
            matched=self._matched,
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

    def _room(self) -> int:
        """Return how many events the next statement may look at."""
        if self._query.text is None:
            return self._chunk_max
        return max(1, min(self._chunk_max, self._query.scan_max - self._scanned))

    def _is_spent(self) -> bool:
        if self._query.text is not None and self._scanned >= self._query.scan_max:
            return True
        return self._now_s() > self._deadline_s

    def _is_full_after(self, chunk: Sequence[Found]) -> bool:
        """Take the matches of a chunk; True when there was one more than fits."""
        began_s = self._now_s()
        looked = self._look(chunk)
        took_s = self._now_s() - began_s
        self._chunk_max = min(2 * self._chunk_max, _CHUNK_MAX) if took_s < _CHUNK_S else max(1, self._chunk_max // 2)
        limit = self._query.limit
        for sequence, route in heapq.merge(*[one.matches for one in looked], reverse=not self._is_up):
            row = self._routes[route].row(sequence, is_shown=limit > 0)
            if row is None:
                continue
            if 0 < limit <= len(self._rows):
                self._last = sequence - 1 if self._is_up else sequence + 1
                # What lies behind the last one that fits is looked at by the next page.
                before = [one for one in chunk if (one[0] < sequence) is self._is_up and one[0] != sequence]
                self._note(self._look(before))
                return True
            self._matched += 1
            if limit > 0 and isinstance(row, EventRow):
                self._rows.append(row)
        self._note(looked)
        self._last = chunk[-1][0]
        return False

    def _look(self, chunk: Sequence[Found]) -> Sequence["_Looked"]:
        looked = [one.look([found[0] for found in chunk if found[1] == code]) for code, one in self._routes.items()]
        return [one for one in looked if one.scanned]

    def _note(self, looked: Sequence["_Looked"]) -> None:
        self._scanned += sum(one.scanned for one in looked)
        if looked:
            last = (max if self._is_up else min)(looked, key=lambda one: one.last)
            self._reached_ms = last.reached_ms


class _Looked:
    """What a chunk of one route held: how many events met the filters on their row, and who matches the text too."""

    __slots__ = ("last", "matches", "reached_ms", "scanned")

    def __init__(self, scanned: int, last: int, reached_ms: int, matches: list[tuple[int, int]]) -> None:
        self.scanned = scanned
        self.last = last
        self.reached_ms = reached_ms
        self.matches = matches  # with the route, in the direction of the walk


class _Route:
    """The events of one route that a query may mean."""

    def __init__(
        self, connection: Reader, query: EventQuery, code: int, now_s: Callable[[], float], deadline_s: float
    ) -> None:
        self.code = code
        self._connection = connection
        self._query = query
        self._now_s = now_s
        self._deadline_s = deadline_s
        self._is_up = query.after_sequence is not None
        self._built_to = built_to(connection)
        self._streams = self._choose_streams()
        self._sql, self._values = self._statement()

    def candidates(self, sequence: int) -> Iterator[Found]:
        """Yield the sequences that are in every stream, and now and then how far the walk is."""
        while True:
            agreed = index = leaps = 0
            while agreed < len(self._streams):
                found = self._streams[index].seek(sequence)
                if found is None or not self._is_within(found):
                    return
                agreed = agreed + 1 if found == sequence else 1
                sequence = found
                index = (index + 1) % len(self._streams)
                leaps += 1
                if leaps % 256 == 0 and self._now_s() > self._deadline_s:
                    yield sequence, self.code, False
            yield sequence, self.code, True
            sequence += 1 if self._is_up else -1

    def look(self, sequences: Sequence[int]) -> _Looked:
        """Return who of these events meets the filters on its own row."""
        if not sequences:
            return _Looked(0, 0, 0, [])
        try:
            scanned, last, reached_ms, matches = self._connection.execute(
                self._sql, (*self._values, apsw.carray(array("q", sequences)))
            ).fetchone()
        except apsw.CorruptError:
            if len(sequences) == 1:  # there is an event whose row cannot be read: it has nothing to match but its state
                is_meant = not any((self._query.event, self._query.user_id, self._query.message_id, self._query.text))
                return _Looked(1, sequences[0], 0, [(sequences[0], self.code)] if is_meant else [])
            parts = [part for one in sequences if (part := self.look([one])).scanned]
            if not parts:
                return _Looked(0, 0, 0, [])
            matches_of_all = [match for part in parts for match in part.matches]
            return _Looked(len(parts), parts[-1].last, parts[-1].reached_ms, matches_of_all)
        found = sorted(map(int, matches.split(",")), reverse=not self._is_up) if matches else []
        return _Looked(scanned, last or 0, reached_ms or 0, [(sequence, self.code) for sequence in found])

    def row(self, sequence: int, *, is_shown: bool) -> EventRow | bool | None:
        """Return the row of an event that was found; None if its standing is not what was asked for.

        True instead of the row where it is only to be counted.
        """
        query = self._query
        if not is_shown and query.state is not State.PENDING and not query.attempts:
            return True  # the streams are exact, but for what is in no run: they offer some that are now and then
        try:
            values = event_values(self._connection, self.code, sequence)
        except apsw.CorruptError:
            row = damaged_row(self._connection, self.code, sequence)
            is_meant = row is not None and query.state in (None, row.state) and query.reason in (None, row.reason)
            return row if is_meant else None
        standing = standing_of(self._connection, self.code, sequence)
        if values is None or not self._is_meant(standing):
            return None
        return event_row(self.code, values, standing)

    def _is_meant(self, standing: Standing) -> bool:
        query = self._query
        return (
            (query.state is None or standing.state == STATE_CODES[query.state])
            and query.reason in (None, standing.reason)
            and _is_in(standing.status, query.status)
            and _is_in(standing.attempts, query.attempts)
        )

    def _is_within(self, sequence: int) -> bool:
        before = self._query.before_sequence
        return sequence > 0 and (before is None or sequence < before)

    def _statement(self) -> tuple[str, tuple[object, ...]]:
        """Return what asks the rows of a chunk: how many, the last one with its time, and which have the text."""
        query, match = self._query, "sequence"
        values: list[object] = []
        if query.text is not None:
            pattern = f"%{_escaped(query.text)}%"
            texts = (*_LABELS, "CAST(payload AS TEXT)")
            match = (
                f"CASE WHEN {' OR '.join(f'{one} {_IN_ANY_CASE}' for one in texts)} OR sequence = ? THEN sequence END"
            )
            values += [pattern] * len(texts) + [int(query.text) if _is_number(query.text) else 0]
        conditions = []
        for column, value in zip(_LABELS, (query.event, query.message_id, query.user_id), strict=True):
            if value is not None:
                conditions.append(f"{column} = ? AND ")
                values.append(value)
        if query.received_from_ms is not None:
            conditions.append("received_at_ms >= ? AND ")
            values.append(query.received_from_ms)
        if query.received_to_ms is not None:
            conditions.append("received_at_ms < ? AND ")
            values.append(query.received_to_ms)
        last = "max" if self._is_up else "min"
        sql = (
            f"SELECT count(*), {last}(sequence), received_at_ms, group_concat({match}) "  # noqa: S608 - our own words
            f"FROM {EVENT_TABLES[self.code]} WHERE {''.join(conditions)} sequence IN carray(?)"
        )
        return sql, tuple(values)

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
        if query.status is not None or query.attempts is not None:
            streams.append(self._tried())
        if query.received_from_ms is not None or query.received_to_ms is not None:
            if not streams:
                streams.append(self._table(EVENT_TABLES[self.code], "1"))
            streams.append(TimeStream(self._connection, query, self.code, self._built_to, is_up=self._is_up))
        return streams or [self._table(EVENT_TABLES[self.code], "1")]

    def _table(self, table: str, condition: str, *values: object) -> Stream:
        return TableStream(self._connection, table, condition, values, is_up=self._is_up)

    def _runs(self, condition: str, *values: object, index: str = "") -> Stream:
        return RunStream(self._connection, condition, values, is_up=self._is_up, index=index)

    def _label(self, kind: int, column: str, value: str) -> Stream:
        rest = self._table(EVENT_TABLES[self.code], f"{column} = ? AND sequence >= ?", value, self._built_to)
        return LabelStream(
            self._connection,
            kind=kind,
            needle=label_needle(value),
            built_to=self._built_to,
            rest=rest,
            is_up=self._is_up,
        )

    def _state(self, state: State) -> Stream:
        if state is not State.PENDING:
            return self._runs("route = ? AND state = ?", self.code, STATE_CODES[state])
        # What was given back, and what never was: the latter lies above the floor.
        floor = read_mark(self._connection, floor_mark(self.code))
        never = UnsettledStream(self._connection, self.code, floor=floor, is_up=self._is_up)
        return UnionStream([self._table("given_back", "route = ?", self.code), never], is_up=self._is_up)

    def _reason(self, reason: str) -> Stream:
        ids = self._connection.execute(
            "SELECT reason_id, state FROM reasons WHERE reason = ? AND route = ?", (reason, self.code)
        )
        streams: list[Stream] = []
        for reason_id, state in ids.fetchall():
            if self._query.state is not None and STATE_CODES[self._query.state] != state:
                continue
            if state == PENDING:
                streams.append(self._table("given_back", "reason_id = ?", reason_id))
            else:
                # Given apart, so that both are a range of the index.
                streams += [self._runs("reason_id = ? AND is_discarded = ?", reason_id, is_so) for is_so in (0, 1)]
        return UnionStream(streams, is_up=self._is_up)

    def _tried(self) -> Stream:
        """Return what was attempted so often and answered so."""
        query = self._query
        values: list[object] = [self.code, *(query.attempts or _ANYTHING)]
        condition = "route = ? AND attempts BETWEEN ? AND ?"
        if query.status is not None:
            condition += " AND status BETWEEN ? AND ?"
            values += query.status
        index, known = ("settled_troubled", f"{_TROUBLED} AND ") if _is_troubled(query) else ("", "")
        streams: list[Stream] = [self._runs(known + condition, *values, index=index)]
        if query.status is None and query.attempts is not None and query.attempts[0] == 0:
            streams.append(self._state(State.PENDING))
        else:
            streams.append(self._table("given_back", condition, *values))
        return UnionStream(streams, is_up=self._is_up)


def _is_troubled(query: EventQuery) -> bool:
    """Tell whether only events are meant that are in the index of those, or in no run."""
    is_no_success = query.status is not None and (query.status[1] < _SUCCESS[0] or query.status[0] > _SUCCESS[1])
    return is_no_success or (query.attempts is not None and query.attempts[0] > 1)


def _is_in(value: int | None, bounds: tuple[int, int] | None) -> bool:
    return bounds is None or (value is not None and bounds[0] <= value <= bounds[1])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(2**62)) - 1


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
