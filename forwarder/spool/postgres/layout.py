"""The schema in the database, made under a lock by whoever comes first; `layout_steps.py` moves it on.

Blocks of sequences and spans of keys are tables attached to their parents: that waits for no transaction that merely
reads or writes the parent.
"""

import asyncpg

UNFINISHED = 1_000_000_000  # the number beside it while a move into the database is not complete
BLOCK_EVENTS = 262_144
BLOCK_TABLES = ("events", "outcomes")
_AHEAD = BLOCK_EVENTS // 2  # sequences that are free before the next block is made
LOCK = "SELECT pg_advisory_xact_lock(7190413225)"  # ends with the transaction: a pooler does no harm
_SETTLING_STORAGE = "INCLUDING DEFAULTS INCLUDING STORAGE"


async def has_schema(connection: asyncpg.Connection) -> bool:
    """Tell whether there is a spool, or what is to be one."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'forwarder')"))


async def last_sequence(connection: asyncpg.Connection) -> int:
    """Return the last sequence given to any event, committed or not."""
    return int(
        await connection.fetchval("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM forwarder.event_sequence")
    )


async def add_blocks(connection: asyncpg.Connection, *, behind: int) -> int:
    """Have tables for the sequences that come next, inside a transaction; return the first one that has none."""
    past = await _past(connection)
    if past > behind + _AHEAD:
        return past
    await connection.execute(LOCK)
    past = await _past(connection)  # another replica may have been faster
    while past <= behind + _AHEAD:
        past = await add_block(connection, past)
    return past


async def add_block(connection: asyncpg.Connection, first: int) -> int:
    """Have tables for a block of sequences; return the first one behind it."""
    past = first + BLOCK_EVENTS
    await make_tables(connection, str(first))
    await attach_tables(connection, str(first), first, past)
    await connection.execute("INSERT INTO forwarder.blocks VALUES ($1, $2, $3)", first, past, str(first))
    return past


async def make_tables(connection: asyncpg.Connection, name: str) -> None:
    """Make the tables of a block, not yet part of their parents."""
    for table in BLOCK_TABLES:
        await connection.execute(f"CREATE TABLE forwarder.{table}_{name} (LIKE forwarder.{table} {_SETTLING_STORAGE})")


async def attach_tables(connection: asyncpg.Connection, name: str, first: int, past: int) -> None:
    """Make them part of their parents."""
    for table in BLOCK_TABLES:
        await connection.execute(
            f"ALTER TABLE forwarder.{table} ATTACH PARTITION forwarder.{table}_{name} "
            f"FOR VALUES FROM ({first}) TO ({past})"
        )


async def _past(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT coalesce(max(past), 1) FROM forwarder.blocks"))


async def add_span(connection: asyncpg.Connection, span: int) -> None:
    """Have a table for the keys of a span, inside a transaction."""
    if await _has_span(connection, span):
        return
    await connection.execute(LOCK)
    if await _has_span(connection, span):  # another replica was faster
        return
    name = f"forwarder.known_keys_{span}"
    await connection.execute(
        f"CREATE TABLE {name} (LIKE forwarder.known_keys); "
        f"ALTER TABLE forwarder.known_keys ATTACH PARTITION {name} FOR VALUES IN ({span})"
    )


async def _has_span(connection: asyncpg.Connection, span: int) -> bool:
    # Not `to_regclass`: within a transaction it may go by what was so before the lock was had.
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1 AND relnamespace = 'forwarder'::regnamespace)",
            f"known_keys_{span}",
        )
    )
