"""The settled events, as runs: one row for all events of a route between two sequences that were settled alike.

Runs of a route never overlap, so whether an event is settled is one look-up. A replay or a discard takes events out of
their run, and leaves what is left of it in shorter ones.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from forwarder.spool.sqlite.codes import EVENT_TABLES
from forwarder.spool.sqlite.transaction import Reader, Transaction

_COLUMNS = "route, last, first, state, settled_at_ms, attempts, reason_id, attempt_id, is_discarded"
_AT = f"SELECT {_COLUMNS} FROM settled WHERE route = ? AND last >= ? ORDER BY last LIMIT 1"  # noqa: S608 - our own words


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

    def between(self, first: int, last: int) -> "Run":
        """Return the part of it between two sequences."""
        return self._replace(first=first, last=last)


def run_at(connection: Reader, route: int, sequence: int) -> Run | None:
    """Return the run that an event of this route is in; None while it is pending."""
    row = connection.execute(_AT, (route, sequence)).fetchone()
    return Run(*row) if row is not None and row[2] <= sequence else None


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
    transaction.execute("INSERT INTO settled VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", run)


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
