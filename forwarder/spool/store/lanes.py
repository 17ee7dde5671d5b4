"""Say where a pending event stands: lendable, waiting for its time, or behind an older one of its partition.

One rule: of a partition only the oldest pending event is in `ready` or `waiting`. Everything that
changes who is the oldest (a settlement, a replay) goes through here.
"""

from dataclasses import dataclass

from forwarder.spool.due import is_retry
from forwarder.spool.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Promoted:
    """An event that became the oldest of its partition."""

    route: int
    sequence: int
    due: tuple[int, int] | None  # is_retry, not_before_ms; None: in `ready`


def leave(transaction: Transaction, route: int, sequence: int, lane: int) -> Promoted | None:
    """Take a settled event out of its partition; return who follows it, if somebody new does."""
    execute = transaction.execute
    execute("DELETE FROM lanes WHERE lane = ? AND sequence = ?", (lane, sequence))
    head = head_of(transaction, lane)
    return None if head is None else place(transaction, route, head)


def head_of(transaction: Transaction, lane: int) -> int | None:
    """Return the oldest pending event of a partition."""
    row = transaction.execute("SELECT min(sequence) FROM lanes WHERE lane = ?", (lane,)).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def place(transaction: Transaction, route: int, sequence: int) -> Promoted | None:
    """Put the oldest of a partition where it can be lent; None if it stood there already."""
    retry = transaction.execute(
        "SELECT attempts, not_before_ms FROM retries WHERE route = ? AND sequence = ?", (route, sequence)
    ).fetchone()
    if retry is None:
        transaction.execute("DELETE FROM blocked WHERE route = ? AND sequence = ?", (route, sequence))
        transaction.execute("INSERT OR IGNORE INTO ready VALUES (?, ?)", (route, sequence))
        due = None
    else:
        due = (is_retry(retry[0], retry[1]), int(retry[1]))
        transaction.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?)", (route, *due, sequence))
    return Promoted(route, sequence, due) if transaction.connection.changes() else None


def step_back(transaction: Transaction, route: int, sequence: int) -> None:
    """Put a former oldest behind the one that was dug out before it."""
    row = transaction.execute(
        "SELECT attempts, not_before_ms FROM retries WHERE route = ? AND sequence = ?", (route, sequence)
    ).fetchone()
    if row is not None:
        transaction.execute(
            "DELETE FROM waiting WHERE route = ? AND is_retry = ? AND not_before_ms = ? AND sequence = ?",
            (route, is_retry(row[0], row[1]), row[1], sequence),
        )
        return
    transaction.execute("DELETE FROM ready WHERE route = ? AND sequence = ?", (route, sequence))
    transaction.execute("INSERT OR IGNORE INTO blocked VALUES (?, ?)", (route, sequence))
