"""Read one event whole, as far as its row can be read."""

from array import array
from zlib import crc32

import apsw

from forwarder.ports import EventDetail
from forwarder.spool.reading.rows import EVENT_COLUMNS, attempt_of, damaged_row, event_row, is_pending
from forwarder.spool.reading.standings import standing_of
from forwarder.spool.store.attempts import unpack_ids
from forwarder.spool.store.database import Reader

_EVENT = f"SELECT {EVENT_COLUMNS}, event_key, checksum, payload FROM events WHERE sequence = ?"  # noqa: S608 - our own columns
_ATTEMPTS = (
    "SELECT at_ms, duration_ms, operation, status, outcome, reason, answer FROM attempts "
    "WHERE attempt_id IN carray(?) ORDER BY attempt_id"
)
_ATTEMPTS_MAX = 10


def read_detail(connection: Reader, sequence: int) -> EventDetail | None:
    """Return the event, or None when it is not known."""
    try:
        row = connection.execute(_EVENT, (sequence,)).fetchone()
    except apsw.CorruptError:
        return _damaged(connection, sequence)
    if row is None:
        return None
    event_key, checksum, payload = row[9:]
    progress = connection.execute("SELECT data FROM progress WHERE sequence = ?", (sequence,)).fetchone()
    trail = connection.execute("SELECT attempt_ids FROM trails WHERE sequence = ?", (sequence,)).fetchone()
    known = {*_attempt_ids(connection, row[1], sequence), *unpack_ids(trail[0] if trail else None)}
    ids = sorted(known)[-_ATTEMPTS_MAX:]  # ids grow with time
    attempts = connection.execute(_ATTEMPTS, (apsw.carray(array("q", ids)),)).fetchall() if ids else []
    return EventDetail(
        row=event_row(row[:9], standing_of(connection, row[1], sequence)),
        event_key=event_key,
        payload=payload if isinstance(payload, bytes) and crc32(payload) == checksum else None,
        progress=progress[0] if progress else b"",
        attempts=tuple(attempt_of(values) for values in attempts),
    )


def _damaged(connection: Reader, sequence: int) -> EventDetail | None:
    """Show what is known beside a row that cannot be read."""
    for route in (0, 1):
        standing = standing_of(connection, route, sequence)
        if not is_pending(standing):
            row = damaged_row(sequence, route, standing)
            return EventDetail(row=row, event_key=b"", payload=None, progress=b"", attempts=())
    return None


def _attempt_ids(connection: Reader, route: int, sequence: int) -> list[int]:
    retry = connection.execute(
        "SELECT attempt_ids FROM retries WHERE route = ? AND sequence = ?", (route, sequence)
    ).fetchone()
    if retry is not None:
        return unpack_ids(retry[0])
    for state in (1, 2, 3, 4):
        row = connection.execute(
            "SELECT earlier_ids, attempt_id FROM outcomes WHERE route = ? AND state = ? AND sequence = ?",
            (route, state, sequence),
        ).fetchone()
        if row is not None:
            return unpack_ids(row[0]) + ([] if row[1] is None else [row[1]])
    return []
