"""Which partitions have an event in flight: no other of them is leased meanwhile (law 4)."""

from collections.abc import Mapping

from forwarder.model import Lease


class BusyPartitions:
    """The partitions of what is leased, by their keys; events without one are never in the way."""

    def __init__(self) -> None:
        self._busy: dict[str, int] = {}  # to the sequence that is leased
        self._overtaken: set[str] = set()  # of which an older event became pending
        self._parked: dict[str, list[Lease]] = {}

    def take(self, lease: Lease) -> bool:
        """Take an event's partition; False parks it, behind the one in flight. That happens only after a replay."""
        partition = lease.envelope.partition_key
        if partition in self._busy:
            self._parked.setdefault(partition, []).append(lease)
            return False
        self._busy[partition] = lease.sequence
        return True

    def free(self, partition: str) -> list[Lease]:
        """Hear that nothing of a partition is in flight; return who was parked behind it."""
        self._busy.pop(partition, None)
        self._overtaken.discard(partition)
        return self._parked.pop(partition, [])

    def is_overtaken(self, partition: str) -> bool:
        """Tell whether an event older than the one in flight is pending."""
        return partition in self._overtaken

    def moved(self, heads: Mapping[str, int]) -> list[Lease]:
        """Hear who is the oldest of partitions now; return who was parked in them."""
        self._overtaken |= {key for key, head in heads.items() if head < self._busy.get(key, head)}
        return [lease for key in heads for lease in self._parked.pop(key, [])]

    def parked(self) -> list[int]:
        """Return the sequences that are parked."""
        return [lease.sequence for parked in self._parked.values() for lease in parked]

    def forget_parked(self) -> None:
        """Let go of who is parked."""
        self._parked.clear()
