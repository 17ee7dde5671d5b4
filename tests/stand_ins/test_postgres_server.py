"""The stand-in database keeps what a database promises, and leaves nothing behind."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from stand_ins import postgres_server as module
from stand_ins.postgres_server import MISSING, PROGRAMS, PostgresServer
from stand_ins.served import ServerFailed

pytestmark = pytest.mark.skipif(PROGRAMS is None, reason=MISSING)


@contextmanager
def _removed(server: PostgresServer) -> Iterator[PostgresServer]:
    try:
        yield server
    finally:
        server.remove()


async def test_a_test_has_an_empty_database_of_its_own(postgres_url: str) -> None:
    """It syncs every commit, and holds no table."""
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        await connection.execute("CREATE TABLE only_here (one int)")
    finally:
        await connection.close()


def test_the_next_test_does_not_see_it(postgres_server: PostgresServer, postgres_url: str) -> None:
    """The table of the test before is gone, with its database."""
    database = postgres_url.rpartition("/")[2]
    assert postgres_server.ask("SELECT count(*) FROM pg_class WHERE relname = 'only_here'", database=database) == "0"
    assert postgres_server.ask("SELECT count(*) FROM pg_database WHERE NOT datistemplate") == "2"


def test_what_was_committed_outlives_a_stop_at_once() -> None:
    """It comes back on its port with the row, and ends without leaving a process or a folder."""
    with _removed(PostgresServer()) as server:
        server.start()
        server.ask("CREATE TABLE kept (one int)")
        server.ask("INSERT INTO kept VALUES (1)")
        address = server.address
        server.stop("immediate")
        with pytest.raises(ServerFailed, match="refused"):
            server.ask("SELECT 1")
        server.start()
        assert server.address == address
        assert server.ask("SELECT one FROM kept") == "1"
    assert not server.is_running
    assert not server.folder.exists()


async def test_a_synchronous_standby_takes_over_what_was_committed() -> None:
    """The primary is gone at once; a URL with both finds the row on the other one, which takes new ones."""
    with _removed(PostgresServer()) as primary:
        primary.start()
        with _removed(primary.standby("second")) as second:
            assert primary.ask("SHOW synchronous_standby_names") == "second"
            primary.ask("CREATE TABLE kept (one int)")
            primary.ask("INSERT INTO kept VALUES (1)")
            primary.stop("immediate")
            await asyncio.to_thread(second.promote)
            connection = await asyncpg.connect(
                f"postgresql://forwarder@{primary.address},{second.address}/postgres", target_session_attrs="read-write"
            )
            try:
                assert await connection.fetchval("SELECT one FROM kept") == 1
                await connection.execute("INSERT INTO kept VALUES (2)")
            finally:
                await connection.close()


def test_a_start_that_fails_says_why_and_leaves_no_process() -> None:
    """A setting that there is none of: the error ends with the server's own words."""
    with _removed(PostgresServer(options=("no_such=1",))) as server:
        with pytest.raises(ServerFailed, match="no_such"):
            server.start()
        assert not server.is_running


def test_without_the_programs_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a server where none is learns the package's name."""
    with _removed(PostgresServer()) as server:
        monkeypatch.setattr(module, "PROGRAMS", None)
        with pytest.raises(ServerFailed, match="Debian's package postgresql"):
            server.start()
