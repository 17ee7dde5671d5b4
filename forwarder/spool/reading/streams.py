"""Sorted streams of sequences that a search walks along, in either direction.

Each answers one question: which of your sequences is the next one from here on, this one included? So
several are intersected by leaping from one to the other, at a cost of the rarest.
"""

from collections.abc import Sequence
from typing import Protocol

import apsw

from forwarder.spool.store.database import Reader
from forwarder.spool.store.segments import SEGMENT_EVENTS, fingerprint

_CHUNK = 64
_PRINT_BYTES = 4


class Stream(Protocol):
    """A sorted set of sequences."""

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on, in the stream's direction; None at the end.

        Calls only ever move on.
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

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        while self._position < len(self._chunk):
            candidate = self._chunk[self._position]
            if candidate >= sequence if self._is_up else candidate <= sequence:
                return candidate
            self._position += 1
        try:
            rows = self._connection.execute(self._sql, (*self._values, sequence)).fetchall()
            self._chunk = [row[0] for row in rows]
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


class UnionStream:
    """Whatever is in any of several streams."""

    def __init__(self, streams: Sequence[Stream], *, is_up: bool) -> None:
        self._streams = streams
        self._choose = min if is_up else max

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        found = [candidate for s in self._streams if (candidate := s.seek(sequence)) is not None]
        return self._choose(found) if found else None


class PrintStream:
    """The sequences whose label may have a value: the blocks of prints, and the rows that are in no block yet.

    A print is 32 bits of a hash: who takes a sequence from here checks the event itself.
    """

    def __init__(
        self, connection: Reader, *, kind: int, needle: bytes, built_to: int, rest: Stream, is_up: bool
    ) -> None:
        self._connection = connection
        self._kind = kind
        self._needle = needle
        self._built_to = built_to
        self._rest = rest  # of the rows from `built_to` on
        self._is_up = is_up
        self._segment: int | None = None
        self._prints = b""

    def seek(self, sequence: int) -> int | None:
        """Return the next sequence from this one on."""
        built_to = self._built_to
        if self._is_up:
            found = self._seek_blocks(sequence) if sequence < built_to else None
            return self._rest.seek(max(sequence, built_to)) if found is None else found
        rest = self._rest.seek(sequence) if sequence >= built_to else None
        return self._seek_blocks(min(sequence, built_to - 1)) if rest is None else rest

    def _seek_blocks(self, sequence: int) -> int | None:
        segment: int | None = sequence // SEGMENT_EVENTS
        position = sequence % SEGMENT_EVENTS
        while segment is not None:
            if self._segment != segment:
                loaded = self._load(segment)
                if loaded is None:
                    return None
                if loaded != segment:
                    position = 0 if self._is_up else SEGMENT_EVENTS - 1
                segment = loaded
            found = self._find(position)
            if found is not None:
                return segment * SEGMENT_EVENTS + found
            segment = segment + 1 if self._is_up else segment - 1
            position = 0 if self._is_up else SEGMENT_EVENTS - 1
        return None

    def _load(self, segment: int) -> int | None:
        compare, order = (">=", "ASC") if self._is_up else ("<=", "DESC")
        row = self._connection.execute(
            f"SELECT segment, prints FROM segments WHERE kind = ? AND segment {compare} ? "  # noqa: S608 - our words
            f"ORDER BY segment {order} LIMIT 1",
            (self._kind, segment),
        ).fetchone()
        if row is None:
            return None
        self._segment, self._prints = int(row[0]), row[1]
        return self._segment

    def _find(self, position: int) -> int | None:
        width = len(self._needle)
        start = position * width if self._is_up else (position + 1) * width
        while True:
            at = self._prints.find(self._needle, start) if self._is_up else self._prints.rfind(self._needle, 0, start)
            if at < 0:
                return None
            if at % width == 0:
                return at // width
            # Across two prints: not one of them.
            start = at + 1 if self._is_up else at + width - 1


def label_needle(text: str) -> bytes:
    """Return the bytes to look for in a block of prints."""
    return fingerprint(text).to_bytes(_PRINT_BYTES, "little")


def built_to(connection: Reader) -> int:
    """Return the first sequence that is in no block of prints yet."""
    row = connection.execute("SELECT max(segment) FROM segments WHERE kind = 0").fetchone()
    return 0 if row[0] is None else (int(row[0]) + 1) * SEGMENT_EVENTS
