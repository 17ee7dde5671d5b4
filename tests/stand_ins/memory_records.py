"""What the spool in memory holds, and how people read it."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import msgspec

from forwarder.archive_port import AuditRow, EventRow, EventTypeRow
from forwarder.model import Attempt, Envelope, Labels, Replay, RouteName, State
from forwarder.spool.held_leases import BESIDE, FRESH, is_due
from forwarder.spool.limits import event_bytes


class Record:
    """One event and where it is."""

    def __init__(self, sequence: int, envelope: Envelope) -> None:
        self.sequence = sequence
        self.envelope = envelope
        self.progress = b""
        self.replay = Replay.NOT
        self.is_bare = False  # its payload was evicted
        self.replayed_ms: int | None = None
        self.stand_up()

    def __repr__(self) -> str:
        """Show where it is."""
        return f"Record({self.sequence}, {self.state.value})"

    @property
    def held_bytes(self) -> int:
        """Return what it takes."""
        return event_bytes(0 if self.is_bare else len(self.envelope.payload))

    @property
    def is_settled(self) -> bool:
        """Tell whether it reached a final state."""
        return self.state is not State.PENDING

    def stand_up(self) -> None:
        """Be pending, as if new."""
        self.state = State.PENDING
        self.attempts = 0  # failures while pending; attempts made once settled
        self.first_failed_ms: int | None = None
        self.not_before_ms = 0
        self.reason = ""
        self.tries: list[Attempt] = []  # all, the last ten
        self.kind = FRESH
        self.settled_at_ms: int | None = None
        self.is_discarded = False
        self.is_leased = False
        self.status: int | None = None  # of the last answer

    def settle(self, state: State, reason: str, *, now_ms: int, was_tried: bool) -> None:
        """Be settled."""
        self.state = state
        self.reason = reason
        self.settled_at_ms = now_ms
        self.attempts += int(was_tried)
        self.not_before_ms = 0
        self.is_leased = False

    def erase(self) -> None:
        """Hold nothing any more: key, state, type and name stay."""
        labels = Labels(type=self.envelope.labels.type, event=self.envelope.labels.event)
        self.envelope = msgspec.structs.replace(self.envelope, payload=b"", partition_key="", labels=labels, trace="")
        self.progress, self.tries, self.is_bare, self.reason = b"", [], True, "erased"
        self.is_discarded = self.state in (State.DEAD, State.UNMAPPED)

    def row(self) -> EventRow:
        """Return it as a line of a listing."""
        return EventRow(
            sequence=self.sequence,
            route=self.envelope.route,
            state=self.state,
            labels=self.envelope.labels,
            source=self.envelope.source,
            received_at_ms=self.envelope.received_at_ms,
            settled_at_ms=self.settled_at_ms,
            attempts=self.attempts,
            reason=self.reason,
            not_before_ms=self.not_before_ms or None,
            is_discarded=self.is_discarded,
            size_bytes=len(self.envelope.payload),
            status=self.status,
        )


def _partition(record: Record) -> tuple[RouteName, str]:
    return record.envelope.route, record.envelope.partition_key


class MemoryRecords:
    """All events by sequence, and the accounts over them."""

    def __init__(self) -> None:
        self.sequence = 0
        self.by_sequence: dict[int, Record] = {}
        self.pending: dict[int, Record] = {}  # in order of sequence
        self.purged: Counter[tuple[RouteName, State]] = Counter()
        self.unsettled_bytes: Counter[RouteName] = Counter()
        self.dead_bytes = 0
        self.settled_bytes = 0  # an upper bound: payloads that were evicted are not taken off
        self.types: dict[tuple[RouteName, str, str], EventTypeRow] = {}
        self.audit: list[AuditRow] = []

    def add(self, envelope: Envelope, *, types_max: int) -> None:
        """Number and keep a new event."""
        self.sequence += 1
        record = Record(self.sequence, envelope)
        self.by_sequence[record.sequence] = record
        self.pending[record.sequence] = record
        self.unsettled_bytes[envelope.route] += event_bytes(len(envelope.payload))
        self._count_type(envelope, types_max)

    def settled(self, record: Record) -> None:
        """Take a settled event out of what waits."""
        size = event_bytes(len(record.envelope.payload))
        del self.pending[record.sequence]
        self.settled_bytes += size
        self.unsettled_bytes[record.envelope.route] -= size
        if record.state is State.DEAD:
            self.dead_bytes += size

    def stood_up(self, record: Record) -> None:
        """Put an event that is pending again among what waits, in its place."""
        self.pending[record.sequence] = record
        self.pending = dict(sorted(self.pending.items()))
        self.unsettled_bytes[record.envelope.route] += event_bytes(len(record.envelope.payload))
        self.weigh_dead()

    def weigh_dead(self) -> None:
        """Count anew what the dead take."""
        self.dead_bytes = sum(
            event_bytes(len(r.envelope.payload)) for r in self.by_sequence.values() if r.state is State.DEAD
        )

    def due(self, route: RouteName, *, now_ms: int) -> Iterator[Record]:
        """Yield what can be leased, oldest first."""
        return (r for r in self._heads(route) if not r.is_leased and is_due(r.not_before_ms, now_ms=now_ms))

    def next_due_ms(self, route: RouteName) -> int | None:
        """Return when the next waiting event is due."""
        return min((r.not_before_ms for r in self._heads(route) if not r.is_leased), default=None)

    def held_bytes(self) -> int:
        """Return what all events take."""
        return sum(r.held_bytes for r in self.by_sequence.values())

    def evict(self, threshold: int) -> None:
        """Drop settled payloads, oldest first, filtered ones before others, until no more than this is held."""
        # Pending and dead alone are within the limit, or the last append had been refused.
        if self.unsettled_bytes.total() + self.settled_bytes <= threshold:
            return
        excess = self.held_bytes() - threshold
        for state in (State.FILTERED, State.DELIVERED, State.UNMAPPED):
            for record in self.by_sequence.values():
                if excess <= 0:
                    return
                if record.state is state and not record.is_bare:
                    record.is_bare = True
                    excess -= len(record.envelope.payload)

    def forget_settled(self, *, before_ms: int) -> None:
        """Drop events that were settled before this, and the attempts of before."""
        old = [
            r
            for r in islice(self.by_sequence.values(), len(self.by_sequence))
            if r.settled_at_ms is not None and r.settled_at_ms < before_ms
        ]
        for record in self.by_sequence.values():
            record.tries = [attempt for attempt in record.tries if attempt.at_ms >= before_ms]
        for record in old:
            self.purged[record.envelope.route, record.state] += 1
            del self.by_sequence[record.sequence]
            if record.state is State.DEAD:
                self.dead_bytes -= event_bytes(len(record.envelope.payload))

    def is_busy(self, record: Record) -> bool:
        """Tell whether an event of its partition is leased."""
        return bool(record.envelope.partition_key) and any(
            r.is_leased for r in self.pending.values() if _partition(r) == _partition(record)
        )

    def is_in_line(self, record: Record) -> bool:
        """Tell whether events of its partition wait that are no replays beside."""
        return any(r.kind != BESIDE for r in self.pending.values() if _partition(r) == _partition(record))

    def replays(self) -> Counter[RouteName]:
        """Return how many replayed events wait."""
        return Counter(r.envelope.route for r in self.pending.values() if r.replayed_ms is not None)

    def _heads(self, route: RouteName) -> Iterator[Record]:
        busy = {r.envelope.partition_key for r in self.pending.values() if r.is_leased and r.envelope.route is route}
        seen: set[tuple[str, bool]] = set()
        for record in self.pending.values():
            if record.envelope.route is not route:
                continue
            partition = record.envelope.partition_key
            if partition:
                line = partition, record.kind == BESIDE
                if line in seen or partition in busy:
                    continue
                seen.add(line)
            yield record

    def _count_type(self, envelope: Envelope, types_max: int) -> None:
        labels, at_ms = envelope.labels, envelope.received_at_ms
        key = (envelope.route, labels.type, labels.event)
        known = self.types.get(key)
        if known is None and sum(1 for k in self.types if k[0] is envelope.route) >= types_max:
            return
        self.types[key] = EventTypeRow(
            route=envelope.route,
            type=labels.type,
            event=labels.event,
            count=known.count + 1 if known else 1,
            first_at_ms=known.first_at_ms if known else at_ms,
            last_at_ms=max(known.last_at_ms, at_ms) if known else at_ms,
        )
