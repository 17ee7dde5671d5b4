"""The known event keys: the newest in memory, the rest in tables by time.

A row into an index of random digests rewrites a page of its own, more than the event itself costs, and
ever more with every million of keys. So new keys are kept in sets, which their events can rebuild after
a restart, and go into a table sorted, some thousand at a time, behind the commits. A table takes the keys of a
sixteenth of the retention, or a million, and is dropped whole once the youngest key in it is past the retention.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apsw

from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader, Transaction, read_mark, write_mark

BUCKETS_PER_RETENTION = 16
KEYS_PER_BUCKET_MAX = 1_000_000
BUCKETS_MAX = 64  # then the newest one grows: a look-up asks each of them, and SQLite joins at most 500
KEYS_IN_MEMORY_MAX = 65_536
_KEYS_PER_STEP = 4_096
_SEALED = "keys_sealed_to"  # the mark: keys of events up to this sequence are in tables
_SHARDS = 256


@dataclass(slots=True)
class Bucket:
    """One table of keys."""

    number: int
    opened_ms: int
    newest_ms: int
    keys: int


class KnownKeys:
    """Tell whether a key is known, and learn new ones. Lives on the writer thread.

    In memory the keys lie in shards by their first byte, so that each is sorted in no time: sorting all of them at
    once would hold the interpreter.
    """

    def __init__(self, connection: Reader, *, retention_s: int, now_ms: int) -> None:
        self._connection = connection
        self._retention_ms = retention_s * 1000
        self._span_ms = max(1, self._retention_ms // BUCKETS_PER_RETENTION)
        self._uncommitted: list[bytes] = []
        self._learnt_ms = 0  # of the uncommitted
        self._shards: list[set[bytes]] = [set() for _ in range(_SHARDS)]
        self._count = 0
        self._opened_ms = 0  # when the oldest, and the newest, of the keys in memory was learnt
        self._newest_ms = 0
        self._sealing: list[int] = []  # shards that one sealing has yet to write
        self._written: list[tuple[int, list[bytes]]] = []  # by the step that is not committed yet
        self._sealing_to = 0
        self._read_recent(now_ms)
        self._load_buckets()

    def find(self, keys: Sequence[bytes], *, now_ms: int) -> set[bytes]:
        """Return which of these are known."""
        shards = self._shards
        before_ms = now_ms - self._retention_ms
        known = set() if self._newest_ms < before_ms else {key for key in keys if key in shards[key[0]]}
        lookup = self._lookup(before_ms)
        if lookup:
            rest = tuple(keys) if not known else tuple(set(keys) - known)
            if rest:
                known.update(key for (key,) in self._connection.execute(lookup, (apsw.carray(rest),)))
        return known

    def add(self, keys: Iterable[bytes], *, now_ms: int) -> None:
        """Learn new keys, with the commit of their events."""
        self._uncommitted.extend(keys)
        self._learnt_ms = now_ms

    def keep(self) -> None:
        """Hear that the transaction was committed."""
        for index, keys in self._written:
            self._shards[index].difference_update(keys)
            self._count -= len(keys)
        self._written = []
        if not self._uncommitted:
            return
        if self._newest_ms < self._learnt_ms - self._retention_ms:
            self._forget_memory()
        if not self._count:
            self._opened_ms = self._learnt_ms
        self._newest_ms = max(self._newest_ms, self._learnt_ms)
        shards = self._shards
        for key in self._uncommitted:
            shards[key[0]].add(key)
        self._count += len(self._uncommitted)
        self._uncommitted = []

    def forget_changes(self) -> None:
        """Hear that the transaction was rolled back. A sealing that was under way begins anew."""
        self._uncommitted = []
        self._sealing, self._written = [], []
        self._load_buckets()

    def is_sealing_due(self, *, now_ms: int) -> bool:
        """Tell whether keys should go from memory into a table."""
        if self._sealing or self._count >= KEYS_IN_MEMORY_MAX:
            return True
        return bool(self._count) and abs(now_ms - self._opened_ms) >= self._span_ms

    def sealed_to(self) -> int:
        """Return the last sequence whose key, and those of all before it, need no row to be known after a restart."""
        return read_mark(self._connection, _SEALED)

    def seal(self, transaction: Transaction) -> None:
        """Write some thousand sorted keys: neighbours share pages."""
        if not self._sealing:
            self._sealing = [index for index, shard in enumerate(self._shards) if shard]
            self._sealing_to = transaction.sequence
            self._opened_ms = transaction.now_ms  # what comes from now on is sealed by the next one
        bucket = self._current(transaction)
        written = 0
        while self._sealing and written < _KEYS_PER_STEP:
            keys = sorted(self._shards[self._sealing[0]])[: _KEYS_PER_STEP - written]
            index = self._sealing[0]
            if len(keys) == len(self._shards[index]):
                del self._sealing[0]
            sql = f"INSERT OR IGNORE INTO keys_{bucket.number} VALUES (?)"  # noqa: S608 - our own integer
            transaction.executemany(sql, [(key,) for key in keys])
            self._written.append((index, keys))
            written += len(keys)
        bucket.keys += written
        bucket.newest_ms = max(bucket.newest_ms, self._newest_ms)
        transaction.execute(
            "UPDATE key_buckets SET keys = ?, newest_ms = ? WHERE bucket = ?",
            (bucket.keys, bucket.newest_ms, bucket.number),
        )
        if not self._sealing:
            write_mark(transaction, _SEALED, self._sealing_to)

    def drop_old(self, transaction: Transaction) -> bool:
        """Drop a bucket whose youngest key is past the retention; tell whether there was one."""
        before_ms = transaction.now_ms - self._retention_ms
        for bucket in self._buckets:
            if bucket.newest_ms < before_ms:
                return self._drop(transaction, bucket.number)
        return False

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
            is_young = abs(now_ms - newest.opened_ms) < self._span_ms
            if is_young and (newest.keys < KEYS_PER_BUCKET_MAX or len(self._buckets) >= BUCKETS_MAX):
                return newest
        number = self._buckets[-1].number + 1 if self._buckets else 1
        transaction.execute(f"CREATE TABLE keys_{number} (key BLOB PRIMARY KEY) WITHOUT ROWID")
        transaction.execute("INSERT INTO key_buckets VALUES (?, ?, 0, 0)", (number, now_ms))
        self._load_buckets()
        return self._buckets[-1]

    def _load_buckets(self) -> None:
        rows = self._connection.execute("SELECT bucket, opened_ms, newest_ms, keys FROM key_buckets ORDER BY bucket")
        self._buckets = [Bucket(*row) for row in rows]

    def _lookup(self, before_ms: int) -> str:
        return " UNION ALL ".join(
            f"SELECT key FROM keys_{bucket.number} WHERE key IN carray(?1)"  # noqa: S608 - our own integers
            for bucket in self._buckets
            if bucket.newest_ms >= before_ms
        )

    def _forget_memory(self) -> None:
        for shard in self._shards:
            shard.clear()
        self._count = 0
        self._sealing = []

    def _read_recent(self, now_ms: int) -> None:
        """Rebuild what was in memory, after a start."""
        sealed_to = read_mark(self._connection, _SEALED)
        opened_ms = now_ms
        for route, table in enumerate(EVENT_TABLES):
            for key, at_ms in _keys_after(self._connection, table, sealed_to):
                if not isinstance(key, bytes) or not isinstance(at_ms, int):
                    continue  # damage can change a value's type; the row itself is found when it is read
                whole = key + bytes((route,))
                self._shards[whole[0]].add(whole)
                opened_ms = min(opened_ms, at_ms)
                self._newest_ms = max(self._newest_ms, at_ms)
        self._count = sum(len(shard) for shard in self._shards)
        self._opened_ms = opened_ms


def _keys_after(connection: Reader, table: str, after: int) -> list[tuple[object, object]]:
    sql = f"SELECT event_key, received_at_ms FROM {table} WHERE sequence > ? AND sequence <= ?"  # noqa: S608 - our own words
    rows: list[tuple[object, object]] = []
    try:
        return list(connection.execute(sql, (after, 2**62)))
    except apsw.CorruptError:
        end = connection.execute("SELECT amount FROM totals WHERE route = 0 AND account = 10").fetchone()
        for sequence in range(after, int(end[0]) if end else after):
            with contextlib.suppress(apsw.CorruptError):
                rows += connection.execute(sql, (sequence, sequence + 1)).fetchall()
    return rows
