"""What came back to a lease queue: fresh again, or on a retry whose time has come.

Two heaps with void entries: what is leased, settled or forgotten is not searched for in them, its entry is passed over.
"""

from collections.abc import Iterator
from heapq import heappop, heappush

from forwarder.model import Lease


class HeldLeases:
    """The events that a queue holds beside its window, each once."""

    def __init__(self) -> None:
        self._fresh: list[tuple[int, int, Lease]] = []  # heap by sequence
        self._ripe: list[tuple[int, int, int, Lease]] = []  # heap by due time
        self._ticks: dict[int, int] = {}  # sequences to the tick of the entry that is not void; 0: parked
        self._tick = 0
        self.listed: dict[int, int] = {}  # held or leased ones that have a row of their own, to their due times

    def __contains__(self, sequence: int) -> bool:
        """Tell whether it is held."""
        return sequence in self._ticks

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._ticks)

    def counts(self) -> tuple[int, int]:
        """Return how many entries there are of each kind, void ones included: fresh, ripe."""
        return len(self._fresh), len(self._ripe)

    def hold(self, lease: Lease) -> None:
        """Take an event in; an entry that it has already is void then."""
        self._tick += 1
        self._ticks[lease.sequence] = self._tick
        if lease.is_retry:
            heappush(self._ripe, (self.listed.get(lease.sequence, 0), lease.sequence, self._tick, lease))
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

    def peek_ripe(self) -> Lease | None:
        """Return the retry that has been due for longest."""
        while self._ripe:
            if self._is_valid(*self._ripe[0][2:]):
                return self._ripe[0][3]
            heappop(self._ripe)
        return None

    def pop_ripe(self) -> None:
        """Let go of what `peek_ripe` returned."""
        del self._ticks[heappop(self._ripe)[1]]

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
        return None if tick is None else next((lease for of, lease in self._entries() if of == tick), None)

    def all(self) -> list[Lease]:
        """Return what is held, parked ones left out."""
        return [lease for tick, lease in self._entries() if self._is_valid(tick, lease)]

    def clear(self, *, leased: dict[int, Lease]) -> None:
        """Let go of everything; only of the leased ones it stays known that they have rows."""
        self._fresh.clear()
        self._ripe.clear()
        self._ticks.clear()
        self.listed = {sequence: due for sequence, due in self.listed.items() if sequence in leased}

    def _entries(self) -> Iterator[tuple[int, Lease]]:
        yield from (entry[1:] for entry in self._fresh)
        yield from (entry[2:] for entry in self._ripe)

    def _is_valid(self, tick: int, lease: Lease) -> bool:
        return self._ticks.get(lease.sequence) == tick
