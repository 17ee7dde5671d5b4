"""Where an event stands: in its partition while pending, in a run once settled; with its reason and attempts.

A run is one row for all events of a route between two sequences that were settled alike. Runs of a route never overlap,
so whether an event is settled is one look-up. A replay or a discard takes events out of their run, and leaves what is
left of it in shorter ones. Of a partition only the oldest pending event can be leased.

Attempts have one row per batch, named by a list per event, the last ten each. An outage must not fill the spool
with its own log, so all attempts together have a ceiling too. Reasons are stored once, with how many events have
each now: groups are read, not counted.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apsw

from forwarder.model import Attempt
from forwarder.spool.codes import CORRUPT_ROW, DEAD, partition_number
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader, Transaction, text

RUN_COLUMNS = "route, last, first, state, settled_at_ms, attempts, reason_id, attempt_id, is_discarded, status"
_AT = f"SELECT {RUN_COLUMNS} FROM settled WHERE route = ? AND last >= ? ORDER BY last LIMIT 1"  # noqa: S608 - our own words


class Run(NamedTuple):
    """A row of `settled`."""

    route: int
    last: int
    first: int
    state: int
    settled_at_ms: int
    attempts: int
    reason_id: int | None
    attempt_id: int | None
    is_discarded: int
    status: int | None  # HTTP status of the last answer; 0: none came, None: nothing was sent

    def between(self, first: int, last: int) -> "Run":
        """Return the part of it between two sequences."""
        return self._replace(first=first, last=last)


def run_at(connection: Reader, route: int, sequence: int) -> Run | None:
    """Return the run that an event of this route is in; None while it is pending."""
    row = connection.execute(_AT, (route, sequence)).fetchone()
    return Run(*row) if row is not None and row[2] <= sequence else None


def is_corrupt(connection: Reader, run: Run) -> bool:
    """Tell whether damage made it dead: then its events were never weighed."""
    if run.state != DEAD or run.reason_id is None:
        return False
    row = connection.execute("SELECT reason FROM reasons WHERE reason_id = ?", (run.reason_id,)).fetchone()
    return row is not None and row[0] == CORRUPT_ROW


def gaps(connection: Reader, route: int, after: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of sequences behind `after` that are in no run, both ends included; the last one is open."""
    position = after + 1
    for first, last in connection.execute(
        "SELECT first, last FROM settled WHERE route = ? AND last > ? ORDER BY last", (route, after)
    ):
        if first > position:
            yield position, first - 1
        position = max(position, last + 1)
    yield position, 2**62


def write_run(transaction: Transaction, run: Run) -> None:
    """Add a run."""
    transaction.execute("INSERT INTO settled VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", run)


def write_runs(transaction: Transaction, run: Run, events: Sequence[tuple[int, int]]) -> None:
    """Add events that were settled alike, as few runs as may be; `run` says how.

    Each comes with the event of its route right before it, as far as that is known; in the order of sequences.
    """
    first = last = events[0][0]
    for sequence, follows in events[1:]:
        # What lies between may be the other route's: then it breaks no run of this one.
        if last not in (sequence - 1, follows):
            write_run(transaction, run.between(first, last))
            first = sequence
        last = sequence
    write_run(transaction, run.between(first, last))


def delete_run(transaction: Transaction, run: Run) -> None:
    """Take a run away."""
    transaction.execute("DELETE FROM settled WHERE route = ? AND last = ?", (run.route, run.last))


def take_out(transaction: Transaction, run: Run, sequences: Sequence[int]) -> list[tuple[int, int]]:
    """Take events out of their run; the others stay settled as they were. Returns them with what each follows."""
    table = EVENT_TABLES[run.route]
    rows = transaction.execute(
        f"SELECT sequence FROM {table} WHERE sequence BETWEEN ? AND ? ORDER BY sequence",  # noqa: S608 - our own words
        (run.first, run.last),
    )
    out, before = set(sequences), 0
    taken: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    for (sequence,) in rows:
        (taken if sequence in out else rest).append((sequence, before))
        before = sequence
    delete_run(transaction, run)
    if rest:
        write_runs(transaction, run, rest)
    return taken


def find_runs(connection: Reader, sequences: Sequence[int]) -> Iterator[tuple[Run, list[int]]]:
    """Yield the runs that these events are in, each with those of them that are in it."""
    for route, table in enumerate(EVENT_TABLES):
        known = f"SELECT 1 FROM {table} WHERE sequence = ?"  # noqa: S608 - our own words
        run: Run | None = None
        found: list[int] = []
        for sequence in sorted(set(sequences)):
            if run is None or not run.first <= sequence <= run.last:
                if run is not None and found:
                    yield run, found
                run, found = run_at(connection, route, sequence), []
            # A sequence between the ends of a run may be the other route's; a run of one is its event.
            if run is not None and (run.first == run.last or connection.execute(known, (sequence,)).fetchone()):
                found.append(sequence)
        if run is not None and found:
            yield run, found


def find_number(connection: Reader, route: str, partition_key: str, sequence: int) -> int:
    """Return the number under which an event stands in its partition, in line or beside it; 0 when it does not."""
    number = partition_number(route, partition_key)
    row = connection.execute(
        "SELECT number FROM partitions WHERE number IN (?, ?) AND sequence = ?", (number, -number, sequence)
    ).fetchone()
    return 0 if row is None else int(row[0])


def search_numbers(transaction: Transaction, sequences: Sequence[int]) -> dict[int, int]:
    """Find by a look at all partitions where these events stand, for those whose rows do not tell."""
    if not sequences:
        return {}
    these = (apsw.carray(array("q", sequences)),)
    return dict(transaction.execute("SELECT sequence, number FROM partitions WHERE sequence IN carray(?)", these))


def head_of(connection: Reader, number: int) -> int | None:
    """Return the oldest pending event of a partition."""
    row = connection.execute("SELECT min(sequence) FROM partitions WHERE number = ?", (number,)).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def leave_partition(transaction: Transaction, number: int, sequence: int) -> int | None:
    """Take an event out of its partition; return who is its oldest now, None also when it was not in it."""
    left = transaction.execute(
        "DELETE FROM partitions WHERE number = ? AND sequence = ? RETURNING 1", (number, sequence)
    ).fetchone()
    if left is None:
        return None
    head = head_of(transaction.connection, number)
    if head is not None:
        transaction.execute("UPDATE given_back SET is_head = 1 WHERE sequence = ?", (head,))
    return head


def join_partition(transaction: Transaction, number: int, sequence: int) -> int:
    """Put an event back into its partition, in its place; return who is its oldest now."""
    head = head_of(transaction.connection, number)
    transaction.execute("INSERT OR IGNORE INTO partitions VALUES (?, ?)", (number, sequence))
    if head is None or sequence < head:
        if head is not None:
            transaction.execute("UPDATE given_back SET is_head = 0 WHERE sequence = ?", (head,))
        return sequence
    return head


_ROWS_MAX = 100_000
_CAP_SHARE = 20  # attempts take at most a twentieth of the cap


def write_attempt(transaction: Transaction, attempt: Attempt | None) -> int | None:
    """Keep an attempt and return its id."""
    if attempt is None:
        return None
    limits = transaction.limits
    transaction.execute(
        "INSERT INTO attempts (at_ms, duration_ms, operation, status, outcome, reason, answer, mapping) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            attempt.at_ms,
            attempt.duration_ms,
            text(attempt.operation),
            attempt.status,
            text(attempt.outcome),
            text(attempt.reason),
            bytes(attempt.answer[: limits.answer_bytes_max]),
            attempt.mapping,
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
