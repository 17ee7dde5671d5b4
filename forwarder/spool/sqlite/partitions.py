"""Of a partition only the oldest pending event can be leased: who that is, and who follows it.

Everything that changes who is the oldest (a settlement, a replay) goes through here.
"""

from forwarder.spool.sqlite.transaction import Reader, Transaction


def head_of(connection: Reader, number: int) -> int | None:
    """Return the oldest pending event of a partition."""
    row = connection.execute("SELECT min(sequence) FROM partitions WHERE number = ?", (number,)).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def leave(transaction: Transaction, number: int, sequence: int) -> int | None:
    """Take a settled event out of its partition; return who is its oldest now."""
    transaction.execute("DELETE FROM partitions WHERE number = ? AND sequence = ?", (number, sequence))
    head = head_of(transaction.connection, number)
    if head is not None:
        transaction.execute("UPDATE given_back SET is_head = 1 WHERE sequence = ?", (head,))
    return head


def join(transaction: Transaction, number: int, sequence: int) -> int:
    """Put an event back into its partition, in its place; return who is its oldest now."""
    head = head_of(transaction.connection, number)
    transaction.execute("INSERT OR IGNORE INTO partitions VALUES (?, ?)", (number, sequence))
    if head is None or sequence < head:
        if head is not None:
            transaction.execute("UPDATE given_back SET is_head = 0 WHERE sequence = ?", (head,))
        return sequence
    return head
