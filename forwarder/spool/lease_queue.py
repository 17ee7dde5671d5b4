"""Who is leased what: the lease queue of one route, in memory, on the event loop's thread.

It holds a window of the next events, oldest first, and what came back. It does no I/O and reads no clock: it says what
must be read (`wants`) and is told what happened. A read may be past: what was settled since is left out of it.
"""

from collections.abc import Iterable, Mapping
from operator import attrgetter

import msgspec

from forwarder.model import Demand, Lease, Replay
from forwarder.spool.held_leases import BESIDE, FRESH, KINDS, RETRY, BusyPartitions, DueTimes, HeldLeases, kind_of
from forwarder.spool.lease_window import FRESH_MAX, Arrival, LeaseWindow, Meanwhile, Refill, Wanted

BYTES_MAX, _BEHIND_MAX, _BEHIND_BYTES_MAX = 8_388_608, 2_000, 8_192
_sequence = attrgetter("sequence")


class LeaseQueue:
    """Lease the oldest due events of one route, each to one caller at a time."""

    def __init__(self, *, last_sequence: int, cache_bytes_max: int) -> None:
        self.window = LeaseWindow(last_sequence=last_sequence, cache_bytes_max=cache_bytes_max)
        self._held = HeldLeases()
        self._behind: dict[int, Lease] = {}  # arrived lately, behind an older one of their partition
        self._promoted: set[int] = set()  # to be read
        self._busy = BusyPartitions()
        self.due = DueTimes()
        self.meanwhile = Meanwhile()
        self.generation = 0  # changes with every reset: a read that began before it must not be taken
        self.leased: dict[int, Lease] = {}
        self.barred: set[int] = set()  # being erased

    def __repr__(self) -> str:
        """Show the counts."""
        return f"LeaseQueue(window={len(self.window)}, leased={len(self.leased)})"

    def has_work(self, *, now_ms: int) -> bool:
        """Tell whether a lease might find something now."""
        return bool(self.window or len(self._held) or self._promoted) or self.due.is_any_due(now_ms=now_ms)

    def listed_of(self, sequences: Iterable[int]) -> frozenset[int]:
        """Return those leased events of these that have a row of their own."""
        return frozenset(self._held.listed.keys() & sequences) if self._held.listed else frozenset()

    def lacks(self, demand: Demand, *, now_ms: int) -> bool:
        """Tell whether something that the demand asks for must be read first."""
        if demand.fresh_max > 0 and ((not self.window and not self.window.is_caught_up) or self._promoted):
            return True
        most, held = demand.by_kind(), self._held.counts()
        return any(most[kind] > held[kind] and self.due.is_due(kind, now_ms=now_ms) for kind in KINDS)

    def newest_is_known(self, *, now_ms: int) -> bool:
        """Tell whether the window's end is the newest event that can be leased."""
        others = len(self._held) or self._promoted or self.due.is_any_due(now_ms=now_ms)
        return self.window.is_caught_up and bool(self.window) and not others

    def out_of_reach(self) -> frozenset[int]:
        """Return the sequences that are leased, or must wait for another of their partition that is."""
        return frozenset(self.leased) | frozenset(self._busy.parked())

    # --- reading ---

    def wants(self, demand: Demand, *, now_ms: int) -> Wanted:
        """Begin a read: say what to bring. `refilled` or `end_read` ends it."""
        fresh = self.window.runs_short(FRESH_MAX)
        most, held = demand.by_kind(), self._held.counts()
        due = [self.due.is_due(kind, now_ms=now_ms) for kind in KINDS]
        self.due.begin_read()
        if fresh:
            self.window.begin_read()
        self.meanwhile.begin()
        return Wanted(
            after=self.window.end,
            fresh_max=FRESH_MAX if fresh else 0,
            bytes_max=BYTES_MAX,
            due_max=tuple(max(0, min(most[kind], FRESH_MAX) - held[kind]) if due[kind] else -1 for kind in KINDS),
            promoted=tuple(sorted(self._promoted)[:FRESH_MAX]),
            known=frozenset(self._held.listed),
            is_caught_up=self.window.is_caught_up,
        )

    def refilled(self, refill: Refill, wanted: Wanted, *, generation: int) -> None:
        """Take what a read brought."""
        try:
            if generation == self.generation:
                self._take_read(refill, wanted)
        finally:
            self.end_read(wanted)

    def _take_read(self, refill: Refill, wanted: Wanted) -> None:
        if wanted.fresh_max:
            self.window.take_read(refill, self._is_wanted)
        elif refill.up_to:
            self.window.take_arrived(refill, self._is_wanted)
        for lease in self.window.take_late(refill, self._is_wanted):
            self._held.hold(lease)
        for kind in KINDS:
            if wanted.due_max[kind] >= 0:
                self.due.take_read(kind, refill.next_due_ms[kind])
            for at_ms, lease in refill.due[kind]:
                self._take_due(lease, kind, at_ms)
        self._promoted.difference_update(wanted.promoted)
        for lease in refill.promoted:
            if self._is_wanted(lease):
                self._held.hold(lease)
            elif not self._is_here(lease):
                self._promoted.add(lease.sequence)  # as below

    def end_read(self, wanted: Wanted) -> None:
        """Hear that a read is over, whether it brought anything or failed."""
        if wanted.fresh_max:
            self.window.end_read()
        self.meanwhile.end()

    def _is_wanted(self, lease: Lease) -> bool:
        return not self._is_here(lease) and self.meanwhile.admits(lease)

    def _is_here(self, lease: Lease) -> bool:
        return lease.sequence in self.leased or lease.sequence in self._held

    def _take_due(self, lease: Lease, kind: int, not_before_ms: int) -> None:
        if self._is_wanted(lease):
            self._held.listed[lease.sequence] = not_before_ms
            self._held.hold(lease)
        elif not self._is_here(lease):
            # Reads overlap, so what happened may lie before this one, not beside it: the next one tells.
            self.due.tell(kind, not_before_ms)

    # --- leasing ---

    def take(self, demand: Demand) -> list[Lease]:
        """Lease what is at hand, oldest first."""
        if not self._held:  # nothing came back, as nearly always
            return [lease for lease in self.window.pop(demand.fresh_max, demand.bytes_max) if self._lease(lease)]
        leases: list[Lease] = []
        room = demand.bytes_max
        for kind, most in ((RETRY, demand.retry_max), (BESIDE, demand.replay_max)):
            end = len(leases) + most
            while len(leases) < end and (ripe := self._held.peek_ripe(kind)) is not None:
                size = len(ripe.envelope.payload)
                if leases and size > room:
                    return sorted(leases, key=_sequence)
                self._held.pop_ripe(kind)
                if self._lease(ripe):
                    leases.append(ripe)
                    room -= size
        others, fresh_max = len(leases), len(leases) + demand.fresh_max
        while len(leases) < fresh_max and (found := self._next_fresh()) is not None:
            lease, is_held = found
            size = len(lease.envelope.payload)
            if leases and size > room:
                break
            (self._held.pop_fresh if is_held else self.window.pop_first)()
            if self._lease(lease):
                leases.append(lease)
                room -= size
        return sorted(leases, key=_sequence) if others else leases

    def take_newest(self) -> Lease | None:
        """Lease the newest at hand; only right when it is known, see `newest_is_known`."""
        return next((lease for lease in iter(self.window.pop_last, None) if self._lease(lease)), None)

    def lease_read(self, lease: Lease, *, is_listed: bool) -> Lease | None:
        """Lease one that was read from the other end, wherever the queue has it by now."""
        if lease.sequence in self.leased or not self.meanwhile.admits(lease):
            return None
        # What stands in memory may know more than the read.
        in_window = self.window.withdraw(lease.sequence)
        lease = self._held.withdraw(lease.sequence) or in_window or lease
        if is_listed:
            self._held.listed.setdefault(lease.sequence, 0)
        return lease if self._lease(lease) else None

    # --- what happened, in the order of the commits ---

    def arrived(self, arrival: Arrival, *, last_sequence: int) -> None:
        """Hear of a commit's new events, in order, and of the last sequence given to any route."""
        for lease in arrival.behind:
            if len(self._behind) < _BEHIND_MAX and len(lease.envelope.payload) < _BEHIND_BYTES_MAX:
                self._behind[lease.sequence] = lease
        self.window.arrived(arrival.leases, last_sequence=last_sequence)

    def settled(self, leases: Iterable[Lease]) -> None:
        """Hear that leased events are settled."""
        are_known = self._held or self._held.listed or self._promoted or self.meanwhile.reads
        for lease in leases:
            was_leased = self.leased.pop(lease.sequence, None) is not None
            if are_known:
                self._forget(lease.sequence)
            if was_leased and lease.envelope.partition_key:  # else its user's next one may be in hand by now
                self._free(lease)

    def give_back_unchanged(self, leases: Iterable[Lease]) -> None:
        """Take leased events back as if they had never been leased: nothing of it is on disk."""
        for lease in leases:
            if self.leased.pop(lease.sequence, None) is None:
                continue
            if not self._busy.is_overtaken(lease.envelope.partition_key):
                self._held.hold(lease)
            elif self._held.listed.pop(lease.sequence, None) is None:
                self._promoted.add(lease.sequence)  # unless who overtook it still waits: the disk tells
            else:
                self.due.tell(kind_of(lease), 0)
            self._free(lease)

    def given_back(self, lease: Lease, *, is_head: bool, kind: int, not_before_ms: int) -> None:
        """Hear that a leased event waits on disk now."""
        if self.leased.pop(lease.sequence, None) is not None:
            self._free(lease)
        self._forget(lease.sequence)
        if is_head:
            self.due.tell(kind, not_before_ms)

    def erased(self, gone: set[int]) -> None:
        """Hear that events that were pending, and not leased, are settled without content."""
        self.window.keep(lambda lease: lease.sequence not in gone)
        for sequence in gone:
            self._behind.pop(sequence, None)
            self._forget(sequence)
        self._held.sweep()

    def promoted(self, sequence: int) -> None:
        """Hear that an event that never left the queue became the oldest of its partition."""
        lease = self._behind.pop(sequence, None)
        is_ahead = sequence > self.window.end and not self.window.is_caught_up and not self.meanwhile.reads
        if is_ahead or sequence in self._held or sequence in self.leased:
            return  # the cursor will come to it, or it is here
        if lease is None:
            self._promoted.add(sequence)
        elif self._is_wanted(lease):
            self._held.hold(lease)

    def requeued(self, heads: Mapping[str, int]) -> None:
        """Hear that older events became pending: who is the oldest of these partitions now. Others must wait."""
        self.due.tell(FRESH, 0)
        self.due.tell(BESIDE, 0)
        if not heads:
            return
        self.meanwhile.moved(heads)

        def stays(lease: Lease) -> bool:
            return lease.sequence <= heads.get(lease.envelope.partition_key, lease.sequence)

        self.window.keep(stays)
        parked = self._busy.moved(heads)
        for lease in [*self._held.all(), *parked]:
            if not stays(lease):
                self._held.forget(lease.sequence)
            elif self._held.is_parked(lease):
                self._held.hold(lease)  # it is looked at again
        self._held.sweep()

    def noted(self, sequence: int, progress: bytes) -> None:
        """Hear of a leased event's progress."""
        if sequence in self.leased:
            self.leased[sequence] = msgspec.structs.replace(self.leased[sequence], progress=progress, replay=Replay.NOT)

    def reset(self) -> None:
        """Forget all but what is leased; everything else is on disk."""
        self.window.clear()
        self._held.clear(leased=self.leased)
        self._busy.forget_parked()
        self._behind.clear()
        self._promoted.clear()
        self.due.ask_again()
        self.generation += 1

    # --- inside ---

    def _forget(self, sequence: int) -> None:
        self._held.forget(sequence)
        self._promoted.discard(sequence)
        self.meanwhile.left(sequence)

    def _next_fresh(self) -> tuple[Lease, bool] | None:
        """Return the oldest fresh event, and whether it came back."""
        held, first = self._held.peek_fresh(), self.window.first
        if held is not None and (first is None or held.sequence < first.sequence):
            return held, True
        return None if first is None else (first, False)

    def _lease(self, lease: Lease) -> bool:
        if (sequence := lease.sequence) in self.leased or sequence in self.barred:
            return False
        if lease.envelope.partition_key:
            if not self._busy.take(lease):
                self._held.park(lease)
                return False
            self._behind.pop(sequence, None)  # what is read of it from now on may know more
            self._promoted.discard(sequence)
        self.leased[sequence] = lease
        return True

    def _free(self, lease: Lease) -> None:
        key = lease.envelope.partition_key
        for parked in self._busy.free(key) if key else ():
            if self._held.is_parked(parked):
                self._held.hold(parked)
