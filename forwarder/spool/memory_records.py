"""What the spool in memory holds, and how people read it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from forwarder.errors import NoSuchEvent
from forwarder.model import Attempt, Books, Envelope, RouteName, State
from forwarder.ports import (
    AuditRow,
    EventDetail,
    EventPage,
    EventQuery,
    EventRow,
    EventTypeRow,
    ReasonGroup,
    SpoolFacts,
)
from forwarder.spool.capacity import event_bytes, standing_refusal
from forwarder.spool.limits import SpoolLimits


class Record:
    """One event and where it is."""

    def __init__(self, sequence: int, envelope: Envelope) -> None:
        self.sequence = sequence
        self.envelope = envelope
        self.progress = b""
        self.stand_up()

    def __repr__(self) -> str:
        """Show where it is."""
        return f"Record({self.sequence}, {self.state.value})"

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
        self.tries: list[Attempt] = []
        self.settled_at_ms: int | None = None
        self.is_discarded = False
        self.is_lent = False

    def settle(self, state: State, reason: str, *, now_ms: int, was_tried: bool) -> None:
        """Be settled."""
        self.state = state
        self.reason = reason
        self.settled_at_ms = now_ms
        self.attempts += int(was_tried)
        self.not_before_ms = 0
        self.is_lent = False

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
        )


class MemoryRecords:
    """All events by sequence, and the accounts over them."""

    def __init__(self) -> None:
        self.sequence = 0
        self.by_sequence: dict[int, Record] = {}
        self.pending: dict[int, Record] = {}  # in order of sequence
        self.purged: Counter[tuple[RouteName, State]] = Counter()
        self.unsettled_bytes: Counter[RouteName] = Counter()
        self.dead_bytes = 0
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
        self.unsettled_bytes[record.envelope.route] -= size
        if record.state is State.DEAD:
            self.dead_bytes += size

    def stood_up(self, record: Record) -> None:
        """Put an event that is pending again among what waits, in its place."""
        self.pending[record.sequence] = record
        self.pending = dict(sorted(self.pending.items()))
        self.unsettled_bytes[record.envelope.route] += event_bytes(len(record.envelope.payload))
        self.dead_bytes = sum(
            event_bytes(len(r.envelope.payload)) for r in self.by_sequence.values() if r.state is State.DEAD
        )

    def due(self, route: RouteName, *, now_ms: int) -> Iterator[Record]:
        """Yield what can be lent, oldest first."""
        return (r for r in self._heads(route) if not r.is_lent and r.not_before_ms <= now_ms)

    def next_due_ms(self, route: RouteName) -> int | None:
        """Return when the next waiting event is due."""
        return min((r.not_before_ms for r in self._heads(route) if not r.is_lent), default=None)

    def forget_settled(self, *, before_ms: int) -> None:
        """Drop events that were settled before this."""
        old = [
            r
            for r in islice(self.by_sequence.values(), len(self.by_sequence))
            if r.settled_at_ms is not None and r.settled_at_ms < before_ms
        ]
        for record in old:
            self.purged[record.envelope.route, record.state] += 1
            del self.by_sequence[record.sequence]
            if record.state is State.DEAD:
                self.dead_bytes -= event_bytes(len(record.envelope.payload))

    def _heads(self, route: RouteName) -> Iterator[Record]:
        busy = {r.envelope.partition_key for r in self.pending.values() if r.is_lent and r.envelope.route is route}
        seen: set[str] = set()
        for record in self.pending.values():
            if record.envelope.route is not route:
                continue
            partition = record.envelope.partition_key
            if partition:
                if partition in seen or partition in busy:
                    continue
                seen.add(partition)
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


class MemoryArchive:
    """Read the records as `ports.Archive` asks."""

    def __init__(self, records: MemoryRecords, limits: SpoolLimits) -> None:
        self._records = records
        self._limits = limits

    def facts(self) -> SpoolFacts:
        """Return the state."""
        records = self._records
        pending = records.pending.values()
        unsettled = [records.unsettled_bytes[route] for route in RouteName]
        refusal = standing_refusal(self._limits, unsettled=unsettled, dead=records.dead_bytes)
        return SpoolFacts(
            size_bytes=sum(event_bytes(len(r.envelope.payload)) for r in records.by_sequence.values()),
            cap_bytes=self._limits.bytes_max,
            unsettled_bytes={route: records.unsettled_bytes[route] for route in RouteName},
            books={route: self._books(route) for route in RouteName},
            oldest_pending_ms={
                route: next((r.envelope.received_at_ms for r in pending if r.envelope.route is route), None)
                for route in RouteName
            },
            retrying={
                route: sum(1 for r in pending if r.attempts and r.envelope.route is route) for route in RouteName
            },
            corrupt_rows=0,
            is_accepting=not refusal,
            refusal=refusal,
            sqlite_version="",
        )

    def events(self, query: EventQuery) -> EventPage:
        """List events."""
        is_tail = query.after_sequence is not None
        order = self._records.by_sequence if is_tail else reversed(self._records.by_sequence)
        matching = (r for s in order if _matches(r := self._records.by_sequence[s], query))
        rows: list[EventRow] = []
        last = None
        for scanned, record in enumerate(matching):
            if query.text is not None and scanned >= query.scan_max:
                return EventPage(rows=tuple(rows), next_before=None if is_tail else last, is_cut=True)
            if query.text is None or query.text.encode() in record.envelope.payload:
                if len(rows) >= query.limit:
                    return EventPage(rows=tuple(rows), next_before=None if is_tail else last, is_cut=False)
                rows.append(record.row())
            last = record.sequence
        return EventPage(rows=tuple(rows), next_before=None, is_cut=False)

    def event(self, sequence: int) -> EventDetail:
        """Return one event whole."""
        record = self._records.by_sequence.get(sequence)
        if record is None:
            raise NoSuchEvent(f"no event {sequence} in this spool: it never was, or its history was purged")
        return EventDetail(
            row=record.row(),
            event_key=record.envelope.event_key,
            payload=record.envelope.payload,
            progress=record.progress,
            attempts=tuple(record.tries),
        )

    def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """List the types."""
        rows = [row for row in self._records.types.values() if route is None or row.route is route]
        order = list(RouteName)
        return sorted(rows, key=lambda r: (-r.last_at_ms, order.index(r.route), r.type, r.event))[:limit]

    def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Group by reason."""
        groups: dict[str, list[Record]] = {}
        for record in self._records.by_sequence.values():
            is_meant = record.is_settled and record.state is state and record.reason and not record.is_discarded
            if is_meant and route in (None, record.envelope.route):
                groups.setdefault(record.reason, []).append(record)
        rows = [
            ReasonGroup(
                reason=reason,
                count=len(records),
                sample_sequence=records[-1].sequence,
                last_at_ms=records[-1].settled_at_ms or 0,
            )
            for reason, records in groups.items()
        ]
        return sorted(rows, key=lambda r: (-r.count, r.reason))[:limit]

    def _books(self, route: RouteName) -> Books:
        counts = Counter({s: self._records.purged[route, s] for s in State})
        counts.update(r.state for r in self._records.by_sequence.values() if r.envelope.route is route)
        return Books(
            accepted=counts.total(),
            pending=counts[State.PENDING],
            delivered=counts[State.DELIVERED],
            filtered=counts[State.FILTERED],
            unmapped=counts[State.UNMAPPED],
            dead=counts[State.DEAD],
        )


def _matches(record: Record, query: EventQuery) -> bool:
    envelope, labels = record.envelope, record.envelope.labels
    return (
        query.route in (None, envelope.route)
        and query.state in (None, record.state)
        and query.event in (None, labels.event)
        and query.user_id in (None, labels.user_id)
        and query.message_id in (None, labels.message_id)
        and query.reason in (None, record.reason)
        and (query.received_from_ms is None or envelope.received_at_ms >= query.received_from_ms)
        and (query.received_to_ms is None or envelope.received_at_ms < query.received_to_ms)
        and (query.before_sequence is None or record.sequence < query.before_sequence)
        and (query.after_sequence is None or record.sequence > query.after_sequence)
    )
