"""Write a spool on SQLite, part by part, for a move: into an empty database that no daemon uses yet."""

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol
from zlib import crc32

from forwarder.spool.codes import PENDING, ROUTES, Account, partition_number
from forwarder.spool.held_leases import BESIDE
from forwarder.spool.migration.two_ends import TABLES, TYPES, Event, Outcome, Shape, Table
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader

_REASON = (
    "INSERT INTO reasons (route, state, reason, count, held) VALUES (?1, ?2, ?3, ?4, 1) "
    "ON CONFLICT DO UPDATE SET count = count + ?4, held = held + 1 RETURNING reason_id"
)
_RUN = (
    "INSERT INTO settled (route, last, first, state, settled_at_ms, attempts, reason_id, attempt_id, is_discarded, "
    "status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_WAIT = (
    "INSERT INTO given_back (sequence, route, is_head, kind, not_before_ms, attempts, first_failed_ms, reason_id, "
    "status, replayed_ms) VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?)"
)
# The oldest of each partition leads; what is in none leads itself.
_LEAD = (
    "UPDATE given_back SET is_head = 0 WHERE sequence IN (SELECT sequence FROM partitions p "
    "WHERE sequence > (SELECT min(sequence) FROM partitions WHERE number = p.number))"
)
_SEQUENCES = "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)"
_SEALED = "INSERT OR REPLACE INTO marks SELECT 'keys_sealed_to', amount FROM totals WHERE account = ?"


class Writable(Reader, Protocol):
    """A connection as those see it who write."""

    def executemany(self, statements: str, bindings: Any, /) -> Any:
        """Run a statement for each of these."""


def prepare_writing(connection: Writable, shape: Shape) -> None:
    """Have numbers go on where the source's ended."""
    connection.execute("INSERT INTO totals VALUES (0, ?, ?)", (int(Account.SEQUENCE), shape.last_sequence))
    connection.execute(_SEQUENCES, ("attempts", shape.last_attempt))
    connection.execute(_SEQUENCES, ("audit", shape.last_audit))


def _write_table(table: Table, connection: Writable, rows: Sequence[Any]) -> None:
    values = ", ".join("?" * len(table.columns))
    connection.executemany(f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({values})", rows)  # noqa: S608 - our own words


def _write_events(connection: Writable, events: Sequence[Event]) -> None:
    for route, table in enumerate(EVENT_TABLES):
        these = [event for event in events if event.route == route]
        connection.executemany(
            f"INSERT INTO {table} (sequence, event_key, partition, received_at_ms, source, type, event, message_id, "  # noqa: S608 - our own words
            "user_id, size, checksum, payload, trace) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (event.sequence, *event[2:11], crc32(event.payload or b""), event.payload, event.trace)
                for event in these
            ],
        )
        _write_runs(connection, route, these)
        _write_waiting(connection, route, these)
    connection.executemany(
        "INSERT INTO progress VALUES (?, ?, ?)", [(e.sequence, *e.progress) for e in events if e.progress is not None]
    )
    connection.executemany(
        "INSERT INTO attempt_lists VALUES (?, ?)",
        [(e.sequence, array("q", e.attempt_ids).tobytes()) for e in events if e.attempt_ids],
    )


def _write_runs(connection: Writable, route: int, events: Sequence[Event]) -> None:
    """Write the settled ones: those in a row that were settled alike are one run."""
    first, before = 0, 0
    alike: Outcome | None = None
    reason_id: int | None = None

    def end() -> None:
        if alike is not None:
            outcome = (alike.state, alike.settled_at_ms, alike.attempts, reason_id, alike.attempt_id)
            connection.execute(_RUN, (route, before, first, *outcome, int(alike.is_discarded), alike.status))

    for event in events:
        if event.outcome != alike:
            end()
            first, alike = event.sequence, event.outcome
        before = event.sequence
        if alike is not None:
            reason_id = _reason(connection, route, alike.state, alike.reason, is_counted=not alike.is_discarded)
    end()


def _write_waiting(connection: Writable, route: int, events: Sequence[Event]) -> None:
    for event in events:
        if event.outcome is not None:
            continue
        wait = event.wait
        if event.partition_key:
            number = partition_number(ROUTES[route].value, event.partition_key)
            is_beside = wait is not None and wait.kind == BESIDE
            connection.execute(
                "INSERT INTO partitions VALUES (?, ?)", (-number if is_beside else number, event.sequence)
            )
        if wait is not None:
            reason_id = _reason(connection, route, PENDING, wait.reason, is_counted=True)
            failed = (wait.attempts, wait.first_failed_ms, reason_id, wait.status, wait.replayed_ms)
            connection.execute(_WAIT, (event.sequence, route, wait.kind, wait.not_before_ms, *failed))


def _reason(connection: Writable, route: int, state: int, reason: str, *, is_counted: bool) -> int | None:
    if not reason:
        return None
    return int(connection.execute(_REASON, (route, state, reason, int(is_counted))).fetchall()[0][0])


def _write_keys(connection: Writable, rows: Sequence[tuple[int, bytes]]) -> None:
    """Write keys, those that were learnt at one time into a table of their own."""
    for learnt_ms in sorted({at_ms for at_ms, _ in rows}):
        row = connection.execute("SELECT bucket FROM key_buckets WHERE newest_ms = ?", (learnt_ms,)).fetchone()
        if row is None:
            number = int(connection.execute("SELECT coalesce(max(bucket), 0) + 1 FROM key_buckets").fetchall()[0][0])
            connection.execute(f"CREATE TABLE keys_{number} (key BLOB PRIMARY KEY) WITHOUT ROWID")
            connection.execute("INSERT INTO key_buckets VALUES (?, ?, ?, 0)", (number, learnt_ms, learnt_ms))
        else:
            number = int(row[0])
        keys = [(key,) for at_ms, key in rows if at_ms == learnt_ms]
        connection.executemany(f"INSERT OR IGNORE INTO keys_{number} VALUES (?)", keys)  # noqa: S608 - our own integer
        connection.execute("UPDATE key_buckets SET keys = keys + ? WHERE bucket = ?", (len(keys), number))


def _write_totals(connection: Writable, rows: Sequence[Any]) -> None:
    connection.executemany("INSERT INTO totals VALUES (?, ?, ?)", rows)
    connection.execute(_LEAD)
    connection.execute(_SEALED, (int(Account.SEQUENCE),))


WRITE: dict[str, Callable[[Writable, Sequence[Any]], None]] = {
    **{part: partial(_write_table, table) for part, table in {**TABLES, "types": TYPES}.items()},
    "events": _write_events,
    "keys": _write_keys,
    "totals": _write_totals,
}
