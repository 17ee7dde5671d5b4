"""Read for the lease queues on a thread of its own: draining a backlog never delays intake."""

from collections.abc import Sequence

from forwarder.model import Lease
from forwarder.spool.lease_window import Refill, Wanted
from forwarder.spool.sqlite.database import ReadThread
from forwarder.spool.sqlite.refill import newest, refill


class QueueReads:
    """What the lease queues have read, on a thread of its own. See `leasing.Reads`."""

    def __init__(self, thread: ReadThread) -> None:
        self._thread = thread

    async def refill(self, route: int, wanted: Wanted, *, now_ms: int) -> Refill:
        """Bring what a queue wants."""
        return await self._thread.read(lambda connection: refill(connection, route, wanted, now_ms=now_ms))

    async def newest(
        self, route: int, *, known: frozenset[int], now_ms: int
    ) -> tuple[Lease | None, bool, Sequence[int]]:
        """Return the newest event that could be leased."""
        return await self._thread.read(lambda connection: newest(connection, route, known=known, now_ms=now_ms))

    async def close(self) -> None:
        """Wait for the reads that are under way, and close the connection."""
        await self._thread.close()
