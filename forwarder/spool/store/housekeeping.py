"""What is tidied between commits, in steps small enough that no append notices."""

import apsw

from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.keys import KnownKeys
from forwarder.spool.store.transaction import Transaction


class Housekeeping:
    """Decide what to tidy next and do one step of it."""

    def __init__(self, connection: apsw.Connection, limits: SpoolLimits, keys: KnownKeys) -> None:
        self._connection = connection
        self._limits = limits
        self._keys = keys

    def is_due(self, *, now_ms: int) -> bool:
        """Tell whether there is a step to do."""
        return False

    def step(self, transaction: Transaction) -> int:
        """Do one step; return how many events lost their payload to make room."""
        return 0
