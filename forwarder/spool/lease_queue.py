"""Who is leased what: the lease queue of one route, in memory, on the event loop's thread.

It holds a window of the next events, oldest first, and what came back. Everything up to `window_end` was looked at;
what is beyond is in the window when the queue has caught up, else on disk only. The queue does no I/O and reads no
clock: it says what must be read (`wants`) and is told what happened. A read sees a moment of the disk that may be past
when it is heard: what was settled since is left out, and what arrived since is put behind it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

import msgspec

from forwarder.model import Demand, Lease, Replay
from forwarder.spool.due import earlier, is_due

FRESH_MAX = 1_000
BYTES_MAX = 8_388_608
_LOW_WATER = 200
_BEHIND_MAX = 2_000
_BEHIND_BYTES_MAX = 8_192
_EVENT_BYTES = 512  # what an event weighs in memory beside its payload


class Arrival(msgspec.Struct, gc=False):
    """What one commit brought a route, in order; `behind` waits for an older one of its partition."""

    leases: list[Lease] = msgspec.field(default_factory=list)
    behind: list[Lease] = msgspec.field(default_factory=list)
    bytes: int = 0


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


class LeaseQueue:
    """Lease the oldest due events of one route, each to one caller at a time."""

    def __init__(self, *, last_sequence: int, cache_bytes_max: int) -> None:
        self._cache_bytes_max = cache_bytes_max
        self._window: deque[Lease] = deque()
        self._window_bytes = 0
        self._window_end = 0
        self._last_sequence = last_sequence  # that was heard of
        self._is_caught_up = False
        self._returned: list[tuple[int, int, Lease]] = []  # heap: fresh again, or behind the cursor
        self._ripe: list[tuple[int, int, int, Lease]] = []  # heap: given back with a failure or a time, and due
        self._parked: dict[str, list[Lease]] = {}  # by partition: another of it is leased
        self._held: dict[int, int] = {}  # sequences in the three above, to the tick of the entry that is not void
        self._tick = 0
        self._listed: dict[int, int] = {}  # held or leased ones that have a row of their own, to their due times
        self._behind: dict[int, Lease] = {}  # arrived lately, behind an older one of their partition
        self._promoted: set[int] = set()  # to be read
        self._busy: dict[str, int] = {}  # partitions, to the sequence that is leased
        self._overtaken: set[str] = set()  # busy ones of which an older event became pending
        self._next_due_ms: list[int | None] = [0, 0]  # by is_retry; 0: ask
        self._told_due_ms: list[int | None] = [None, None]  # since the last read began: it may not know them
        self._reads = 0  # under way
        self._gone: set[int] = set()  # settled or given back while one is
        self._moved: dict[str, int] = {}  # partitions with a new head while one is
        self._tail: list[Lease] | None = None  # arrived while a read that may catch up is under way
        self._tail_bytes = 0
        self.generation = 0  # changes with every reset: a read that began before it must not be taken
        self.leased: dict[int, Lease] = {}

    def __repr__(self) -> str:
        """Show the counts."""
        return f"LeaseQueue(window={len(self._window)}, leased={len(self.leased)})"

    # --- questions ---

    def has_work(self, *, now_ms: int) -> bool:
        """Tell whether a lease might find something now."""
        return bool(self._window or self._returned or self._ripe or self._promoted) or self._is_due(now_ms)

    def next_due_ms(self) -> int | None:
        """Return when the next waiting event is due; None when none waits."""
        return earlier(*self._next_due_ms)

    def is_listed(self, sequence: int) -> bool:
        """Tell whether a leased event has a row of its own."""
        return sequence in self._listed

    def lacks(self, demand: Demand, *, now_ms: int) -> bool:
        """Tell whether something that the demand asks for must be read first."""
        if demand.fresh_max > 0 and ((not self._window and not self._is_caught_up) or self._promoted):
            return True
        if demand.fresh_max > len(self._returned) and self._due_now(0, now_ms):
            return True
        return demand.retry_max > len(self._ripe) and self._due_now(1, now_ms)

    def runs_low(self) -> bool:
        """Tell whether a read should be under way before it is needed."""
        return len(self._window) < _LOW_WATER and not self._is_caught_up

    def runs_short(self, demand: Demand) -> bool:
        """Tell whether more than is at hand would be leased, if it were."""
        return len(self._window) < min(demand.fresh_max, FRESH_MAX) and not self._is_caught_up

    def newest_is_known(self, *, now_ms: int) -> bool:
        """Tell whether the window's end is the newest event that can be leased."""
        has_others = self._returned or self._ripe or self._parked or self._promoted or self._is_due(now_ms)
        return self._is_caught_up and bool(self._window) and not has_others

    def out_of_reach(self) -> frozenset[int]:
        """Return the sequences that are leased, or must wait for another of their partition that is."""
        return frozenset(self.leased) | {lease.sequence for parked in self._parked.values() for lease in parked}

    # --- reading ---

    def wants(self, demand: Demand, *, now_ms: int) -> Wanted:
        """Begin a read: say what to bring. `refilled` or `read_failed` ends it."""
        fresh = not self._is_caught_up and len(self._window) < FRESH_MAX
        due = [self._due_now(is_retry, now_ms) for is_retry in (0, 1)]
        room = (min(demand.fresh_max, FRESH_MAX) - len(self._returned), demand.retry_max - len(self._ripe))
        self._told_due_ms = [None, None]
        if fresh:
            self._tail, self._tail_bytes = [], 0
        self.read_begins()
        return Wanted(
            after=self._window_end,
            fresh_max=FRESH_MAX if fresh else 0,
            bytes_max=BYTES_MAX,
            due_max=(max(0, room[0]) if due[0] else -1, max(0, room[1]) if due[1] else -1),
            promoted=tuple(sorted(self._promoted)[:FRESH_MAX]),
            known=frozenset(self._listed),
        )

    def read_begins(self) -> None:
        """Remember from now on what happens beside a read."""
        self._reads += 1

    def read_ended(self) -> None:
        """Forget what happened beside a read, when none is under way."""
        self._reads -= 1
        if not self._reads:
            self._gone.clear()
            self._moved.clear()

    def refilled(self, refill: Refill, wanted: Wanted, *, generation: int) -> None:
        """Take what a read brought."""
        try:
            if generation == self.generation:
                self._take_read(refill, wanted)
        finally:
            self._end_read(wanted)

    def _take_read(self, refill: Refill, wanted: Wanted) -> None:
        if wanted.fresh_max:
            self._take_fresh(refill)
        for is_retry in (0, 1):
            for not_before_ms, lease in refill.due[is_retry]:
                self._take_due(lease, not_before_ms)
            if wanted.due_max[is_retry] >= 0:
                self._next_due_ms[is_retry] = earlier(refill.next_due_ms[is_retry], self._told_due_ms[is_retry])
        for lease in refill.promoted:
            self._return(lease)
        self._promoted.difference_update(wanted.promoted)

    def read_failed(self, wanted: Wanted) -> None:
        """Hear that nothing could be read."""
        self._end_read(wanted)

    def _end_read(self, wanted: Wanted) -> None:
        if wanted.fresh_max:
            self._tail = None
        self.read_ended()

    def _take_fresh(self, refill: Refill) -> None:
        for lease in refill.fresh:
            self._push(lease)
        self._window_end = max(self._window_end, refill.up_to)
        if not refill.is_all or self._tail is None:
            return  # more is on disk, or more arrived meanwhile than was kept: the next read finds it
        self._is_caught_up = True
        for lease in self._tail:
            if lease.sequence > refill.last_sequence:
                self._push(lease)
        self._window_end = max(self._window_end, self._last_sequence)

    def _push(self, lease: Lease) -> None:
        if self._is_wanted(lease):
            self._window.append(lease)
            self._window_bytes += len(lease.envelope.payload) + _EVENT_BYTES

    def _is_wanted(self, lease: Lease) -> bool:
        sequence = lease.sequence
        if sequence in self.leased or sequence in self._held or sequence in self._gone:
            return False
        return not self._moved or sequence <= self._moved.get(lease.envelope.partition_key, sequence)

    def _take_due(self, lease: Lease, not_before_ms: int) -> None:
        if self._is_wanted(lease):
            self._listed[lease.sequence] = not_before_ms
            self._hold(lease)

    # --- leasing ---

    def take(self, demand: Demand) -> list[Lease]:
        """Lease what is at hand, oldest first."""
        leases: list[Lease] = []
        room = demand.bytes_max
        while len(leases) < demand.retry_max and (ripe := self._next_ripe()) is not None:
            size = len(ripe.envelope.payload)
            if leases and size > room:
                return sorted(leases, key=_sequence)
            heappop(self._ripe)
            del self._held[ripe.sequence]
            if self._lease(ripe):
                leases.append(ripe)
                room -= size
        retries, fresh_max = len(leases), len(leases) + demand.fresh_max
        while len(leases) < fresh_max and (lease := self._next_fresh()) is not None:
            size = len(lease.envelope.payload)
            if leases and size > room:
                break
            self._pop(lease)
            if self._lease(lease):
                leases.append(lease)
                room -= size
        return sorted(leases, key=_sequence) if retries else leases

    def take_newest(self) -> Lease | None:
        """Lease the newest at hand; only right when it is known, see `newest_is_known`."""
        while self._window:
            lease = self._window.pop()
            self._window_bytes -= len(lease.envelope.payload) + _EVENT_BYTES
            if self._lease(lease):
                return lease
        return None

    def lease_read(self, lease: Lease, *, is_listed: bool) -> Lease | None:
        """Lease one that was read from the other end, wherever the queue has it by now."""
        if lease.sequence in self.leased or lease.sequence in self._gone:
            return None
        if self._moved and lease.sequence > self._moved.get(lease.envelope.partition_key, lease.sequence):
            return None
        lease = self._withdraw(lease.sequence) or lease
        if is_listed:
            self._listed.setdefault(lease.sequence, 0)
        return lease if self._lease(lease) else None

    # --- what happened, in the order of the commits ---

    def arrived(self, arrival: Arrival, *, last_sequence: int) -> None:
        """Hear of a commit's new events, in order, and of the last sequence given to any route."""
        self._last_sequence = last_sequence
        for lease in arrival.behind:
            if len(self._behind) < _BEHIND_MAX and len(lease.envelope.payload) < _BEHIND_BYTES_MAX:
                self._behind[lease.sequence] = lease
        leases = arrival.leases
        weight = arrival.bytes + _EVENT_BYTES * len(leases)
        if self._is_caught_up:
            if leases and leases[0].sequence <= self._window_end:  # a read was faster than this
                leases = [lease for lease in leases if lease.sequence > self._window_end]
            if leases and self._window_bytes + weight > self._cache_bytes_max:
                self._is_caught_up = False  # from here on the cursor reads them from disk: memory stays flat
                return
            self._window.extend(leases)
            self._window_bytes += sum(len(one.envelope.payload) + _EVENT_BYTES for one in leases)
            self._window_end = max(self._window_end, last_sequence)
        elif self._tail is not None:
            self._tail.extend(leases)
            self._tail_bytes += weight
            if self._tail_bytes > self._cache_bytes_max:
                self._tail = None

    def settled(self, leases: Iterable[Lease]) -> None:
        """Hear that leased events are settled."""
        for lease in leases:
            sequence = lease.sequence
            self.leased.pop(sequence, None)
            self._forget(sequence)
            if lease.envelope.partition_key:
                self._free(lease)

    def give_back_unchanged(self, leases: Iterable[Lease]) -> None:
        """Take leased events back as if they had never been leased: nothing of it is on disk."""
        for lease in leases:
            if self.leased.pop(lease.sequence, None) is None:
                continue
            if lease.envelope.partition_key in self._overtaken:
                self._listed.pop(lease.sequence, None)  # who overtook it brings it back once settled
            else:
                self._hold(lease)
            self._free(lease)

    def given_back(self, lease: Lease, *, is_head: bool, is_retry: bool, not_before_ms: int) -> None:
        """Hear that a leased event waits on disk now."""
        self.leased.pop(lease.sequence, None)
        self._forget(lease.sequence)
        self._free(lease)
        if is_head:
            self.waits(is_retry=is_retry, not_before_ms=not_before_ms)

    def waits(self, *, is_retry: bool, not_before_ms: int) -> None:
        """Hear that an event on disk has become one that can be leased at this time."""
        for due in (self._next_due_ms, self._told_due_ms):
            due[is_retry] = earlier(due[is_retry], not_before_ms)

    def promoted(self, sequence: int) -> None:
        """Hear that an event that never left the queue became the oldest of its partition."""
        lease = self._behind.pop(sequence, None)
        if sequence > self._window_end and not self._is_caught_up and not self._reads:
            return  # the cursor will come to it
        if sequence in self._held or sequence in self.leased:
            return
        if lease is None:
            self._promoted.add(sequence)
        else:
            self._return(lease)

    def requeued(self, heads: Mapping[str, int]) -> None:
        """Hear that older events became pending: who is the oldest of these partitions now. Others must wait."""
        self.waits(is_retry=False, not_before_ms=0)
        if not heads:
            return
        if self._reads:
            self._moved.update(heads)

        def stays(lease: Lease) -> bool:
            return lease.sequence <= heads.get(lease.envelope.partition_key, lease.sequence)

        if not all(map(stays, self._window)):
            self._window = deque(filter(stays, self._window))
            self._window_bytes = sum(len(lease.envelope.payload) + _EVENT_BYTES for lease in self._window)
        waiting = [
            entry[-1] for heap in (self._returned, self._ripe) for entry in heap if self._is_valid(entry[-2], entry[-1])
        ]
        waiting += [lease for partition in heads for lease in self._parked.pop(partition, ())]
        for lease in waiting:
            if not stays(lease):
                self._forget(lease.sequence, is_gone=False)
            elif self._held.get(lease.sequence) == 0:
                self._hold(lease)  # it was parked: it is looked at again
        self._overtaken |= {p for p, head in heads.items() if head < self._busy.get(p, head)}

    def noted(self, sequence: int, progress: bytes) -> None:
        """Hear of a leased event's progress."""
        if sequence in self.leased:
            self.leased[sequence] = msgspec.structs.replace(self.leased[sequence], progress=progress, replay=Replay.NOT)

    def clock_went_back(self) -> None:
        """Hear that what was known of due times may be wrong."""
        self._next_due_ms = [0, 0]

    def reset(self) -> None:
        """Forget all but what is leased; everything else is on disk."""
        self._window.clear()
        self._window_bytes = 0
        self._window_end = 0
        self._is_caught_up = False
        self._returned.clear()
        self._ripe.clear()
        self._parked.clear()
        self._held.clear()
        self._behind.clear()
        self._promoted.clear()
        self._tail = None
        self._listed = {sequence: due for sequence, due in self._listed.items() if sequence in self.leased}
        self._next_due_ms = [0, 0]
        self.generation += 1

    # --- inside ---

    def _is_due(self, now_ms: int) -> bool:
        return self._due_now(0, now_ms) or self._due_now(1, now_ms)

    def _due_now(self, is_retry: int, now_ms: int) -> bool:
        at_ms = self._next_due_ms[is_retry]
        return at_ms is not None and is_due(at_ms, now_ms=now_ms)

    def _forget(self, sequence: int, *, is_gone: bool = True) -> None:
        self._listed.pop(sequence, None)
        self._held.pop(sequence, None)
        self._promoted.discard(sequence)
        if is_gone and self._reads:
            self._gone.add(sequence)

    def _hold(self, lease: Lease) -> None:
        sequence = lease.sequence
        self._tick += 1
        self._held[sequence] = self._tick
        if lease.is_retry:
            heappush(self._ripe, (self._listed.get(sequence, 0), sequence, self._tick, lease))
        else:
            heappush(self._returned, (sequence, self._tick, lease))

    def _is_valid(self, tick: int, lease: Lease) -> bool:
        return self._held.get(lease.sequence) == tick

    def _return(self, lease: Lease) -> None:
        if self._is_wanted(lease):
            self._hold(lease)

    def _next_ripe(self) -> Lease | None:
        while self._ripe:
            if self._is_valid(*self._ripe[0][2:]):
                return self._ripe[0][3]
            heappop(self._ripe)
        return None

    def _next_fresh(self) -> Lease | None:
        while self._returned and not self._is_valid(*self._returned[0][1:]):
            heappop(self._returned)
        if self._returned and (not self._window or self._returned[0][0] < self._window[0].sequence):
            return self._returned[0][2]
        return self._window[0] if self._window else None

    def _pop(self, lease: Lease) -> None:
        if self._returned and self._returned[0][2] is lease:
            heappop(self._returned)
            del self._held[lease.sequence]
            return
        self._window.popleft()
        self._window_bytes -= len(lease.envelope.payload) + _EVENT_BYTES

    def _withdraw(self, sequence: int) -> Lease | None:
        """Take an event out of whatever it waits in, so that there is one of it; it may know more than a read."""
        found = None
        tick = self._held.pop(sequence, None)
        if tick is not None:
            entries = [entry[-2:] for heap in (self._returned, self._ripe) for entry in heap]
            found = next((lease for of, lease in entries if of == tick), None)
        if self._window and self._window[0].sequence <= sequence <= self._window[-1].sequence:
            for lease in reversed(self._window):
                if lease.sequence == sequence:
                    self._window.remove(lease)
                    self._window_bytes -= len(lease.envelope.payload) + _EVENT_BYTES
                    return found or lease
        return found

    def _lease(self, lease: Lease) -> bool:
        sequence, partition = lease.sequence, lease.envelope.partition_key
        if sequence in self.leased:
            return False
        if partition:
            if partition in self._busy:
                # Only after a replay: an older event of the partition waits for the one in flight.
                self._parked.setdefault(partition, []).append(lease)
                self._held[sequence] = 0
                return False
            self._busy[partition] = sequence
            self._behind.pop(sequence, None)  # what is read of it from now on may know more
            self._promoted.discard(sequence)
        self.leased[sequence] = lease
        return True

    def _free(self, lease: Lease) -> None:
        partition = lease.envelope.partition_key
        if not partition:
            return
        self._busy.pop(partition, None)
        self._overtaken.discard(partition)
        for parked in self._parked.pop(partition, ()):
            if parked.sequence in self._held:
                self._hold(parked)


def _sequence(lease: Lease) -> int:
    return lease.sequence
