"""When space runs short, history is evicted: payloads first, then the oldest keys, then the oldest rows.

What is pending or dead is never touched. What is past the retention goes the same way, all of it, dead ones too. A few
hundred events at a time, oldest first; pending never expires.
"""

from forwarder.model import State
from forwarder.spool.capacity import EVICTION_FRACTION, event_bytes
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite.attempts import drop_old_attempts, drop_reason
from forwarder.spool.sqlite.codes import CORRUPT_ROW, DEAD, EVENT_TABLES, STATE_CODES, Account
from forwarder.spool.sqlite.known_keys import KnownKeys
from forwarder.spool.sqlite.runs import Run, delete_run
from forwarder.spool.sqlite.transaction import Transaction

_EVENTS_PER_STEP = 250
_ATTEMPTS_PER_SWEEP = 5_000
_ROWS_PER_SWEEP = 500
_EVICTABLE = tuple(STATE_CODES[state] for state in (State.FILTERED, State.DELIVERED, State.UNMAPPED))
_RUN = "SELECT route, last, first, state, settled_at_ms, attempts, reason_id, attempt_id, is_discarded FROM settled "
_NEXT = _RUN + "INDEXED BY settled_by_state WHERE route = ? AND state = ? AND last > ? ORDER BY last LIMIT 1"
_OLDEST = (
    _RUN + "INDEXED BY settled_by_age WHERE settled_at_ms < ? AND (settled_at_ms, route, last) > (?, ?, ?) "
    "ORDER BY settled_at_ms, route, last LIMIT 1"
)


class Eviction:
    """Give history up, as long as more than nine tenths of the cap are used."""

    def __init__(self, limits: SpoolLimits, keys: KnownKeys) -> None:
        self._threshold = int(limits.bytes_max * EVICTION_FRACTION)
        self._keys = keys
        self._cursors: dict[tuple[int, int], int] = {}
        self._exhausted_at: int | None = None  # how much history there ever was when all of it was evicted

    def is_due(self, *, used_bytes: int, history: int, is_pressed: bool) -> bool:
        """Tell whether history must go, and may have something left to give.

        `history` counts the events that ever became history: while it stands still, so does what is left.
        `is_pressed`: the disk is full, whatever the cap.
        """
        return history != self._exhausted_at and (is_pressed or used_bytes > self._threshold)

    def step(self, transaction: Transaction, *, is_pressed: bool) -> int:
        """Give some of it up; return how many events lost their payload.

        `is_pressed`: payloads only. Who fills the disk may be somebody else, and keys keep duplicates out.
        """
        for state in _EVICTABLE:
            evicted = sum(self._drop_payloads(transaction, route, state) for route in (0, 1))
            if evicted:
                return evicted
        if is_pressed or not (self._keys.drop_oldest(transaction) or self._drop_run(transaction)):
            self._exhausted_at = transaction.memory.history()
        # What was settled since the last lap may be older than the cursors.
        self._cursors.clear()
        return 0

    def _drop_payloads(self, transaction: Transaction, route: int, state: int) -> int:
        """Drop payloads from the cursor on until some were there to drop; return how many."""
        changed = 0
        while changed < _EVENTS_PER_STEP:
            row = transaction.execute(_NEXT, (route, state, self._cursors.get((route, state), 0))).fetchone()
            if row is None:
                return changed
            run = Run(*row)
            self._cursors[route, state] = run.last
            transaction.execute(
                f"UPDATE {EVENT_TABLES[route]} SET payload = NULL "  # noqa: S608 - our own words
                "WHERE sequence BETWEEN ? AND ? AND payload IS NOT NULL",
                (run.first, run.last),
            )
            changed += transaction.connection.changes()
        return changed

    def _drop_run(self, transaction: Transaction) -> bool:
        dropped = 0
        for state in _EVICTABLE:
            for route in (0, 1):
                while dropped < _EVENTS_PER_STEP:
                    row = transaction.execute(_NEXT, (route, state, 0)).fetchone()
                    if row is None:
                        break
                    dropped += purge(transaction, Run(*row))
        return dropped > 0


class Retention:
    """Drop what was settled longer ago than the retention. Only that is looked at, however long the backlog is."""

    def __init__(self) -> None:
        self._cursor = (-(2**62), 0, 0)

    def step(self, transaction: Transaction, *, before_ms: int) -> bool:
        """Drop some of it; tell whether that was all."""
        dropped = 0
        while dropped < _EVENTS_PER_STEP:
            row = transaction.execute(_OLDEST, (before_ms, *self._cursor)).fetchone()
            if row is None:
                self._cursor = (-(2**62), 0, 0)
                _drop_the_rest(transaction, before_ms)
                return True
            run = Run(*row)
            # Moved on first: a damaged page ends this step, and the next one begins behind it.
            self._cursor = (run.settled_at_ms, run.route, run.last)
            dropped += purge(transaction, run)
        return False


def purge(transaction: Transaction, run: Run) -> int:
    """Drop settled events altogether; return how many. The totals keep counting them."""
    table, ends = EVENT_TABLES[run.route], (run.first, run.last)
    events = f"sequence BETWEEN ? AND ? AND sequence IN (SELECT sequence FROM {table} WHERE sequence BETWEEN ? AND ?)"  # noqa: S608 - our own words
    if run.state == DEAD:
        _weigh(transaction, run)
    for beside in ("progress", "attempt_lists"):
        transaction.execute(f"DELETE FROM {beside} WHERE {events}", ends + ends)  # noqa: S608 - our own words
    transaction.execute(f"DELETE FROM {table} WHERE sequence BETWEEN ? AND ?", ends)  # noqa: S608 - our own words
    count = transaction.connection.changes()
    delete_run(transaction, run)
    # Of a row that could not even be deleted nothing is left to count, but its reason had it.
    held = max(1, count)
    drop_reason(transaction, run.reason_id, count=0 if run.is_discarded else held, held=held)
    return held


def _weigh(transaction: Transaction, run: Run) -> None:
    """Take dead events off what the dead weigh; a damaged row never was among them: its size could not be trusted."""
    reason = transaction.execute("SELECT reason FROM reasons WHERE reason_id = ?", (run.reason_id,)).fetchone()
    if reason is not None and reason[0] == CORRUPT_ROW:
        return
    count, size = transaction.execute(
        f"SELECT count(*), coalesce(sum(size), 0) FROM {EVENT_TABLES[run.route]} WHERE sequence BETWEEN ? AND ?",  # noqa: S608 - our own words
        (run.first, run.last),
    ).fetchone()
    transaction.add(run.route, Account.DEAD_BYTES, -(size + count * event_bytes(0)))


def _drop_the_rest(transaction: Transaction, before_ms: int) -> None:
    drop_old_attempts(transaction, before_ms=before_ms, limit=_ATTEMPTS_PER_SWEEP)
    transaction.execute(
        "DELETE FROM occurrences WHERE base_key IN "
        "(SELECT base_key FROM occurrences WHERE keep_until_ms < ? ORDER BY keep_until_ms LIMIT ?)",
        (transaction.now_ms, _ROWS_PER_SWEEP),
    )
    transaction.execute("DELETE FROM audit WHERE at_ms < ?", (before_ms,))
