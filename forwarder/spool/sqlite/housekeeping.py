"""What is tidied between commits, in steps small enough that no append notices: space first, then age, then order.

When space runs short, history is evicted: payloads first, then the oldest keys, then the oldest rows. What is pending
or dead is never touched. What is past the retention goes the same way, all of it, dead ones too; pending never expires.
"""

from forwarder.model import State
from forwarder.spool.codes import CORRUPT_ROW, DEAD, STATE_CODES, Account
from forwarder.spool.limits import EVICTION_FRACTION, SpoolLimits, event_bytes
from forwarder.spool.sqlite.known_keys import KnownKeys
from forwarder.spool.sqlite.label_index import LabelIndex, drop_empty_blocks
from forwarder.spool.sqlite.refill import oldest_fresh
from forwarder.spool.sqlite.runs import RUN_COLUMNS, Run, delete_run, drop_reason
from forwarder.spool.sqlite.transaction import (
    EVENT_TABLES,
    Memory,
    Reader,
    Transaction,
    floor_mark,
    read_mark,
    write_mark,
)

_SWEEP_EVERY_MS = 60_000
_FLOOR_EVERY_MS = 5_000
_LOOKS_PER_STEP = 5_000
_FREE_PAGES_KEPT = 2_000  # they are filled again soon; giving them back and taking them anew costs twice
_PAGES_PER_VACUUM = 200
_PAGES_PER_PRESSED_VACUUM = 32  # each costs a page of the log, of which a full disk holds few
_SET_BACK_MS = 60_000


class Housekeeping:
    """Decide what to tidy next and do one step of it: space first, then age, then order. On the writer thread."""

    def __init__(self, connection: Reader, limits: SpoolLimits, keys: KnownKeys) -> None:
        self._connection = connection
        self._retention_ms = limits.retention_s * 1000
        self._keys = keys
        self._eviction = Eviction(limits, keys)
        self._retention = Retention()
        self._is_sweeping = False
        self._swept_ms = 0
        self._floors_ms = 0
        self._labels = LabelIndex(connection)
        self._clock: tuple[int, float] | None = None  # wall and monotonic, at the last look
        self._set_back_ms = 0
        self.is_pressed = False  # the disk is full: history goes whatever the cap, and free pages go back

    def look_at_clock(self, *, now_ms: int, monotonic_s: float) -> None:
        """Notice a wall clock that was set back: what it stamped before must age all the same."""
        if self._clock is not None:
            expected_ms = self._clock[0] + round((monotonic_s - self._clock[1]) * 1000)
            if expected_ms - now_ms > _SET_BACK_MS:
                self._set_back_ms += expected_ms - now_ms
        self._clock = (now_ms, monotonic_s)

    def is_due(self, memory: Memory, *, now_ms: int, is_idle: bool) -> bool:
        """Tell whether there is a step to do. While busy, only what cannot wait."""
        return (
            bool(self._set_back_ms)
            or self._is_eviction_due(memory)
            or self._keys.is_sealing_due(now_ms=now_ms)
            or self._labels.is_due(sequence=memory.sequence, is_idle=is_idle)
            or self._is_sweep_due(now_ms)
            or abs(now_ms - self._floors_ms) >= _FLOOR_EVERY_MS
            or ((is_idle or self.is_pressed) and self._is_vacuum_due(memory))
        )

    def step(self, transaction: Transaction, *, is_idle: bool) -> int:
        """Do one step; return how many events lost their payload to make room."""
        now_ms = transaction.now_ms
        if self._set_back_ms:
            self._age_occurrences(transaction)
        elif self.is_pressed and self._is_vacuum_due(transaction.memory):
            _vacuum(transaction, _PAGES_PER_PRESSED_VACUUM)
        elif self._is_eviction_due(transaction.memory):
            return self._eviction.step(transaction, is_pressed=self.is_pressed)
        elif self._keys.is_sealing_due(now_ms=now_ms):
            self._keys.seal(transaction)
        elif self._labels.is_due(sequence=transaction.sequence, is_idle=is_idle):
            self._labels.step(transaction)
        elif self._is_sweep_due(now_ms):
            self._sweep_on(transaction)
        elif abs(now_ms - self._floors_ms) >= _FLOOR_EVERY_MS:
            self._raise_floors(transaction)
        else:
            _vacuum(transaction, _PAGES_PER_VACUUM)
        return 0

    def forget_changes(self) -> None:
        """Read again what a rollback undid."""
        self._labels.forget_changes()

    def _is_eviction_due(self, memory: Memory) -> bool:
        return self._eviction.is_due(used_bytes=memory.used_bytes, history=memory.history(), is_pressed=self.is_pressed)

    def _age_occurrences(self, transaction: Transaction) -> None:
        set_back_ms, self._set_back_ms = self._set_back_ms, 0
        transaction.execute(
            "UPDATE occurrences SET last_copy_ms = last_copy_ms - ?1, keep_until_ms = keep_until_ms - ?1",
            (set_back_ms,),
        )

    def _is_sweep_due(self, now_ms: int) -> bool:
        # abs: a clock that was set back must not stop the sweeps until it has caught up.
        return self._is_sweeping or abs(now_ms - self._swept_ms) >= _SWEEP_EVERY_MS

    def _sweep_on(self, transaction: Transaction) -> None:
        before_ms = transaction.now_ms - self._retention_ms
        self._is_sweeping = True
        if not self._retention.step(transaction, before_ms=before_ms) or self._keys.drop_old(transaction):
            return
        self._is_sweeping = False
        self._swept_ms = transaction.now_ms
        drop_empty_blocks(transaction)

    def _raise_floors(self, transaction: Transaction) -> None:
        """Note below which sequence nothing is pending without a row of its own: reading begins there after a start."""
        self._floors_ms = transaction.now_ms
        for route in range(len(EVENT_TABLES)):
            oldest = oldest_fresh(self._connection, route, looks_max=_LOOKS_PER_STEP)
            floor = transaction.sequence if oldest is None else oldest - 1
            if floor > read_mark(self._connection, floor_mark(route)):
                write_mark(transaction, floor_mark(route), floor)

    def _is_vacuum_due(self, memory: Memory) -> bool:
        return memory.free_pages > (_PAGES_PER_PRESSED_VACUUM if self.is_pressed else _FREE_PAGES_KEPT)


