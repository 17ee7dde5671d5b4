"""Make settled events pending again, or mark dead ones as discarded."""

from collections.abc import Sequence

from forwarder.model import Replay
from forwarder.spool.capacity import event_bytes
from forwarder.spool.recurrence import lane_of
from forwarder.spool.store import lanes
from forwarder.spool.store.codes import DEAD, PENDING, REPLAY_CODES, ROUTES, SETTLED_CODES, Account
from forwarder.spool.store.reasons import CORRUPT_ROW, drop_reason
from forwarder.spool.store.transaction import Transaction

_CHUNK = 500  # events in one commit, so that a long replay delays nobody


def chunks(sequences: Sequence[int]) -> list[Sequence[int]]:
    """Return them in parts that fit a commit each."""
    return [sequences[start : start + _CHUNK] for start in range(0, len(sequences), _CHUNK)]


def requeue(transaction: Transaction, sequences: Sequence[int], *, everything: bool) -> int:
    """Move settled events that still have their payload back to pending; return how many."""
    replay = REPLAY_CODES[Replay.EVERYTHING if everything else Replay.REST]
    return sum(_exhume_one(transaction, sequence, replay) for sequence in sequences)


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


def _exhume_one(transaction: Transaction, sequence: int, replay: int) -> int:
    found = _outcome(transaction, sequence)
    if found is None:
        return 0
    route, state, reason_id, is_discarded = found
    event = transaction.execute(
        "SELECT partition, size FROM events WHERE sequence = ? AND payload IS NOT NULL", (sequence,)
    ).fetchone()
    if event is None:
        return 0
    partition, size = event
    transaction.execute("DELETE FROM outcomes WHERE route = ? AND state = ? AND sequence = ?", (route, state, sequence))
    drop_reason(transaction, reason_id, count=1 - is_discarded, rows=1)
    transaction.execute("DELETE FROM trails WHERE sequence = ?", (sequence,))
    transaction.execute("UPDATE progress SET replay = ? WHERE sequence = ?", (replay, sequence))
    _stand_up(transaction, route, sequence, lane_of(ROUTES[route].value, partition))
    transaction.book(route, state, -1)
    transaction.book(route, PENDING, 1)
    transaction.book(route, Account.UNSETTLED_BYTES, event_bytes(size))
    if state == DEAD:
        transaction.book(route, Account.DEAD_BYTES, -event_bytes(size))
    return 1


def _outcome(transaction: Transaction, sequence: int) -> tuple[int, int, int | None, int] | None:
    """Return where a settled event is; None for others, and for damaged rows, which nothing can replay."""
    for route in (0, 1):
        for state in SETTLED_CODES:
            row = transaction.execute(
                "SELECT o.reason_id, o.is_discarded FROM outcomes o LEFT JOIN reasons r USING (reason_id) "
                "WHERE o.route = ? AND o.state = ? AND o.sequence = ? AND r.reason IS NOT ?",
                (route, state, sequence, CORRUPT_ROW),
            ).fetchone()
            if row is not None:
                return route, state, row[0], row[1]
    return None


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
