"""Write a spool on Postgres, part by part, for a move: into an empty schema that no daemon uses yet."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import asyncpg

from forwarder.spool.codes import DEAD, PENDING, ROUTES, Account, partition_number
from forwarder.spool.migration.two_ends import TABLES, TYPES, Event, Outcome, Shape, Table, Wait
from forwarder.spool.postgres.appends import PARTITIONS, text
from forwarder.spool.postgres.key_spans import span_of
from forwarder.spool.postgres.layout import BLOCK_EVENTS, UNFINISHED, add_block, add_blocks, add_span
from forwarder.spool.postgres.layout_steps import make_schema
from forwarder.spool.postgres.reasons import Reason, intern_reasons
from forwarder.spool.postgres.transaction import ACCOUNTS

_EVENT = ("partition_no", "order_no", *Event._fields[:13])
# As in the values of a move, with the id of the reason in place of its words.
_OUTCOME = ("sequence", *Outcome._fields[:3], "reason_id", *Outcome._fields[4:])
_WORK = ("sequence", "order_no", "route", "partition_no", "is_head", *Wait._fields[:4], "reason_id", *Wait._fields[5:])
# The oldest of each order leads, in line and beside it; what is in none leads itself.
_LEAD = """
UPDATE forwarder.work w SET is_head = false WHERE order_no <> 0 AND EXISTS (SELECT FROM forwarder.work f
  WHERE f.order_no = w.order_no AND f.order_no <> 0 AND f.sequence < w.sequence AND (f.kind = 2) = (w.kind = 2))
"""
_REASONS = """
INSERT INTO forwarder.reason_counts
SELECT reason_id, count(*) FROM forwarder.outcomes WHERE reason_id IS NOT NULL AND NOT is_discarded GROUP BY reason_id
"""
_DEAD = """
SELECT e.route, o.is_discarded, count(*) FROM forwarder.outcomes o JOIN forwarder.events e ON e.sequence = o.sequence
WHERE o.state = $1 GROUP BY 1, 2
"""


async def make(connection: asyncpg.Connection, shape: Shape) -> None:
    """Make the schema, and have numbers go on where the source's ended."""
    await make_schema(connection)
    await connection.execute("INSERT INTO forwarder.layout (number, step) VALUES ($1, $1)", UNFINISHED)
    for sequence, last in (
        ("forwarder.event_sequence", shape.last_sequence),
        ("forwarder.attempts_attempt_id_seq", shape.last_attempt),
        ("forwarder.audit_audit_id_seq", shape.last_audit),
    ):
        if last:
            await connection.execute("SELECT setval($1::text::regclass, $2)", sequence, last)
    await add_block(connection, _block_of(shape.last_sequence + 1))
    await add_blocks(connection, behind=shape.last_sequence)


def _block_of(sequence: int) -> int:
    """Return the first sequence of the block that a sequence is in."""
    return sequence - (sequence - 1) % BLOCK_EVENTS


async def _write_table(table: Table, connection: asyncpg.Connection, rows: Sequence[Any], _retention_s: int) -> None:
    await _copy(connection, table.name, table.columns, [_storable(row) for row in rows])


