"""What is tidied beside the blocks of events: rows that were summed up, keys and values past their time. SQL only.

Each is a step small enough that nobody waits for it; what it deletes lies where no other statement looks.
"""

import asyncpg

from forwarder.spool.codes import DEAD, Account
from forwarder.spool.limits import event_bytes
from forwarder.spool.postgres.key_spans import Spans
from forwarder.spool.postgres.transaction import Transaction

_ROWS_MAX = 5_000  # in one step
_ARRIVALS = "DELETE FROM forwarder.arrivals WHERE xid < $1"
_TOTALS = """
DELETE FROM forwarder.totals t USING
  (SELECT slot, max(number) AS number FROM forwarder.totals GROUP BY slot) last
WHERE t.slot = last.slot AND t.number < last.number
"""
_TYPES = """
WITH gone AS (DELETE FROM forwarder.event_types RETURNING *) INSERT INTO forwarder.event_types
SELECT route, type, event, min(first_at_ms), max(last_at_ms), sum(count) FROM gone GROUP BY 1, 2, 3
"""
_REASONS = """
WITH gone AS (DELETE FROM forwarder.reason_counts RETURNING *) INSERT INTO forwarder.reason_counts
SELECT reason_id, sum(count) FROM gone GROUP BY 1 HAVING sum(count) <> 0
"""
_ATTEMPTS = """
DELETE FROM forwarder.attempts WHERE at_ms < $1 AND attempt_id IN
  (SELECT attempt_id FROM forwarder.attempts ORDER BY attempt_id LIMIT $2)
"""
_OCCURRENCES = """
DELETE FROM forwarder.occurrences WHERE base_key IN
  (SELECT base_key FROM forwarder.occurrences WHERE keep_until_ms < $1 ORDER BY keep_until_ms LIMIT $2
   FOR UPDATE SKIP LOCKED)
"""
_SPANS = """
SELECT c.relname FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE i.inhparent = 'forwarder.known_keys'::regclass
"""
_LOOK_MAX = 20_000
_OLD = f"""
SELECT o.sequence, o.state, o.is_discarded, o.reason_id, e.route, e.size
FROM (SELECT sequence FROM forwarder.outcomes WHERE sequence > $2 ORDER BY sequence LIMIT {_LOOK_MAX}) s
  JOIN forwarder.outcomes o USING (sequence) JOIN forwarder.events e USING (sequence)
WHERE o.settled_at_ms < $1 ORDER BY o.sequence LIMIT {_ROWS_MAX} FOR UPDATE OF o SKIP LOCKED
"""  # noqa: S608 - our own words


async def sum_up(transaction: Transaction) -> None:
    """Leave one row of what was counted with every commit."""
    for statement in (_TOTALS, _TYPES, _REASONS):
        await transaction.connection.execute(statement)


async def drop_arrivals(transaction: Transaction, before_xid: int) -> None:
    """Drop what every replica has seen, or will not ask for any more."""
    await transaction.connection.execute(_ARRIVALS, before_xid)


async def drop_old(transaction: Transaction, *, before_ms: int) -> None:
    """Drop exchanges, occurrences and lines of the audit log that are past the retention."""
    connection = transaction.connection
    await connection.execute(_ATTEMPTS, before_ms, _ROWS_MAX)
    await connection.execute(_OCCURRENCES, transaction.now_ms, _ROWS_MAX)
    await connection.execute("DELETE FROM forwarder.audit WHERE at_ms < $1", before_ms)


async def drop_spans(transaction: Transaction, spans: Spans) -> None:
    """Drop the tables of keys that nobody asks for any more; a table that is in use is left for later."""
    connection = transaction.connection
    for (name,) in await connection.fetch(_SPANS):
        if int(name.rpartition("_")[2]) >= spans.oldest - 1:  # the clocks of replicas differ
            continue
        await connection.execute("SET LOCAL lock_timeout = '100ms'; SAVEPOINT span")
        try:
            await connection.execute(f"DROP TABLE forwarder.{name}")
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await connection.execute("ROLLBACK TO SAVEPOINT span")


async def purge(transaction: Transaction, *, before_ms: int, after: int) -> int:
    """Drop settled events one by one, from a sequence on; return where to go on, 0 when there are no more so old."""
    connection = transaction.connection
    rows = await connection.fetch(_OLD, before_ms, after)
    sequences = [row["sequence"] for row in rows]
    for table in ("progress", "attempt_lists", "outcomes", "events"):
        await connection.execute(
            f"DELETE FROM forwarder.{table} WHERE sequence = ANY($1::bigint[])",  # noqa: S608 - our own words
            sequences,
        )
    for row in rows:
        if not row["is_discarded"]:
            transaction.count_reason(row["reason_id"], -1)
        if row["state"] == DEAD:
            transaction.add(row["route"], Account.DISCARDED if row["is_discarded"] else Account.OPEN_DEAD, -1)
            transaction.add(row["route"], Account.DEAD_BYTES, -event_bytes(row["size"]))
    return int(sequences[-1]) if sequences else 0
