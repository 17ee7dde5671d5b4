"""Reasons, each stored once, with how many events have it now: groups are read, not counted."""

from forwarder.spool.store.transaction import Transaction

CORRUPT_ROW = "corrupt row"


def intern_reason(transaction: Transaction, route: int, state: int, reason: str, *, count: int) -> int | None:
    """Return the reason's id and add `count` events to it; None for no reason."""
    if not reason:
        return None
    reason = reason if reason.isascii() else reason.encode("utf-8", "replace").decode()
    row = transaction.execute(
        "INSERT INTO reasons (route, state, reason, count, rows, last_at_ms) VALUES (?1, ?2, ?3, ?4, ?4, ?5) "
        "ON CONFLICT DO UPDATE SET count = count + ?4, rows = rows + ?4, last_at_ms = ?5 RETURNING reason_id",
        (route, state, reason, count, transaction.now_ms),
    ).fetchone()
    return int(row[0])


def drop_reason(transaction: Transaction, reason_id: int | None, *, count: int, rows: int) -> None:
    """Take events from a reason; one that nobody has any more goes."""
    if reason_id is None:
        return
    transaction.execute(
        "UPDATE reasons SET count = count - ?, rows = rows - ? WHERE reason_id = ?", (count, rows, reason_id)
    )
    transaction.execute("DELETE FROM reasons WHERE reason_id = ? AND rows <= 0", (reason_id,))