def _vacuum(transaction: Transaction, pages: int) -> None:
    transaction.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()


_EVENTS_PER_STEP = 250
_ATTEMPTS_PER_SWEEP = 5_000
_ROWS_PER_SWEEP = 500
_EVICTABLE = tuple(STATE_CODES[state] for state in (State.FILTERED, State.DELIVERED, State.UNMAPPED))
_RUN = f"SELECT {RUN_COLUMNS} FROM settled "  # noqa: S608 - our own words
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
        if is_pressed or not (self._keys.drop_oldest(transaction) or self._drop_runs(transaction)):
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

    def _drop_runs(self, transaction: Transaction) -> bool:
        """Drop the oldest rows; tell whether there was anything to do for it."""
        dropped = 0
        sealed_to = self._keys.sealed_to()
        for state in _EVICTABLE:
            for route in (0, 1):
                while dropped < _EVENTS_PER_STEP:
                    row = transaction.execute(_NEXT, (route, state, 0)).fetchone()
                    if row is None:
                        break
                    run = Run(*row)
                    if run.last > sealed_to:  # a restart would read its keys from its rows
                        self._keys.seal(transaction)
                        return True
                    dropped += purge(transaction, run)
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
    transaction.execute(
        "DELETE FROM attempts WHERE attempt_id IN (SELECT attempt_id FROM attempts ORDER BY attempt_id LIMIT ?) "
        "AND at_ms < ?",
        (_ATTEMPTS_PER_SWEEP, before_ms),
    )
    transaction.execute(
        "DELETE FROM occurrences WHERE base_key IN "
        "(SELECT base_key FROM occurrences WHERE keep_until_ms < ? ORDER BY keep_until_ms LIMIT ?)",
        (transaction.now_ms, _ROWS_PER_SWEEP),
    )
    transaction.execute("DELETE FROM audit WHERE at_ms < ?", (before_ms,))
