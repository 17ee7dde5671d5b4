"""Turn rows of pending events into candidates, and damaged rows into dead events.

A payload that fails its checksum, or a page that SQLite cannot read, must not stop the rest: such a row
is quarantined, which means settled as dead with a reason of its own.
"""

from array import array
from collections.abc import Iterable, Sequence
from zlib import crc32

import apsw

from forwarder.model import Envelope, Labels, Lease
from forwarder.spool.recurrence import lane_of
from forwarder.spool.store.codes import ROUTES
from forwarder.spool.store.transaction import Candidate, Transaction

_COLUMNS = (
    "e.sequence, e.route, e.event_key, e.partition, e.received_at_ms, e.source, e.type, e.event, e.message_id, "
    "e.user_id, e.checksum, e.payload, p.data, r.attempts, r.first_failed_ms, r.not_before_ms"
)
_PENDING = (
    f"SELECT {_COLUMNS} FROM events e LEFT JOIN progress p USING (sequence) "
    "LEFT JOIN retries r ON r.route = e.route AND r.sequence = e.sequence"
)
_ONE = f"{_PENDING} WHERE e.sequence = ?"
_MANY = f"{_PENDING} WHERE e.sequence IN carray(?) ORDER BY e.sequence"

Row = tuple[
    int, int, bytes, str, int, str, str, str, str, str, int, bytes | None, bytes | None, int | None, int | None, int
]


def read_candidates(transaction: Transaction, sequences: Sequence[int]) -> tuple[list[Candidate], list[int]]:
    """Return the pending events of these sequences, oldest first, and those whose rows are damaged."""
    if not sequences:
        return [], []
    try:
        rows: Iterable[Row] = transaction.execute(_MANY, (apsw.carray(array("q", sequences)),)).fetchall()
        found = {row[0] for row in rows}
        missing = [sequence for sequence in sequences if sequence not in found]
    except apsw.CorruptError:
        rows, missing = _read_singly(transaction, sequences)
    candidates: list[Candidate] = []
    for row in rows:
        payload = row[11]
        if payload is None or crc32(payload) != row[10]:
            missing.append(row[0])
            continue
        candidates.append(_candidate(row, payload))
    return candidates, missing


def _read_singly(transaction: Transaction, sequences: Sequence[int]) -> tuple[list[Row], list[int]]:
    rows: list[Row] = []
    damaged: list[int] = []
    for sequence in sequences:
        try:
            row = transaction.execute(_ONE, (sequence,)).fetchone()
        except apsw.CorruptError:
            row = None
        if row is None:
            damaged.append(sequence)
        else:
            rows.append(row)
    return rows, damaged


def _candidate(row: Row, payload: bytes) -> Candidate:
    route = ROUTES[row[1]]
    attempts, first_failed_ms, not_before_ms = row[13:16]
    envelope = Envelope(
        route=route,
        event_key=row[2],
        partition_key=row[3],
        received_at_ms=row[4],
        source=row[5],
        labels=Labels(type=row[6], event=row[7], message_id=row[8], user_id=row[9]),
        payload=payload,
    )
    lease = Lease(
        sequence=row[0],
        attempt=(attempts or 0) + 1,
        first_failed_at_ms=first_failed_ms,
        progress=row[12] or b"",
        envelope=envelope,
    )
    due = None if attempts is None else (int(attempts > 0), not_before_ms)
    return Candidate(lease, lane_of(route.value, row[3]), due)
