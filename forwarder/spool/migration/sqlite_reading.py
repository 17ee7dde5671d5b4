"""Read a spool on SQLite, part by part, for a move."""

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from zlib import crc32

from forwarder.spool.codes import Account
from forwarder.spool.migration.two_ends import (
    BYTES,
    EVENTS,
    ROWS,
    TABLES,
    TYPES,
    Cursor,
    Event,
    MigrationFailed,
    Outcome,
    Table,
    Wait,
)
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader, read_mark

_NO_BUCKET = 2**62
_EVENT = (
    "sequence, event_key, partition, received_at_ms, source, type, event, message_id, user_id, size, payload, "
    "checksum, trace"
)


def _read_table(table: Table, connection: Reader, cursor: Cursor) -> tuple[Sequence[Any], Cursor]:
    rows = connection.execute(table.select("", "?"), (table.after(cursor),)).fetchall()
    return rows, table.cursor(rows)


def _read_events(connection: Reader, cursor: Cursor) -> tuple[list[Event], Cursor]:
    after = cursor or 0
    sizes: list[tuple[int, int | None]] = []
    for table in EVENT_TABLES:
        sql = f"SELECT sequence, length(payload) FROM {table} WHERE sequence > ? ORDER BY sequence LIMIT {EVENTS}"  # noqa: S608 - our own words, as all here
        sizes += connection.execute(sql, (after,)).fetchall()
    last, room = None, BYTES
    for sequence, size in sorted(sizes)[:EVENTS]:
        last = sequence
        room -= size or 0
        if room < 0:
            break
    if last is None:
        return [], None
    events = [
        event
        for route, table in enumerate(EVENT_TABLES)
        for event in _events_between(connection, route, after + 1, last)
    ]
    return sorted(events), last


def _events_between(connection: Reader, route: int, first: int, last: int) -> list[Event]:
    between = (first, last)
    reasons = {None: "", **dict(connection.execute("SELECT reason_id, reason FROM reasons"))}
    runs = connection.execute(
        "SELECT first, last, state, settled_at_ms, attempts, reason_id, attempt_id, is_discarded, status FROM settled "
        "WHERE route = ? AND last >= ? AND first <= ? ORDER BY last",
        (route, *between),
    ).fetchall()
    waiting = connection.execute(
        "SELECT sequence, kind, not_before_ms, attempts, first_failed_ms, reason_id, status, replayed_ms "
        "FROM given_back WHERE route = ? AND sequence BETWEEN ? AND ?",
        (route, *between),
    )
    waits = {row[0]: Wait._make((*row[1:5], reasons[row[5]], *row[6:])) for row in waiting}
    noted = connection.execute("SELECT sequence, data, replay FROM progress WHERE sequence BETWEEN ? AND ?", between)
    progress = {sequence: (data, replay) for sequence, data, replay in noted}
    lists = dict(connection.execute("SELECT * FROM attempt_lists WHERE sequence BETWEEN ? AND ?", between))
    events, at = [], 0
    sql = f"SELECT {_EVENT} FROM {EVENT_TABLES[route]} WHERE sequence BETWEEN ? AND ? ORDER BY sequence"  # noqa: S608 - as above
    for row in connection.execute(sql, between):
        sequence = row[0]
        while at < len(runs) and runs[at][1] < sequence:
            at += 1
        outcome = None
        if at < len(runs) and runs[at][0] <= sequence:
            state, settled_at_ms, attempts, reason_id, attempt_id, is_discarded, status = runs[at][2:]
            told = (settled_at_ms, attempts, reasons[reason_id], attempt_id, bool(is_discarded), status)
            outcome = Outcome(state, *told)
        rest = (waits.get(sequence), progress.get(sequence), array("q", lists.get(sequence, b"")).tolist())
        payload = _whole(row, is_needed=outcome is None)
        events.append(Event._make((sequence, route, *row[1:10], payload, row[12], outcome, *rest)))
    return events


def _whole(row: Sequence[Any], *, is_needed: bool) -> bytes | None:
    """Return the payload of a row, None for a damaged one."""
    payload: bytes | None = row[10]
    if payload is None or crc32(payload) == row[11]:
        return payload
    if is_needed:
        raise MigrationFailed(f"event {row[0]} is damaged: run the daemon once, which sets it aside")
    return None


def _read_keys(connection: Reader, cursor: Cursor) -> tuple[list[tuple[int, bytes]], Cursor]:
    """Return keys with when they were learnt, at the latest: bucket after bucket, then those of the newest events."""
    bucket, after = (0, "") if cursor is None else cursor
    buckets = dict(connection.execute("SELECT bucket, newest_ms FROM key_buckets WHERE bucket >= ?", (bucket,)))
    for number in sorted(buckets):
        sql = f"SELECT key FROM keys_{number} WHERE key > ? ORDER BY key LIMIT {ROWS}"  # noqa: S608 - as above
        keys = [row[0] for row in connection.execute(sql, (bytes.fromhex(after) if number == bucket else b"",))]
        if keys:
            return [(buckets[number], key) for key in keys], (number, keys[-1].hex())
    sealed_to = read_mark(connection, "keys_sealed_to")
    position = int(after) if bucket == _NO_BUCKET else sealed_to
    rows = []
    for route, table in enumerate(EVENT_TABLES):
        columns = "sequence, received_at_ms, event_key"
        sql = f"SELECT {columns} FROM {table} WHERE sequence > ? ORDER BY sequence LIMIT {ROWS}"  # noqa: S608 - as above
        rows += [
            (sequence, at_ms, key + bytes((route,))) for sequence, at_ms, key in connection.execute(sql, (position,))
        ]
    rows = sorted(rows)[:ROWS]
    return [(at_ms, key) for _, at_ms, key in rows], ((_NO_BUCKET, str(rows[-1][0])) if rows else None)


def _read_types(connection: Reader, _cursor: Cursor) -> tuple[Sequence[Any], Cursor]:
    return connection.execute(f"SELECT {', '.join(TYPES.columns)} FROM event_types").fetchall(), None  # noqa: S608 - as above


def _read_totals(connection: Reader, _cursor: Cursor) -> tuple[Sequence[Any], Cursor]:
    sql = "SELECT route, account, amount FROM totals WHERE account < ?"
    return connection.execute(sql, (int(Account.SEQUENCE),)).fetchall(), None


READ: dict[str, Callable[[Reader, Cursor], tuple[Sequence[Any], Cursor]]] = {
    **{part: partial(_read_table, table) for part, table in TABLES.items()},
    "events": _read_events,
    "keys": _read_keys,
    "types": _read_types,
    "totals": _read_totals,
}
