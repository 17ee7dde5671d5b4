"""What a lease queue knows beside its window: what came back, when the next is due, whose partition is busy.

Pure: the time is given. Due times are kept on disk, so they outlive the clock that they were made with.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from heapq import heapify, heappop, heappush

from forwarder.model import Lease

KINDS = FRESH, RETRY, BESIDE = 0, 1, 2  # never given back, or as if so · on a retry · replays beside what arrives
AHEAD_MS_MAX = 3_600_000  # twelve times the longest backoff and the longest that a destination asks for


def is_due(not_before_ms: int, *, now_ms: int) -> bool:
    """Tell whether it is due: its time has come, or is so far ahead that the clock was wrong when it was made."""
    return not_before_ms <= now_ms or not_before_ms > now_ms + AHEAD_MS_MAX


def kind_of(lease: Lease) -> int:
    """Return which kind of waiting event it is."""
    return BESIDE if lease.is_beside else RETRY if lease.is_retry else FRESH


def earlier(one: int | None, other: int | None) -> int | None:
    """Return the earlier of two times; None is never."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class DueTimes:
    """When the next waiting event of a route is due, of each kind.

    A read of the disk brings the times anew; what is told while it is under way it may not know.
    """

    def __init__(self) -> None:
        self._next_ms: list[int | None] = [0] * len(KINDS)  # 0: ask
        self._told_ms: list[int | None] = [None] * len(KINDS)  # since the last read began

    def earliest_ms(self) -> int | None:
        """Return when the next one is due; None when none waits."""
        return reduce(earlier, self._next_ms)

    def is_due(self, kind: int, *, now_ms: int) -> bool:
        """Tell whether one of this kind is due."""
        at_ms = self._next_ms[kind]
        return at_ms is not None and is_due(at_ms, now_ms=now_ms)

    def is_any_due(self, *, now_ms: int) -> bool:
        """Tell whether one of any kind is due."""
        return any(self.is_due(kind, now_ms=now_ms) for kind in KINDS)

    def tell(self, kind: int, not_before_ms: int) -> None:
        """Hear of one that waits now."""
        for times in (self._next_ms, self._told_ms):
            times[kind] = earlier(times[kind], not_before_ms)

    def begin_read(self) -> None:
        """Keep from now on what is told."""
        self._told_ms = [None] * len(KINDS)

    def take_read(self, kind: int, next_ms: int | None) -> None:
        """Hear what a read found to be the next one of a kind."""
        self._next_ms[kind] = earlier(next_ms, self._told_ms[kind])

    def ask_again(self) -> None:
        """Forget what is known: the clock went back, or the disk is read from the start."""
        self._next_ms = [0] * len(KINDS)


class HeldLeases:
    """The events that a queue holds beside its window, each once."""

    def __init__(self) -> None:
        self._fresh: list[tuple[int, int, Lease]] = []  # heap by sequence
        self._ripe: dict[int, list[tuple[int, int, int, Lease]]] = {RETRY: [], BESIDE: []}  # heaps by due time
        self._ticks: dict[int, int] = {}  # sequences to the tick of the entry that is not void; 0: parked
        self._tick = 0
        self.listed: dict[int, int] = {}  # held or leased ones that have a row of their own, to their due times

    def __contains__(self, sequence: int) -> bool:
        """Tell whether it is held."""
        return sequence in self._ticks

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._ticks)

    def counts(self) -> tuple[int, int, int]:
        """Return how many entries there are of each kind, void ones included."""
        return len(self._fresh), len(self._ripe[RETRY]), len(self._ripe[BESIDE])

    def hold(self, lease: Lease) -> None:
        """Take an event in; an entry that it has already is void then."""
        self._tick += 1
        self._ticks[lease.sequence] = self._tick
        if (kind := kind_of(lease)) != FRESH:
            heappush(self._ripe[kind], (self.listed.get(lease.sequence, 0), lease.sequence, self._tick, lease))
        else:
            heappush(self._fresh, (lease.sequence, self._tick, lease))

    def park(self, lease: Lease) -> None:
        """Know of an event that waits elsewhere, for another of its partition."""
        self._ticks[lease.sequence] = 0

    def is_parked(self, lease: Lease) -> bool:
        """Tell whether it still waits elsewhere."""
        return self._ticks.get(lease.sequence) == 0

    def forget(self, sequence: int) -> None:
        """Hear that it is not to be held, nor leased, any more."""
        self.listed.pop(sequence, None)
        self._ticks.pop(sequence, None)

    def peek_ripe(self, kind: int) -> Lease | None:
        """Return what has been due for longest of a kind other than `FRESH`."""
        ripe = self._ripe[kind]
        while ripe:
            if self._is_valid(*ripe[0][2:]):
                return ripe[0][3]
            heappop(ripe)
        return None

    def pop_ripe(self, kind: int) -> None:
        """Let go of what `peek_ripe` returned."""
        del self._ticks[heappop(self._ripe[kind])[1]]

    def peek_fresh(self) -> Lease | None:
        """Return the oldest that is fresh again."""
        while self._fresh:
            if self._is_valid(*self._fresh[0][1:]):
                return self._fresh[0][2]
            heappop(self._fresh)
        return None

    def pop_fresh(self) -> None:
        """Let go of what `peek_fresh` returned."""
        del self._ticks[heappop(self._fresh)[0]]

    def withdraw(self, sequence: int) -> Lease | None:
        """Take one out, wherever it stands."""
        tick = self._ticks.pop(sequence, None)
        found = None if tick is None else next((lease for of, lease in self._entries() if of == tick), None)
        if found is not None:
            self.sweep()
        return found

    def sweep(self) -> None:
        """Let go of the void entries: none of them counts as one at hand."""
        self._fresh = [entry for entry in self._fresh if self._is_valid(*entry[1:])]
        heapify(self._fresh)
        for kind, ripe in self._ripe.items():
            self._ripe[kind] = [entry for entry in ripe if self._is_valid(*entry[2:])]
            heapify(self._ripe[kind])

    def all(self) -> list[Lease]:
        """Return what is held, parked ones left out."""
        return [lease for tick, lease in self._entries() if self._is_valid(tick, lease)]

    def clear(self, *, leased: dict[int, Lease]) -> None:
        """Let go of everything; only of the leased ones it stays known that they have rows."""
        self._fresh.clear()
        for ripe in self._ripe.values():
            ripe.clear()
        self._ticks.clear()
        self.listed = {sequence: due for sequence, due in self.listed.items() if sequence in leased}

    def _entries(self) -> Iterator[tuple[int, Lease]]:
        yield from (entry[1:] for entry in self._fresh)
        yield from (entry[2:] for ripe in self._ripe.values() for entry in ripe)

    def _is_valid(self, tick: int, lease: Lease) -> bool:
        return self._ticks.get(lease.sequence) == tick


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
