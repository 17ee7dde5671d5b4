"""Make settled events pending again, or mark dead ones as discarded."""

from collections.abc import Sequence

from forwarder.spool.capacity import event_bytes
from forwarder.spool.recurrence import lane_of
from forwarder.spool.store import lanes
from forwarder.spool.store.codes import DEAD, PENDING, ROUTES, SETTLED_CODES, Account
from forwarder.spool.store.reasons import drop_reason
from forwarder.spool.store.transaction import Transaction


def exhume(transaction: Transaction, sequences: Sequence[int]) -> int:
    """Move settled events that still have their payload back to pending; return how many."""
    return sum(_exhume_one(transaction, sequence) for sequence in sequences)


def discard(transaction: Transaction, sequences: Sequence[int]) -> int:
    """Mark dead events as discarded; return how many were not so before."""
    count = 0
    for sequence in sequences:
        for route in (0, 1):
            row = transaction.execute(
                "UPDATE outcomes SET is_discarded = 1 WHERE route = ? AND state = ? AND sequence = ? "
                "AND is_discarded = 0 RETURNING reason_id",
                (route, DEAD, sequence),
            ).fetchone()
            if row is not None:
                drop_reason(transaction, row[0], count=1, rows=0)
                count += 1
    return count


def _exhume_one(transaction: Transaction, sequence: int) -> int:
    execute = transaction.execute
    event = execute(
        "SELECT route, partition, size FROM events WHERE sequence = ? AND payload IS NOT NULL", (sequence,)
    ).fetchone()
    if event is None:
        return 0
    route, partition, size = event
    for state in SETTLED_CODES:
        outcome = execute(
            "DELETE FROM outcomes WHERE route = ? AND state = ? AND sequence = ? RETURNING reason_id, is_discarded",
            (route, state, sequence),
        ).fetchone()
        if outcome is not None:
            break
    else:
        return 0
    drop_reason(transaction, outcome[0], count=1 - outcome[1], rows=1)
    _stand_up(transaction, route, sequence, lane_of(ROUTES[route].value, partition))
    transaction.book(route, state, -1)
    transaction.book(route, PENDING, 1)
    transaction.book(route, Account.UNSETTLED_BYTES, event_bytes(size))
    if state == DEAD:
        transaction.book(route, Account.DEAD_BYTES, -event_bytes(size))
    return 1


def _stand_up(transaction: Transaction, route: int, sequence: int, lane: int) -> None:
    if not lane:
        transaction.execute("INSERT INTO ready VALUES (?, ?)", (route, sequence))
        return
    head = lanes.head_of(transaction, lane)
    transaction.execute("INSERT INTO lanes VALUES (?, ?)", (lane, sequence))
    if head is not None and head < sequence:
        transaction.execute("INSERT INTO blocked VALUES (?, ?)", (route, sequence))
        return
    if head is not None:
        lanes.step_back(transaction, route, head)
    lanes.place(transaction, route, sequence)
