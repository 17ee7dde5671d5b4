"""What is tidied between commits, in steps small enough that no append notices."""

from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.database import Reader
from forwarder.spool.store.keys import KnownKeys
from forwarder.spool.store.retention import Sweep
from forwarder.spool.store.segments import Segments, drop_empty_segments
from forwarder.spool.store.space import Yielding
from forwarder.spool.store.transaction import Memory, Transaction

_SWEEP_EVERY_MS = 60_000
_FREE_PAGES_KEPT = 2_000  # they are filled again soon; giving them back and taking them anew costs twice
_PAGES_PER_VACUUM = 200
_PAGES_PER_PRESSED_VACUUM = 32  # each costs a page of the log, of which a full disk holds few


class Housekeeping:
    """Decide what to tidy next and do one step of it: space first, then age, then order."""

    def __init__(self, connection: Reader, limits: SpoolLimits, keys: KnownKeys) -> None:
        self._connection = connection
        self._retention_ms = limits.retention_s * 1000
        self._keys = keys
        self._yielding = Yielding(connection, limits, keys)
        self._sweep = Sweep()
        self._is_sweeping = False
        self._swept_ms = 0
        self._segments = Segments(connection)
        self.is_pressed = False  # the disk is full: history yields whatever the cap, and free pages go back

    def is_due(self, memory: Memory, *, now_ms: int, is_idle: bool) -> bool:
        """Tell whether there is a step to do. While busy, only what cannot wait."""
        return (
            self._yielding.is_due(settled=memory.history(), is_pressed=self.is_pressed)
            or self._keys.is_sealing_due()
            or self._segments.is_due(sequence=memory.sequence, is_idle=is_idle)
            or self._is_sweep_due(now_ms)
            or ((is_idle or self.is_pressed) and self._is_vacuum_due())
        )

    def step(self, transaction: Transaction, *, is_idle: bool) -> int:
        """Do one step; return how many events lost their payload to make room."""
        now_ms = transaction.now_ms
        if self.is_pressed and self._is_vacuum_due():
            _vacuum(transaction, _PAGES_PER_PRESSED_VACUUM)
        elif self._yielding.is_due(settled=transaction.history(), is_pressed=self.is_pressed):
            return self._yielding.step(transaction, is_pressed=self.is_pressed)
        elif self._keys.is_sealing_due():
            self._keys.seal(transaction)
        elif self._segments.is_due(sequence=transaction.sequence, is_idle=is_idle):
            self._segments.step(transaction)
        elif self._is_sweep_due(now_ms):
            self._sweep_on(transaction)
        else:
            _vacuum(transaction, _PAGES_PER_VACUUM)
        return 0

    def forget_changes(self) -> None:
        """Read again what a rollback undid."""
        self._segments.forget_changes()

    def _is_sweep_due(self, now_ms: int) -> bool:
        # abs: a clock that was set back must not stop the sweeps until it has caught up.
        return self._is_sweeping or abs(now_ms - self._swept_ms) >= _SWEEP_EVERY_MS

    def _sweep_on(self, transaction: Transaction) -> None:
        before_ms = transaction.now_ms - self._retention_ms
        self._is_sweeping = not self._sweep.step(transaction, before_ms=before_ms)
        if self._is_sweeping:
            return
        self._swept_ms = transaction.now_ms
        self._keys.drop_old(transaction)
        drop_empty_segments(transaction)

    def _is_vacuum_due(self) -> bool:
        kept = _PAGES_PER_PRESSED_VACUUM if self.is_pressed else _FREE_PAGES_KEPT
        return int(self._connection.pragma("freelist_count")) > kept


def _vacuum(transaction: Transaction, pages: int) -> None:
    transaction.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
