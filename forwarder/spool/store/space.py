"""When space runs short, history yields: payloads first, then the oldest keys, then the oldest rows.

What is pending or dead is never touched. A few hundred rows at a time, oldest first.
"""

from array import array

import apsw

from forwarder.model import State
from forwarder.spool.capacity import EVICTION_FRACTION
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.codes import STATE_CODES
from forwarder.spool.store.database import Reader
from forwarder.spool.store.keys import KnownKeys
from forwarder.spool.store.retention import OutcomeRow, purge
from forwarder.spool.store.transaction import Transaction

_ROWS_PER_STEP = 250
_YIELDING = tuple(STATE_CODES[state] for state in (State.FILTERED, State.DELIVERED, State.UNMAPPED))
_OLDEST = "SELECT sequence FROM outcomes WHERE route = ? AND state = ? AND sequence > ? ORDER BY sequence LIMIT ?"
_OLDEST_ROWS = (
    "SELECT o.sequence, o.route, e.size, o.state, o.reason_id, o.is_discarded, o.settled_at_ms, e.received_at_ms "
    "FROM outcomes o JOIN events e ON e.sequence = o.sequence "
    "WHERE o.route = ? AND o.state = ? ORDER BY o.sequence LIMIT ?"
)


def used_bytes(connection: Reader) -> int:
    """Return the bytes of the pages that hold something."""
    pages = int(connection.pragma("page_count")) - int(connection.pragma("freelist_count"))
    return pages * 4096


class Yielding:
    """Give history up, as long as more than nine tenths of the cap are used."""

    def __init__(self, connection: Reader, limits: SpoolLimits, keys: KnownKeys) -> None:
        self._connection = connection
        self._threshold = int(limits.bytes_max * EVICTION_FRACTION)
        self._keys = keys
        self._cursors: dict[tuple[int, int], int] = {}
        self._exhausted_at: int | None = None  # how much history there ever was when all of it had yielded

    def is_due(self, *, settled: int, is_pressed: bool = False) -> bool:
        """Tell whether history must yield, and may have something left to give.

        `settled` counts the events that ever became history: while it stands still, so does what is left.
        `is_pressed`: the disk is full, whatever the cap.
        """
        return settled != self._exhausted_at and (is_pressed or used_bytes(self._connection) > self._threshold)

    def step(self, transaction: Transaction, *, is_pressed: bool = False) -> int:
        """Give some of it up; return how many events lost their payload.

        `is_pressed`: payloads only. Who fills the disk may be somebody else, and keys keep duplicates out.
        """
        for state in _YIELDING:
            yielded = sum(self._drop_payloads(transaction, route, state) for route in (0, 1))
            if yielded:
                return yielded
        if is_pressed or not (self._keys.drop_oldest(transaction) or self._drop_rows(transaction)):
            self._exhausted_at = transaction.history()
        # What was settled since the last lap may be older than the cursors.
        self._cursors.clear()
        return 0

    def _drop_payloads(self, transaction: Transaction, route: int, state: int) -> int:
        """Drop payloads from the cursor on until some were there to drop; return how many."""
        while True:
            cursor = self._cursors.get((route, state), 0)
            rows = transaction.execute(_OLDEST, (route, state, cursor, _ROWS_PER_STEP)).fetchall()
            if not rows:
                return 0
            sequences = array("q", [row[0] for row in rows])
            self._cursors[route, state] = sequences[-1]
            transaction.execute(
                "UPDATE events SET payload = NULL WHERE sequence IN carray(?) AND payload IS NOT NULL",
                (apsw.carray(sequences),),
            )
            changed = transaction.connection.changes()
            if changed:
                return changed

    def _drop_rows(self, transaction: Transaction) -> bool:
        for state in _YIELDING:
            for route in (0, 1):
                rows: list[OutcomeRow] = transaction.execute(_OLDEST_ROWS, (route, state, _ROWS_PER_STEP)).fetchall()
                if rows:
                    purge(transaction, rows)
                    return True
        return False
