"""The next events of a route that never left the queue, oldest first, as far as memory holds them.

Everything up to `end` was looked at. What is beyond is in the window when it has caught up with what arrives, else on
disk only: then it is read on, and what arrives meanwhile is put behind the read that catches up.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

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
    due_max: tuple[int, ...]  # of those given back, by kind, beyond the known ones; -1: not even when one is due
    promoted: tuple[int, ...]  # these, which became the oldest of their partitions
    known: frozenset[int]  # given back before, and leased or in the queue's hands: not wanted again
    is_caught_up: bool = False  # nothing is on disk only but what arrived since the last read


class Refill(msgspec.Struct, kw_only=True):
    """What a read brought."""

    last_sequence: int  # the last one given to any route, at the moment that was read
    fresh: list[Lease] = msgspec.field(default_factory=list)
    late: list[Lease] = msgspec.field(default_factory=list)  # arrived, though the cursor had passed them before
    up_to: int = 0  # every fresh event up to here was brought or is no head
    is_all: bool = False
    due: list[list[tuple[int, Lease]]] = msgspec.field(default_factory=lambda: [[], [], []])  # by kind
    next_due_ms: list[int | None] = msgspec.field(default_factory=lambda: [None, None, None])
    promoted: list[Lease] = msgspec.field(default_factory=list)
    damaged: list[int] = msgspec.field(default_factory=list)  # they can never be leased


class Reads(Protocol):
    """Who reads what is on disk, for the queues: nothing here writes, and one call is one moment."""

    async def refill(self, route: int, wanted: Wanted, *, now_ms: int) -> Refill:
        """Bring what a queue wants."""

    async def newest(
        self, route: int, *, known: frozenset[int], now_ms: int
    ) -> tuple[Lease | None, bool, Sequence[int]]:
        """Return the newest event that could be leased, whether it has a row of its own, and damaged ones."""

    async def close(self) -> None:
        """Wait for the reads that are under way, and close the connection."""


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


FRESH_MAX = 1_000
_LOW_WATER = 200
_EVENT_BYTES = 512  # what an event weighs in memory beside its payload


class LeaseWindow:
    """A part of the log, in memory."""

    def __init__(self, *, last_sequence: int, cache_bytes_max: int) -> None:
        self._cache_bytes_max = cache_bytes_max
        self._leases: deque[Lease] = deque()
        self._bytes = 0
        self._last_sequence = last_sequence  # that was heard of
        self._tail: list[Lease] | None = None  # arrived while a read that may catch up is under way
        self._tail_bytes = 0
        self.end = 0
        self.is_caught_up = False

    def __len__(self) -> int:
        """Return how many events it holds."""
        return len(self._leases)

    @property
    def first(self) -> Lease | None:
        """Return the oldest."""
        return self._leases[0] if self._leases else None

    def runs_low(self) -> bool:
        """Tell whether a read should be under way before it is needed."""
        return len(self._leases) < _LOW_WATER and not self.is_caught_up

    def runs_short(self, fresh_max: int) -> bool:
        """Tell whether so many are not at hand, and more may be on disk."""
        return len(self._leases) < min(fresh_max, FRESH_MAX) and not self.is_caught_up

    def pop_first(self) -> None:
        """Let go of the oldest."""
        self._bytes -= _weight(self._leases.popleft())

    def pop(self, count_max: int, bytes_max: int) -> list[Lease]:
        """Take the oldest out: so many at most, and as long as their payloads fit, but one at least."""
        leases: list[Lease] = []
        size = 0
        while self._leases and len(leases) < count_max:
            weight = len(self._leases[0].envelope.payload)
            if leases and size + weight > bytes_max:
                break
            size += weight
            leases.append(self._leases.popleft())
        self._bytes -= size + len(leases) * _EVENT_BYTES
        return leases

    def pop_last(self) -> Lease | None:
        """Take the newest out."""
        if not self._leases:
            return None
        lease = self._leases.pop()
        self._bytes -= _weight(lease)
        return lease

    def withdraw(self, sequence: int) -> Lease | None:
        """Take one out, wherever it stands."""
        if self._leases and self._leases[0].sequence <= sequence <= self._leases[-1].sequence:
            for lease in reversed(self._leases):
                if lease.sequence == sequence:
                    self._leases.remove(lease)
                    self._bytes -= _weight(lease)
                    return lease
        return None

    def keep(self, stays: Callable[[Lease], bool]) -> None:
        """Let go of those that do not stay."""
        if not all(map(stays, self._leases)):
            self._leases = deque(filter(stays, self._leases))
            self._bytes = sum(map(_weight, self._leases))

    def clear(self) -> None:
        """Let go of everything: it is read from the start."""
        self._leases.clear()
        self._bytes = self.end = 0
        self.is_caught_up = False
        self._tail = None

    def arrived(self, leases: Sequence[Lease], *, last_sequence: int) -> None:
        """Hear of a commit's new events, in order, and of the last sequence given to any route."""
        self._last_sequence = last_sequence
        if leases and leases[0].sequence <= self.end:  # a read was faster than this
            leases = [lease for lease in leases if lease.sequence > self.end]
        weight = sum([len(lease.envelope.payload) for lease in leases]) + len(leases) * _EVENT_BYTES
        if self.is_caught_up:
            if leases and self._bytes + weight > self._cache_bytes_max:
                self.is_caught_up = False  # from here on they are read from disk: memory stays flat
                return
            self._leases.extend(leases)
            self._bytes += weight
            self.end = max(self.end, last_sequence)
        elif self._tail is not None:
            self._tail.extend(leases)
            self._tail_bytes += weight
            if self._tail_bytes > self._cache_bytes_max:
                self._tail = None

    def begin_read(self) -> None:
        """Keep what arrives from now on, for the case that the read catches up."""
        self._tail, self._tail_bytes = [], 0

    def take_read(self, refill: Refill, is_wanted: Callable[[Lease], bool]) -> None:
        """Take what a read brought, and if that was all, what arrived since."""
        self._extend(filter(is_wanted, refill.fresh))
        self.end = max(self.end, refill.up_to)
        if not refill.is_all or self._tail is None:
            return  # more is on disk, or more arrived meanwhile than was kept: the next read finds it
        self.is_caught_up = True
        self._extend(one for one in self._tail if one.sequence > refill.last_sequence and is_wanted(one))
        self.end = max(self.end, self._last_sequence)

    def take_arrived(self, refill: Refill, is_wanted: Callable[[Lease], bool]) -> None:
        """Take what a read brought though nothing of the backlog was asked for: it arrived, and all else is here."""
        self._extend(filter(is_wanted, refill.fresh))
        self.end = max(self.end, refill.up_to)
        if not refill.is_all or self._bytes > self._cache_bytes_max:
            self.is_caught_up = False  # the rest is read when it is needed: memory stays flat

    def take_late(self, refill: Refill, is_wanted: Callable[[Lease], bool]) -> list[Lease]:
        """Hand on what a read brought though it was passed before; one that arrived late may stand here as well."""
        late = [lease for lease in refill.late if is_wanted(lease)]
        for lease in late:
            self.withdraw(lease.sequence)
        return late

    def end_read(self) -> None:
        """Keep nothing of what arrives but what the window takes."""
        self._tail = None

    def _extend(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self._leases.append(lease)
            self._bytes += _weight(lease)


def _weight(lease: Lease) -> int:
    return len(lease.envelope.payload) + _EVENT_BYTES
