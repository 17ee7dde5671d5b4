"""Whose settlement an event is: each leased event is settled once, by the first who asks; and what that changes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from forwarder.model import Lease, Returned, Settlement
from forwarder.spool.lease_queue import LeaseQueue

Heads = tuple[dict[str, int], dict[str, int]]  # per route: partition key, its oldest event now


@dataclass(frozen=True, slots=True)
class Claim:
    """Leased events of one route that are to be settled alike; `listed` have a row of their own."""

    settlement: Settlement
    route: int
    leases: Sequence[Lease]
    listed: frozenset[int]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Where an event stands that was given back."""

    lease: Lease
    is_head: bool
    kind: int
    not_before_ms: int


@dataclass(slots=True)
class Moves:
    """What a transaction changed in who can be leased."""

    given_back: list[tuple[int, GivenBack]] = field(default_factory=list)  # with the route
    promoted: list[tuple[int, int]] = field(default_factory=list)  # route, sequence: the oldest now, and in no list
    waits: list[tuple[int, int, int]] = field(default_factory=list)  # route, kind, not_before_ms: so, and listed


def is_unchanged(settlement: Settlement) -> bool:
    """Tell whether an event comes back as if it had never been leased: nothing of that is on disk."""
    if not isinstance(settlement, Returned) or settlement.counts:
        return False
    return not settlement.not_before_ms and settlement.attempt is None


class Claims:
    """What is being settled, or noted. Lives on the event loop's thread."""

    def __init__(self, queues: Sequence[LeaseQueue], wake: Callable[[int], None]) -> None:
        self._queues = queues
        self._wake = wake
        self._settling: set[int] = set()  # sequences that a settlement under way has claimed
        self._noting: Counter[int] = Counter()  # sequences whose progress is being written

    def take(self, settlements: Iterable[Settlement]) -> list[Claim]:
        """Take the leased ones of these for one settlement each; others are not ours to settle.

        What is given back as if it had never been leased goes back at once: nothing of it is on disk.
        """
        claims = []
        for settlement in settlements:
            left = len(settlement.sequences)
            for route, queue in enumerate(self._queues):
                if not left:
                    break
                leased, settling = queue.leased, self._settling
                leases = [leased[s] for s in dict.fromkeys(settlement.sequences) if s in leased and s not in settling]
                if not leases:
                    continue
                left -= len(leases)
                sequences = [lease.sequence for lease in leases]
                if is_unchanged(settlement) and self._noting.keys().isdisjoint(sequences):
                    queue.give_back_unchanged(leases)
                    self._wake(route)
                    continue
                settling.update(sequences)
                claims.append(Claim(settlement, route, leases, queue.listed_of(sequences)))
        return claims

    def drop(self, claims: Iterable[Claim]) -> None:
        """Hear that a settlement is made, or was not: what is still leased may be claimed again."""
        for claim in claims:
            self._settling.difference_update([lease.sequence for lease in claim.leases])

    def note_begins(self, sequence: int) -> None:
        """Hear that an event's progress is being written: it is not given back before."""
        self._noting[sequence] += 1

    def note_ended(self, sequence: int) -> None:
        """Hear that an event's progress was written, or will not be."""
        self._noting[sequence] -= 1
        if self._noting[sequence] <= 0:
            del self._noting[sequence]

    def leased_of(self, sequences: Iterable[int]) -> list[int]:
        """Return those of these that are leased."""
        return [s for s in dict.fromkeys(sequences) if any(s in queue.leased for queue in self._queues)]
