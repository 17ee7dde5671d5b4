"""What people see of the spool: the questions they ask, the answers, and who answers (`Archive`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forwarder.model import Attempt, Labels, RouteName, State, Totals

_SUCCESS = (200, 299)
_SEQUENCE_DIGITS_MAX = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events to list: newest first, keyset paging by sequence. None = any. `limit` 0 counts them all."""

    route: RouteName | None = None
    state: State | None = None
    event: str | None = None  # exact label
    user_id: str | None = None  # exact label
    message_id: str | None = None  # exact label
    reason: str | None = None  # exact
    text: str | None = None  # part of an id, a name or the payload, in any case; within `scan_max` rows of the rest
    status: tuple[int, int] | None = None  # of the last answer: at least, at most; 0 is "no answer"
    attempts: tuple[int, int] | None = None  # at least, at most
    has_discarded: bool = True  # False leaves out what is marked as discarded
    received_from_ms: int | None = None  # inclusive
    received_to_ms: int | None = None  # exclusive
    before_sequence: int | None = None  # keyset: strictly older
    after_sequence: int | None = None  # strictly newer (tailing; then oldest first)
    limit: int = 50
    scan_max: int = 100_000
    budget_s: float = 0.12  # what takes longer is cut

    @property
    def is_of_trouble(self) -> bool:
        """Tell whether only events are meant that were answered badly, or tried more than once."""
        is_no_success = self.status is not None and (self.status[1] < _SUCCESS[0] or self.status[0] > _SUCCESS[1])
        return is_no_success or (self.attempts is not None and self.attempts[0] > 1)

    @property
    def text_as_sequence(self) -> int | None:
        """Return the text where it may be an event's sequence."""
        text = self.text or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS_MAX else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One line of a listing."""

    sequence: int
    route: RouteName
    state: State
    labels: Labels
    source: str
    received_at_ms: int
    settled_at_ms: int | None
    attempts: int
    reason: str
    not_before_ms: int | None  # pending on a retry
    is_discarded: bool
    size_bytes: int
    status: int | None = None  # HTTP status of the answer that it was settled or given back with; 0: none came


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """A page of a listing. `next_before` continues it, or `next_after` where the oldest come first; None at the end.

    `is_cut` True: it stopped for time, or after `scan_max` rows of a text search; going on gets further, always.
    """

    rows: tuple[EventRow, ...]
    next_before: int | None
    is_cut: bool
    next_after: int | None = None
    matched: int = 0  # rows of this page, or with `limit` 0 what would be
    scanned: int = 0  # rows that met the other filters and were looked at
    reached_ms: int | None = None  # when the last of those was received


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDetail:
    """One event whole: with its payload (None when purged or corrupt), its progress and its attempts."""

    row: EventRow
    event_key: bytes
    payload: bytes | None
    progress: bytes
    attempts: tuple[Attempt, ...]  # the last ten, oldest first
    trace: str = ""  # the traceparent of its receipt; "" when that was not traced


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTypeRow:
    """An event type seen once or more: one row per route, type and event name."""

    route: RouteName
    type: str
    event: str
    count: int
    first_at_ms: int
    last_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonGroup:
    """Settled events of one state and reason together, with one sample."""

    reason: str
    count: int
    sample_sequence: int
    last_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolFacts:
    """The spool's own state, cheap enough to read at every scrape."""

    size_bytes: int  # used pages
    cap_bytes: int
    unsettled_bytes: dict[RouteName, int]
    totals: dict[RouteName, Totals]
    oldest_pending_ms: dict[RouteName, int | None]  # when the oldest pending event was received, or replayed
    retrying: dict[RouteName, int]
    open_dead: dict[RouteName, int]  # dead, still kept and not discarded: what is left to do
    discarded: dict[RouteName, int]  # dead, still kept and discarded
    corrupt_rows: int
    is_accepting: bool  # False: cap or disk
    refusal: str  # why not, "" when accepting
    engine: str  # what keeps the events, and its version: "SQLite 3.51.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """Who did what to which events, and what came of it: kept for the retention. "" while that is not known."""

    at_ms: int
    who: str
    action: str
    detail: str
    count: int | None = None
    outcome: str = ""


class Archive(Protocol):
    """Reading what the spool holds, without ever delaying it. No call takes longer than 200 ms with a million rows."""

    async def facts(self) -> SpoolFacts:
        """Return the spool's state; the totals of one call are one moment's."""

    async def events(self, query: EventQuery) -> EventPage:
        """List events."""

    async def event(self, sequence: int) -> EventDetail:
        """Return one event; raises `NoSuchEvent`."""

    async def states(self, sequences: Sequence[int]) -> Mapping[int, State]:
        """Return the state of each of these events, at most 1,000; unknown and purged ones are left out."""

    async def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """List the event types seen, last seen first."""

    async def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Group settled, not discarded events by reason, largest first. Counts are exact."""

    async def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """List the audit log, newest first."""

    async def write_audit(self, row: AuditRow, *, number: int | None = None) -> int:
        """Add a line to the audit log, durable, or rewrite that of this number; return the number."""
