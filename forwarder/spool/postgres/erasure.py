"""Erase what is kept of a person: payloads, labels that name him, plans, destinations' answers.

The event stays as a row without content: its key suppresses duplicates, its state is counted. What was pending is dead
and discarded. What another replica may have in hand is left to it. Deleted bytes stay in the database's files until it
vacuums (see `scrub`), and in its log and its copies for as long as those are kept.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

import asyncpg

from forwarder.model import State
from forwarder.spool.claims import Moves
from forwarder.spool.codes import DEAD, PENDING, STATE_CODES, Account
from forwarder.spool.erasing import ERASED, Emptied, without_ids
from forwarder.spool.limits import event_bytes
from forwarder.spool.postgres.ownership import hold, take_away
from forwarder.spool.postgres.reasons import intern
from forwarder.spool.postgres.reconnecting import AWAY, IN_PLACE, Connection
from forwarder.spool.postgres.settlement import LEAD, LOCK_ORDERS, Fence
from forwarder.spool.postgres.transaction import Transaction

_INBOUND = 1
_PUT_ASIDE = (DEAD, STATE_CODES[State.UNMAPPED])  # what would be something to do
_SETTLED = """
SELECT e.sequence, e.route, e.size, o.state, o.is_discarded, o.reason_id, o.attempt_id
FROM forwarder.outcomes o JOIN forwarder.events e ON e.sequence = o.sequence
WHERE o.sequence = ANY($1::bigint[]) ORDER BY o.sequence FOR UPDATE OF o
"""
_PENDING = """
SELECT e.sequence, e.route, e.size, e.order_no, e.partition_no FROM forwarder.events e
WHERE e.sequence = ANY($1::bigint[])
  AND (SELECT 1 FROM forwarder.outcomes o WHERE o.sequence = e.sequence LIMIT 1) IS NULL
ORDER BY e.sequence
"""
_BURY = """
INSERT INTO forwarder.outcomes (sequence, settled_at_ms, reason_id, attempts, state, is_discarded)
SELECT s, $2, $3, 0, $4, true FROM unnest($1::bigint[]) AS s ON CONFLICT DO NOTHING RETURNING sequence
"""
_EMPTY = """
UPDATE forwarder.events SET payload = NULL, user_id = '', message_id = '', partition_key = '', order_no = 0, size = 0,
  trace = NULL
WHERE sequence = ANY($1::bigint[])
"""
# A path names a user, which is an inbound call's.
_BLANK = """
UPDATE forwarder.attempts SET answer = '', operation =
  CASE WHEN $2 THEN left(operation, position(' ' IN operation || ' ')) || '…' ELSE operation END
WHERE attempt_id = ANY($1::bigint[])
"""
_BESIDE = ("forwarder.attempts", "forwarder.attempt_lists", "forwarder.progress", "forwarder.work", "forwarder.audit")
_IS_PAST = """
SELECT NOT EXISTS
  (SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND age(backend_xmin) > age($1::text::xid))
