"""The batches that a route has in hand, and which of them goes next. Pure: times are arguments.

A parcel is a batch with its leases and its history of failures. Fresh deliveries gather in the batcher;
what was cut in half or came back waits here in front of them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forwarder.errors import OversizeDelivery
from forwarder.flow.batcher import Batcher, BatchLimits
from forwarder.flow.ceiling import SizeCeiling
from forwarder.model import Batch, Delivery, Lease


@dataclass(slots=True, eq=False, kw_only=True)
class Parcel:
    """One batch on its way, with what is known of its failures."""

    batch: Batch
    leases: tuple[Lease, ...]
    failures: int = 0  # in a row, for whatever reason
    strikes: int = 0  # of these, how many while others succeeded
    passes_seen: int = 0  # how many parcels of the route had succeeded at the last failure
    is_probe: bool = False

    @property
    def sequences(self) -> tuple[int, ...]:
        """The events in it."""
        return tuple(lease.sequence for lease in self.leases)

    def halves(self) -> tuple["Parcel", "Parcel"]:
        """Cut it in two; each half inherits the failures, so that it is cut again as soon as it fails again."""
        middle = len(self.leases) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> "Parcel":
        return Parcel(
            batch=batch_of(self.batch.deliveries[part]),
            leases=self.leases[part],
            failures=self.failures,
            strikes=self.strikes,
            passes_seen=self.passes_seen,
        )


def batch_of(deliveries: Sequence[Delivery]) -> Batch:
    """Make a batch of these deliveries, whatever its size."""
    return Batch(deliveries=tuple(deliveries), size_bytes=sum(len(delivery.body) for delivery in deliveries))


class Parcels:
    """What is in hand and not in flight. One delivery owns it; not safe for concurrent use."""

    def __init__(self, limits: BatchLimits) -> None:
        self._batcher = Batcher(limits)
        self._ceiling = SizeCeiling(limits.bytes_max)
        self._lent: dict[int, Lease] = {}  # of the open batch
        self._ready: deque[Parcel] = deque()
        self._waiting: list[tuple[float, Parcel]] = []

    def __repr__(self) -> str:
        """Show what is in hand."""
        return f"Parcels({len(self._ready)} ready, {len(self._waiting)} waiting, {self._batcher!r})"

    @property
    def ready(self) -> int:
        """How many parcels could go at once."""
        return len(self._ready)

    @property
    def untried(self) -> int:
        """How many of them never failed; the open batch counts as one."""
        return sum(not parcel.failures for parcel in self._ready) + bool(len(self._batcher))

    @property
    def waiting_events(self) -> int:
        """How many events wait for their own retry."""
        return sum(len(parcel.leases) for _, parcel in self._waiting)

    def gather(self, lease: Lease, delivery: Delivery, *, now_s: float) -> None:
        """Put a delivery into the open batch; one that no batch can take becomes a parcel of its own."""
        self._batcher.bytes_max = self._ceiling.bytes_max(now_s=now_s)
        try:
            if not self._batcher.fits(delivery):
                self._close_batch()
        except OversizeDelivery:
            self.queue(Parcel(batch=batch_of([delivery]), leases=(lease,)))
            return
        self._lent[lease.sequence] = lease
        self._batcher.add(delivery, now_s=now_s)
        if self._batcher.is_full:
            self._close_batch()

    def queue(self, parcel: Parcel) -> None:
        """Put a parcel at the end of what may go at once."""
        self._ready.append(parcel)

    def queue_first(self, *parcels: Parcel) -> None:
        """Put parcels, in this order, before everything else: a bisection goes deep before it goes wide."""
        self._ready.extendleft(reversed(parcels))

    def too_large(self, parcel: Parcel, *, now_s: float) -> None:
        """Learn that the destination found this parcel too large: smaller ones follow for a while."""
        self._ceiling.refused(parcel.batch.size_bytes, now_s=now_s)

    def wait(self, parcel: Parcel, *, until_s: float) -> None:
        """Keep a parcel back for its own retry."""
        self._waiting.append((until_s, parcel))

    def next(self, *, now_s: float, is_idle: bool, is_probing: bool) -> Parcel | None:
        """Take the parcel that should go now, or None.

        `is_idle`: nothing is in flight, so that collecting on would only delay. `is_probing`: this request
        asks whether the destination is back; one that never failed is the better question.
        """
        self._wake_waiting(now_s)
        if is_probing:
            self._close_batch()
            untried = next((parcel for parcel in self._ready if not parcel.failures), None)
            if untried is not None:
                self._ready.remove(untried)
                return untried
        if not self._ready:
            due_s = self._batcher.due_at_s()
            if due_s is None or (not is_idle and due_s > now_s):
                return None
            self._close_batch()
        return self._ready.popleft()

    def due_at_s(self) -> float | None:
        """Return when `next` may have something that it has not now, were nothing else to happen."""
        times = [until_s for until_s, _ in self._waiting]
        open_s = self._batcher.due_at_s()
        if open_s is not None:
            times.append(open_s)
        return min(times, default=None)

    def take_all(self) -> list[Lease]:
        """Empty it and return every lease."""
        self._close_batch()
        parcels: Iterable[Parcel] = [*self._ready, *(parcel for _, parcel in self._waiting)]
        leases = [lease for parcel in parcels for lease in parcel.leases]
        self._ready.clear()
        self._waiting.clear()
        return leases

    def _close_batch(self) -> None:
        batch = self._batcher.take()
        if batch is not None:
            leases = tuple(self._lent.pop(delivery.sequence) for delivery in batch.deliveries)
            self._ready.append(Parcel(batch=batch, leases=leases))

    def _wake_waiting(self, now_s: float) -> None:
        if not self._waiting:
            return
        self._ready.extend(parcel for until_s, parcel in self._waiting if until_s <= now_s)
        self._waiting = [(until_s, parcel) for until_s, parcel in self._waiting if until_s > now_s]
