"""Move leased events on: settle them or give them back, note their progress. SQL only.

All that one commit is to do takes one statement, whatever the number of events. What was given back before, or is now,
takes some more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from forwarder.model import Lease, Returned, Settled
from forwarder.spool.claims import Claim, GivenBack, Moves, is_unchanged
from forwarder.spool.codes import DEAD, STATE_CODES, Account, partition_number
from forwarder.spool.held_leases import BESIDE, FRESH, RETRY
from forwarder.spool.limits import event_bytes
from forwarder.spool.postgres.one_read import Freed
from forwarder.spool.postgres.reasons import Reason, intern_all
from forwarder.spool.postgres.settlement_rows import MOVE, Move, Rows, columns, reason_of, status_of
from forwarder.spool.postgres.transaction import Transaction

_UNLIST = "DELETE FROM forwarder.work WHERE sequence = ANY($1::bigint[]) RETURNING sequence, route, attempts, status"
GIVE_BACK = """
INSERT INTO forwarder.work (sequence, order_no, not_before_ms, first_failed_ms, replayed_ms, attempts, reason_id, route,
  partition_no, kind, status, is_head)
SELECT u.*, true FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::integer[],
  $7::integer[], $8::smallint[], $9::smallint[], $10::smallint[], $11::smallint[]) AS u
ON CONFLICT (sequence) DO UPDATE SET not_before_ms = excluded.not_before_ms, first_failed_ms = excluded.first_failed_ms,
  replayed_ms = excluded.replayed_ms, attempts = excluded.attempts, reason_id = excluded.reason_id,
  kind = excluded.kind, status = excluded.status
"""
# Who changes which events of an order are listed has it alone until the transaction ends. Else one that takes the
# oldest off and another replica that lists a younger do not see each other, and nobody leads. Sorted: no circle of
# waiting.
LOCK_ORDERS = """
SELECT pg_advisory_xact_lock(order_no) FROM
  (SELECT DISTINCT order_no FROM unnest($1::bigint[]) AS u(order_no) WHERE order_no <> 0 ORDER BY 1) o
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
_HEADS = "SELECT sequence, kind, is_head FROM forwarder.work WHERE sequence = ANY($1::bigint[])"


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


@dataclass(frozen=True, slots=True)
class _Ours:
    """What of a claim is still this replica's to settle, and what it belongs to."""

    claim: Claim
    leases: Sequence[Lease]
    done: Settlements


async def move(
    transaction: Transaction, moves: Sequence[Move], fence: Fence, partitions: Mapping[int, int]
) -> list[Settlements]:
    """Write what became of leased events, as far as their partitions are still this replica's.

    `partitions` are those of what is leased here and was nobody else's since, by sequence: what is not among them is
    left alone.
    """
    done = [Settlements() for _ in moves]
    claims = [(claim, one) for asked, one in zip(moves, done, strict=True) for claim in asked.claims]
    changed = [claim for claim, _ in claims if not is_unchanged(claim.settlement)]
    reasons = await intern_all(transaction, {reason_of(claim) for claim in changed})
    rows = Rows(transaction.limits.attempts_max)
    for asked in moves:
        rows.add(asked, partitions)
        for claim in asked.claims:
            if not is_unchanged(claim.settlement):
                rows.settle(claim, reasons[reason_of(claim)], partitions)
    arrays = rows.arrays(transaction.now_ms, transaction.limits.answer_bytes_max)
    epochs = fence.epochs
    found = await transaction.connection.fetch(MOVE, fence.replica, list(epochs), list(epochs.values()), *arrays)
    held = {row[1] for row in found if row[0]}
    ours = []
    for claim, one in claims:
        leases = [lease for lease in claim.leases if partitions.get(lease.sequence) in held]
        if len(leases) < len(claim.leases):
            one.lost += [lease for lease in claim.leases if lease not in leases]
        if leases and not is_unchanged(claim.settlement):
            ours.append(_Ours(claim, leases, one))
    await _list(transaction, ours, reasons)
    _count(transaction, ours, reasons, now={row[1] for row in found if not row[0]})
    return done


async def _list(transaction: Transaction, ours: Sequence[_Ours], reasons: Mapping[Reason, int | None]) -> None:
    """Keep the list of those that were given back, and note who is the oldest of each order now."""
    before = await _unlist(transaction, ours)
    left: list[tuple[_Ours, Lease]] = []  # who is gone from its order
    rows: list[tuple[object, ...]] = []
    for one in ours:
        if isinstance(one.claim.settlement, Settled):
            left += [(one, lease) for lease in one.leases]
            continue
        rows += [_waiting(transaction, one.claim, lease, reasons, before) for lease in one.leases]
        left += [(one, lease) for lease in one.leases if lease.replayed_at_ms is not None and not lease.is_beside]
    if rows:
        await transaction.connection.execute(GIVE_BACK, *columns(rows, 11))
    await _tell_next(transaction, left, [row[1] for row in rows])
    if rows:
        await _tell_given_back(transaction, ours, [row[0] for row in rows])


