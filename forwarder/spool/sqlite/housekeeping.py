"""What is tidied between commits, in steps small enough that no append notices."""

from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite.codes import EVENT_TABLES
from forwarder.spool.sqlite.eviction import Eviction, Retention
from forwarder.spool.sqlite.known_keys import KnownKeys
from forwarder.spool.sqlite.label_index import LabelIndex, drop_empty_blocks
from forwarder.spool.sqlite.refill import oldest_fresh
from forwarder.spool.sqlite.transaction import Memory, Reader, Transaction, floor_mark, read_mark, write_mark

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
            or ((is_idle or self.is_pressed) and self._is_vacuum_due())
        )

    def step(self, transaction: Transaction, *, is_idle: bool) -> int:
        """Do one step; return how many events lost their payload to make room."""
        now_ms = transaction.now_ms
        if self._set_back_ms:
            self._age_occurrences(transaction)
        elif self.is_pressed and self._is_vacuum_due():
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

    def _is_vacuum_due(self) -> bool:
        kept = _PAGES_PER_PRESSED_VACUUM if self.is_pressed else _FREE_PAGES_KEPT
        return int(self._connection.pragma("freelist_count")) > kept


def _vacuum(transaction: Transaction, pages: int) -> None:
    transaction.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
