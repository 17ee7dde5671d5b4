"""Sorted streams of sequences that a search walks along, in either direction.

Each answers one question: which of your sequences is the next one from here on, this one included? So
several are intersected by leaping from one to the other, at a cost of the rarest.
"""

from collections.abc import Sequence
from typing import Protocol

import apsw

from forwarder.archive_port import EventQuery
from forwarder.spool.sqlite.label_index import BLOCK_EVENTS, KIND_ROUTE, label_hash
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader

_CHUNK = 64
_HASH_BYTES = 4
_FOREVER_MS = 2**62
_HOPS_MAX = 256


class Stream(Protocol):
    """A sorted set of sequences."""

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on, in the stream's direction; None at the end.

        Calls only ever move on. A sequence that is returned may not be a match: who takes it checks the event itself.
        """


class TableStream:
    """The sequences that a statement selects, read in chunks."""

    def __init__(
        self, connection: Reader, table: str, condition: str, values: Sequence[object], *, is_up: bool
    ) -> None:
        compare, order = (">=", "ASC") if is_up else ("<=", "DESC")
        # Table and condition are this package's own words; values are bound.
        select = f"SELECT sequence FROM {table} WHERE {condition} AND sequence"  # noqa: S608 - our own tables and columns
        self._sql = f"{select} {compare} ? ORDER BY sequence {order} LIMIT {_CHUNK}"
        self._one_sql = f"{select} = ?"
        self._connection = connection
        self._values = tuple(values)
        self._is_up = is_up
        self._chunk: list[int] = []
        self._position = 0
        self._is_over = False

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        while self._position < len(self._chunk):
            candidate = self._chunk[self._position]
            if candidate >= sequence if self._is_up else candidate <= sequence:
                return candidate
            self._position += 1
        if self._is_over:
            return None
        try:
            rows = self._connection.execute(self._sql, (*self._values, sequence)).fetchall()
            self._chunk = [row[0] for row in rows]
            self._is_over = len(rows) < _CHUNK
        except apsw.CorruptError:
            self._chunk = self._salvage(sequence)
        self._position = 0
        return self._chunk[0] if self._chunk else None

    def _salvage(self, sequence: int) -> list[int]:
        """Return the next sequences beside a damaged page one by one; what cannot be read may be one, too."""
        found: list[int] = []
        for candidate in range(sequence, sequence + _CHUNK) if self._is_up else range(sequence, sequence - _CHUNK, -1):
            try:
                row = self._connection.execute(self._one_sql, (*self._values, candidate)).fetchone()
            except apsw.CorruptError:
                row = (candidate,)
            if row is not None:
                found.append(candidate)
        return found


class RunStream:
    """The sequences of the runs that a statement selects: all between their ends."""

    def __init__(
        self, connection: Reader, condition: str, values: Sequence[object], *, is_up: bool, index: str = ""
    ) -> None:
        by = f"INDEXED BY {index} " if index else ""
        select = f"SELECT first, last FROM settled {by}WHERE {condition} AND last"  # noqa: S608 - our own columns
        self._sql = f"{select} >= ? ORDER BY last LIMIT 1"
        self._before_sql = f"{select} < ? ORDER BY last DESC LIMIT 1"
        self._connection = connection
        self._values = tuple(values)
        self._is_up = is_up
        self._run = (1, 0)

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        if self._run[0] <= sequence <= self._run[1]:
            return sequence
        row = self._connection.execute(self._sql, (*self._values, sequence)).fetchone()
        if row is None or (row[0] > sequence and not self._is_up):
            if self._is_up:
                return None
            row = self._connection.execute(self._before_sql, (*self._values, sequence)).fetchone()
        if row is None:
            return None
        first, last = self._run = (int(row[0]), int(row[1]))
        return max(sequence, first) if self._is_up else min(sequence, last)


class UnsettledStream:
    """The sequences of a route above a floor that are in no run.

    Where runs are many and short it offers one of them now and then, so that whoever asks can look at the time.
    """

    def __init__(self, connection: Reader, route: int, *, floor: int, is_up: bool) -> None:
        self._floor = floor
        events = TableStream(connection, EVENT_TABLES[route], "1", (), is_up=is_up)
        self._events = events
        self._connection = connection
        self._route = route
        self._is_up = is_up

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        sql = "SELECT first, last FROM settled WHERE route = ? AND last >= ? ORDER BY last LIMIT 1"
        sequence = max(sequence, self._floor + 1) if self._is_up else sequence
        for _ in range(_HOPS_MAX):
            found = self._events.seek(sequence)
            if found is None or found <= self._floor:
                return None
            run = self._connection.execute(sql, (self._route, found)).fetchone()
            if run is None or run[0] > found:
                return found
            sequence = run[1] + 1 if self._is_up else run[0] - 1
        return found


class UnionStream:
    """Whatever is in any of several streams."""

    def __init__(self, streams: Sequence[Stream], *, is_up: bool) -> None:
        self._streams = streams
        self._choose = min if is_up else max

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        found = [candidate for s in self._streams if (candidate := s.seek(sequence)) is not None]
        return self._choose(found) if found else None


class LabelStream:
    """The sequences whose label may have a value: the blocks of hashes, and the rows that are in no block yet."""

    def __init__(
        self, connection: Reader, *, kind: int, needle: bytes, built_to: int, rest: Stream, is_up: bool
    ) -> None:
        self._connection = connection
        self._kind = kind
        self._needle = needle
        self._built_to = built_to
        self._rest = rest  # of the rows from `built_to` on
        self._is_up = is_up
        self._block: int | None = None
        self._hashes = b""

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        built_to = self._built_to
        if self._is_up:
            found = self._seek_blocks(sequence) if sequence < built_to else None
            return self._rest.seek(max(sequence, built_to)) if found is None else found
        rest = self._rest.seek(sequence) if sequence >= built_to else None
        return self._seek_blocks(min(sequence, built_to - 1)) if rest is None else rest

    def _seek_blocks(self, sequence: int) -> int | None:
        block: int | None = sequence // BLOCK_EVENTS
        position = sequence % BLOCK_EVENTS
        while block is not None:
            if self._block != block:
                loaded = self._load(block)
                if loaded is None:
                    return None
                if loaded != block:
                    position = 0 if self._is_up else BLOCK_EVENTS - 1
                block = loaded
            found = self._find(position)
            if found is not None:
                return block * BLOCK_EVENTS + found
            block = block + 1 if self._is_up else block - 1
            position = 0 if self._is_up else BLOCK_EVENTS - 1
        return None

    def _load(self, block: int) -> int | None:
        compare, order = (">=", "ASC") if self._is_up else ("<=", "DESC")
        row = self._connection.execute(
            f"SELECT block, hashes FROM label_index WHERE kind = ? AND block {compare} ? "  # noqa: S608 - our words
            f"ORDER BY block {order} LIMIT 1",
            (self._kind, block),
        ).fetchone()
        if row is None:
            return None
        self._block, self._hashes = int(row[0]), row[1]
        return self._block

    def _find(self, position: int) -> int | None:
        width = len(self._needle)
        start = position * width if self._is_up else (position + 1) * width
        while True:
            at = self._hashes.find(self._needle, start) if self._is_up else self._hashes.rfind(self._needle, 0, start)
            if at < 0:
                return None
            if at % width == 0:
                return at // width
            # Across two hashes: not one of them.
            start = at + 1 if self._is_up else at + width - 1


class TimeStream:
    """The sequences that may have been received within a range of time: the blocks that it meets, and the rest.

    Sequences follow the time of arrival only roughly (a clock may be set back), so each block carries its own earliest
    and latest time.
    """

    def __init__(self, connection: Reader, query: EventQuery, route: int, built_to: int, *, is_up: bool) -> None:
        from_ms = query.received_from_ms if query.received_from_ms is not None else 0
        to_ms = query.received_to_ms if query.received_to_ms is not None else _FOREVER_MS
        rows = connection.execute(
            "SELECT block FROM label_index WHERE kind = ? AND high_ms >= ? AND low_ms < ? ORDER BY block",
            (KIND_ROUTE, from_ms, to_ms),
        ).fetchall()
        self._blocks: list[int] = [row[0] for row in (rows if is_up else reversed(rows))]
        self._position = 0
        self._built_to = built_to
        self._is_up = is_up
        condition = "received_at_ms >= ? AND received_at_ms < ? AND sequence >= ?"
        self._rest = TableStream(connection, EVENT_TABLES[route], condition, (from_ms, to_ms, built_to), is_up=is_up)

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        if self._is_up:
            found = self._seek_blocks(sequence)
            return self._rest.seek(max(sequence, self._built_to)) if found is None else found
        rest = self._rest.seek(sequence) if sequence >= self._built_to else None
        return self._seek_blocks(min(sequence, self._built_to - 1)) if rest is None else rest

    def _seek_blocks(self, sequence: int) -> int | None:
        while self._position < len(self._blocks):
            first = self._blocks[self._position] * BLOCK_EVENTS
            last = first + BLOCK_EVENTS - 1
            if self._is_up and sequence <= last:
                return max(sequence, first)
            if not self._is_up and sequence >= first:
                return min(sequence, last)
            self._position += 1
        return None


def label_needle(text: str) -> bytes:
    """Return the bytes to look for in a block of hashes."""
    return label_hash(text).to_bytes(_HASH_BYTES, "little")
