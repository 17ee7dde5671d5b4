"""What passes between a lease queue and those who write and read for it."""

from collections.abc import Mapping

import msgspec

from forwarder.model import Lease


class Arrival(msgspec.Struct, gc=False):
    """What one commit brought a route, in order; `behind` waits for an older one of its partition."""

    leases: list[Lease] = msgspec.field(default_factory=list)
    behind: list[Lease] = msgspec.field(default_factory=list)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue wants read. A count of 0 asks for none of that kind."""

    after: int
    fresh_max: int
    bytes_max: int
    due_max: tuple[int, int]  # of those given back, by is_retry, beyond the known ones; -1: not even when one is due
    promoted: tuple[int, ...]  # these, which became the oldest of their partitions
    known: frozenset[int]  # given back before, and leased or in the queue's hands: not wanted again


class Refill(msgspec.Struct, kw_only=True):
    """What a read brought."""

    last_sequence: int  # the last one given to any route, at the moment that was read
    fresh: list[Lease] = msgspec.field(default_factory=list)
    up_to: int = 0  # every fresh event up to here was brought or is no head
    is_all: bool = False
    due: tuple[list[tuple[int, Lease]], list[tuple[int, Lease]]] = msgspec.field(default_factory=lambda: ([], []))
    next_due_ms: list[int | None] = msgspec.field(default_factory=lambda: [None, None])
    promoted: list[Lease] = msgspec.field(default_factory=list)
    damaged: list[int] = msgspec.field(default_factory=list)  # they can never be leased


class Meanwhile:
    """What happened beside the reads that are under way: what they bring may be past."""

    def __init__(self) -> None:
        self.reads = 0
        self._gone: set[int] = set()  # settled, or given back with a row
        self._moved: dict[str, int] = {}  # partitions with a new head

    def begin(self) -> None:
        """Keep what happens from now on."""
        self.reads += 1

    def end(self) -> None:
        """Forget it, when no read is under way any more."""
        self.reads -= 1
        if not self.reads:
            self._gone.clear()
            self._moved.clear()

    def left(self, sequence: int) -> None:
        """Hear that an event was settled or given back."""
        if self.reads:
            self._gone.add(sequence)

    def moved(self, heads: Mapping[str, int]) -> None:
        """Hear who is the oldest of partitions now."""
        if self.reads:
            self._moved.update(heads)

    def admits(self, lease: Lease) -> bool:
        """Tell whether what was read still stands."""
        if lease.sequence in self._gone:
            return False
        return not self._moved or lease.sequence <= self._moved.get(lease.envelope.partition_key, lease.sequence)
