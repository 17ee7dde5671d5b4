"""Move leased events on: settle them or give them back, note their progress. SQL only.

An event that was never given back and has no order, which is nearly every one, costs one narrow row. What was given
back or has an order takes the longer way.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from forwarder.model import Attempt, Lease, Returned, Settled, State
from forwarder.spool.claims import Claim, GivenBack, Moves, is_unchanged
from forwarder.spool.codes import DEAD, PENDING, STATE_CODES, Account, partition_number
from forwarder.spool.held_leases import BESIDE, FRESH, RETRY
from forwarder.spool.limits import event_bytes
from forwarder.spool.postgres.appends import text
from forwarder.spool.postgres.one_read import Freed
from forwarder.spool.postgres.ownership import hold
from forwarder.spool.postgres.transaction import Transaction

_SETTLE = """
INSERT INTO forwarder.outcomes (sequence, settled_at_ms, attempt_id, reason_id, attempts, state, status, is_discarded)
SELECT u.sequence, $3, $4, $5, u.attempts, $6, $7, false
FROM unnest($1::bigint[], $2::integer[]) AS u(sequence, attempts)
ON CONFLICT DO NOTHING RETURNING sequence
"""
GIVE_BACK = """
INSERT INTO forwarder.work (sequence, order_no, not_before_ms, first_failed_ms, replayed_ms, attempts, reason_id, route,
  partition_no, kind, status, is_head)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, true)
ON CONFLICT (sequence) DO UPDATE SET not_before_ms = excluded.not_before_ms, first_failed_ms = excluded.first_failed_ms,
  replayed_ms = excluded.replayed_ms, attempts = excluded.attempts, reason_id = excluded.reason_id,
  kind = excluded.kind, status = excluded.status
"""
# Who is the oldest of an order now, in line and beside it.
LEAD = """
UPDATE forwarder.work w SET is_head = (w.sequence = m.first)
FROM (SELECT order_no, kind = 2 AS is_beside, min(sequence) AS first FROM forwarder.work
  WHERE order_no = ANY($1::bigint[]) AND order_no <> 0 GROUP BY 1, 2) m
WHERE w.order_no = m.order_no AND w.order_no <> 0 AND (w.kind = 2) = m.is_beside AND w.is_head <> (w.sequence = m.first)
"""
_NEXT = """
SELECT u.order_no, u.is_beside, w.sequence, w.kind, w.not_before_ms
FROM (SELECT DISTINCT * FROM unnest($1::bigint[], $2::boolean[])) AS u(order_no, is_beside),
  LATERAL (SELECT sequence, kind, not_before_ms FROM forwarder.work
    WHERE order_no = u.order_no AND order_no <> 0 AND (kind = 2) = u.is_beside ORDER BY sequence LIMIT 1) w
"""
_MAY_LACK_REASON = (PENDING, STATE_CODES[State.DELIVERED])


@dataclass(slots=True)
class Settlements:
    """What a settlement came to: what moved, and which claims were another replica's by then."""

    moves: Moves = field(default_factory=Moves)
    lost: list[Lease] = field(default_factory=list)
    freed: list[tuple[int, Freed]] = field(default_factory=list)  # with the route


@dataclass(frozen=True, slots=True)
class Fence:
    """Who settles, and as the owner of what."""

    replica: UUID
    epochs: dict[int, int]
    stale: Collection[int]  # sequences that were another's since they were leased


async def settle(transaction: Transaction, claims: Sequence[Claim], fence: Fence) -> Settlements:
    """Write what became of leased events, as far as their partitions are still this replica's."""
    done = Settlements()
    held = await hold(transaction.connection, fence.replica, fence.epochs)
    attempts: dict[int, int | None] = {}  # one row for an exchange, also when several settlements share it
    for claim in claims:
        leases = [lease for lease in claim.leases if lease.partition in held and lease.sequence not in fence.stale]
        if len(leases) < len(claim.leases):
            done.lost += [lease for lease in claim.leases if lease not in leases]
        if not leases:
            continue
        attempt = claim.settlement.attempt
        if id(attempt) not in attempts:
            attempts[id(attempt)] = await write_attempt(transaction, attempt)
        attempt_id = attempts[id(attempt)]
        if isinstance(claim.settlement, Settled):
            await _settle(transaction, claim, leases, claim.settlement, attempt_id, done)
        elif not is_unchanged(claim.settlement):
            await _give_back(transaction, claim, leases, claim.settlement, attempt_id, done)
    return done