def _storable(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(text(value) if isinstance(value, str) else value for value in row)


Row = tuple[Any, ...]
Reasons = dict[tuple[int, int, str], int | None]  # ids, by route, state and words


async def _write_events(connection: asyncpg.Connection, events: Sequence[Event], _retention_s: int) -> None:
    await _have_blocks(connection, events)
    reasons = await _reasons(connection, events)
    progress = [(event.sequence, *event.progress) for event in events if event.progress is not None]
    lists = [(event.sequence, list(event.attempt_ids)) for event in events if event.attempt_ids]
    await _copy(connection, "events", _EVENT, [_event_row(event) for event in events])
    await _copy(connection, "outcomes", _OUTCOME, [row for event in events for row in _outcome_rows(event, reasons)])
    await _copy(connection, "work", _WORK, [row for event in events for row in _work_rows(event, reasons)])
    await _copy(connection, "progress", ("sequence", "data", "replay"), progress)
    await _copy(connection, "attempt_lists", ("sequence", "attempt_ids"), lists)


async def _have_blocks(connection: asyncpg.Connection, events: Sequence[Event]) -> None:
    """Have tables for these events; of a spool that is old most blocks are history."""
    wanted = {_block_of(event.sequence) for event in events}
    rows = await connection.fetch("SELECT first FROM forwarder.blocks WHERE first = ANY($1::bigint[])", list(wanted))
    for first in sorted(wanted.difference(row[0] for row in rows)):
        await add_block(connection, first)


def _event_row(event: Event) -> Row:
    order_no, partition_no = _place(event)
    return partition_no, order_no, *_storable(event[:13])


def _outcome_rows(event: Event, reasons: Reasons) -> list[Row]:
    if (one := event.outcome) is None:
        return []
    reason_id = reasons[event.route, one.state, one.reason]
    return [(event.sequence, *one[:3], reason_id, *one[4:])]


def _work_rows(event: Event, reasons: Reasons) -> list[Row]:
    if (one := event.wait) is None:
        return []
    order_no, partition_no = _place(event)
    reason_id = reasons[event.route, PENDING, one.reason]
    return [(event.sequence, order_no, event.route, partition_no, True, *one[:4], reason_id, *one[5:])]


def _place(event: Event) -> tuple[int, int]:
    """Return the number of its order and its partition."""
    order_no = partition_number(ROUTES[event.route].value, event.partition_key)
    return order_no, (order_no or event.sequence) % PARTITIONS


async def _reasons(connection: asyncpg.Connection, events: Sequence[Event]) -> Reasons:
    wanted: set[Reason] = set()
    for event in events:
        if event.outcome is not None:
            wanted.add((event.route, event.outcome.state, event.outcome.reason))
        else:
            wanted.add((event.route, PENDING, event.wait.reason if event.wait is not None else ""))
    return await intern_reasons(connection, wanted)


async def _write_keys(connection: asyncpg.Connection, rows: Sequence[tuple[int, bytes]], retention_s: int) -> None:
    spans = [span_of(at_ms, retention_s=retention_s) for at_ms, _ in rows]
    for span in sorted(set(spans)):
        await add_span(connection, span)
    await connection.execute(
        "INSERT INTO forwarder.known_keys (span, known_key) SELECT * FROM unnest($1::integer[], $2::bytea[]) "
        "ON CONFLICT DO NOTHING",
        spans,
        [key for _, key in rows],
    )


async def _write_totals(connection: asyncpg.Connection, rows: Sequence[Any], _retention_s: int) -> None:
    """Write the accounts, and what is counted of the events: everything else is there by now."""
    amounts = [0] * (2 * ACCOUNTS)
    for route, account, amount in rows:
        amounts[route * ACCOUNTS + account] = amount
    for route, is_discarded, count in await connection.fetch(_DEAD, DEAD):
        amounts[route * ACCOUNTS + (Account.DISCARDED if is_discarded else Account.OPEN_DEAD)] = count
    await connection.execute(
        "INSERT INTO forwarder.totals (slot, number, amounts) "
        "VALUES (nextval('forwarder.slot_sequence'), 1, $1::bigint[])",
        amounts,
    )
    await connection.execute(_REASONS)
    await connection.execute(_LEAD)


async def _copy(
    connection: asyncpg.Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    if rows:
        await connection.copy_records_to_table(table, schema_name="forwarder", columns=columns, records=rows)


WRITE: dict[str, Callable[[asyncpg.Connection, Sequence[Any], int], Awaitable[None]]] = {
    **{part: partial(_write_table, table) for part, table in {**TABLES, "types": TYPES}.items()},
    "events": _write_events,
    "keys": _write_keys,
    "totals": _write_totals,
}