"""


async def erase(transaction: Transaction, sequences: Sequence[int], *, fence: Fence) -> Emptied:
    """Erase events, settled or pending; none may be leased here, and `fence` is as owner of which partitions."""
    connection = transaction.connection
    await connection.execute(IN_PLACE)
    settled = await connection.fetch(_SETTLED, sorted(set(sequences)))
    listed = await connection.fetch(_PENDING, sorted(set(sequences)))
    held = await hold(connection, fence.replica, fence.epochs)
    if others := {row["partition_no"] for row in listed} - held:
        held |= await take_away(connection, others)
    waited: tuple[set[int], set[int]] = (set(), set())
    for route in (0, 1):
        await _rewrite(transaction, route, [row for row in settled if row["route"] == route])
        rows = [row for row in listed if row["route"] == route and row["partition_no"] in held]
        waited[route].update(await _bury(transaction, route, rows))
        done = [row["sequence"] for row in settled if row["route"] == route] + sorted(waited[route])
        await _empty(connection, route, done, [row["attempt_id"] for row in settled if row["route"] == route])
    pending = sum(map(len, waited))
    left = [row["sequence"] for row in listed if row["sequence"] not in waited[row["route"]]]
    return Emptied(len(settled) + pending, waited, Moves(), left)


async def _rewrite(transaction: Transaction, route: int, rows: Sequence[asyncpg.Record]) -> None:
    """Have settled events tell no more than their state."""
    by_state: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows:
        by_state[row["state"]].append(row["sequence"])
        if not row["is_discarded"]:
            transaction.count_reason(row["reason_id"], -1)
        if row["state"] == DEAD:
            transaction.add(route, Account.DEAD_BYTES, -row["size"])
            transaction.add(route, Account.DISCARDED if row["is_discarded"] else Account.OPEN_DEAD, -1)
            transaction.add(route, Account.DISCARDED, 1)
    for state, sequences in sorted(by_state.items()):
        reason_id = await intern(transaction, route, state, ERASED)
        is_discarded = state in _PUT_ASIDE
        if not is_discarded:
            transaction.count_reason(reason_id, len(sequences))
        await transaction.connection.execute(
            "UPDATE forwarder.outcomes SET reason_id = $2, attempt_id = NULL, is_discarded = $3 "
            "WHERE sequence = ANY($1::bigint[])",
            sequences,
            reason_id,
            is_discarded,
        )


async def _bury(transaction: Transaction, route: int, rows: Sequence[asyncpg.Record]) -> list[int]:
    """Move pending events to the dead; return those that were pending until now."""
    if not rows:
        return []
    connection = transaction.connection
    reason_id = await intern(transaction, route, DEAD, ERASED)
    sequences, orders = [row["sequence"] for row in rows], [row["order_no"] for row in rows]
    await connection.execute(LOCK_ORDERS, orders)
    buried = {row[0] for row in await connection.fetch(_BURY, sequences, transaction.now_ms, reason_id, DEAD)}
    retrying = await connection.fetch(
        "DELETE FROM forwarder.work WHERE sequence = ANY($1::bigint[]) RETURNING attempts", sorted(buried)
    )
    await connection.execute(LEAD, sorted(set(orders)))
    count, size = len(buried), sum(event_bytes(row["size"]) for row in rows if row["sequence"] in buried)
    transaction.add(route, Account.RETRYING, -sum(row["attempts"] > 0 for row in retrying))
    transaction.add(route, PENDING, -count)
    transaction.add(route, DEAD, count)
    transaction.add(route, Account.DISCARDED, count)
    transaction.add(route, Account.UNSETTLED_BYTES, -size)
    transaction.add(route, Account.DEAD_BYTES, count * event_bytes(0))
    return sorted(buried)


async def _empty(
    connection: asyncpg.Connection, route: int, sequences: Sequence[int], attempts: Sequence[int | None]
) -> None:
    if not sequences:
        return
    listed = await connection.fetch(
        "DELETE FROM forwarder.attempt_lists WHERE sequence = ANY($1::bigint[]) RETURNING attempt_ids", sequences
    )
    ids = {one for one in attempts if one is not None} | {one for row in listed for one in row[0]}
    await connection.execute(_BLANK, sorted(ids), route == _INBOUND)
    await connection.execute("DELETE FROM forwarder.progress WHERE sequence = ANY($1::bigint[])", sequences)
    await connection.execute(_EMPTY, sequences)


class Scrubber:
    """Take what was erased out of the audit log and out of the tables. On one replica, after its `erase`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tables: set[str] = set()
        self._xid = ""  # of the last erasure

    async def note(self, transaction: Transaction, sequences: Sequence[int]) -> None:
        """Note where the events lie that this transaction erases."""
        rows = await transaction.connection.fetch(
            "SELECT DISTINCT tableoid::regclass::text FROM forwarder.events WHERE sequence = ANY($1::bigint[])",
            sequences,
        )
        self._tables.update(row[0] for row in rows)
        self._xid = await transaction.connection.fetchval("SELECT pg_current_xact_id()::xid::text")

    async def vacuum(self) -> bool:
        """Let deleted bytes leave the tables; False while somebody may still read what was erased."""
        try:
            await self._connection.vacuum(", ".join([*sorted(self._tables), *_BESIDE]))
            async with self._connection.statement() as connection:
                is_done = bool(await connection.fetchval(_IS_PAST, self._xid)) if self._xid else True
        except (*AWAY, asyncpg.PostgresError):
            return False
        if is_done:
            self._tables.clear()
        return is_done


async def rewrite_audit(transaction: Transaction, users: Collection[str]) -> None:
    """Take a person's ids out of the audit log."""
    for number, detail in await transaction.connection.fetch("SELECT audit_id, detail FROM forwarder.audit"):
        told = without_ids(detail, users)
        if told != detail:
            await transaction.connection.execute(
                "UPDATE forwarder.audit SET detail = $2 WHERE audit_id = $1", number, told
            )
