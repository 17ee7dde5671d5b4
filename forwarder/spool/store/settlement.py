"""Move lent events on: settle them, give them back, bury them. SQL only; memory is told afterwards.

An event that was never given back and has no partition, which is nearly every one, costs a row out and
a row in. What was given back or stands in a partition takes the longer way, one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from forwarder.model import Attempt
from forwarder.spool.capacity import event_bytes
from forwarder.spool.due import is_retry
from forwarder.spool.store import lanes
from forwarder.spool.store.attempts import add_id, write_attempt
from forwarder.spool.store.codes import DEAD, PENDING, ROUTE_CODES, Account
from forwarder.spool.store.lanes import Promoted
from forwarder.spool.store.reasons import CORRUPT_ROW, drop_reason, intern_reason
from forwarder.spool.store.transaction import Candidate, Transaction

_OUTCOME = "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)"

_READY = "INSERT OR IGNORE INTO ready VALUES (?, ?)"
_BLOCK = "INSERT OR IGNORE INTO blocked VALUES (?, ?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Lent events of one route that reached a final state together."""

    candidates: Sequence[Candidate]
    state: int
    reason: str
    attempt: Attempt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Lent events of one route that must wait."""

    candidates: Sequence[Candidate]
    not_before_ms: int
    reason: str
    attempt: Attempt | None
    counts: bool


@dataclass(slots=True)
class Released:
    """Where a released event stands now."""

    candidate: Candidate
    attempts: int
    first_failed_ms: int | None
    due: tuple[int, int] | None  # None: in `ready`, or never left it
    is_blocked: bool


@dataclass(slots=True)
class Settled:
    """What a settlement set free."""

    promoted: list[Promoted] = field(default_factory=list)


class RowsDamaged(Exception):
    """A transaction met rows that cannot be read: it must be rolled back, and they be set aside first."""

    def __init__(self, route: int, sequences: Sequence[int]) -> None:
        super().__init__(f"{len(sequences)} rows cannot be read")
        self._route = route
        self._sequences = sequences

    def set_aside(self, transaction: Transaction) -> None:
        """Quarantine them, in a transaction that did not read them."""
        quarantine(transaction, self._route, self._sequences)


def settle(transaction: Transaction, settlement: Settlement) -> Settled:
    """Write the final state of lent events."""
    result = Settled()
    candidates = settlement.candidates
    if not candidates:
        return result
    route = ROUTE_CODES[candidates[0].lease.envelope.route]
    attempt_id = write_attempt(transaction, settlement.attempt)
    reason_id = intern_reason(transaction, route, settlement.state, settlement.reason, count=len(candidates))
    tried = 0 if attempt_id is None else 1
    rows: list[tuple[object, ...]] = []
    plain: list[int] = []
    size = 0
    for candidate in candidates:
        sequence, earlier = candidate.sequence, None
        size += event_bytes(candidate.size)
        if candidate.due is None:
            plain.append(sequence)
        else:
            earlier = _leave_retries(transaction, route, candidate)
        if candidate.lane:
            result.promoted += _follow(transaction, route, candidate)
        attempts = candidate.lease.attempt - 1 + tried
        rows.append((route, settlement.state, sequence, transaction.now_ms, attempts, reason_id, attempt_id, earlier))
    _delete_ready(transaction, route, plain)
    transaction.executemany(_OUTCOME, rows)
    _book(transaction, route, settlement.state, count=len(candidates), size=size)
    return result


def quarantine(transaction: Transaction, route: int, sequences: Sequence[int]) -> list[Promoted]:
    """Settle damaged rows as dead, without reading them. Who followed them may be lent then."""
    promoted: list[Promoted] = []
    for sequence in sequences:
        reason_id = intern_reason(transaction, route, DEAD, CORRUPT_ROW, count=1)
        transaction.execute("DELETE FROM ready WHERE route = ? AND sequence = ?", (route, sequence))
        transaction.execute("DELETE FROM blocked WHERE route = ? AND sequence = ?", (route, sequence))
        transaction.execute("DELETE FROM waiting WHERE route = ? AND sequence = ?", (route, sequence))
        retry = transaction.execute(
            "DELETE FROM retries WHERE route = ? AND sequence = ? RETURNING attempts, reason_id", (route, sequence)
        ).fetchone()
        if retry is not None:
            transaction.book(route, Account.RETRYING, -int(retry[0] > 0))
            drop_reason(transaction, retry[1], count=1, rows=1)
        # The row that would name its partition cannot be trusted: the partition is asked instead.
        lane = transaction.execute("SELECT lane FROM lanes WHERE sequence = ?", (sequence,)).fetchone()
        if lane is not None:
            follower = lanes.leave(transaction, route, sequence, lane[0])
            promoted += [] if follower is None else [follower]
        values = (route, DEAD, sequence, transaction.now_ms, retry[0] if retry else 0, reason_id, None, None)
        transaction.execute(_OUTCOME, values)
        transaction.book(route, Account.PENDING, -1)
        transaction.book(route, Account.DEAD, 1)
        transaction.book(route, Account.CORRUPT, 1)
        transaction.book(route, Account.UNSETTLED_BYTES, -event_bytes(0))
        transaction.quarantined.append(sequence)
    return promoted


def release(transaction: Transaction, wish: Release) -> list[Released]:
    """Give lent events back for later; say where each stands now."""
    if not wish.candidates:
        return []
    route = ROUTE_CODES[wish.candidates[0].lease.envelope.route]
    attempt_id = write_attempt(transaction, wish.attempt)
    if not wish.counts and not wish.not_before_ms and attempt_id is None:
        return _return_unchanged(transaction, wish)
    return [_release_one(transaction, route, candidate, wish, attempt_id) for candidate in wish.candidates]


def _return_unchanged(transaction: Transaction, wish: Release) -> list[Released]:
    """Give back as if never lent: nothing of it changed while it was lent."""
    return [
        Released(c, c.lease.attempt - 1, c.lease.first_failed_at_ms, c.due, _is_behind(transaction, c))
        for c in wish.candidates
    ]


def _release_one(
    transaction: Transaction, route: int, candidate: Candidate, wish: Release, attempt_id: int | None
) -> Released:
    execute, sequence = transaction.execute, candidate.sequence
    was_retrying = candidate.lease.attempt > 1
    attempts = candidate.lease.attempt - 1 + int(wish.counts)
    first_failed = candidate.lease.first_failed_at_ms
    if wish.counts and first_failed is None:
        first_failed = transaction.now_ms
    transaction.book(route, Account.RETRYING, int(attempts > 0) - int(was_retrying))
    ids = b""
    if candidate.due is not None:
        execute(
            "DELETE FROM waiting WHERE route = ? AND is_retry = ? AND not_before_ms = ? AND sequence = ?",
            (route, *candidate.due, sequence),
        )
        ids, reason_id = execute(
            "DELETE FROM retries WHERE route = ? AND sequence = ? RETURNING attempt_ids, reason_id", (route, sequence)
        ).fetchone()
        drop_reason(transaction, reason_id, count=1, rows=1)
    else:
        execute("DELETE FROM ready WHERE route = ? AND sequence = ?", (route, sequence))
    is_behind = _is_behind(transaction, candidate)
    ids = add_id(ids, attempt_id, attempts_max=transaction.limits.attempts_max)
    if not attempts and not wish.not_before_ms and not ids:
        execute(_BLOCK if is_behind else _READY, (route, sequence))
        return Released(candidate, 0, None, None, is_behind)
    execute("DELETE FROM blocked WHERE route = ? AND sequence = ?", (route, sequence))
    reason_id = intern_reason(transaction, route, PENDING, wish.reason, count=1)
    due = (is_retry(attempts, wish.not_before_ms), wish.not_before_ms)
    execute(
        "INSERT INTO retries VALUES (?, ?, ?, ?, ?, ?, ?)",
        (route, sequence, attempts, first_failed, wish.not_before_ms, reason_id, ids),
    )
    if not is_behind:
        execute("INSERT INTO waiting VALUES (?, ?, ?, ?)", (route, *due, sequence))
    return Released(candidate, attempts, first_failed, due, is_behind)


def _is_behind(transaction: Transaction, candidate: Candidate) -> bool:
    """Tell whether an older event of the partition was dug out while this one was lent."""
    return bool(candidate.lane) and lanes.head_of(transaction, candidate.lane) != candidate.sequence


def _leave_retries(transaction: Transaction, route: int, candidate: Candidate) -> bytes | None:
    assert candidate.due is not None  # noqa: S101 - the caller looked
    transaction.execute(
        "DELETE FROM waiting WHERE route = ? AND is_retry = ? AND not_before_ms = ? AND sequence = ?",
        (route, *candidate.due, candidate.sequence),
    )
    row = transaction.execute(
        "DELETE FROM retries WHERE route = ? AND sequence = ? RETURNING attempt_ids, reason_id, attempts",
        (route, candidate.sequence),
    ).fetchone()
    drop_reason(transaction, row[1], count=1, rows=1)
    transaction.book(route, Account.RETRYING, -int(row[2] > 0))
    return row[0] or None


def _follow(transaction: Transaction, route: int, candidate: Candidate) -> list[Promoted]:
    if candidate.due is None:
        # It may have been put behind an older one that was dug out while it was lent.
        transaction.execute("DELETE FROM blocked WHERE route = ? AND sequence = ?", (route, candidate.sequence))
    follower = lanes.leave(transaction, route, candidate.sequence, candidate.lane)
    return [] if follower is None else [follower]


def _delete_ready(transaction: Transaction, route: int, sequences: list[int]) -> None:
    if not sequences:
        return
    first, last = min(sequences), max(sequences)
    if last - first + 1 == len(sequences):
        transaction.execute("DELETE FROM ready WHERE route = ? AND sequence BETWEEN ? AND ?", (route, first, last))
        return
    transaction.executemany(
        "DELETE FROM ready WHERE route = ? AND sequence = ?", [(route, sequence) for sequence in sequences]
    )


def _book(transaction: Transaction, route: int, state: int, *, count: int, size: int) -> None:
    transaction.book(route, Account.PENDING, -count)
    transaction.book(route, state, count)
    transaction.book(route, Account.UNSETTLED_BYTES, -size)
    if state == DEAD:
        transaction.book(route, Account.DEAD_BYTES, size)
