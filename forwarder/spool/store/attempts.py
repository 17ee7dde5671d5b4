"""Attempts: one row per batch, named by its events' own rows, the last ten each.

An outage must not fill the spool with its own log, so all attempts together have a ceiling too.
"""

from array import array

from forwarder.model import Attempt
from forwarder.spool.store.transaction import Transaction

ATTEMPTS_ROWS_MAX = 100_000


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
    return int(row[0])


def add_id(ids: bytes, attempt_id: int | None, *, attempts_max: int) -> bytes:
    """Return the packed ids with one more, the oldest dropped beyond the limit."""
    if attempt_id is None:
        return ids
    return (ids + array("q", (attempt_id,)).tobytes())[-8 * attempts_max :]


def unpack_ids(ids: bytes | None) -> list[int]:
    """Return the ids in a packed list, oldest first."""
    return array("q", ids or b"").tolist()


def drop_old_attempts(transaction: Transaction, *, before_ms: int, limit: int) -> bool:
    """Drop attempts that are past the retention, or beyond the ceiling; tell whether there were any."""
    row = transaction.execute("SELECT min(attempt_id), max(attempt_id) FROM attempts").fetchone()
    if row is None or row[0] is None:
        return False
    low, high = row
    floor = max(low, high - ATTEMPTS_ROWS_MAX + 1)
    transaction.execute(
        "DELETE FROM attempts WHERE attempt_id IN (SELECT attempt_id FROM attempts ORDER BY attempt_id LIMIT ?) "
        "AND (at_ms < ? OR attempt_id < ?)",
        (limit, before_ms, floor),
    )
    return transaction.connection.changes() > 0


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