async def _unlist(transaction: Transaction, ours: Sequence[_Ours]) -> dict[int, int | None]:
    """Take off the list whatever is of these; return the status of each one's last answer."""
    listed = {
        lease.sequence: _order(lease)
        for one in ours
        for lease in one.leases
        if not isinstance(one.claim.settlement, Settled) or lease.sequence in one.claim.listed
    }
    if any(listed.values()):
        await transaction.connection.execute(LOCK_ORDERS, list(listed.values()))
    rows = await transaction.connection.fetch(_UNLIST, sorted(listed)) if listed else ()
    for row in rows:
        transaction.add(row["route"], Account.RETRYING, -int(row["attempts"] > 0))
    return {row["sequence"]: row["status"] for row in rows}


async def _tell_given_back(transaction: Transaction, ours: Sequence[_Ours], sequences: Sequence[object]) -> None:
    heads = {row[0]: row for row in await transaction.connection.fetch(_HEADS, sequences)}
    for one in ours:
        if not isinstance(one.claim.settlement, Returned):
            continue
        at_ms = one.claim.settlement.not_before_ms
        for lease in one.leases:
            _, kind, is_head = heads[lease.sequence]
            back = GivenBack(lease, is_head=is_head, kind=kind, not_before_ms=at_ms)
            one.done.moves.given_back.append((one.claim.route, back))


def _waiting(
    transaction: Transaction,
    claim: Claim,
    lease: Lease,
    reasons: Mapping[Reason, int | None],
    before: Mapping[int, int | None],
) -> tuple[object, ...]:
    """Return the row of an event that is given back."""
    returned = claim.settlement
    assert isinstance(returned, Returned)  # noqa: S101 - the caller looked
    attempts, first_failed_ms = lease.attempt - 1 + int(returned.counts), lease.first_failed_at_ms
    if returned.counts and first_failed_ms is None:
        first_failed_ms = transaction.now_ms
    kind = RETRY if attempts > 0 or returned.not_before_ms > 0 else FRESH
    if lease.replayed_at_ms is not None:  # it steps aside: nothing waits for a replay that did not succeed
        kind = BESIDE
    transaction.add(claim.route, Account.RETRYING, int(attempts > 0))
    return (
        lease.sequence,
        _order(lease),
        returned.not_before_ms,
        first_failed_ms,
        lease.replayed_at_ms,
        attempts,
        reasons[reason_of(claim)],
        claim.route,
        lease.partition,
        kind,
        before.get(lease.sequence) if returned.attempt is None else status_of(returned.attempt),
    )


async def _tell_next(transaction: Transaction, left: Sequence[tuple[_Ours, Lease]], orders: Collection[object]) -> None:
    """Note who is the oldest of the orders that events have left, and of `orders`.

    What was never given back is looked for after the commit: what arrives meanwhile cannot be seen here, and its reader
    may not see this.
    """
    gone = [(one, lease, order) for one, lease in left if (order := _order(lease))]
    found = {}
    if gone:
        keys = [order for _, _, order in gone], [lease.is_beside for _, lease, _ in gone]
        found = {(row[0], row[1]): row for row in await transaction.connection.fetch(_NEXT, *keys)}
    if leading := {*orders, *(order for order, _ in found)}:
        await transaction.connection.execute(LEAD, sorted(leading))
    for one, lease, order in gone:
        if row := found.get((order, lease.is_beside)):
            one.done.moves.waits.append((one.claim.route, row["kind"], row["not_before_ms"]))
        elif not lease.is_beside:
            was_listed = lease.sequence in one.claim.listed or not isinstance(one.claim.settlement, Settled)
            one.done.freed.append((one.claim.route, (order, lease.sequence, was_listed)))


def _count(
    transaction: Transaction, ours: Sequence[_Ours], reasons: Mapping[Reason, int | None], *, now: Collection[int]
) -> None:
    """Count what is settled now; what was so already was settled by a commit nobody heard of."""
    for one in ours:
        settlement, route = one.claim.settlement, one.claim.route
        if not isinstance(settlement, Settled):
            continue
        leases, state = [lease for lease in one.leases if lease.sequence in now], STATE_CODES[settlement.state]
        size = sum(event_bytes(len(lease.envelope.payload)) for lease in leases)
        transaction.add(route, Account.PENDING, -len(leases))
        transaction.add(route, state, len(leases))
        transaction.add(route, Account.UNSETTLED_BYTES, -size)
        transaction.count_reason(reasons[reason_of(one.claim)], len(leases))
        if state == DEAD:
            transaction.add(route, Account.DEAD_BYTES, size)
            transaction.add(route, Account.OPEN_DEAD, len(leases))


def _order(lease: Lease) -> int:
    return partition_number(lease.envelope.route.value, lease.envelope.partition_key)
