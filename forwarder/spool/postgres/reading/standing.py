"""An event's row as people see it, and one event whole."""

from collections.abc import Mapping, Sequence

import asyncpg

from forwarder.archive_port import EventDetail, EventRow
from forwarder.model import Attempt, Labels, State
from forwarder.spool.codes import PENDING, ROUTES, STATES

_COLUMNS = (
    "e.sequence, e.route, e.received_at_ms, e.source, e.type, e.event, e.message_id, e.user_id, e.size, o.state, "
    "o.settled_at_ms, o.is_discarded, coalesce(o.attempts, w.attempts, 0) AS attempts, w.not_before_ms, "
    "CASE WHEN o.sequence IS NULL THEN w.status ELSE o.status END AS status, r.reason"
)
_FROM = (
    "FROM forwarder.events e LEFT JOIN forwarder.outcomes o ON o.sequence = e.sequence "
    "LEFT JOIN forwarder.work w ON w.sequence = e.sequence "
    "LEFT JOIN forwarder.reasons r ON r.reason_id = coalesce(o.reason_id, w.reason_id) "
)
_ROWS = f"SELECT {_COLUMNS} {_FROM} WHERE e.sequence = ANY($1::bigint[])"
_DETAIL = (
    f"SELECT {_COLUMNS}, e.event_key, e.payload, e.trace, p.data, l.attempt_ids, o.attempt_id {_FROM} "
    "LEFT JOIN forwarder.progress p ON p.sequence = e.sequence "
    "LEFT JOIN forwarder.attempt_lists l ON l.sequence = e.sequence WHERE e.sequence = $1"
)
_ATTEMPTS = (
    "SELECT at_ms, duration_ms, operation, status, outcome, reason, answer, mapping FROM forwarder.attempts "
    "WHERE attempt_id = ANY($1::bigint[]) ORDER BY attempt_id"
)
_STATES = (
    "SELECT e.sequence, coalesce(o.state, 0) FROM forwarder.events e "
    "LEFT JOIN forwarder.outcomes o ON o.sequence = e.sequence WHERE e.sequence = ANY($1::bigint[])"
)


async def read_rows(connection: asyncpg.Connection, sequences: Sequence[int]) -> list[EventRow]:
    """Return the rows of these events, in the order given; unknown ones are left out."""
    found = {row["sequence"]: event_row(row) for row in await connection.fetch(_ROWS, sequences)}
    return [found[sequence] for sequence in sequences if sequence in found]


async def read_detail(connection: asyncpg.Connection, sequence: int, *, attempts_max: int) -> EventDetail | None:
    """Return one event whole; None when it is not known."""
    row = await connection.fetchrow(_DETAIL, sequence)
    if row is None:
        return None
    ids = {*(row["attempt_ids"] or ()), *([] if row["attempt_id"] is None else [row["attempt_id"]])}
    attempts = await connection.fetch(_ATTEMPTS, sorted(ids)[-attempts_max:]) if ids else []
    return EventDetail(
        row=event_row(row),
        event_key=row["event_key"],
        payload=row["payload"],
        progress=row["data"] or b"",
        attempts=tuple(Attempt(**dict(attempt.items())) for attempt in attempts),
        trace=row["trace"] or "",
    )


async def read_states(connection: asyncpg.Connection, sequences: Sequence[int]) -> Mapping[int, State]:
    """Return the state of each of these events; unknown ones are left out."""
    return {sequence: STATES[state] for sequence, state in await connection.fetch(_STATES, list(sequences))}


def event_row(row: asyncpg.Record) -> EventRow:
    """Make the row that people see."""
    return EventRow(
        sequence=row["sequence"],
        route=ROUTES[row["route"]],
        state=STATES[row["state"] or PENDING],
        labels=Labels(type=row["type"], event=row["event"], message_id=row["message_id"], user_id=row["user_id"]),
        source=row["source"],
        received_at_ms=row["received_at_ms"],
        settled_at_ms=row["settled_at_ms"],
        attempts=row["attempts"],
        reason=row["reason"] or "",
        not_before_ms=row["not_before_ms"] or None,
        is_discarded=bool(row["is_discarded"]),
        size_bytes=row["size"],
        status=row["status"],
    )
