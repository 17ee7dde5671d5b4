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

from forwarder.archive_port import EventPage, EventQuery, EventRow
from forwarder.model import State
from forwarder.spool.codes import ROUTE_CODES
from forwarder.spool.page_walk import PageWalk
from forwarder.spool.sqlite.reading.criteria import Criteria
from forwarder.spool.sqlite.reading.standing import damaged_row, event_row, event_values, standing_of
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader

_CHUNK_FIRST = 16  # events of the first statement; payloads may have megabytes
_CHUNK_MAX = 1_024

Found = tuple[int, int, bool]  # sequence, route, and whether it may be a match: else it says how far the walk is


def search(connection: Reader, query: EventQuery, *, now_s: Callable[[], float]) -> EventPage:
    """Return one page; `now_s` is a monotonic clock."""
    return _Walk(connection, query, now_s).page()


class _Walk(PageWalk):
    def __init__(self, connection: Reader, query: EventQuery, now_s: Callable[[], float]) -> None:
        super().__init__(query, now_s, chunk=_CHUNK_FIRST)
        self._connection = connection
        routes = [ROUTE_CODES[query.route]] if query.route is not None else range(len(EVENT_TABLES))
        self._routes = {code: _Route(connection, query, code, now_s, self._deadline_s) for code in routes}
        self._last: int | None = None

    def page(self) -> EventPage:
        chunk: list[Found] = []
        start = self._start()
        for found in heapq.merge(*[one.candidates(start) for one in self._routes.values()], reverse=not self._is_up):
            is_due = len(chunk) >= self._room() or self._now_s() > self._deadline_s
            if chunk and is_due and found[0] != chunk[-1][0]:  # both routes may offer the same one
                if self._is_full_after(chunk):
                    return self._answer(self._last)
                chunk = []
                if self._is_spent():
                    return self._answer(self._last, is_cut=True)
            if found[2]:
                chunk.append(found)
            elif not chunk:
                self._last = found[0] - 1 if self._is_up else found[0] + 1
                return self._answer(self._last, is_cut=True)
        return self._answer(self._last if chunk and self._is_full_after(chunk) else None)

    def _start(self) -> int:
        query = self._query
        if query.after_sequence is not None:
            return query.after_sequence + 1
        if query.before_sequence is not None:
            return query.before_sequence - 1
        # The last one ever given, so that the walk begins near something even where a page is damaged.
        row = self._connection.execute("SELECT amount FROM totals WHERE route = 0 AND account = 10").fetchone()
        return 0 if row is None else int(row[0])

    def _is_full_after(self, chunk: Sequence[Found]) -> bool:
        """Take the matches of a chunk; True when there was one more than fits."""
        began_s = self._now_s()
        looked = self._look(chunk)
        self._pace(self._now_s() - began_s, most=_CHUNK_MAX)
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
        self._criteria = Criteria(connection, query, code)
        self._streams = self._criteria.streams()
        self._sql, self._values = self._criteria.statement()

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
            is_meant = (
                row is not None
                and query.state in (None, row.state)
                and query.reason in (None, row.reason)
                and (query.has_discarded or not row.is_discarded)
            )
            return row if is_meant else None
        standing = standing_of(self._connection, self.code, sequence)
        if values is None or not self._criteria.admit(standing):
            return None
        return event_row(self.code, values, standing)

    def _is_within(self, sequence: int) -> bool:
        before = self._query.before_sequence
        return sequence > 0 and (before is None or sequence < before)
