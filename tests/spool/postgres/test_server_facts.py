"""What `check` says of a database is what the database is."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
from spool.postgres.conftest import open_spool

from forwarder.spool.postgres.layout_steps import LAYOUT
from forwarder.spool.postgres.server_facts import CONNECTIONS, ServerFacts, judge, look, read_server, read_value
from stand_ins import postgres_server
from stand_ins.postgres_server import PostgresServer
from stand_ins.waiting import wait_until

_GOOD = ServerFacts(
    version="15.18",
    version_number=150_018,
    encoding="UTF8",
    is_synced=True,
    keeps_whole_pages=True,
    synchronous_commit="on",
    standby_names="",
    standbys=0,
    connections_max=97,
    connections=7,
    database_connections_max=None,
    database_connections=5,
    user_connections_max=None,
    user_connections=3,
    xmin_age=12,
    sees_all_sessions=True,
    may_create=True,
    has_rudder_server=False,
)


def _bad(facts: ServerFacts) -> list[tuple[str, str]]:
    return [(remark.level, remark.text) for remark in judge(facts) if remark.level != "ok"]


def test_a_good_server_has_no_bad_remark() -> None:
    """Nothing to do; what was looked at is said."""
    assert not _bad(_GOOD)
    texts = " ".join(remark.text for remark in judge(_GOOD))
    assert "Postgres 15.18" in texts
    assert "90 connections free" in texts


@pytest.mark.parametrize(
    ("changed", "level", "text"),
    [
        ({"version_number": 120_022, "version": "12.22"}, "fail", "12.22 is too old"),
        ({"is_synced": False}, "fail", "fsync is off"),
        ({"encoding": "SQL_ASCII"}, "fail", "encoding is SQL_ASCII"),
        ({"keeps_whole_pages": False}, "warn", "full_page_writes"),
        ({"standbys": 1}, "warn", "the standby is asynchronous"),
        ({"standby_names": "two"}, "warn", "no standby is connected"),
        ({"connections": 97 - 2 * CONNECTIONS + 1}, "warn", "13 connections free"),
        ({"connections": 200}, "warn", "0 connections free"),
        ({"user_connections_max": 5}, "warn", "2 connections free"),
        ({"database_connections_max": 6}, "warn", "1 connections free"),
        ({"xmin_age": 20_000_000}, "warn", "20,000,000 transactions old"),
        ({"has_rudder_server": True}, "warn", "rudder-server's too"),
    ],
)
def test_what_is_not_as_it_should_be_is_told(changed: dict[str, object], level: str, text: str) -> None:
    """One remark each, with what to do."""
    [(found, said)] = _bad(replace(_GOOD, **changed))  # type: ignore[arg-type]  # the table's values have many types
    assert found == level
    assert text in said


def test_what_is_good_enough_is_no_warning() -> None:
    """A synchronous standby, others who do not wait for their commits, and sessions that we cannot see."""
    assert not _bad(replace(_GOOD, standby_names="two", standbys=1, synchronous_commit="off", sees_all_sessions=False))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_usual_server_is_read(postgres_url: str) -> None:
    """A database as Debian's package makes it is a good one."""
    async with _connected(postgres_url) as connection:
        facts = await read_server(connection)
    assert facts.version_number >= 130_000
    assert facts.connections >= 1
    assert not _bad(facts)


async def test_tables_of_rudder_server_are_recognised(postgres_url: str) -> None:
    """In whatever schema they are; ours are not mistaken for them."""
    async with _connected(postgres_url) as connection:
        await connection.execute("CREATE TABLE jobs_1 (one int); CREATE TABLE gw_jobs_archive (one int)")
        assert not (await read_server(connection)).has_rudder_server
        await connection.execute("CREATE SCHEMA other; CREATE TABLE other.gw_jobs_1 (one int)")
        assert (await read_server(connection)).has_rudder_server


