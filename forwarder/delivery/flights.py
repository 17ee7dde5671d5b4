"""The requests that a route has in hand, and which of them goes next. Pure: times are arguments.

A flight is a batch with its leases and its history of failures. Fresh deliveries gather in the open batch; what was
cut in half or came back waits here in front of them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from forwarder.delivery.policy import ROUTE, Decision, Outcome
from forwarder.model import Answer, Attempt, Batch, Delivery, Filtered, Lease, Refused, Settled, State, Verdict

_SIZE_KNOWN_S: Final = 600.0


class _Progress(msgspec.Struct, omit_defaults=True):
    """What the spool keeps with an event that goes in batches: how many holds it alone began."""

    holds: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Flight:
    """Events on their way in one request, with what is known of their failures."""

    leases: tuple[Lease, ...]
    batch: Batch
    failures: int = 0  # in a row, for whatever reason
    failed_alone: int = 0  # of these, how many while others succeeded
    passes_seen: tuple[str, int] | None = None  # the group of its last failure, and how many of that had passed then
    is_probe: bool = False
    attempts: list[Attempt] = field(default_factory=list)  # of its calls before the last, to be recorded
    _holds: int | None = None  # how many holds the lone event began, when that is news

    @property
    def sequences(self) -> list[int]:
        """The events in it."""
        return [lease.sequence for lease in self.leases]

    @property
    def is_through(self) -> bool:
        """Tell whether nothing of it is left to be sent."""
        return False

    @property
    def group(self) -> str:
        """The rate-limit group of what is sent next."""
        return ROUTE

    @property
    def holds(self) -> int:
        """How many holds the lone event began."""
        try:
            return msgspec.json.decode(self.leases[0].progress, type=_Progress).holds
        except msgspec.MsgspecError:
            return 0

    def begin(self) -> Batch:
        """Return what is to be sent now."""
        return self.batch

    def unkept(self) -> bytes | None:
        """Return what must be on disk before this is sent; None when it is, or nothing must."""
        return None

    def unsent(self) -> bytes | None:
        """Return what is to be on disk when this goes back without having been sent; None for what is there."""
        return None

    def end(self, decision: Decision, answer: Answer) -> bool:
        """Learn what was decided; return whether the same events go on with another call."""
        del answer
        self._holds = decision.holds
        return False

    def progress(self) -> bytes | None:
        """Return what is kept with the event while it waits, or once it is settled; None for nothing new."""
        return None if self._holds is None else msgspec.json.encode(_Progress(holds=self._holds))

    def ending(self, decision: Decision, verdict: Verdict | None, attempt: Attempt | None) -> tuple[list[Settled], str]:
        """Return how its events settle, and what may be logged of them if they are dead."""
        sequences = self.sequences
        if decision.outcome is Outcome.DEAD:
            return [Settled(sequences, State.DEAD, decision.reason, attempt)], decision.reason
        if isinstance(verdict, Refused):
            reason = f"{verdict.reason}: {verdict.words}" if verdict.words else verdict.reason
            return [Settled(sequences, State.DEAD, reason, attempt)], verdict.reason
        if isinstance(verdict, Filtered):
            return [Settled(sequences, State.FILTERED, verdict.reason, attempt)], ""
        # What people shall know of a delivered event stands with that one alone.
        notes = {delivery.sequence: delivery.note for delivery in self.batch.deliveries if delivery.note}
        noted = [Settled([sequence], State.DELIVERED, note, attempt) for sequence, note in notes.items()]
        plain = [sequence for sequence in sequences if sequence not in notes] if notes else sequences
        return [Settled(plain, State.DELIVERED, "", attempt), *noted] if plain else noted, ""

    def halves(self) -> tuple["Flight", "Flight"]:
        """Cut it in two; each half inherits the failures, so that it is cut again as soon as it fails again."""
        middle = len(self.leases) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> "Flight":
        return Flight(
            leases=self.leases[part],
            batch=batch_of(self.batch.deliveries[part]),
            failures=self.failures,
            failed_alone=self.failed_alone,
            passes_seen=self.passes_seen,
        )


def batch_of(deliveries: Sequence[Delivery]) -> Batch:
    """Make a batch of these deliveries, whatever its size."""
    return Batch(deliveries=tuple(deliveries), size_bytes=sum([len(delivery.body) for delivery in deliveries]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The destination's ceilings, and how long we wait to fill them. All positive."""

    deliveries_max: int
    bytes_max: int  # of the bodies alone; the sink's framing is already subtracted
    wait_max_s: float


