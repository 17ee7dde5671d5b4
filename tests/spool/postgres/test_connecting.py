"""A connection is to a server that takes writes and proved who it is, with the password of now; or why not is said."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from forwarder.errors import SpoolAway
from forwarder.spool.postgres.connecting import Connector
from stand_ins import pgbouncer, postgres_server
from stand_ins.listener import HOST, free_port
from stand_ins.pgbouncer import PgBouncer
from stand_ins.postgres_server import PostgresServer

needs_postgres = pytest.mark.skipif(postgres_server.PROGRAMS is None, reason=postgres_server.MISSING)
needs_pgbouncer = pytest.mark.skipif(pgbouncer.PROGRAM is None, reason=pgbouncer.MISSING)
_OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(_OPENSSL is None, reason="openssl is not on this machine (Debian's package openssl)")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return certificate and key of a server that is called localhost; it is its own root."""
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "root.crt", folder / "server.key"
    subprocess.run(  # noqa: S603 - our own words
        [
            *(_OPENSSL or "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-out", str(certificate), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture(scope="module")
def strict_server(certificate: tuple[Path, Path]) -> Iterator[PostgresServer]:
    """Run a server with TLS and few connections; its user `app` has the password `old`."""
    server = PostgresServer(
        options=(
            *("ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"),
            *("max_connections=6", "superuser_reserved_connections=3"),
        ),
        rules=("host all app 127.0.0.1/32 scram-sha-256", "host all stranger all reject"),
    )
    try:
        server.keep("server.crt", certificate[0].read_bytes())
        server.keep("server.key", certificate[1].read_bytes())
        server.start()
        server.ask("CREATE ROLE app LOGIN PASSWORD 'old'")
        yield server
    finally:
        server.remove()


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have a home without a root of libpq's."""
    monkeypatch.setenv("HOME", str(tmp_path))


async def _asked(url: str, statement: str = "SELECT 1") -> object:
    connection = await Connector(lambda: url).open()
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def _refusal(url: str) -> SpoolAway:
    with pytest.raises(SpoolAway) as caught:
        await Connector(lambda: url).open()
    return caught.value


async def test_a_connection_is_known_by_its_name(postgres_url: str) -> None:
    """Who looks at the database's sessions sees whose they are; statements are prepared once and kept."""
    connector = Connector(lambda: postgres_url)
    connection = await connector.open()
    try:
        assert await connection.fetchval("SHOW application_name") == "forwarder"
        assert not connector.is_pooled
        await connection.fetchval("SELECT 1")
        assert await connection.fetchval("SELECT count(*) > 0 FROM pg_prepared_statements")
    finally:
        await connection.close()


async def test_a_statement_without_an_answer_ends(postgres_url: str) -> None:
    """A server that went away without a word is noticed."""
    connection = await Connector(lambda: postgres_url).open(answer_max_s=0.1)
    try:
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT pg_sleep(60)")
    finally:
        connection.terminate()


@pytest.fixture
def bouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """Run a PgBouncer with fewer sessions than the tests have connections."""
    bouncer = PgBouncer(server=postgres_server)
    bouncer.start()
    yield bouncer
    bouncer.stop()


async def _sessions_of(connections: list[asyncpg.Connection]) -> set[int]:
    """Run transactions with parameters on the last of three; return which of the database's two sessions it had."""
    first, second, last = connections

    async def work(connection: asyncpg.Connection) -> int:
        assert await connection.fetchval("SELECT $1::int + 1", 1) == 2
        session: int = await connection.fetchval("SELECT pg_backend_pid()")
        return session

    sessions = set()
    try:
        async with contextlib.AsyncExitStack() as held:
            async with first.transaction():
                await work(first)
                async with last.transaction():  # only one session is left for it
                    sessions.add(await work(last))
                await held.enter_async_context(second.transaction())
                await work(second)
            async with last.transaction():  # and now only the other one
                sessions.add(await work(last))
    finally:
        for connection in connections:
            connection.terminate()
    return sessions


@needs_pgbouncer
async def test_behind_pgbouncer_no_statement_is_kept(bouncer: PgBouncer, postgres_url: str) -> None:
    """It is found out by itself, and transactions on changing sessions find what they need."""
    url = bouncer.url(postgres_url.rpartition("/")[2])
    connector = Connector(lambda: url)
    sessions = await _sessions_of([await connector.open() for _ in range(3)])
    assert connector.is_pooled
    assert len(sessions) == bouncer.sessions, "no connection changed its session, so nothing was proved"


@needs_pgbouncer
async def test_kept_statements_would_break_behind_pgbouncer(bouncer: PgBouncer, postgres_url: str) -> None:
    """The control: the same fails when connections keep their statements."""
    url = bouncer.url(postgres_url.rpartition("/")[2])
    with pytest.raises(asyncpg.InvalidSQLStatementNameError):
        await _sessions_of([await asyncpg.connect(url) for _ in range(3)])


@needs_postgres
async def test_the_host_that_takes_writes_is_found_and_tried_first_from_then_on() -> None:
    """A standby and a host that is silent are passed over; after a failover the other one is found."""
    primary = PostgresServer()
    silent = socket.create_server((HOST, 0))
    try:
        primary.start()
        standby = primary.standby("second")
        try:
            hosts = f"{HOST}:{silent.getsockname()[1]},{standby.address},{primary.address}"
            url = f"postgresql://forwarder@{hosts}/postgres?connect_timeout=1"
            connector = Connector(lambda: url)
            loop = asyncio.get_running_loop()
            await (await connector.open()).close()
            began_s = loop.time()
            await (await connector.open()).close()
            assert loop.time() - began_s < 1, "the silent host was asked again"
            primary.stop("immediate")
            with pytest.raises(SpoolAway, match=r"cannot be reached.*let us in within 1 s.*takes no writes"):
                await connector.open()
            await asyncio.to_thread(standby.promote)
            connection = await connector.open()
            assert await connection.fetchval("SELECT inet_server_port()") == standby.port
            await connection.close()
        finally:
            standby.remove()
    finally:
        silent.close()
        primary.remove()


@needs_postgres
@needs_openssl
class TestStrict:
    """A server that wants passwords and offers TLS."""

    async def test_a_password_that_changed_is_read_for_the_next_connection(self, strict_server: PostgresServer) -> None:
        """No restart is needed; with the old one the error says what is refused, and not what was sent."""
        password = "old"
        connector = Connector(lambda: f"postgresql://app:{password}@{strict_server.address}/postgres")
        await (await connector.open()).close()
        strict_server.ask("ALTER ROLE app PASSWORD 'new'")
        try:
            with pytest.raises(SpoolAway, match="refuses the password") as caught:
                await connector.open()
            assert caught.value.is_lasting
            assert "app" not in str(caught.value)
            password = "new"
            await (await connector.open()).close()
        finally:
            strict_server.ask("ALTER ROLE app PASSWORD 'old'")

    async def test_a_certificate_of_a_known_root_and_the_right_name_is_taken(
        self, strict_server: PostgresServer, certificate: tuple[Path, Path]
    ) -> None:
        """`verify-full` connects, and what is said is encrypted."""
        url = f"postgresql://app:old@localhost:{strict_server.port}/postgres"
        statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await _asked(f"{url}?sslmode=verify-full&sslrootcert={certificate[0]}", statement) is True
        assert await _asked(f"{url}?sslmode=disable", statement) is False

    @pytest.mark.usefixtures("no_home")
    @pytest.mark.parametrize(
        ("host", "query", "why"),
        [
            ("127.0.0.1", "sslmode=verify-full&sslrootcert={root}", "certificate is not accepted: IP address mismatch"),
            ("localhost", "sslmode=verify-full&sslrootcert=system", "certificate is not accepted: self-signed"),
            ("localhost", "sslrootcert=system", "certificate is not accepted: self-signed"),
            ("localhost", "sslmode=verify-full&sslrootcert=/no/such", "cannot be read"),
            ("localhost", "sslmode=verify-full", "sslrootcert: a file, or system"),
        ],
    )
    async def test_any_other_certificate_is_refused(
        self, strict_server: PostgresServer, certificate: tuple[Path, Path], host: str, query: str, why: str
    ) -> None:
        """Before the password is sent, with what is wrong."""
        asked = query.format(root=certificate[0])
        away = await _refusal(f"postgresql://app:old@{host}:{strict_server.port}/postgres?{asked}")
        assert why in str(away)
        assert away.is_lasting

    @pytest.mark.parametrize(
        ("login", "database", "why"),
        [
            ("app:wrong", "postgres", "refuses the password"),
            ("stranger", "postgres", "does not let this user in"),
            ("app:old", "nothing", "no such database"),
        ],
    )
    async def test_a_login_that_cannot_work_lasts(
        self, strict_server: PostgresServer, login: str, database: str, why: str
    ) -> None:
        """Waiting does not help, so a start with it ends."""
        away = await _refusal(f"postgresql://{login}@{strict_server.address}/{database}")
        assert why in str(away)
        assert away.is_lasting

    async def test_too_many_connections_pass(self, strict_server: PostgresServer) -> None:
        """Waiting helps: the error says so."""
        url = f"postgresql://app:old@{strict_server.address}/postgres"
        taken: list[asyncpg.Connection] = []
        try:
            with contextlib.suppress(asyncpg.TooManyConnectionsError):  # a test before may still have one
                while len(taken) < 100:
                    taken.append(await asyncpg.connect(url))
            away = await _refusal(url)
            assert "no connection left" in str(away)
            assert not away.is_lasting
        finally:
            for one in taken:
                await one.close()


async def test_tls_that_is_not_offered_is_not_given_up(postgres_url: str) -> None:
    """With `require` nothing is said in the clear."""
    away = await _refusal(f"{postgres_url}?sslmode=require")
    assert "offers no TLS" in str(away)
    assert away.is_lasting


async def test_a_server_that_is_down_passes() -> None:
    """Nobody listens: waiting may help."""
    away = await _refusal(f"postgresql://app:hush@{HOST}:{free_port()}/d")
    assert "cannot be reached" in str(away)
    assert "hush" not in str(away)
    assert not away.is_lasting


async def test_a_url_that_became_wrong_is_told() -> None:
    """As at the start, naming the setting."""
    assert "FORWARDER_POSTGRES_URL: it names no user" in str(await _refusal("postgresql://db/d"))