async def test_a_transaction_left_open_is_seen(postgres_url: str) -> None:
    """Its snapshot ages with every transaction of others."""
    async with _connected(postgres_url) as old, _connected(postgres_url) as connection:
        async with old.transaction(isolation="repeatable_read"):
            await old.fetchval("SELECT 1")
            for _ in range(5):
                await connection.fetchval("SELECT pg_current_xact_id()")
            assert (await read_server(connection)).xmin_age >= 5
        assert (await read_server(connection)).xmin_age < 5


@pytest.fixture
def unusual_server() -> Iterator[PostgresServer]:
    """Run a server as it should not be."""
    if postgres_server.PROGRAMS is None:
        pytest.skip(postgres_server.MISSING)
    server = PostgresServer(
        options=("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=10")
    )
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def test_an_unusual_server_is_read_by_a_user_without_rights(unusual_server: PostgresServer) -> None:
    """What is off, who may not create, what the encoding is, and which limits hold."""
    unusual_server.ask("CREATE ROLE poor LOGIN CONNECTION LIMIT 2")
    unusual_server.ask("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    poor = f"postgresql://poor@{unusual_server.address}/bytes"
    async with _connected(unusual_server.url()), _connected(poor) as connection:
        facts = await read_server(connection)
    assert (facts.is_synced, facts.keeps_whole_pages, facts.synchronous_commit) == (False, False, "off")
    assert (facts.sees_all_sessions, facts.may_create, facts.encoding) == (False, False, "SQL_ASCII")
    assert (facts.connections_max, facts.user_connections_max, facts.user_connections) == (7, 2, 1)
    assert (facts.connections, facts.connections_free) == (2, 1)


async def _is_alone(connection: asyncpg.Connection) -> bool:
    return (await read_server(connection)).standbys == 0


async def test_standbys_are_counted() -> None:
    """One that commits wait for is seen by a user without rights, too."""
    if postgres_server.PROGRAMS is None:
        pytest.skip(postgres_server.MISSING)
    primary = PostgresServer()
    try:
        primary.start()
        primary.ask("CREATE ROLE poor LOGIN")
        standby = primary.standby("second")
        try:
            async with _connected(f"postgresql://poor@{primary.address}/postgres") as connection:
                facts = await read_server(connection)
                assert (facts.standbys, facts.standby_names) == (1, "second")
                standby.stop()
                await wait_until(lambda: _is_alone(connection))
                assert "commits may hang" in _bad(await read_server(connection))[0][1]
        finally:
            standby.remove()
    finally:
        primary.remove()


async def test_the_schema_is_judged_with_the_server(postgres_url: str) -> None:
    """Before the first start, while replicas run, by a user without rights, after a later version: each is told."""

    async def said(url: str = postgres_url) -> tuple[str, str]:
        remark = (await look(lambda: url))[-1]
        return remark.level, remark.text

    assert await said() == ("ok", "nothing is kept there yet; the schema forwarder is made at the start")
    spool = await open_spool(postgres_url)
    assert await said() == ("ok", f"layout {LAYOUT}; 1 replica runs")
    await spool.put("links", b"[]")
    await spool.close()
    assert await read_value(lambda: postgres_url, "links") == b"[]"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN")
        level, text = await said(postgres_url.replace("forwarder@", "stranger@"))
        assert (level, "GRANT USAGE, CREATE ON SCHEMA" in text) == ("fail", True)
        await connection.execute(
            "INSERT INTO forwarder.layout (number, step, made_by) VALUES ($1, $1, '9.9')", LAYOUT + 1
        )
        await connection.execute("DROP ROLE stranger")
    finally:
        await connection.close()
    level, text = await said()
    assert (level, "run forwarder 9.9 or a later one" in text) == ("fail", True)


async def test_what_keeps_us_out_is_told() -> None:
    """A server that is not there is one failure, with the address; no value is read from it."""
    url = "postgresql://u:hunter2@127.0.0.1:1/x"
    (remark,) = await look(lambda: url)
    assert (remark.level, "127.0.0.1:1" in remark.text, "hunter2" in remark.text) == ("fail", True, False)
    assert await read_value(lambda: url, "links") is None
