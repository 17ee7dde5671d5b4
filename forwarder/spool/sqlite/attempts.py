"""What is kept with a settlement: the exchange that led to it, and its reason.

Attempts have one row per batch, named by a list per event, the last ten each. An outage must not fill the spool
with its own log, so all attempts together have a ceiling too. Reasons are stored once, with how many events have
each now: groups are read, not counted.
"""

from array import array
from collections.abc import Sequence

import apsw

from forwarder.model import Attempt
from forwarder.spool.sqlite.transaction import Transaction, text

_ROWS_MAX = 100_000
_CAP_SHARE = 20  # attempts take at most a twentieth of the cap


def write_attempt(transaction: Transaction, attempt: Attempt | None) -> int | None:
    """Keep an attempt and return its id."""
    if attempt is None:
        return None
    limits = transaction.limits
    transaction.execute(
        "INSERT INTO attempts (at_ms, duration_ms, operation, status, outcome, reason, answer) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            attempt.at_ms,
            attempt.duration_ms,
            text(attempt.operation),
            attempt.status,
            text(attempt.outcome),
            text(attempt.reason),
            bytes(attempt.answer[: limits.answer_bytes_max]),
        ),
    )
    attempt_id = transaction.connection.last_insert_rowid()
    # Ids are dense, so this drops one row at most: the log cannot grow, whatever the outage.
    rows_max = min(_ROWS_MAX, limits.bytes_max // _CAP_SHARE // limits.answer_bytes_max)
    transaction.execute("DELETE FROM attempts WHERE attempt_id <= ?", (attempt_id - max(1, rows_max),))
    return attempt_id


def list_attempt(transaction: Transaction, sequences: Sequence[int], attempt_id: int | None) -> None:
    """Add an attempt to the lists of pending events."""
    if attempt_id is None or not sequences:
        return
    known: dict[int, bytes] = dict(
        transaction.execute(
            "SELECT sequence, attempt_ids FROM attempt_lists WHERE sequence IN carray(?)",
            (apsw.carray(array("q", sequences)),),
        )
    )
    one, kept = array("q", (attempt_id,)).tobytes(), 8 * transaction.limits.attempts_max
    transaction.executemany(
        "INSERT OR REPLACE INTO attempt_lists VALUES (?, ?)",
        [(sequence, (known.get(sequence, b"") + one)[-kept:]) for sequence in sequences],
    )


def record(transaction: Transaction, sequences: Sequence[int], attempt: Attempt) -> None:
    """Keep an attempt of events that stay leased."""
    if sequences:
        list_attempt(transaction, sequences, write_attempt(transaction, attempt))


def drop_old_attempts(transaction: Transaction, *, before_ms: int, limit: int) -> None:
    """Drop attempts that are past the retention, at most so many."""
    transaction.execute(
        "DELETE FROM attempts WHERE attempt_id IN (SELECT attempt_id FROM attempts ORDER BY attempt_id LIMIT ?) "
        "AND at_ms < ?",
        (limit, before_ms),
    )


def intern_reason(transaction: Transaction, route: int, state: int, reason: str, *, count: int) -> int | None:
    """Return the reason's id and add `count` events to it; None for no reason."""
    if not reason:
        return None
    row = transaction.execute(
        "INSERT INTO reasons (route, state, reason, count, held) VALUES (?1, ?2, ?3, ?4, ?4) "
        "ON CONFLICT DO UPDATE SET count = count + ?4, held = held + ?4 RETURNING reason_id",
        (route, state, text(reason), count),
    ).fetchone()
    return int(row[0])


def drop_reason(transaction: Transaction, reason_id: int | None, *, count: int, held: int) -> None:
    """Take events from a reason; one that nobody has any more goes."""
    if reason_id is None:
        return
    transaction.execute(
        "UPDATE reasons SET count = count - ?, held = held - ? WHERE reason_id = ?", (count, held, reason_id)
    )
    transaction.execute("DELETE FROM reasons WHERE reason_id = ? AND held <= 0", (reason_id,))
