"""Who is lent to whom: the lending desk of one route, in memory, on the event loop's thread.

It holds a window of the next events, oldest first, and what was given back. Everything up to `window_end`
was looked at; what is beyond is in the window when the desk has caught up, else on disk only. The desk
does no I/O: it says what it needs (`wants_feed`) and is told what happened.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from operator import attrgetter

import msgspec

from forwarder.model import Envelope, Lease, Replay
from forwarder.spool.due import earlier, is_due
from forwarder.spool.store.feed import Fed, FeedWish
from forwarder.spool.store.lanes import Promoted
from forwarder.spool.store.settlement import Released
from forwarder.spool.store.transaction import Candidate

FEED_EVENTS_MAX = 1_000
FEED_BYTES_MAX = 8_388_608
_LOW_WATER = 200


class LendingDesk:
    """Lend the oldest due events of one route, each to one caller at a time."""

    def __init__(self, route: int, *, cache_bytes_max: int) -> None:
        self._route = route
        self._cache_bytes_max = cache_bytes_max
        self._window: deque[Candidate] = deque()
        self._window_bytes = 0
        self._returned: list[tuple[int, Candidate]] = []  # heap: fresh again, or behind the cursor
        self._ripe: deque[Candidate] = deque()  # retries whose time has come, earliest first
        self._parked: dict[int, list[Candidate]] = {}  # by lane: another of the lane is lent
        self._held: set[int] = set()  # sequences in the three above
        self._window_end = 0
        self._is_caught_up = False
        self._next_due_ms: list[int | None] = [0, 0]  # by is_retry; 0: ask
        self._heard_due_ms: list[int | None] = [None, None]  # since the last wish: its feed may not know them
        self._busy_lanes: set[int] = set()
        self.generation = 0  # changes with every reset: a feed asked for before it must not be taken
        self.lent: dict[int, Candidate] = {}

    def __repr__(self) -> str:
        """Show the counts."""
        return f"LendingDesk(route={self._route}, window={len(self._window)}, lent={len(self.lent)})"

    def has_work(self, *, now_ms: int) -> bool:
        """Tell whether a lease might find something now."""
        return bool(self._window or self._returned or self._ripe or not self._is_caught_up) or self._is_due(now_ms)

    def next_due_ms(self) -> int | None:
        """Return when the next waiting event is due; None when none waits."""
        return min((at_ms for at_ms in self._next_due_ms if at_ms is not None), default=None)

    def wants_feed(self, *, now_ms: int, retry_max: int = 1) -> bool:
        """Tell whether lending needs something from disk first."""
        lacks_retries = len(self._ripe) < retry_max and self._due_now(1, now_ms)
        return (not self._window and not self._is_caught_up) or self._due_now(0, now_ms) or lacks_retries

    def wants_more(self) -> bool:
        """Tell whether the window runs low, so that a feed should be under way."""
        return len(self._window) < _LOW_WATER and not self._is_caught_up

    def wish(self, *, now_ms: int, fresh_max: int, retry_max: int) -> FeedWish:
        """Say what to read."""
        needs_ready = not self._is_caught_up and len(self._window) < FEED_EVENTS_MAX
        due = [self._due_now(is_retry, now_ms) for is_retry in (0, 1)]
        self._heard_due_ms = [None, None]
        return FeedWish(
            route=self._route,
            after=self._window_end,
            ready_max=FEED_EVENTS_MAX if needs_ready else 0,
            bytes_max=FEED_BYTES_MAX,
            due_max=(max(1, fresh_max) if due[0] else 0, max(0, retry_max - len(self._ripe)) if due[1] else 0),
            known=frozenset(self.lent) | self._held,
        )

    def take(self, *, fresh_max: int, retry_max: int, bytes_max: int) -> list[Lease]:
        """Lend what is at hand, oldest first."""
        leases: list[Lease] = []
        room = bytes_max
        while self._ripe and len(leases) < retry_max:
            if leases and self._ripe[0].size > room:
                return sorted(leases, key=attrgetter("sequence"))
            candidate = self._ripe.popleft()
            self._held.discard(candidate.sequence)
            if self._lend(candidate):
                leases.append(candidate.lease)
                room -= candidate.size
        fresh = 0
        while fresh < fresh_max:
            next_one = self._peek()
            if next_one is None or (leases and next_one.size > room):
                break
            self._pop(next_one)
            if self._lend(next_one):
                leases.append(next_one.lease)
                room -= next_one.size
                fresh += 1
        return sorted(leases, key=attrgetter("sequence"))

    def lend_newest(self, candidate: Candidate) -> Lease | None:
        """Lend one that was read from the other end, wherever the desk has it by now."""
        if candidate.sequence in self.lent:
            return None
        candidate = self._withdraw(candidate.sequence) or candidate
        return candidate.lease if self._lend(candidate) else None

    def take_back(self, leases: Iterable[Lease]) -> None:
        """Hear that whom these were lent to is gone: they are read anew, wherever they stand by now."""
        for lease in leases:
            if (candidate := self.lent.pop(lease.sequence, None)) is not None:
                self._free_lane(candidate.lane)
                self.reset()

    def take_newest(self) -> Lease | None:
        """Lend the newest at hand; only right when the desk has caught up and nothing is due."""
        while self._window:
            candidate = self._window.pop()
            self._window_bytes -= candidate.size
            if self._lend(candidate):
                return candidate.lease
        return None

    def knows_newest(self, *, now_ms: int) -> bool:
        """Tell whether the window's end is the newest there is."""
        has_others = self._returned or self._ripe or self._parked or self._is_due(now_ms)
        return self._is_caught_up and bool(self._window) and not has_others

    def out_of_reach(self) -> frozenset[int]:
        """Return the sequences that are lent, or must wait for another of their partition that is."""
        return frozenset(self.lent) | {c.sequence for parked in self._parked.values() for c in parked}

    # --- what happened, in the order of the commits ---

    def appended(self, events: Sequence[tuple[int, Envelope, int]], *, last_sequence: int) -> None:
        """Hear of a commit's new events, in order, and of the last sequence given to any route."""
        if not self._is_caught_up:
            return
        for sequence, envelope, lane in events:
            size = len(envelope.payload)
            if self._window_bytes + size > self._cache_bytes_max:
                # From here on the cursor reads them from disk: memory stays flat.
                self._is_caught_up = False
                return
            lease = Lease(sequence=sequence, attempt=1, envelope=envelope)
            self._window.append(Candidate(lease, lane))
            self._window_bytes += size
            self._window_end = sequence
        self._window_end = last_sequence

    def fed(self, fed: Fed, *, generation: int) -> None:
        """Hear of what a feed brought."""
        if generation != self.generation:
            return
        for candidate in fed.ready:
            if candidate.sequence not in self.lent and candidate.sequence not in self._held:
                self._window.append(candidate)
                self._window_bytes += candidate.size
        self._window_end = max(self._window_end, fed.ready_to)
        self._is_caught_up = self._is_caught_up or fed.is_caught_up
        for is_retry in (0, 1):
            for candidate in fed.due[is_retry]:
                self._take_due(candidate, is_retry)
            self._next_due_ms[is_retry] = earlier(fed.next_due_ms[is_retry], self._heard_due_ms[is_retry])

    def settled(self, candidates: Iterable[Candidate]) -> None:
        """Hear that lent events are settled."""
        for candidate in candidates:
            self.lent.pop(candidate.sequence, None)
            self._free_lane(candidate.lane)

    def released(self, results: Iterable[Released]) -> None:
        """Hear that lent events were given back."""
        for result in results:
            candidate = result.candidate
            self.lent.pop(candidate.sequence, None)
            candidate.is_settling = False
            self._free_lane(candidate.lane)
            if result.is_blocked:
                continue
            if result.due is not None:
                self._heard_due(result.due)
                continue
            candidate.due = None
            self._return(candidate)

    def promoted(self, candidates: Iterable[Candidate], waiting: Iterable[Promoted]) -> None:
        """Hear who became the oldest of a partition."""
        for candidate in candidates:
            self._return(candidate)
        for one in waiting:
            if one.due is not None:
                self._heard_due(one.due)

    def reset(self) -> None:
        """Forget all but what is lent: older events became pending, everything else is on disk."""
        self._window.clear()
        self._window_bytes = 0
        self._returned.clear()
        self._ripe.clear()
        self._parked.clear()
        self._held.clear()
        self._window_end = 0
        self._is_caught_up = False
        self._next_due_ms = [0, 0]
        self.generation += 1

    def clock_went_back(self) -> None:
        """Hear that what was known of due times may be wrong."""
        self._next_due_ms = [0, 0]

    def noted(self, sequence: int, progress: bytes) -> None:
        """Hear of a lent event's progress."""
        candidate = self.lent.get(sequence)
        if candidate is not None:
            candidate.lease = msgspec.structs.replace(candidate.lease, progress=progress, replay=Replay.NOT)

    def _is_due(self, now_ms: int) -> bool:
        return self._due_now(0, now_ms) or self._due_now(1, now_ms)

    def _due_now(self, is_retry: int, now_ms: int) -> bool:
        at_ms = self._next_due_ms[is_retry]
        return at_ms is not None and is_due(at_ms, now_ms=now_ms)

    def _heard_due(self, due: tuple[int, int]) -> None:
        is_retry, at_ms = due
        self._next_due_ms[is_retry] = earlier(self._next_due_ms[is_retry], at_ms)
        self._heard_due_ms[is_retry] = earlier(self._heard_due_ms[is_retry], at_ms)

    def _take_due(self, candidate: Candidate, is_retry: int) -> None:
        if candidate.sequence in self.lent or candidate.sequence in self._held:
            return
        self._held.add(candidate.sequence)
        if is_retry:
            self._ripe.append(candidate)
        else:
            heappush(self._returned, (candidate.sequence, candidate))

    def _return(self, candidate: Candidate) -> None:
        if candidate.sequence > self._window_end and not self._is_caught_up:
            return  # the cursor will come to it
        if candidate.sequence not in self._held and candidate.sequence not in self.lent:
            self._held.add(candidate.sequence)
            heappush(self._returned, (candidate.sequence, candidate))

    def _peek(self) -> Candidate | None:
        if self._returned and (not self._window or self._returned[0][0] < self._window[0].sequence):
            return self._returned[0][1]
        return self._window[0] if self._window else None

    def _pop(self, candidate: Candidate) -> None:
        if self._returned and self._returned[0][1] is candidate:
            heappop(self._returned)
            self._held.discard(candidate.sequence)
            return
        self._window.popleft()
        self._window_bytes -= candidate.size

    def _withdraw(self, sequence: int) -> Candidate | None:
        """Take an event out of whatever it waits in, so that there is one of it."""
        self._held.discard(sequence)
        for queue in (self._ripe, self._window):
            for candidate in reversed(queue):
                if candidate.sequence == sequence:
                    queue.remove(candidate)
                    self._window_bytes -= candidate.size if queue is self._window else 0
                    return candidate
        for entry in self._returned:
            if entry[0] == sequence:
                self._returned.remove(entry)
                heapify(self._returned)
                return entry[1]
        return None

    def _lend(self, candidate: Candidate) -> bool:
        if candidate.sequence in self.lent:
            return False
        if candidate.lane:
            if candidate.lane in self._busy_lanes:
                # Only after a replay: an older event of the partition waits for the one in flight.
                self._parked.setdefault(candidate.lane, []).append(candidate)
                self._held.add(candidate.sequence)
                return False
            self._busy_lanes.add(candidate.lane)
        self.lent[candidate.sequence] = candidate
        return True

    def _free_lane(self, lane: int) -> None:
        if not lane:
            return
        self._busy_lanes.discard(lane)
        for candidate in self._parked.pop(lane, ()):
            if candidate.due is not None and candidate.due[0]:
                self._ripe.appendleft(candidate)
            else:
                heappush(self._returned, (candidate.sequence, candidate))