async def _settle(  # noqa: PLR0917 - one step of `settle`
    transaction: Transaction,
    claim: Claim,
    leases: Sequence[Lease],
    settled: Settled,
    attempt_id: int | None,
    done: Settlements,
) -> None:
    route, state, connection = claim.route, STATE_CODES[settled.state], transaction.connection
    reason_id = await intern_reason(connection, route, state, settled.reason)
    rows = await connection.fetch(
        _SETTLE,
        [lease.sequence for lease in leases],
        [lease.attempt - (attempt_id is None) for lease in leases],
        transaction.now_ms,
        attempt_id,
        reason_id,
        state,
        status_of(settled.attempt),
    )
    if claim.listed:  # whether it was settled now or by a commit nobody heard of
        await _unlist(transaction, route, sorted(claim.listed))
    await _tell_next(transaction, route, leases, claim.listed, done)
    now = {row[0] for row in rows}  # one that is settled already was settled by a commit nobody heard of
    leases = [lease for lease in leases if lease.sequence in now]
    size = sum(event_bytes(len(lease.envelope.payload)) for lease in leases)
    transaction.add(route, Account.PENDING, -len(leases))
    transaction.add(route, state, len(leases))
    transaction.add(route, Account.UNSETTLED_BYTES, -size)
    transaction.count_reason(reason_id, len(leases))
    if state == DEAD:
        transaction.add(route, Account.DEAD_BYTES, size)
        transaction.add(route, Account.OPEN_DEAD, len(leases))


async def _tell_next(
    transaction: Transaction, route: int, leases: Sequence[Lease], listed: Collection[int], done: Settlements
) -> None:
    """Note who is the oldest of each of these events' orders now that they are gone from it.

    What was never given back is looked for after the commit: what arrives meanwhile cannot be seen here, and its reader
    may not see this.
    """
    left = {(order, lease.is_beside): lease.sequence for lease in leases if (order := _order(lease))}
    if not left:
        return
    rows = await transaction.connection.fetch(_NEXT, [order for order, _ in left], [beside for _, beside in left])
    if rows:
        await transaction.connection.execute(LEAD, [row["order_no"] for row in rows])
    for row in rows:
        done.moves.waits.append((route, row["kind"], row["not_before_ms"]))
        del left[row["order_no"], row["is_beside"]]
    for (order, is_beside), sequence in left.items():
        if not is_beside:
            done.freed.append((route, (order, sequence, sequence in listed)))


async def _give_back(  # noqa: PLR0917 - one step of `settle`
    transaction: Transaction,
    claim: Claim,
    leases: Sequence[Lease],
    returned: Returned,
    attempt_id: int | None,
    done: Settlements,
) -> None:
    route, connection = claim.route, transaction.connection
    sequences = [lease.sequence for lease in leases]
    before = await _unlist(transaction, route, sequences)
    await _list_attempt(transaction, sequences, attempt_id)
    reason_id = await intern_reason(connection, route, PENDING, returned.reason)
    status, rows = status_of(returned.attempt), []
    stepped_aside: list[Lease] = []
    for lease in leases:
        attempts, first_failed_ms = lease.attempt - 1 + int(returned.counts), lease.first_failed_at_ms
        if returned.counts and first_failed_ms is None:
            first_failed_ms = transaction.now_ms
        kind = RETRY if attempts > 0 or returned.not_before_ms > 0 else FRESH
        if lease.replayed_at_ms is not None:  # it steps aside: nothing waits for a replay that did not succeed
            kind = BESIDE
            if not lease.is_beside:
                stepped_aside.append(lease)
        transaction.add(route, Account.RETRYING, int(attempts > 0))
        answered = before.get(lease.sequence) if attempt_id is None else status
        rows.append(
            (
                lease.sequence,
                _order(lease),
                returned.not_before_ms,
                first_failed_ms,
                lease.replayed_at_ms,
                attempts,
                reason_id,
                route,
                lease.partition,
                kind,
                answered,
            )
        )
    await connection.executemany(GIVE_BACK, rows)
    await connection.execute(LEAD, [row[1] for row in rows])
    await _tell_next(transaction, route, stepped_aside, sequences, done)
    heads = await connection.fetch(
        "SELECT sequence, kind, is_head FROM forwarder.work WHERE sequence = ANY($1::bigint[])", sequences
    )
    found = {row["sequence"]: row for row in heads}
    for lease in leases:
        row = found[lease.sequence]
        back = GivenBack(lease, is_head=row["is_head"], kind=row["kind"], not_before_ms=returned.not_before_ms)
        done.moves.given_back.append((route, back))


