"""The layout is moved on step by step, under a lock, while programs of the layout before run beside."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from forwarder.errors import SpoolAway, SpoolClosed, SpoolTooNew, SpoolUnusable
from forwarder.model import Envelope, Labels, RouteName, Settled, State
from forwarder.spool.postgres.layout_steps import LAYOUT, STEPS, THIS, Found, Program, Step, look
from forwarder.spool.postgres.spool import PostgresSpool
from stand_ins.postgres_server import PostgresServer
from stand_ins.spool_acts import leased, stored
from stand_ins.waiting import wait_until

IN = RouteName.RUDDERSTACK_TO_COURIER
LAYOUT_1 = Path(__file__).parent / "layout_1.sql"
# How a replica of layout 1 is known to the others.
RENEWED_BY_LAYOUT_1 = (
    "INSERT INTO forwarder.replicas VALUES (gen_random_uuid(), clock_timestamp() + make_interval(secs => 25), 'old')"
)
Join = Callable[..., Awaitable[Any]]

# Every column with its type and default, every index and constraint, every sequence.
CATALOG = """
SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
  pg_get_expr(d.adbin, d.adrelid), a.attnum
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
  LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, attnum)
WHERE c.relnamespace = 'forwarder'::regnamespace AND c.relkind IN ('r', 'p', 'S') AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT tablename, indexname, indexdef, true, '', NULL, 0 FROM pg_indexes WHERE schemaname = 'forwarder'
UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), true, contype::text, NULL, 0
FROM pg_constraint WHERE connamespace = 'forwarder'::regnamespace
ORDER BY 1, 2, 3
"""


def program_with(sql: str, *, readable_by: int = LAYOUT) -> Program:
    """Return a program of the layout after this one."""
    return Program(layout=LAYOUT + 1, steps={**STEPS, LAYOUT + 1: Step(sql=sql, readable_by=readable_by)})


COLUMN_MORE = program_with(
    "ALTER TABLE forwarder.events ADD COLUMN colour text; ALTER TABLE forwarder.replicas ADD COLUMN colour text; "
    "CREATE INDEX events_by_colour ON forwarder.events (colour)"
)
NOT_BESIDE = program_with("ALTER TABLE forwarder.arrivals RENAME TO arrivals_by_commit", readable_by=LAYOUT + 1)


@pytest.fixture
def join(join: Callable[..., Awaitable[PostgresSpool]]) -> Join:
    """Return how a replica joins that runs a program."""

    async def one(program: Program = THIS, **more: Any) -> PostgresSpool:
        return await join(program=program, **more)

    return one


def an_envelope(number: int) -> Envelope:
    """Return an inbound event of this number, of one of five users."""
    return Envelope(
        route=IN,
        event_key=number.to_bytes(16, "big"),
        partition_key=f"user {number % 5}",
        received_at_ms=1_700_000_000_000,
        payload=b'{"n":%d}' % number,
        source="v1",
        labels=Labels(type="track", event="e"),
    )


async def go_through(replicas: Sequence[Any], first: int, count: int) -> None:
    """Have events arrive at each of them in turn; each delivers what it owns, every event once."""
    for replica in [*replicas, *replicas]:
        await replica.ownership.renew()
    for number in range(first, first + count):
        await stored(replicas[number % len(replicas)], [an_envelope(number)])
    seen: list[bytes] = []

    async def deliver(replica: Any) -> None:
        while len(seen) < count:
            leases = await leased(replica, IN)
            seen.extend(lease.envelope.event_key for lease in leases)
            if leases:
                await replica.settle([Settled([lease.sequence for lease in leases], State.DELIVERED)])

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for replica in replicas:
            tasks.create_task(deliver(replica))
    assert sorted(seen) == [number.to_bytes(16, "big") for number in range(first, first + count)]


async def make_layout_1(database: asyncpg.Connection) -> None:
    """Make the schema as the first version made it."""
    await database.execute(LAYOUT_1.read_text("utf-8"))


async def test_a_stepped_schema_is_a_fresh_one(
    join: Join, database: asyncpg.Connection, postgres_server: PostgresServer
) -> None:
    """Columns, defaults, indexes and constraints; both say the same of who may work on them."""
    url = postgres_server.create_database("stepped")
    stepped = await asyncpg.connect(url)
    try:
        await make_layout_1(stepped)
        assert await look(stepped) == Found(1, 1, "")
        await (await join(url=url)).close()
        await (await join()).close()
        assert await stepped.fetch(CATALOG) == await database.fetch(CATALOG)
        found = await look(stepped)
        assert (found.step, found.needed) == (LAYOUT, (await look(database)).needed)
        await stepped.execute("ALTER TABLE forwarder.work ADD COLUMN more text")  # the control
        assert await stepped.fetch(CATALOG) != await database.fetch(CATALOG)
    finally:
        await stepped.close()
        postgres_server.drop_database("stepped")


async def test_two_replicas_start_at_once_on_the_layout_before(join: Join, database: asyncpg.Connection) -> None:
    """One moves it on, once; both run, and what the version before had stored is delivered."""
    await make_layout_1(database)
    replicas = await asyncio.gather(join(), join(), join())
    rows = await database.fetch("SELECT step, count(*) FROM forwarder.layout GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [(number, 1) for number in range(1, LAYOUT + 1)]
    await go_through(replicas, 1, 30)


async def test_a_replica_of_the_first_layout_runs_beside(join: Join, database: asyncpg.Connection) -> None:
    """It renews itself by its own statement, is counted as one of layout 1, and may start anew."""
    await make_layout_1(database)
    await database.execute(RENEWED_BY_LAYOUT_1)
    one = await join()
    await database.execute(RENEWED_BY_LAYOUT_1)
    await one.ownership.renew()
    rows = await database.fetch("SELECT layout, count(*) FROM forwarder.replicas GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [(1, 2), (LAYOUT, 1)]
    # All that a program of layout 1 looks at.
    assert await database.fetchval("SELECT max(number) FROM forwarder.layout") == 1


async def test_a_program_of_the_layout_before_runs_and_starts_beside(join: Join) -> None:
    """While it runs the layout moves on under it; events go through both, also after it started anew."""
    old = await join()
    await go_through([old], 1, 10)
    new = await join(COLUMN_MORE)
    await go_through([old, new], 11, 40)
    await old.close()
    again = await join()
    await go_through([again, new], 51, 20)


async def test_a_step_waits_for_those_that_may_not_run_beside(join: Join, database: asyncpg.Connection) -> None:
    """It is not made while one of them lives, and says so; after the last one left it is made."""
    old = await join()
    with pytest.raises(SpoolAway, match="must wait for 1 replica of versions that cannot work on it") as met:
        await join(NOT_BESIDE)
    assert not met.value.is_lasting
    await old.ownership.renew()
    await go_through([old], 1, 5)
    await old.close()
    await join(NOT_BESIDE)
    assert (await look(database)).needed == LAYOUT + 1


async def test_a_version_that_is_too_old_is_refused_at_its_start(join: Join, postgres_url: str) -> None:
    """With exit code 78, and it is told which version to run."""
    await join(NOT_BESIDE)
    with pytest.raises(SpoolTooNew, match=r"which knows 2: run forwarder \d\S+ or a later one"):
        await join()
    settings = {
        "FORWARDER_SPOOL": "postgres",
        "FORWARDER_POSTGRES_URL": postgres_url,
        "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:1",
        "RUDDERSTACK_WRITE_KEY": "k",
        "COURIER_WEBHOOK_SECRET": "s",
    }
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forwarder", "run", env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(daemon.communicate(), 60)
    assert (daemon.returncode, b"which knows 2: run forwarder" in said) == (78, True), said


async def test_one_that_runs_ends_once_the_layout_is_too_new(join: Join, database: asyncpg.Connection) -> None:
    """One that was paused while the layout moved on: nothing it stores gets in, and its worker ends with the reason."""
    old = await join()
    running = asyncio.create_task(old.run())

    async def is_made() -> bool:
        await database.execute("UPDATE forwarder.replicas SET until = clock_timestamp() - interval '1 second'")
        with contextlib.suppress(SpoolAway):  # it was not paused: it renewed itself just then
            await join(NOT_BESIDE)
            return True
        return False

    await wait_until(is_made)
    with pytest.raises(SpoolClosed):
        await stored(old, [an_envelope(1)])
    async with asyncio.timeout(60):
        with pytest.raises(SpoolTooNew, match="which knows 2"):
            await running
    assert not old.ownership.may_lease()
    assert not old.may_send()
    assert await database.fetchval("SELECT count(*) FROM forwarder.events") == 0


async def test_a_step_that_is_cut_off_leaves_nothing(join: Join, database: asyncpg.Connection) -> None:
    """Whoever makes it is killed in the middle: the layout is the one before, and the next one makes it whole."""
    half = "CREATE TABLE forwarder.half (a integer); ALTER TABLE forwarder.events ADD COLUMN half integer; "
    await (await join()).close()
    slow = asyncio.ensure_future(join(program_with(f"{half} SELECT pg_sleep(60)")))
    at_work = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"

    async def is_in_the_middle() -> bool:
        return await database.fetchval(at_work) is not None

    await wait_until(is_in_the_middle)
    await database.execute("SELECT pg_terminate_backend($1)", await database.fetchval(at_work))
    with pytest.raises(SpoolAway):
        await slow
    assert await database.fetchval("SELECT to_regclass('forwarder.half')") is None
    assert (await look(database)).step == LAYOUT
    one = await join()
    await go_through([one], 1, 5)
    await go_through([one, await join(program_with(half))], 6, 5)
    assert (await look(database)).step == LAYOUT + 1


async def test_a_step_waits_for_no_table_for_long(join: Join, database: asyncpg.Connection) -> None:
    """While a transaction elsewhere uses what it changes it is given up soon, and those who run go on."""
    old = await join()
    async with database.transaction():
        await database.execute("LOCK TABLE forwarder.event_types IN ACCESS SHARE MODE")
        with pytest.raises(SpoolAway, match="must wait for a transaction that uses its tables"):
            await join(program_with("ALTER TABLE forwarder.event_types ADD COLUMN more text"))
        await go_through([old], 1, 5)
    assert (await look(database)).step == LAYOUT


async def test_a_command_moves_nothing_on(join: Join, database: asyncpg.Connection) -> None:
    """Who is no replica leaves the layout as it is and says what to do."""
    await make_layout_1(database)
    with pytest.raises(SpoolUnusable, match="a daemon of this version moves on to 2 at its start"):
        await join(is_replica=False)
    assert (await look(database)).step == 1
