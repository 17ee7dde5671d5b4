"""Drop what is past the retention, a few hundred rows at a time. What is pending never expires."""

from array import array
from collections.abc import Sequence

import apsw

from forwarder.spool.capacity import event_bytes
from forwarder.spool.store.attempts import drop_old_attempts
from forwarder.spool.store.codes import DEAD, Account
from forwarder.spool.store.reasons import CORRUPT_ROW, drop_reason
from forwarder.spool.store.transaction import Transaction

_ROWS_PER_STEP = 500
_ATTEMPTS_PER_SWEEP = 5_000
_OUTCOMES = (
    "SELECT e.sequence, e.route, e.size, o.state, o.reason_id, o.is_discarded, o.settled_at_ms, e.received_at_ms "
    "FROM (SELECT sequence, route, size, received_at_ms FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?) e "
    "LEFT JOIN outcomes o ON o.route = e.route AND o.state IN (1, 2, 3, 4) AND o.sequence = e.sequence "
    "ORDER BY e.sequence"
)
OutcomeRow = tuple[int, int, int, int | None, int | None, int | None, int | None, int]


class Sweep:
    """Walk the events from the oldest on, once a while, and drop the settled ones that are past the retention."""

    def __init__(self) -> None:
        self._cursor = 0

    def step(self, transaction: Transaction, *, before_ms: int) -> bool:
        """Do a part of the walk; tell whether it has come to its end."""
        start = self._cursor
        # Moved on first: a damaged page ends this step, and the next one begins behind it.
        self._cursor += _ROWS_PER_STEP
        rows: list[OutcomeRow] = transaction.execute(_OUTCOMES, (start, _ROWS_PER_STEP)).fetchall()
        purge(transaction, [row for row in rows if row[6] is not None and row[6] < before_ms])
        # Nothing is settled before it was received, so behind the first young one all are young.
        is_young = any(before_ms <= row[7] <= transaction.now_ms for row in rows)
        if is_young or len(rows) < _ROWS_PER_STEP:
            self._cursor = 0
            _drop_the_rest(transaction, before_ms)
            return True
        self._cursor = rows[-1][0]
        return False


def purge(transaction: Transaction, rows: Sequence[OutcomeRow]) -> None:
    """Drop these settled events altogether. The books keep counting them."""
    if not rows:
        return
    corrupt = {row[0] for row in transaction.execute("SELECT reason_id FROM reasons WHERE reason = ?", (CORRUPT_ROW,))}
    for sequence, route, size, state, reason_id, is_discarded, _, _ in rows:
        transaction.execute(
            "DELETE FROM outcomes WHERE route = ? AND state = ? AND sequence = ?", (route, state, sequence)
        )
        drop_reason(transaction, reason_id, count=1 - int(is_discarded or 0), rows=1)
        # A damaged row never was among the dead bytes: its size could not be trusted.
        if state == DEAD and reason_id not in corrupt:
            transaction.book(route, Account.DEAD_BYTES, -event_bytes(size))
    sequences = apsw.carray(array("q", [row[0] for row in rows]))
    transaction.execute("DELETE FROM events WHERE sequence IN carray(?)", (sequences,))
    transaction.execute("DELETE FROM progress WHERE sequence IN carray(?)", (sequences,))
    transaction.execute("DELETE FROM trails WHERE sequence IN carray(?)", (sequences,))


def _drop_the_rest(transaction: Transaction, before_ms: int) -> None:
    drop_old_attempts(transaction, before_ms=before_ms, limit=_ATTEMPTS_PER_SWEEP)
    transaction.execute(
        "DELETE FROM occurrences WHERE base_key IN "
        "(SELECT base_key FROM occurrences WHERE keep_until_ms < ? ORDER BY keep_until_ms LIMIT ?)",
        (transaction.now_ms, _ROWS_PER_STEP),
    )
    transaction.execute("DELETE FROM audit WHERE at_ms < ?", (before_ms,))
