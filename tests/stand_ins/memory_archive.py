"""How people read the spool in memory."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from forwarder.archive_port import (
    AuditRow,
    EventDetail,
    EventPage,
    EventQuery,
    EventRow,
    EventTypeRow,
    ReasonGroup,
    SpoolFacts,
)
from forwarder.errors import NoSuchEvent, SpoolClosed
from forwarder.model import RouteName, State, Totals
from forwarder.spool.limits import SpoolLimits, refusal
from stand_ins.memory_records import MemoryRecords, Record


class MemoryArchive:
    """Read the records as `archive_port.Archive` asks."""

    def __init__(self, records: MemoryRecords, limits: SpoolLimits) -> None:
        self._records = records
        self._limits = limits
        self._is_closed = False
        self.refused: dict[RouteName, int] = {}  # what the last append would have added, if it was refused

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise SpoolClosed("the spool is closed")

    def refusal_of(self, incoming: Mapping[RouteName, int]) -> str:
        """Return why an append of so much would be refused now, or ""."""
        records = self._records
        unsettled, dead = records.unsettled_bytes, records.dead_bytes
        # Its history makes room at once, so that it is never what refuses.
        return refusal(self._limits, used=0, unsettled=unsettled, dead=dead, incoming=incoming)

    async def facts(self) -> SpoolFacts:
        """Return the state."""
        self._refuse_closed()
        records = self._records
        pending = records.pending.values()
        reason = self.refusal_of(self.refused)
        return SpoolFacts(
            size_bytes=records.held_bytes(),
            cap_bytes=self._limits.bytes_max,
            unsettled_bytes={route: records.unsettled_bytes[route] for route in RouteName},
            totals={route: self._books(route) for route in RouteName},
            oldest_pending_ms={
                route: _oldest_ms(r for r in pending if r.envelope.route is route) for route in RouteName
            },
            retrying={
                route: sum(1 for r in pending if r.attempts and r.envelope.route is route) for route in RouteName
            },
            open_dead={route: self._dead(route, is_discarded=False) for route in RouteName},
            discarded={route: self._dead(route, is_discarded=True) for route in RouteName},
            corrupt_rows=0,
            is_accepting=not reason,
            refusal=reason,
            engine="",
        )

    def _dead(self, route: RouteName, *, is_discarded: bool) -> int:
        return sum(
            record.state is State.DEAD and record.is_discarded is is_discarded and record.envelope.route is route
            for record in self._records.by_sequence.values()
        )

    async def events(self, query: EventQuery) -> EventPage:
        """List events."""
        self._refuse_closed()
        is_tail = query.after_sequence is not None
        order = self._records.by_sequence if is_tail else reversed(self._records.by_sequence)
        matching = (r for s in order if _matches(r := self._records.by_sequence[s], query))
        rows: list[EventRow] = []
        last = reached_ms = None
        scanned = matched = 0

        def page(*, is_more: bool, is_cut: bool = False) -> EventPage:
            return EventPage(
                rows=tuple(rows),
                next_before=last if is_more and not is_tail else None,
                next_after=last if is_more and is_tail else None,
                is_cut=is_cut,
                matched=matched,
                scanned=scanned,
                reached_ms=reached_ms,
            )

        for record in matching:
            if query.text is not None and scanned >= query.scan_max:
                return page(is_more=True, is_cut=True)
            if query.text is None or _has_text(record, query.text):
                if 0 < query.limit <= len(rows):
                    return page(is_more=True)
                matched += 1
                rows += [record.row()] if query.limit else []
            scanned, last, reached_ms = scanned + 1, record.sequence, record.envelope.received_at_ms
        return page(is_more=False)

    async def event(self, sequence: int) -> EventDetail:
        """Return one event whole."""
        self._refuse_closed()
        record = self._records.by_sequence.get(sequence)
        if record is None:
            raise NoSuchEvent(f"no event {sequence} in this spool: it never was, or its history was purged")
        return EventDetail(
            row=record.row(),
            event_key=record.envelope.event_key,
            payload=None if record.is_bare else record.envelope.payload,
            progress=record.progress,
            attempts=tuple(record.tries),
        )

    async def states(self, sequences: Sequence[int]) -> Mapping[int, State]:
        """Return the state of each of these events."""
        self._refuse_closed()
        known = self._records.by_sequence
        return {sequence: known[sequence].row().state for sequence in sequences if sequence in known}

    async def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """List the types."""
        self._refuse_closed()
        rows = [row for row in self._records.types.values() if route is None or row.route is route]
        order = list(RouteName)
        return sorted(rows, key=lambda r: (-r.last_at_ms, order.index(r.route), r.type, r.event))[:limit]

    async def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Group by reason."""
        self._refuse_closed()
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

    async def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """List the audit log, newest first."""
        self._refuse_closed()
        return self._records.audit[::-1][:limit]

    async def write_audit(self, row: AuditRow, *, number: int | None = None) -> int:
        """Add to the audit log, or rewrite a line of it."""
        self._refuse_closed()
        if number is None:
            self._records.audit.append(row)
            return len(self._records.audit)
        self._records.audit[number - 1] = row
        return number

    def _books(self, route: RouteName) -> Totals:
        counts = Counter({s: self._records.purged[route, s] for s in State})
        counts.update(r.state for r in self._records.by_sequence.values() if r.envelope.route is route)
        return Totals(
            accepted=counts.total(),
            pending=counts[State.PENDING],
            delivered=counts[State.DELIVERED],
            filtered=counts[State.FILTERED],
            unmapped=counts[State.UNMAPPED],
            dead=counts[State.DEAD],
        )


def _has_text(record: Record, text: str) -> bool:
    """Tell whether a part of an id, of the name or of the payload is this, in any case; or its number is."""
    labels = record.envelope.labels
    texts = [one.encode("utf-8", "replace") for one in (labels.event, labels.message_id, labels.user_id)]
    texts += [] if record.is_bare else [record.envelope.payload]
    needle = text.encode("utf-8", "replace").lower()
    return text == str(record.sequence) or any(needle in one.lower() for one in texts)


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
        and _is_in(record.status, query.status)
        and _is_in(record.attempts, query.attempts)
        and (query.has_discarded or not record.is_discarded)
        and (query.before_sequence is None or record.sequence < query.before_sequence)
        and (query.after_sequence is None or record.sequence > query.after_sequence)
    )


def _oldest_ms(pending: Iterable[Record]) -> int | None:
    records = list(pending)
    received = [r.envelope.received_at_ms for r in records if r.replayed_ms is None][:1]
    return min([*received, *(r.replayed_ms for r in records if r.replayed_ms is not None)], default=None)


def _is_in(value: int | None, bounds: tuple[int, int] | None) -> bool:
    return bounds is None or (value is not None and bounds[0] <= value <= bounds[1])
