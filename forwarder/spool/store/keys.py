"""The known event keys, in tables by time.

An index on random digests gets slower with every million of keys. So a bucket is closed after an eighth
of the retention or after a million keys, and its table is dropped whole once its last key is old enough.
"""

from dataclasses import dataclass

import apsw

from forwarder.spool.store.database import Reader
from forwarder.spool.store.transaction import Transaction

BUCKETS_PER_RETENTION = 8
KEYS_PER_BUCKET_MAX = 1_000_000


@dataclass(slots=True)
class Bucket:
    """One table of keys."""

    number: int
    opened_ms: int
    keys: int


class KnownKeys:
    """Look keys up in all buckets and add to the newest. Lives on the writer thread."""

    def __init__(self, connection: Reader, *, retention_s: int) -> None:
        self._connection = connection
        self._retention_ms = retention_s * 1000
        self._span_ms = max(1, self._retention_ms // BUCKETS_PER_RETENTION)
        self._load()

    def _load(self) -> None:
        rows = self._connection.execute("SELECT bucket, opened_ms, keys FROM key_buckets ORDER BY bucket")
        self._buckets = [Bucket(*row) for row in rows]
        parts = [f"SELECT key FROM keys_{b.number} WHERE key IN carray(?1)" for b in self._buckets]  # noqa: S608 - our own integers
        self._lookup = " UNION ALL ".join(parts)

    def find(self, keys: tuple[bytes, ...]) -> set[bytes]:
        """Return which of these are known."""
        if not keys or not self._lookup:
            return set()
        return {key for (key,) in self._connection.execute(self._lookup, (apsw.carray(keys),))}

    def add(self, transaction: Transaction, keys: list[bytes]) -> None:
        """Add new keys in this transaction."""
        if not keys:
            return
        bucket = self._current(transaction)
        keys.sort()  # neighbours share pages
        transaction.executemany(f"INSERT INTO keys_{bucket.number} VALUES (?)", [(key,) for key in keys])  # noqa: S608 - our own integer
        bucket.keys += len(keys)
        transaction.execute("UPDATE key_buckets SET keys = ? WHERE bucket = ?", (bucket.keys, bucket.number))

    def forget_changes(self) -> None:
        """Read the buckets again after a rollback."""
        self._load()

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
        self._load()
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
        self._load()
        return self._buckets[-1]