async def _unlist(transaction: Transaction, route: int, sequences: Sequence[int]) -> dict[int, int | None]:
    """Take events off the list; return the status of each one's last answer."""
    rows = await transaction.connection.fetch(
        "DELETE FROM forwarder.work WHERE sequence = ANY($1::bigint[]) RETURNING sequence, attempts, status", sequences
    )
    transaction.add(route, Account.RETRYING, -sum(row["attempts"] > 0 for row in rows))
    return {row["sequence"]: row["status"] for row in rows}


def _order(lease: Lease) -> int:
    return partition_number(lease.envelope.route.value, lease.envelope.partition_key)


def status_of(attempt: Attempt | None) -> int | None:
    """Return the HTTP status of an exchange; 0 where no answer came."""
    return None if attempt is None else attempt.status or 0


async def intern_reason(connection: asyncpg.Connection, route: int, state: int, reason: str) -> int | None:
    """Return the reason's id; None for no reason, which only what is pending or delivered may have."""
    if not reason and state in _MAY_LACK_REASON:
        return None
    known = "SELECT reason_id FROM forwarder.reasons WHERE reason = $1 AND route = $2 AND state = $3"
    values = text(reason), route, state
    found = await connection.fetchval(known, *values)
    if found is None:
        await connection.execute(
            "INSERT INTO forwarder.reasons (reason, route, state) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", *values
        )
        found = await connection.fetchval(known, *values)
    return int(found)


async def write_attempt(transaction: Transaction, attempt: Attempt | None) -> int | None:
    """Keep an exchange and return its id."""
    if attempt is None:
        return None
    return int(
        await transaction.connection.fetchval(
            "INSERT INTO forwarder.attempts (at_ms, duration_ms, status, operation, outcome, reason, mapping, answer) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING attempt_id",
            attempt.at_ms,
            attempt.duration_ms,
            attempt.status,
            text(attempt.operation),
            text(attempt.outcome),
            text(attempt.reason),
            text(attempt.mapping),
            bytes(attempt.answer[: transaction.limits.answer_bytes_max]),
        )
    )


async def _list_attempt(transaction: Transaction, sequences: Sequence[int], attempt_id: int | None) -> None:
    """Add an exchange to the lists of pending events, the last ten each."""
    if attempt_id is None or not sequences:
        return
    await transaction.connection.execute(
        "INSERT INTO forwarder.attempt_lists AS l SELECT s, ARRAY[$2::bigint] FROM unnest($1::bigint[]) AS s "
        "ON CONFLICT (sequence) DO UPDATE SET attempt_ids = "
        "(l.attempt_ids || $2::bigint)[greatest(1, cardinality(l.attempt_ids) + 2 - $3::integer):]",
        sequences,
        attempt_id,
        transaction.limits.attempts_max,
    )


async def record(transaction: Transaction, sequences: Sequence[int], attempt: Attempt, fence: Fence) -> None:
    """Keep an exchange of events that stay leased."""
    if sequences and await hold(transaction.connection, fence.replica, fence.epochs):
        await _list_attempt(transaction, sequences, await write_attempt(transaction, attempt))


async def note(transaction: Transaction, sequence: int, progress: bytes, fence: Fence) -> None:
    """Keep a leased event's progress."""
    if await hold(transaction.connection, fence.replica, fence.epochs):
        await transaction.connection.execute(
            "INSERT INTO forwarder.progress VALUES ($1, $2, 0) "
            "ON CONFLICT (sequence) DO UPDATE SET data = excluded.data, replay = 0",
            sequence,
            progress,
        )
