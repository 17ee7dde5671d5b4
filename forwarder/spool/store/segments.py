"""Make labels findable without an index: four bytes of hash per event, in blocks of sequences.

An index on random values costs more than storing the event once it has grown to millions of entries. So
nothing is indexed while events arrive. Behind the commits, each full block of 2,048 sequences gets one row
per label, holding the crc32 of that label of each event in order, and one with the routes. Looking a
value up means searching four megabytes per million events, which memory does in milliseconds; a hit is
checked against the event itself.
"""

import contextlib
from array import array
from zlib import crc32

import apsw

from forwarder.spool.store.database import Reader
from forwarder.spool.store.transaction import Transaction

SEGMENT_EVENTS = 2_048
KIND_EVENT, KIND_USER, KIND_MESSAGE, KIND_ROUTE = range(4)
LabelRow = tuple[int, int, int, str, str, str]
_LABELS = (
    "SELECT sequence, route, received_at_ms, event, user_id, message_id FROM events "
    "WHERE sequence >= ? AND sequence < ?"
)
_LAG_MAX = 4  # segments: beyond it they are built even while events arrive


def fingerprint(text: str) -> int:
    """Return the 32-bit print of a label; never 0, which stands for no event."""
    return crc32(text.encode("utf-8", "replace")) or 1


class Segments:
    """Build the blocks that are full."""

    def __init__(self, connection: Reader) -> None:
        self._connection = connection
        self._built = 0
        self._salvaged: list[LabelRow] | None = None
        self.forget_changes()

    def forget_changes(self) -> None:
        """Read again how far it has come, after a rollback."""
        row = self._connection.execute("SELECT max(segment) FROM segments WHERE kind = 0").fetchone()
        self._built = 0 if row is None or row[0] is None else int(row[0]) + 1

    def is_due(self, *, sequence: int, is_idle: bool) -> bool:
        """Tell whether a block is full; while busy only when many are."""
        waiting = sequence // SEGMENT_EVENTS - self._built
        return waiting > 0 if is_idle else waiting > _LAG_MAX

    def step(self, transaction: Transaction) -> None:
        """Build the next block. What is on a damaged page is left out of it."""
        segment = self._built
        first = segment * SEGMENT_EVENTS
        prints = [array("I", bytes(4 * SEGMENT_EVENTS)) for _ in range(3)]
        routes = bytearray(SEGMENT_EVENTS)
        low_ms, high_ms = 2**62, 0
        for sequence, route, at_ms, event, user_id, message_id in self._labels(transaction, first):
            position = sequence - first
            prints[KIND_EVENT][position] = fingerprint(event)
            prints[KIND_USER][position] = fingerprint(user_id)
            prints[KIND_MESSAGE][position] = fingerprint(message_id)
            routes[position] = route + 1
            low_ms, high_ms = min(low_ms, at_ms), max(high_ms, at_ms)
        rows = [(kind, segment, low_ms, high_ms, block.tobytes()) for kind, block in enumerate(prints)]
        rows.append((KIND_ROUTE, segment, low_ms, high_ms, bytes(routes)))
        transaction.executemany("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)", rows)
        self._built = segment + 1
        self._salvaged = None

    def _labels(self, transaction: Transaction, first: int) -> list[LabelRow]:
        if self._salvaged is not None:
            return self._salvaged
        try:
            rows: list[LabelRow] = transaction.execute(_LABELS, (first, first + SEGMENT_EVENTS)).fetchall()
        except apsw.CorruptError:
            # A transaction that met a damaged page cannot write: the next one takes what was readable.
            self._salvaged = _read_singly(self._connection, first)
            raise
        return rows


def drop_empty_segments(transaction: Transaction) -> None:
    """Drop the blocks whose events are all purged."""
    row = transaction.execute("SELECT min(sequence) FROM events").fetchone()
    lowest = transaction.sequence if row[0] is None else row[0]
    for kind in range(4):
        transaction.execute("DELETE FROM segments WHERE kind = ? AND segment < ?", (kind, lowest // SEGMENT_EVENTS - 1))


def _read_singly(connection: Reader, first: int) -> list[LabelRow]:
    rows: list[LabelRow] = []
    for sequence in range(first, first + SEGMENT_EVENTS):
        with contextlib.suppress(apsw.CorruptError):
            rows += connection.execute(_LABELS, (sequence, sequence + 1)).fetchall()
    return rows
