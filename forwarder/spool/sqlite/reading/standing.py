"""Find out where an event is, and show its row: an event is where its sequence is found."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import apsw

from forwarder.archive_port import EventDetail, EventRow
from forwarder.model import Attempt, Labels, State
from forwarder.spool.codes import PENDING, ROUTES, STATES
from forwarder.spool.sqlite.runs import run_at
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader

_COLUMNS = "sequence, received_at_ms, source, type, event, message_id, user_id, size"
_BACK = (
    "SELECT g.attempts, r.reason, g.not_before_ms, g.status FROM given_back g LEFT JOIN reasons r USING (reason_id) "
    "WHERE g.sequence = ?"
)
_ATTEMPTS = (
    "SELECT at_ms, duration_ms, operation, status, outcome, reason, answer, mapping FROM attempts "
    "WHERE attempt_id IN carray(?) ORDER BY attempt_id"
)
_ATTEMPTS_MAX = 10
EventValues = tuple[int, int, str, str, str, str, str, int]


@dataclass(slots=True)
class Standing:
    """Where an event is and since when; the part of a row that changes."""

    state: int
    settled_at_ms: int | None = None
    attempts: int = 0
    reason: str = ""
    not_before_ms: int | None = None
    is_discarded: bool = False
    attempt_id: int | None = None
    status: int | None = None  # of the last answer


def standing_of(connection: Reader, route: int, sequence: int) -> Standing:
    """Return where an event of this route is."""
    run = run_at(connection, route, sequence)
    if run is None:
        back = connection.execute(_BACK, (sequence,)).fetchone()
        if back is None:
            return Standing(PENDING)
        return Standing(PENDING, attempts=back[0], reason=back[1] or "", not_before_ms=back[2] or None, status=back[3])
    reason = None
    if run.reason_id is not None:
        reason = connection.execute("SELECT reason FROM reasons WHERE reason_id = ?", (run.reason_id,)).fetchone()
    return Standing(
        run.state,
        settled_at_ms=run.settled_at_ms,
        attempts=run.attempts,
        reason=reason[0] if reason else "",
        is_discarded=bool(run.is_discarded),
        attempt_id=run.attempt_id,
        status=run.status,
    )


def states_of(connection: Reader, sequences: Sequence[int]) -> Mapping[int, State]:
    """Return the state of each of these events; unknown and purged ones are left out."""
    return {
        sequence: STATES[standing_of(connection, route, sequence).state]
        for route in range(len(EVENT_TABLES))
        for sequence in sequences
        if event_values(connection, route, sequence) is not None
    }


def event_values(connection: Reader, route: int, sequence: int) -> EventValues | None:
    """Return what an event's own row says of it."""
    sql = f"SELECT {_COLUMNS} FROM {EVENT_TABLES[route]} WHERE sequence = ?"  # noqa: S608 - our own words
    row: EventValues | None = connection.execute(sql, (sequence,)).fetchone()
    return row


def event_row(route: int, values: EventValues, standing: Standing) -> EventRow:
    """Put an event and its standing together."""
    sequence, received_at_ms, source, kind, event, message_id, user_id, size = values
    return EventRow(
        sequence=sequence,
        route=ROUTES[route],
        state=STATES[standing.state],
        labels=Labels(type=kind, event=event, message_id=message_id, user_id=user_id),
        source=source,
        received_at_ms=received_at_ms,
        settled_at_ms=standing.settled_at_ms,
        attempts=standing.attempts,
        reason=standing.reason,
        not_before_ms=standing.not_before_ms,
        is_discarded=standing.is_discarded,
        size_bytes=size,
        status=standing.status,
    )


def damaged_row(connection: Reader, route: int, sequence: int) -> EventRow | None:
    """Show a settled event whose own row cannot be read."""
    standing = standing_of(connection, route, sequence)
    if STATES[standing.state] is State.PENDING:
        return None
    return event_row(route, (sequence, 0, "", "", "", "", "", 0), standing)


def read_detail(connection: Reader, sequence: int) -> EventDetail | None:
    """Return one event whole, as far as its row can be read; None when it is not known."""
    for route, table in enumerate(EVENT_TABLES):
        try:
            values = event_values(connection, route, sequence)
            if values is None:
                continue
            rest = connection.execute(
                f"SELECT event_key, checksum, payload, trace FROM {table} WHERE sequence = ?",  # noqa: S608 - our own words
                (sequence,),
            ).fetchone()
        except apsw.CorruptError:
            row = damaged_row(connection, route, sequence)
            if row is not None:
                return EventDetail(row=row, event_key=b"", payload=None, progress=b"", attempts=())
            continue
        event_key, checksum, payload, trace = rest
        standing = standing_of(connection, route, sequence)
        progress = connection.execute("SELECT data FROM progress WHERE sequence = ?", (sequence,)).fetchone()
        return EventDetail(
            row=event_row(route, values, standing),
            event_key=event_key,
            payload=payload if isinstance(payload, bytes) and crc32(payload) == checksum else None,
            progress=progress[0] if progress else b"",
            attempts=_attempts(connection, sequence, standing.attempt_id),
            trace=trace or "",
        )
    return None


def _attempts(connection: Reader, sequence: int, last_id: int | None) -> tuple[Attempt, ...]:
    row = connection.execute("SELECT attempt_ids FROM attempt_lists WHERE sequence = ?", (sequence,)).fetchone()
    ids = array("q", row[0] if row else b"").tolist() + ([] if last_id is None else [last_id])
    if not ids:
        return ()
    names = ("at_ms", "duration_ms", "operation", "status", "outcome", "reason", "answer", "mapping")
    found = connection.execute(_ATTEMPTS, (apsw.carray(array("q", sorted(set(ids))[-_ATTEMPTS_MAX:])),))
    return tuple(Attempt(**dict(zip(names, values, strict=True))) for values in found)