class Flights:
    """What is in hand and not in flight. One route owns it; not safe for concurrent use."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._open: list[tuple[Lease, Delivery]] = []
        self._open_bytes = 0
        self._open_since_s = 0.0
        self._learnt_bytes_max = limits.bytes_max
        self._learnt_until_s = 0.0
        self._ready: deque[Flight] = deque()
        self._waiting: list[tuple[float, Flight]] = []

    def __repr__(self) -> str:
        """Show what is in hand."""
        return f"Flights({len(self._open)} gathering, {len(self._ready)} ready, {len(self._waiting)} waiting)"

    @property
    def ready(self) -> int:
        """How many flights could go at once."""
        return len(self._ready)

    @property
    def untried(self) -> int:
        """How many of them never failed; the open batch counts as one."""
        return sum(not flight.failures for flight in self._ready) + bool(self._open)

    @property
    def retries(self) -> int:
        """How many of them are of events on a retry."""
        return sum(flight.leases[0].is_retry for flight in self._ready)

    @property
    def waiting_events(self) -> int:
        """How many events wait for their own retry."""
        return sum(len(flight.leases) for _, flight in self._waiting)

    def gather(self, pairs: Iterable[tuple[Lease, Delivery]], *, now_s: float) -> None:
        """Put deliveries into batches, in this order; one that no batch can take becomes a flight of its own."""
        bytes_max, deliveries_max = self.bytes_max(now_s=now_s), self._limits.deliveries_max
        for pair in pairs:
            size_bytes = len(pair[1].body)
            if size_bytes > bytes_max:
                self._ready.append(Flight(leases=(pair[0],), batch=batch_of([pair[1]])))
                continue
            if self._open_bytes + size_bytes > bytes_max:
                self._close_batch()
            # Age counts from the oldest delivery. Restarting it on every one would let a steady trickle
            # postpone the batch for ever.
            if not self._open:
                self._open_since_s = now_s
            self._open.append(pair)
            self._open_bytes += size_bytes
            if len(self._open) >= deliveries_max or self._open_bytes >= bytes_max:
                self._close_batch()

    def queue(self, flight: Flight) -> None:
        """Put a flight at the end of what may go at once."""
        self._ready.append(flight)

    def queue_first(self, *flights: Flight) -> None:
        """Put flights, in this order, before everything else: a bisection goes deep before it goes wide."""
        self._ready.extendleft(reversed(flights))

    def wait(self, flight: Flight, *, until_s: float) -> None:
        """Keep a flight back for its own retry."""
        self._waiting.append((until_s, flight))

    def too_large(self, flight: Flight, *, now_s: float) -> None:
        """Learn that the destination found this flight too large: those that are gathered next are at most half of it.

        A proxy in front of it may take less than the destination does (1 MB is a common default, counted on packed
        bytes, so that nobody can know it beforehand). What was learnt is tried anew after ten minutes.
        """
        self._learnt_bytes_max = max(1, min(self.bytes_max(now_s=now_s), flight.batch.size_bytes // 2))
        self._learnt_until_s = now_s + _SIZE_KNOWN_S

    def bytes_max(self, *, now_s: float) -> int:
        """Return the limit of a batch that holds now."""
        return self._learnt_bytes_max if now_s < self._learnt_until_s else self._limits.bytes_max

    def next(self, *, now_s: float, is_idle: bool, is_probing: bool) -> Flight | None:
        """Take the flight that should go now, or None.

        `is_idle`: nothing is in flight, so that collecting on would only delay. `is_probing`: this request
        asks whether the destination is back; one that never failed is the better question.
        """
        if self._waiting:
            self._ready.extend(flight for until_s, flight in self._waiting if until_s <= now_s)
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > now_s]
        if is_probing:
            self._close_batch()
            untried = next((flight for flight in self._ready if not flight.failures), None)
            if untried is not None:
                self._ready.remove(untried)
                return untried
        if not self._ready:
            if not self._open or (not is_idle and self._open_since_s + self._limits.wait_max_s > now_s):
                return None
            self._close_batch()
        return self._ready.popleft()

    def due_at_s(self) -> float | None:
        """Return when `next` may have something that it has not now, were nothing else to happen."""
        times = [until_s for until_s, _ in self._waiting]
        if self._open:
            times.append(self._open_since_s + self._limits.wait_max_s)
        return min(times, default=None)

    def take_all(self) -> list[Flight]:
        """Empty it and return every flight."""
        self._close_batch()
        flights = [*self._ready, *(flight for _, flight in self._waiting)]
        self._ready.clear()
        self._waiting.clear()
        return flights

    def _close_batch(self) -> None:
        if not self._open:
            return
        leases, deliveries = zip(*self._open, strict=True)
        self._ready.append(Flight(leases=leases, batch=Batch(deliveries=deliveries, size_bytes=self._open_bytes)))
        self._open = []
        self._open_bytes = 0
