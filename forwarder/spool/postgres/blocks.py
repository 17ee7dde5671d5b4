"""Drop history by the block: its tables go whole. What must stay is moved first into tables that take their place.

Each needs its block's tables alone for a moment. Where a transaction elsewhere has them in use, it is left for later:
nobody waits behind it for longer than the time-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from forwarder.spool.codes import DEAD, Account
from forwarder.spool.limits import event_bytes
from forwarder.spool.postgres.layout import BLOCK_TABLES, attach_tables, last_sequence, make_tables
from forwarder.spool.postgres.transaction import Transaction

# Scans of whole tables, here alone.
_BEGIN = (
    "SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '60s'; SET LOCAL enable_seqscan = on; "
    "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; SAVEPOINT block"
)
_UNDO = "ROLLBACK TO SAVEPOINT block"
_FULL = "SELECT first, past, name FROM forwarder.blocks WHERE past <= $1 ORDER BY first"
_LABELS = ("user_id", "message_id")  # by which people look for an event
_WITHOUT_INDEXES = (
    "SELECT first, past, name FROM forwarder.blocks WHERE past <= $1 "
    "AND to_regclass('forwarder.events_' || name || '_user_id') IS NULL ORDER BY first DESC"
)
# What stays: $1 is the time before which settled events go, $2 whether only the dead of later stay.
_STAYS = f"(o.sequence IS NULL OR (o.settled_at_ms >= $1 AND (NOT $2 OR o.state = {DEAD})))"


@dataclass(frozen=True, slots=True)
class Block:
    """A range of sequences that all were given."""

    first: int
    past: int
    name: str


async def full_blocks(connection: asyncpg.Connection) -> Sequence[Block]:
    """Return the blocks that take no new events, oldest first."""
    behind = await last_sequence(connection)
    return [Block(*row) for row in await connection.fetch(_FULL, behind)]


async def is_past(connection: asyncpg.Connection, block: Block, before_ms: int) -> bool:
    """Tell whether the newest event of a block arrived before then."""
    newest = await connection.fetchval(
        f"SELECT received_at_ms FROM forwarder.events_{block.name} ORDER BY sequence DESC LIMIT 1"  # noqa: S608 - our own words
    )
    return newest is None or newest < before_ms


async def blocks_without_indexes(connection: asyncpg.Connection) -> Sequence[Block]:
    """Return the blocks that take no new events and have no index of their labels yet, newest first."""
    behind = await last_sequence(connection)
    return [Block(*row) for row in await connection.fetch(_WITHOUT_INDEXES, behind)]


async def index_labels(transaction: Transaction, block: Block) -> None:
    """Make the indexes by which an event of a full block is found; nothing is done where the table is in use.

    Not before it is full: then each event would cost its append two places in an index, one by one.
    """
    connection = transaction.connection
    await connection.execute(_BEGIN)
    try:
        for label in _LABELS:
            await connection.execute(
                f"CREATE INDEX events_{block.name}_{label} ON forwarder.events_{block.name} ({label}, sequence)"
            )
    except asyncpg.LockNotAvailableError:
        await connection.execute(_UNDO)


async def drop_history(
    transaction: Transaction, block: Block, *, before_ms: int, yields: bool, stay_max: float
) -> bool:
    """Drop what was settled before then, or if `yields` all that is settled, but for the dead of since then.

    Nothing is done, and False returned, where more than that fraction stays, or the tables are in use.
    """
    connection = transaction.connection
    values = before_ms, yields
    await connection.execute(_BEGIN)
    try:
        events, outcomes = (f"forwarder.{table}_{block.name}" for table in BLOCK_TABLES)
        await connection.execute(f"LOCK TABLE {events}, {outcomes} IN SHARE ROW EXCLUSIVE MODE")
        both = f"{events} e LEFT JOIN {outcomes} o USING (sequence)"
        stay, total = await connection.fetchrow(
            f"SELECT count(*) FILTER (WHERE {_STAYS}), count(*) FROM {both}",  # noqa: S608 - our own words
            *values,
        )
        if stay > total * stay_max:
            await connection.execute(_UNDO)
            return False
        counts = await connection.fetch(
            f"SELECT o.reason_id, r.route, o.state, o.is_discarded, count(*), sum(e.size)::bigint FROM {both} "  # noqa: S608 - our own words
            f"JOIN forwarder.reasons r USING (reason_id) WHERE NOT {_STAYS} GROUP BY 1, 2, 3, 4",
            *values,
        )
        await _drop_beside(connection, block, f"SELECT e.sequence FROM {both} WHERE NOT {_STAYS}", values)  # noqa: S608 - our own words
        await _replace(connection, block, both, values, is_empty=not stay)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        await connection.execute(_UNDO)
        return False
    for reason_id, route, state, is_discarded, count, size in counts:
        if not is_discarded:
            transaction.count_reason(reason_id, -count)
        if state == DEAD:
            transaction.add(route, Account.DISCARDED if is_discarded else Account.OPEN_DEAD, -count)
            transaction.add(route, Account.DEAD_BYTES, -(size + count * event_bytes(0)))
    return True


async def _drop_beside(connection: asyncpg.Connection, block: Block, gone: str, values: tuple[int, bool]) -> None:
    for table in ("progress", "attempt_lists"):
        await connection.execute(
            f"DELETE FROM forwarder.{table} WHERE sequence >= $3 AND sequence < $4 AND sequence IN ({gone})",  # noqa: S608 - our own words
            *values,
            block.first,
            block.past,
        )


async def _replace(
    connection: asyncpg.Connection, block: Block, both: str, values: tuple[int, bool], *, is_empty: bool
) -> None:
    """Drop the tables; what stays is in new ones of another name."""
    old = ", ".join(f"forwarder.{table}_{block.name}" for table in BLOCK_TABLES)
    first, _, generation = block.name.partition("_")
    name = f"{first}_{int(generation or 0) + 1}"
    if not is_empty:
        await make_tables(connection, name)
        for table, alias in zip(BLOCK_TABLES, "eo", strict=True):
            await connection.execute(
                f"INSERT INTO forwarder.{table}_{name} SELECT {alias}.* FROM {both} "  # noqa: S608 - our own words
                f"WHERE {_STAYS} AND {alias}.sequence IS NOT NULL",
                *values,
            )
    await connection.execute(f"DROP TABLE {old}")
    if is_empty:
        await connection.execute("DELETE FROM forwarder.blocks WHERE first = $1", block.first)
        return
    await attach_tables(connection, name, block.first, block.past)
    await connection.execute("UPDATE forwarder.blocks SET name = $2 WHERE first = $1", block.first, name)
