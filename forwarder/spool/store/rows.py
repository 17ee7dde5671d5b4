"""Turn rows of pending events into candidates, and damaged rows into dead events.

A payload that fails its checksum, or a page that SQLite cannot read, must not stop the rest: such a row
is quarantined, which means settled as dead with a reason of its own.
"""

from array import array
from collections.abc import Sequence
from zlib import crc32

import apsw

from forwarder.model import Envelope, Labels, Lease, Replay
from forwarder.spool.due import is_retry
from forwarder.spool.recurrence import lane_of
from forwarder.spool.store.codes import REPLAYS, ROUTES
from forwarder.spool.store.transaction import Candidate, Transaction

_PENDING = (
    "SELECT e.sequence, e.route, e.event_key, e.partition, e.received_at_ms, e.source, e.type, e.event, e.message_id, "
    "e.user_id, e.checksum, e.payload, p.data, r.attempts, r.first_failed_ms, r.not_before_ms, p.replay "
    "FROM events e LEFT JOIN progress p USING (sequence) "
    "LEFT JOIN retries r ON r.route = e.route AND r.sequence = e.sequence"
)
_ONE = f"{_PENDING} WHERE e.sequence = ?"
_MANY = f"{_PENDING} WHERE e.sequence IN carray(?) ORDER BY e.sequence"

Row = tuple[
    int,
    int,
    bytes,
    str,
    int,
    str,
    str,
    str,
    str,
    str,
    int,
    bytes | None,
    bytes | None,
    int | None,
    int | None,
    int,
    int | None,
]


class UnreadableRows(Exception):
    """SQLite cannot read these rows; the transaction that met them cannot write any more."""

    def __init__(self, sequences: Sequence[int]) -> None:
        super().__init__(f"{len(sequences)} rows cannot be read")
        self.sequences = sequences


def read_candidates(transaction: Transaction, sequences: Sequence[int]) -> tuple[list[Candidate], list[int]]:
    """Return the pending events of these sequences, oldest first, and those whose payloads are damaged.

    Raises `UnreadableRows` when SQLite cannot read some of them at all.
    """
    if not sequences:
        return [], []
    try:
        rows: list[Row] = transaction.execute(_MANY, (apsw.carray(array("q", sequences)),)).fetchall()
    except apsw.CorruptError:
        rows = _read_singly(transaction, sequences)
    found = {row[0] for row in rows}
    damaged = [sequence for sequence in sequences if sequence not in found]
    candidates: list[Candidate] = []
    for row in rows:
        payload = row[11]
        # Damage can change a value's type, too.
        if isinstance(payload, bytes) and crc32(payload) == row[10]:
            candidates.append(_candidate(row, payload))
        else:
            damaged.append(row[0])
    return candidates, damaged


def _read_singly(transaction: Transaction, sequences: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    unreadable: list[int] = []
    for sequence in sequences:
        try:
            row = transaction.execute(_ONE, (sequence,)).fetchone()
        except apsw.CorruptError:
            unreadable.append(sequence)
            continue
        if row is not None:
            rows.append(row)
    if unreadable:
        raise UnreadableRows(unreadable)
    return rows


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
    due = None if attempts is None else (is_retry(attempts, not_before_ms), not_before_ms)
    lease = Lease(
        sequence=row[0],
        attempt=(attempts or 0) + 1,
        first_failed_at_ms=first_failed_ms,
        progress=row[12] or b"",
        envelope=envelope,
        replay=REPLAYS[row[16] or 0] if row[12] else Replay.NOT,
        is_retry=due is not None and due[0] == 1,
    )
    return Candidate(lease, lane_of(route.value, row[3]), due)
