"""Attempts: one row per batch, named by its events' own rows, the last ten each.

An outage must not fill the spool with its own log, so all attempts together have a ceiling too.
"""

from array import array
from collections.abc import Sequence

import apsw

from forwarder.model import Attempt
from forwarder.spool.store.transaction import Transaction

ATTEMPTS_ROWS_MAX = 100_000
_CAP_SHARE = 20  # attempts take at most a twentieth of the cap


def write_attempt(transaction: Transaction, attempt: Attempt | None) -> int | None:
    """Keep an attempt and return its id."""
    if attempt is None:
        return None
    row = transaction.execute(
        "INSERT INTO attempts (at_ms, duration_ms, operation, status, outcome, reason, answer) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING attempt_id",
        (
            attempt.at_ms,
            attempt.duration_ms,
            _text(attempt.operation),
            attempt.status,
            _text(attempt.outcome),
            _text(attempt.reason),
            bytes(attempt.answer[: transaction.limits.answer_bytes_max]),
        ),
    ).fetchone()
    attempt_id = int(row[0])
    # Ids are dense, so this drops one row at most: the log cannot grow, whatever the outage.
    rows_max = min(ATTEMPTS_ROWS_MAX, transaction.limits.bytes_max // _CAP_SHARE // transaction.limits.answer_bytes_max)
    transaction.execute("DELETE FROM attempts WHERE attempt_id <= ?", (attempt_id - max(1, rows_max),))
    return attempt_id


def record(transaction: Transaction, sequences: Sequence[int], attempt: Attempt) -> None:
    """Keep an attempt of events that stay lent."""
    if not sequences:
        return
    attempt_id = write_attempt(transaction, attempt)
    known: dict[int, bytes] = dict(
        transaction.execute(
            "SELECT sequence, attempt_ids FROM trails WHERE sequence IN carray(?)",
            (apsw.carray(array("q", sequences)),),
        )
    )
    attempts_max = transaction.limits.attempts_max
    transaction.executemany(
        "INSERT OR REPLACE INTO trails VALUES (?, ?)",
        [(s, add_id(known.get(s, b""), attempt_id, attempts_max=attempts_max)) for s in sequences],
    )


def add_id(ids: bytes, attempt_id: int | None, *, attempts_max: int) -> bytes:
    """Return the packed ids with one more, the oldest dropped beyond the limit."""
    if attempt_id is None:
        return ids
    return (ids + array("q", (attempt_id,)).tobytes())[-8 * attempts_max :]


def unpack_ids(ids: bytes | None) -> list[int]:
    """Return the ids in a packed list, oldest first."""
    return array("q", ids or b"").tolist()


def drop_old_attempts(transaction: Transaction, *, before_ms: int, limit: int) -> None:
    """Drop attempts that are past the retention, at most so many."""
    transaction.execute(
        "DELETE FROM attempts WHERE attempt_id IN (SELECT attempt_id FROM attempts ORDER BY attempt_id LIMIT ?) "
        "AND at_ms < ?",
        (limit, before_ms),
    )


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
