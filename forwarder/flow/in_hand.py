"""What a route has lent and not settled: so many events, so many bytes. Pure.

It counts and keeps no sequences. An event may be lent again the moment its settlement is on disk (a replay, or a
release that is due at once), before the task that settled it has heard of it: for that moment it counts twice.
"""

from collections.abc import Iterable

from forwarder.model import Lease


class InHand:
    """Counts of the leases that a delivery owns."""

    def __init__(self) -> None:
        self.events = 0
        self.size_bytes = 0  # of the payloads

    def __repr__(self) -> str:
        """Show the counts."""
        return f"InHand({self.events} events, {self.size_bytes} bytes)"

    def own(self, leases: Iterable[Lease]) -> None:
        """Count leases that were taken."""
        for lease in leases:
            self.events += 1
            self.size_bytes += len(lease.envelope.payload)

    def disown(self, leases: Iterable[Lease]) -> None:
        """Count leases that were settled or given back; each was owned before."""
        for lease in leases:
            self.events -= 1
            self.size_bytes -= len(lease.envelope.payload)
