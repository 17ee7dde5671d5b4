"""Read a spool on Postgres, part by part, for a move."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import asyncpg

from forwarder.spool.codes import ROUTES, Account
from forwarder.spool.migration.two_ends import BYTES, EVENTS, ROWS, TABLES, Cursor, Event, Outcome, Table, Wait
from forwarder.spool.postgres.key_spans import span_end_ms
from forwarder.spool.postgres.transaction import ACCOUNTS, read_totals

_Read = tuple[Sequence[Any], Cursor]
_CHOSEN = """
SELECT max(sequence) FROM (SELECT sequence, sum(length(payload)) OVER (ORDER BY sequence) - coalesce(length(payload), 0)
  AS before FROM (SELECT sequence, payload FROM forwarder.events WHERE sequence > $1 ORDER BY sequence LIMIT $2) e) s
WHERE coalesce(before, 0) < $3
"""
_BETWEEN = """
SELECT e.*, o.sequence IS NOT NULL AS is_settled, w.sequence IS NOT NULL AS is_waiting, o.state, o.settled_at_ms,
  coalesce(o.attempts, w.attempts) AS attempts, o.attempt_id, o.is_discarded, coalesce(o.status, w.status) AS status,
  w.kind, w.not_before_ms, w.first_failed_ms, w.replayed_ms, coalesce(r.reason, '') AS reason, p.data, p.replay,
  l.attempt_ids
FROM forwarder.events e
LEFT JOIN forwarder.outcomes o ON o.sequence = e.sequence AND o.sequence > $1 AND o.sequence <= $2
LEFT JOIN forwarder.work w ON w.sequence = e.sequence
LEFT JOIN forwarder.reasons r ON r.reason_id = coalesce(o.reason_id, w.reason_id)
LEFT JOIN forwarder.progress p ON p.sequence = e.sequence
LEFT JOIN forwarder.attempt_lists l ON l.sequence = e.sequence
WHERE e.sequence > $1 AND e.sequence <= $2 ORDER BY e.sequence
"""


async def _read_table(table: Table, connection: asyncpg.Connection, cursor: Cursor, _retention_s: int) -> _Read:
    rows = await connection.fetch(table.select("forwarder.", "$1"), table.after(cursor))
    return [tuple(row) for row in rows], table.cursor(rows)


async def _read_events(connection: asyncpg.Connection, cursor: Cursor, _retention_s: int) -> _Read:
    after = cursor or 0
    last = await connection.fetchval(_CHOSEN, after, EVENTS, BYTES)
    if last is None:
        return [], None
    return [_event(row) for row in await connection.fetch(_BETWEEN, after, last)], last


def _event(row: asyncpg.Record) -> Event:
    outcome = wait = None
    if row["is_settled"]:
        outcome = Outcome._make(row[name] for name in Outcome._fields)
    elif row["is_waiting"]:
        wait = Wait._make(row[name] for name in Wait._fields)
    own = {name: row[name] for name in Event._fields if name in row.keys()}  # noqa: SIM118 - a record is no mapping
    return Event(
        **{
            **own,
            "outcome": outcome,
            "wait": wait,
            "progress": None if row["data"] is None else (row["data"], row["replay"]),
            "attempt_ids": row["attempt_ids"] or (),
        }
    )


async def _read_keys(connection: asyncpg.Connection, cursor: Cursor, retention_s: int) -> _Read:
    span, after = (-(2**31), "") if cursor is None else cursor
    spans = await connection.fetch(
        "SELECT substr(relname, 12)::integer AS span FROM pg_class WHERE relnamespace = 'forwarder'::regnamespace "
        "AND relkind = 'r' AND relname ~ '^known_keys_-?[0-9]+$' AND substr(relname, 12)::integer >= $1 ORDER BY 1",
        span,
    )
    for (number,) in spans:
        rows = await connection.fetch(
            "SELECT known_key FROM forwarder.known_keys WHERE span = $1 AND known_key > $2 ORDER BY known_key LIMIT $3",
            number,
            bytes.fromhex(after) if number == span else b"",
            ROWS,
        )
        if rows:
            learnt_ms = span_end_ms(number, retention_s=retention_s)
            return [(learnt_ms, key) for (key,) in rows], (number, rows[-1][0].hex())
    return [], None


async def _read_types(connection: asyncpg.Connection, _cursor: Cursor, _retention_s: int) -> _Read:
    rows = await connection.fetch(
        "SELECT route, type, event, sum(count)::bigint, min(first_at_ms), max(last_at_ms) FROM forwarder.event_types "
        "GROUP BY route, type, event"
    )
    return [tuple(row) for row in rows], None


async def _read_totals(connection: asyncpg.Connection, _cursor: Cursor, _retention_s: int) -> _Read:
    amounts = await read_totals(connection)
    rows = [
        (route, int(account), amounts[route * ACCOUNTS + account])
        for route in range(len(ROUTES))
        for account in Account
        if account < Account.SEQUENCE
    ]
    return rows, None


READ: dict[str, Callable[[asyncpg.Connection, Cursor, int], Awaitable[_Read]]] = {
    **{part: partial(_read_table, table) for part, table in TABLES.items()},
    "events": _read_events,
    "keys": _read_keys,
    "types": _read_types,
    "totals": _read_totals,
}
