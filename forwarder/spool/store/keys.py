"""The known event keys: the newest in memory, the rest in tables by time.

A row into an index of random digests rewrites a page of its own, more than the event itself costs, and
ever more with every million of keys. So new keys are kept in a set, which their events can rebuild after
a restart, and go into a table sorted, tens of thousands at a time, behind the commits. A table is closed
after an eighth of the retention or after a million keys, and dropped whole once it is old enough.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import apsw

from forwarder.spool.store.database import Reader
from forwarder.spool.store.transaction import Transaction

BUCKETS_PER_RETENTION = 8
KEYS_PER_BUCKET_MAX = 1_000_000
KEYS_IN_MEMORY_MAX = 65_536
_KEYS_PER_STEP = 4_096
_SEALED = "keys_sealed_to"  # the mark: keys of events up to this sequence are in tables
_EVENT_KEYS = "SELECT event_key, route FROM events WHERE sequence > ? AND sequence <= ?"


@dataclass(slots=True)
class Bucket:
    """One table of keys."""

    number: int
    opened_ms: int
    keys: int


class KnownKeys:
    """Tell whether a key is known, and learn new ones. Lives on the writer thread."""

    def __init__(self, connection: Reader, *, retention_s: int, in_memory_max: int = KEYS_IN_MEMORY_MAX) -> None:
        self._connection = connection
        self._retention_ms = retention_s * 1000
        self._span_ms = max(1, self._retention_ms // BUCKETS_PER_RETENTION)
        self._in_memory_max = in_memory_max
        self._uncommitted: list[bytes] = []
        self._sealing: list[bytes] = []  # sorted; what is left to write of one sealing
        self._sealed: list[bytes] = []  # written by it so far
        self._sealing_to = 0
        self._recent = self._read_recent()
        self._load_buckets()

    def find(self, keys: set[bytes]) -> set[bytes]:
        """Return which of these are known."""
        known = keys & self._recent
        rest = keys - known
        if rest and self._lookup:
            known.update(key for (key,) in self._connection.execute(self._lookup, (apsw.carray(tuple(rest)),)))
        return known

    def add(self, keys: Iterable[bytes]) -> None:
        """Learn new keys, with the commit of their events."""
        self._uncommitted.extend(keys)

    def keep(self) -> None:
        """Hear that the transaction was committed."""
        if self._uncommitted:
            self._recent.update(self._uncommitted)
            self._uncommitted.clear()
        if self._sealed and not self._sealing:
            self._recent.difference_update(self._sealed)
            self._sealed = []

    def forget_changes(self) -> None:
        """Hear that the transaction was rolled back. A sealing that was under way begins anew."""
        self._uncommitted.clear()
        self._sealing, self._sealed = [], []
        self._load_buckets()

    def is_sealing_due(self) -> bool:
        """Tell whether keys should go from memory into a table."""
        return bool(self._sealing) or len(self._recent) >= self._in_memory_max

    def seal(self, transaction: Transaction) -> None:
        """Write some thousand sorted keys: neighbours share pages."""
        if not self._sealing:
            self._sealing = sorted(self._recent)
            self._sealed = []
            self._sealing_to = transaction.sequence
        chunk, self._sealing = self._sealing[:_KEYS_PER_STEP], self._sealing[_KEYS_PER_STEP:]
        self._sealed += chunk
        bucket = self._current(transaction)
        sql = f"INSERT OR IGNORE INTO keys_{bucket.number} VALUES (?)"  # noqa: S608 - our own integer
        transaction.executemany(sql, [(key,) for key in chunk])
        bucket.keys += len(chunk)
        transaction.execute("UPDATE key_buckets SET keys = ? WHERE bucket = ?", (bucket.keys, bucket.number))
        if not self._sealing:
            transaction.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (_SEALED, self._sealing_to))

    def drop_old(self, transaction: Transaction) -> bool:
        """Drop the oldest bucket if the retention of its last key is over; tell whether it did."""
        row = transaction.execute(
            "SELECT bucket FROM key_buckets WHERE closed_ms < ? ORDER BY bucket LIMIT 1",
            (transaction.now_ms - self._retention_ms,),
        ).fetchone()
        return row is not None and self._drop(transaction, row[0])

    def drop_oldest(self, transaction: Transaction) -> bool:
        """Drop the oldest closed bucket to make room, whatever its age; tell whether there was one."""
        return len(self._buckets) > 1 and self._drop(transaction, self._buckets[0].number)

    def _drop(self, transaction: Transaction, number: int) -> bool:
        transaction.execute(f"DROP TABLE keys_{number}")
        transaction.execute("DELETE FROM key_buckets WHERE bucket = ?", (number,))
        self._load_buckets()
        return True

    def _current(self, transaction: Transaction) -> Bucket:
        now_ms = transaction.now_ms
        if self._buckets:
            newest = self._buckets[-1]
            is_young = 0 <= now_ms - newest.opened_ms < self._span_ms
            if is_young and newest.keys < KEYS_PER_BUCKET_MAX:
                return newest
            transaction.execute("UPDATE key_buckets SET closed_ms = ? WHERE bucket = ?", (now_ms, newest.number))
        number = self._buckets[-1].number + 1 if self._buckets else 1
        transaction.execute(f"CREATE TABLE keys_{number} (key BLOB PRIMARY KEY) WITHOUT ROWID")
        transaction.execute("INSERT INTO key_buckets VALUES (?, ?, NULL, 0)", (number, now_ms))
        self._load_buckets()
        return self._buckets[-1]

    def _load_buckets(self) -> None:
        rows = self._connection.execute("SELECT bucket, opened_ms, keys FROM key_buckets ORDER BY bucket")
        self._buckets = [Bucket(*row) for row in rows]
        parts = [
            f"SELECT key FROM keys_{bucket.number} WHERE key IN carray(?1)"  # noqa: S608 - our own integers
            for bucket in self._buckets
        ]
        self._lookup = " UNION ALL ".join(parts)

    def _read_recent(self) -> set[bytes]:
        mark = self._connection.execute("SELECT value FROM marks WHERE name = ?", (_SEALED,)).fetchone()
        last = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        first, end = int(mark[0]) if mark else 0, int(last[0]) if last else 0
        try:
            return self._read_keys(first, end)
        except apsw.CorruptError:
            keys: set[bytes] = set()
            for sequence in range(first, end):
                with contextlib.suppress(apsw.CorruptError):
                    keys |= self._read_keys(sequence, sequence + 1)
            return keys

    def _read_keys(self, after: int, to: int) -> set[bytes]:
        rows = self._connection.execute(_EVENT_KEYS, (after, to))
        return {bytes(key) + bytes((route,)) for key, route in rows}
