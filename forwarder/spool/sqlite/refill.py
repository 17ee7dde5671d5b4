"""Read what can be leased next, on a connection and a thread of its own: draining a backlog never delays intake.

Nothing here writes. What is damaged is named, for the writer to set aside: only damage of an event's own row counts.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import apsw
import msgspec

from forwarder.errors import SpoolUnusable
from forwarder.model import Envelope, Labels, Lease
from forwarder.spool.codes import REPLAYS, ROUTES, partition_number
from forwarder.spool.held_leases import AHEAD_MS_MAX, BESIDE, KINDS, RETRY
from forwarder.spool.lease_window import Refill, Wanted
from forwarder.spool.sqlite.files import DAMAGE_ERRORS
from forwarder.spool.sqlite.label_index import route_of
from forwarder.spool.sqlite.runs import gaps, head_of, run_at
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader, floor_mark, read_mark

_COLUMNS = (
    "sequence, event_key, partition, received_at_ms, source, type, event, message_id, user_id, size, checksum, "
    "payload, trace"
)
_DUE = (
    "SELECT {}, sequence FROM given_back INDEXED BY given_back_due "
    "WHERE route = ? AND kind = ? AND is_head AND not_before_ms {} ? ORDER BY not_before_ms, sequence LIMIT ?"
)
_UNREADABLE_MAX = 256  # more in a row than a page holds: the table itself is damaged, and no event is to blame
_SINGLY = 512  # rows that are read one by one around a damaged page, before going on
_NEWEST_LOOKS_MAX, _NEWEST_MAX = 4_096, 64
Row = tuple[int, bytes, str, int, str, str, str, str, str, int, int, bytes | None, str | None]


class _Read(NamedTuple):
    """What one read found."""

    leases: list[Lease]
    damaged: list[int]


def refill(connection: Reader, route: int, wanted: Wanted, *, now_ms: int) -> Refill:
    """Bring what a queue wants, as of one moment."""
    result = Refill(last_sequence=_last_sequence(connection))
    if wanted.fresh_max:
        _read_fresh(connection, route, wanted, result)
    for kind in KINDS:
        if wanted.due_max[kind] >= 0:
            _read_due(connection, route, wanted, result, kind=kind, now_ms=now_ms)
    if wanted.promoted:
        read = _read_events(connection, route, [s for s in wanted.promoted if not _is_listed(connection, s)])
        # A replay may have put an older one before it since it was asked for; then it is promoted again in its turn.
        result.promoted = [lease for lease in read.leases if _is_head(connection, lease)]
        result.damaged += read.damaged
    return result


def newest(
    connection: Reader, route: int, *, known: frozenset[int], now_ms: int
) -> tuple[Lease | None, bool, list[int]]:
    """Return the newest event that could be leased now, whether it has a row of its own, and damaged ones."""
    far_ms = now_ms + AHEAD_MS_MAX
    listed = [
        row[0]
        for row in connection.execute(
            "SELECT sequence FROM given_back WHERE route = ? AND is_head AND kind <> ? "
            "AND (not_before_ms <= ? OR not_before_ms > ?) ORDER BY sequence DESC LIMIT ?",
            (route, BESIDE, now_ms, far_ms, len(known) + 1),
        )
    ]
    damaged: list[int] = []
    candidates = [(s, True) for s in listed if s not in known]
    candidates += [(s, False) for s in _newest_fresh(connection, route, known, damaged)]
    for sequence, is_listed in sorted(candidates, reverse=True):
        read = _read_events(connection, route, [sequence])
        damaged += read.damaged
        if read.leases and _is_head(connection, read.leases[0]):
            return read.leases[0], is_listed, damaged
    return None, False, damaged


def oldest_fresh(connection: Reader, route: int, *, looks_max: int = 2**62) -> int | None:
    """Return the oldest pending event that has no row of its own, or after so many looks the next that may be it."""
    sql = f"SELECT sequence FROM {EVENT_TABLES[route]} WHERE sequence BETWEEN ? AND ? ORDER BY sequence"  # noqa: S608 - our own words
    after = read_mark(connection, floor_mark(route))
    listed, looks = _Listed(connection, after), 0
    for first, last in gaps(connection, route, after):
        for (sequence,) in connection.execute(sql, (first, last)):
            looks += 1
            if sequence not in listed or looks > looks_max:
                return int(sequence)
    return None


def _read_fresh(connection: Reader, route: int, wanted: Wanted, result: Refill) -> None:
    after = max(wanted.after, read_mark(connection, floor_mark(route)))
    room = wanted.bytes_max
    listed = _Listed(connection, after)
    for first, last in gaps(connection, route, after):
        follows = 0  # what was settled lies between
        has_progress = _has_progress(connection, first, last)
        for row in _rows_between(connection, route, first, last, result):
            if room <= 0 or len(result.fresh) >= wanted.fresh_max:
                result.up_to = row[0] - 1
                return
            before, follows = follows, row[0]
            if row[0] in listed:
                continue
            lease = _lease(row, route, result.damaged, follows=before)
            if lease is not None and _is_head(connection, lease):
                result.fresh.append(_with_progress(connection, lease) if has_progress else lease)
                room -= row[9]
    result.up_to = result.last_sequence
    result.is_all = True


class _Listed:
    """Which sequences have a row in `given_back`; asked in order, and read in parts."""

    def __init__(self, connection: Reader, after: int) -> None:
        self._rows = connection.execute(
            "SELECT sequence FROM given_back WHERE sequence > ? ORDER BY sequence", (after,)
        )
        self._next = 0

    def __contains__(self, sequence: int) -> bool:
        while self._next < sequence:
            row = next(self._rows, None)
            self._next = 2**62 if row is None else row[0]
        return self._next == sequence


def _rows_between(connection: Reader, route: int, first: int, last: int, result: Refill) -> Iterator[Row]:
    """Yield the rows of a range in order; where a page cannot be read, one by one around it."""
    sql = f"SELECT {_COLUMNS} FROM {EVENT_TABLES[route]} WHERE sequence BETWEEN ? AND ? ORDER BY sequence"  # noqa: S608 - our own words
    position, end = first, min(last, result.last_sequence)
    while position <= end:
        try:
            for row in connection.execute(sql, (position, last)):
                if row[0] < position:
                    raise SpoolUnusable(f"{EVENT_TABLES[route]} is out of order")
                yield row
                position = row[0] + 1
        except apsw.CorruptError:
            for sequence in range(position, min(end, position + _SINGLY) + 1):
                single = _read_singly(connection, route, sequence, result.damaged)
                if single is not None:
                    yield single
                position = sequence + 1
        else:
            return


def _read_singly(connection: Reader, route: int, sequence: int, damaged: list[int]) -> Row | None:
    """Return a row; one that is there and cannot be read is named as damaged."""
    sql = f"SELECT {_COLUMNS} FROM {EVENT_TABLES[route]} WHERE sequence = ?"  # noqa: S608 - our own words
    try:
        row: Row | None = connection.execute(sql, (sequence,)).fetchone()
    except apsw.CorruptError:
        other = f"SELECT 1 FROM {EVENT_TABLES[1 - route]} WHERE sequence = ?"  # noqa: S608 - our own words
        is_others = connection.execute(other, (sequence,)).fetchone() is not None
        if not is_others and route_of(connection, sequence) in (None, route):
            damaged.append(sequence)
        if len(damaged) > _UNREADABLE_MAX:
            raise SpoolUnusable(f"{EVENT_TABLES[route]} is damaged over more than a page") from None
        return None
    return row


def _read_due(connection: Reader, route: int, wanted: Wanted, result: Refill, *, kind: int, now_ms: int) -> None:
    most = wanted.due_max[kind]
    far_ms = now_ms + AHEAD_MS_MAX
    limit = most + len(wanted.known) + 1
    # What is too far ahead is due as well, see `due.py`: as if its time had come long ago.
    late = connection.execute(_DUE.format("0", ">"), (route, kind, far_ms, limit)).fetchall()
    rows = connection.execute(_DUE.format("not_before_ms", "<="), (route, kind, far_ms, limit)).fetchall()
    others = [(at_ms, sequence) for at_ms, sequence in late + rows if sequence not in wanted.known]
    due = {sequence: at_ms for at_ms, sequence in others[:most] if at_ms <= now_ms}
    read = _read_events(connection, route, list(due))
    result.due[kind].extend((due[lease.sequence], lease) for lease in read.leases)
    result.damaged += read.damaged
    rest = others[len(due) :]
    result.next_due_ms[kind] = rest[0][0] if rest else None


def _read_events(connection: Reader, route: int, sequences: Sequence[int]) -> _Read:
    """Read pending events whole."""
    read = _Read([], [])
    sql = f"SELECT {_COLUMNS} FROM {EVENT_TABLES[route]} WHERE sequence = ?"  # noqa: S608 - our own words
    for sequence in sequences:
        if run_at(connection, route, sequence) is not None:
            continue
        try:
            row = connection.execute(sql, (sequence,)).fetchone()
        except apsw.CorruptError:
            read.damaged.append(sequence)
            continue
        lease = _lease(row, route, read.damaged) if row is not None else None
        if lease is not None:
            read.leases.append(_with_history(connection, lease))
    return read


def _lease(row: Row, route: int, damaged: list[int], *, follows: int = 0) -> Lease | None:
    payload = row[11]
    if not isinstance(payload, bytes) or crc32(payload) != row[10]:  # damage can change a value's type, too
        damaged.append(row[0])
        return None
    envelope = Envelope(
        route=ROUTES[route],
        event_key=row[1],
        partition_key=row[2],
        received_at_ms=row[3],
        source=row[4],
        labels=Labels(type=row[5], event=row[6], message_id=row[7], user_id=row[8]),
        payload=payload,
        trace=row[12] or "",
    )
    return Lease(sequence=row[0], attempt=1, envelope=envelope, follows=follows)


def _with_history(connection: Reader, lease: Lease) -> Lease:
    """Add how often it was tried, and its progress."""
    row = connection.execute(
        "SELECT attempts, first_failed_ms, kind, replayed_ms FROM given_back WHERE sequence = ?", (lease.sequence,)
    ).fetchone()
    if row is not None:
        attempt, is_retry = row[0] + 1, row[2] == RETRY
        lease = msgspec.structs.replace(lease, attempt=attempt, first_failed_at_ms=row[1], is_retry=is_retry)
        if row[3] is not None:
            lease = msgspec.structs.replace(lease, replayed_at_ms=row[3], is_beside=row[2] == BESIDE)
    return _with_progress(connection, lease)


def _with_progress(connection: Reader, lease: Lease) -> Lease:
    try:
        row = connection.execute("SELECT data, replay FROM progress WHERE sequence = ?", (lease.sequence,)).fetchone()
    except DAMAGE_ERRORS:
        return lease  # it is tried anew: what was done is done under the same keys
    if row is None or not row[0]:
        return lease
    return msgspec.structs.replace(lease, progress=row[0], replay=REPLAYS[row[1]])


def _has_progress(connection: Reader, first: int, last: int) -> bool:
    sql = "SELECT 1 FROM progress WHERE sequence BETWEEN ? AND ? LIMIT 1"
    try:
        return connection.execute(sql, (first, last)).fetchone() is not None
    except DAMAGE_ERRORS:
        return True


def _newest_fresh(connection: Reader, route: int, known: frozenset[int], damaged: list[int]) -> list[int]:
    """Return some of the newest pending events without a row of their own."""
    found: list[int] = []
    for sequence in _sequences_down(connection, route, _NEWEST_LOOKS_MAX + len(known), damaged):
        if sequence in known or run_at(connection, route, sequence) is not None:
            continue
        if not _is_listed(connection, sequence):
            found.append(sequence)
            if len(found) >= _NEWEST_MAX:
                break
    return found


def _sequences_down(connection: Reader, route: int, most: int, damaged: list[int]) -> Iterator[int]:
    """Yield the newest sequences of a route, newest first; those that cannot be read are named as damaged."""
    sql = f"SELECT sequence FROM {EVENT_TABLES[route]} WHERE sequence <= ? ORDER BY sequence DESC LIMIT ?"  # noqa: S608 - our own words
    position = _last_sequence(connection)
    while position > 0:
        try:
            for (sequence,) in connection.execute(sql, (position, most)):
                if sequence > position:
                    raise SpoolUnusable(f"{EVENT_TABLES[route]} is out of order")
                position = sequence - 1
                yield sequence
        except apsw.CorruptError:
            for sequence in range(position, max(0, position - _SINGLY), -1):
                if _read_singly(connection, route, sequence, damaged) is not None:
                    yield sequence
                position = sequence - 1
        else:
            return


def _is_listed(connection: Reader, sequence: int) -> bool:
    return connection.execute("SELECT 1 FROM given_back WHERE sequence = ?", (sequence,)).fetchone() is not None


def _is_head(connection: Reader, lease: Lease) -> bool:
    partition = lease.envelope.partition_key
    number = partition_number(lease.envelope.route.value, partition) if partition else 0
    return not number or head_of(connection, number) == lease.sequence


def _last_sequence(connection: Reader) -> int:
    row = connection.execute("SELECT amount FROM totals WHERE route = 0 AND account = 10").fetchone()
    return int(row[0]) if row else 0
