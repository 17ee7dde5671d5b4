"""What this replica has just committed, so that it need not be read again."""

from collections import deque
from collections.abc import Sequence

from forwarder.model import Lease

_EVENT_BYTES = 512  # what an event weighs in memory beside its payload


class OwnCommits:
    """Keep them, within a limit: the oldest go first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._leases: dict[int, Lease] = {}
        self._order: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def keep(self, leases: Sequence[Lease]) -> None:
        """Keep the events of a commit."""
        for lease in leases:
            weight = len(lease.envelope.payload) + _EVENT_BYTES
            self._leases[lease.sequence] = lease
            self._order.append((lease.sequence, weight))
            self._bytes += weight
        while self._bytes > self._bytes_max:
            sequence, weight = self._order.popleft()
            self._leases.pop(sequence, None)
            self._bytes -= weight

    def forget(self) -> None:
        """Forget all of it."""
        self._leases.clear()
        self._order.clear()
        self._bytes = 0

    def take(self, sequence: int) -> Lease | None:
        """Hand one over."""
        return self._leases.pop(sequence, None)
