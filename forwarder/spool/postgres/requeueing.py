"""Make settled events pending again, and mark dead ones as discarded. SQL only."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from forwarder.model import Replay
from forwarder.spool.claims import Heads
from forwarder.spool.codes import DEAD, PENDING, REPLAY_CODES, Account
from forwarder.spool.held_leases import BESIDE, FRESH
from forwarder.spool.limits import event_bytes
from forwarder.spool.postgres.reconnecting import IN_PLACE
from forwarder.spool.postgres.settlement import GIVE_BACK, LEAD, LOCK_ORDERS
from forwarder.spool.postgres.transaction import Transaction

_HEAD = """
SELECT coalesce(
  (SELECT sequence FROM forwarder.work WHERE order_no = $1 AND order_no <> 0 AND kind <> 2 ORDER BY sequence LIMIT 1),
  (SELECT e.sequence FROM forwarder.events e WHERE e.order_no = $1 AND e.order_no <> 0 AND e.sequence > $2
     AND (SELECT 1 FROM forwarder.outcomes o WHERE o.sequence = e.sequence LIMIT 1) IS NULL
     AND (SELECT 1 FROM forwarder.work x WHERE x.sequence = e.sequence LIMIT 1) IS NULL
     ORDER BY e.sequence LIMIT 1))
"""
_WAITING_REPLAYS = """
SELECT count(*) FROM (SELECT FROM forwarder.work WHERE route = $1 AND replayed_ms IS NOT NULL LIMIT $2) r
"""
_SETTLED = """
SELECT e.sequence, e.route, e.partition_no, e.order_no, e.partition_key, e.size, o.state, o.is_discarded, o.reason_id
FROM forwarder.outcomes o JOIN forwarder.events e USING (sequence)
WHERE o.sequence = ANY($1::bigint[]) AND e.payload IS NOT NULL ORDER BY o.sequence FOR UPDATE OF o
"""


@dataclass(slots=True)
class _Requeued:
    """What one transaction made pending again, by route."""

    heads: Heads = field(default_factory=lambda: ({}, {}))  # who leads an order now
    moved: tuple[list[tuple[int, int]], list[tuple[int, int]]] = field(default_factory=lambda: ([], []))

    def sequences(self) -> list[int]:
        return [sequence for of_route in self.moved for _, sequence in of_route]


async def requeue(
    transaction: Transaction, sequences: Sequence[int], *, everything: bool, is_replay: bool, writer: int
) -> tuple[list[int], Heads]:
    """Move settled events that still have their payload back to pending; return how many, per route, and who leads."""
    connection = transaction.connection
    await connection.execute(IN_PLACE)
    most = transaction.limits.replays_in_line_max
    done = _Requeued()
    few = [len(sequences) + await connection.fetchval(_WAITING_REPLAYS, route, most) <= most for route in (0, 1)]
    settled = await connection.fetch(_SETTLED, sorted(set(sequences)))
    await connection.execute(LOCK_ORDERS, [row["order_no"] for row in settled])
    for row in settled:
        await _requeue_one(transaction, row, done, is_replay=is_replay, may_stand_in_line=few[row["route"]])
    await connection.execute("DELETE FROM forwarder.attempt_lists WHERE sequence = ANY($1::bigint[])", done.sequences())
    await connection.execute(
        "UPDATE forwarder.progress SET replay = $2 WHERE sequence = ANY($1::bigint[])",
        done.sequences(),
        REPLAY_CODES[Replay.EVERYTHING if everything else Replay.REST],
    )
    for route in (0, 1):
        if done.moved[route]:
            await connection.execute(
                "INSERT INTO forwarder.arrivals VALUES (pg_current_xact_id()::text::bigint, $1, $2, true, $3, $4)",
                route,
                writer,
                sorted({no for no, _ in done.moved[route]}),
                [sequence for _, sequence in done.moved[route]],
            )
    return [len(of_route) for of_route in done.moved], done.heads


async def _requeue_one(
    transaction: Transaction, row: asyncpg.Record, done: _Requeued, *, is_replay: bool, may_stand_in_line: bool
) -> None:
    connection = transaction.connection
    sequence, route, order, weight = row["sequence"], row["route"], row["order_no"], event_bytes(row["size"])
    has_line = may_stand_in_line and order and await _head(connection, order, sequence) is not None
    is_beside = is_replay and not has_line
    replayed_ms = transaction.now_ms if is_replay else None
    kind = BESIDE if is_beside else FRESH
    await connection.execute("DELETE FROM forwarder.outcomes WHERE sequence = $1", sequence)
    waiting = (sequence, order, 0, None, replayed_ms, 0, None, route, row["partition_no"], kind, None)
    await connection.execute(GIVE_BACK, *([value] for value in waiting))
    if order:
        await connection.execute(LEAD, [order])
        if not is_beside:
            done.heads[route][row["partition_key"]] = await _head(connection, order, sequence) or sequence
    done.moved[route].append((row["partition_no"], sequence))
    transaction.add(route, row["state"], -1)
    transaction.add(route, PENDING, 1)
    transaction.add(route, Account.UNSETTLED_BYTES, weight)
    if not row["is_discarded"]:
        transaction.count_reason(row["reason_id"], -1)
    if row["state"] == DEAD:
        transaction.add(route, Account.DEAD_BYTES, -weight)
        transaction.add(route, Account.DISCARDED if row["is_discarded"] else Account.OPEN_DEAD, -1)


async def _head(connection: asyncpg.Connection, order: int, sequence: int) -> int | None:
    """Return the oldest pending event of an order; none that never was given back is older than `sequence`."""
    found = await connection.fetchval(_HEAD, order, sequence)
    return None if found is None else int(found)


async def discard(transaction: Transaction, sequences: Sequence[int]) -> int:
    """Mark dead events as discarded; return how many were not so before."""
    await transaction.connection.execute(IN_PLACE)
    rows = await transaction.connection.fetch(
        "UPDATE forwarder.outcomes o SET is_discarded = true FROM forwarder.reasons r "
        "WHERE o.sequence = ANY($1::bigint[]) AND r.reason_id = o.reason_id AND o.state = $2 AND NOT o.is_discarded "
        "RETURNING r.route, r.reason_id",
        list(sequences),
        DEAD,
    )
    for route, reason_id in rows:
        transaction.count_reason(reason_id, -1)
        transaction.add(route, Account.OPEN_DEAD, -1)
        transaction.add(route, Account.DISCARDED, 1)
    return len(rows)
