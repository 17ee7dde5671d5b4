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

from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader, Transaction, read_mark, write_mark

BLOCK_EVENTS = 2_048
KIND_EVENT, KIND_USER, KIND_MESSAGE, KIND_ROUTE = range(4)
_BUILT = "labels_built"  # the mark: blocks below this are built
_LAG_MAX = 4  # blocks: beyond it they are built even while events arrive
LabelRow = tuple[int, int, str, str, str]


def label_hash(text: str) -> int:
    """Return the 32-bit hash of a label; never 0, which stands for no event."""
    return crc32(text.encode("utf-8", "replace")) or 1


def built_to(connection: Reader) -> int:
    """Return the first sequence that is in no block yet."""
    return read_mark(connection, _BUILT) * BLOCK_EVENTS


def route_of(connection: Reader, sequence: int) -> int | None:
    """Return the route that a sequence was given to, as far as a block knows."""
    sql = "SELECT hashes FROM label_index WHERE kind = ? AND block = ?"
    row = connection.execute(sql, (KIND_ROUTE, sequence // BLOCK_EVENTS)).fetchone()
    return None if row is None else row[0][sequence % BLOCK_EVENTS] - 1


class LabelIndex:
    """Build the blocks that are full. Lives on the writer thread."""

    def __init__(self, connection: Reader) -> None:
        self._connection = connection
        self._salvaged: list[list[LabelRow]] | None = None
        self.forget_changes()

    def forget_changes(self) -> None:
        """Read again how far it has come, after a rollback."""
        self._built = read_mark(self._connection, _BUILT)

    def is_due(self, *, sequence: int, is_idle: bool) -> bool:
        """Tell whether a block is full; while busy only when many are."""
        waiting = (sequence + 1) // BLOCK_EVENTS - self._built
        return waiting > 0 if is_idle else waiting > _LAG_MAX

    def step(self, transaction: Transaction) -> None:
        """Build the next block. What is on a damaged page is left out of it."""
        block = self._built
        first = block * BLOCK_EVENTS
        hashes = [array("I", bytes(4 * BLOCK_EVENTS)) for _ in range(3)]
        routes = bytearray(BLOCK_EVENTS)
        low_ms, high_ms = 2**62, 0
        for route, rows in enumerate(self._labels(transaction, first)):
            if not rows:
                continue
            sequences, times_ms, *labels = zip(*rows, strict=True)
            low_ms, high_ms = min(low_ms, *times_ms), max(high_ms, *times_ms)
            positions = [sequence - first for sequence in sequences]
            for column, texts in zip(hashes, labels, strict=True):
                for position, hashed in zip(positions, [crc32(one.encode()) or 1 for one in texts], strict=True):
                    column[position] = hashed
            for position in positions:
                routes[position] = route + 1
        values = [(kind, block, low_ms, high_ms, column.tobytes()) for kind, column in enumerate(hashes)]
        values.append((KIND_ROUTE, block, low_ms, high_ms, bytes(routes)))
        transaction.executemany("INSERT OR REPLACE INTO label_index VALUES (?, ?, ?, ?, ?)", values)
        self._built = block + 1
        write_mark(transaction, _BUILT, self._built)
        self._salvaged = None

    def _labels(self, transaction: Transaction, first: int) -> list[list[LabelRow]]:
        if self._salvaged is not None:
            return self._salvaged
        try:
            return [_read(transaction, table, first, BLOCK_EVENTS) for table in EVENT_TABLES]
        except apsw.CorruptError:
            # A transaction that met a damaged page cannot write: the next one takes what was readable.
            self._salvaged = [_read_singly(self._connection, table, first) for table in EVENT_TABLES]
            raise


def drop_empty_blocks(transaction: Transaction) -> None:
    """Drop the blocks whose events are all purged."""
    lowest = transaction.sequence
    for table in EVENT_TABLES:
        row = transaction.execute(f"SELECT min(sequence) FROM {table}").fetchone()  # noqa: S608 - our own words
        lowest = lowest if row[0] is None else min(lowest, row[0])
    for kind in range(4):
        transaction.execute("DELETE FROM label_index WHERE kind = ? AND block < ?", (kind, lowest // BLOCK_EVENTS - 1))


def _read(connection: Reader | Transaction, table: str, first: int, count: int) -> list[LabelRow]:
    rows: list[LabelRow] = connection.execute(
        f"SELECT sequence, received_at_ms, event, user_id, message_id FROM {table} "  # noqa: S608 - our own words
        "WHERE sequence >= ? AND sequence < ?",
        (first, first + count),
    ).fetchall()
    return rows


def _read_singly(connection: Reader, table: str, first: int) -> list[LabelRow]:
    rows: list[LabelRow] = []
    for sequence in range(first, first + BLOCK_EVENTS):
        with contextlib.suppress(apsw.CorruptError):
            rows += _read(connection, table, sequence, 1)
    return rows
