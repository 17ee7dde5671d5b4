"""One connection at a time to the database that takes writes, whatever stands in front of it.

The URL is read again for every connection: a password may have changed. No pool, no session state: behind PgBouncer in
transaction mode every transaction may run on another server's session. asyncpg is imported here alone.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import asyncpg

from forwarder.errors import SpoolAway
from forwarder.spool.postgres.database_url import DatabaseUrl, DatabaseUrlInvalid, Host

_STATEMENTS: Final = 100  # prepared ones that a connection keeps
_APPLICATION: Final = "forwarder"  # one name for all: PgBouncer sets it again whenever it differs
_LOOK: Final = "SELECT pg_backend_pid(), current_setting('transaction_read_only') = 'on'"
# Of what it writes now. It moves on with each promotion of a standby. Not every service that speaks Postgres tells it.
_TIMELINE: Final = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
_LASTING: Final = (
    (asyncpg.InvalidPasswordError, "it refuses the password"),
    (asyncpg.InvalidAuthorizationSpecificationError, "it does not let this user in"),
    (asyncpg.InvalidCatalogNameError, "it has no such database"),
    (asyncpg.InsufficientPrivilegeError, "this user may not connect to the database"),
)
_PASSING: Final = (
    (asyncpg.TooManyConnectionsError, "it has no connection left"),
    (asyncpg.CannotConnectNowError, "it is starting or stopping"),
)


class _Unfit(Exception):
    """Why one host cannot be used now; `is_lasting` if only other settings or another server help."""

    def __init__(self, why: str, *, is_lasting: bool = False) -> None:
        super().__init__(why)
        self.is_lasting = is_lasting


class Connector:
    """Open connections. Safe for concurrent use on one loop."""

    def __init__(self, read_url: Callable[[], str]) -> None:
        """Keep where the URL is read; `read_url` may block and raise `DatabaseUrlInvalid`."""
        self._read_url = read_url
        self._is_pooled: bool | None = None  # None: not known yet
        self._last: Host | None = None  # the one that was good last
        self._timeline = ""  # of the last connection; "" where it is not told
        # Called before a connection is handed out whose server is another than the last one's: a standby that was
        # promoted, which may lack what was committed last.
        self.promoted: Callable[[], None] = lambda: None

    @property
    def is_pooled(self) -> bool:
        """Tell whether a pooler such as PgBouncer stood between, at the last connection."""
        return self._is_pooled is True

    async def open(self, *, answer_max_s: float = 10.0) -> asyncpg.Connection:
        """Return a connection to the first host that takes writes, the one that was good last before all others.

        A statement that has no answer after `answer_max_s` raises TimeoutError; the connection should then be ended
        with `terminate`, not `close`. Raises `SpoolAway`.
        """
        try:
            url = DatabaseUrl.parse(await asyncio.to_thread(self._read_url))
        except DatabaseUrlInvalid as error:
            raise SpoolAway(f"FORWARDER_POSTGRES_URL: {error}", is_lasting=True) from None
        unfit: list[tuple[Host, _Unfit]] = []
        for host in sorted(url.hosts, key=lambda one: one != self._last):
            try:
                async with asyncio.timeout(url.host_max_s):
                    connection = await self._open(url, host, answer_max_s)
            except TimeoutError:
                unfit.append((host, _Unfit(f"it did not let us in within {url.host_max_s:g} s")))
            except _Unfit as error:
                unfit.append((host, error))
            else:
                self._last = host
                await self._look_at_timeline(connection)
                return connection
        raise _away(unfit)

    async def _open(self, url: DatabaseUrl, host: Host, answer_max_s: float) -> asyncpg.Connection:
        while True:
            # Behind a pooler a prepared statement would be missing, or another's, in the next transaction.
            keeps_statements = self._is_pooled is False
            connection = await _connect(url, host, answer_max_s, _STATEMENTS if keeps_statements else 0)
            try:
                async with connection.transaction():
                    pid, is_read_only = await connection.fetchrow(_LOOK)
            except BaseException as error:
                connection.terminate()
                self._is_pooled = None
                if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                    raise _unfit(error) from None
                raise
            if is_read_only:
                connection.terminate()
                raise _Unfit("it takes no writes (a standby?)")
            # A pooler makes up the process id that it names at the login.
            self._is_pooled = pid != connection.get_server_pid()
            if self._is_pooled is not keeps_statements:
                return connection
            connection.terminate()

    async def _look_at_timeline(self, connection: asyncpg.Connection) -> None:
        try:
            before, self._timeline = self._timeline, await connection.fetchval(_TIMELINE)
        except asyncpg.PostgresError:
            return
        except BaseException:
            connection.terminate()
            raise
        if before and self._timeline != before:
            self.promoted()


async def _connect(url: DatabaseUrl, host: Host, answer_max_s: float, statements: int) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(
            f"postgresql:///?{url.tls_query}" if url.tls and not url.takes_system_roots else None,
            host=host.name,
            port=host.port,
            user=url.user,
            password=url.password,
            passfile=url.passfile,
            database=url.database,
            ssl=_system_roots(url) if url.takes_system_roots else None,
            target_session_attrs="any",
            server_settings={"application_name": _APPLICATION},
            statement_cache_size=statements,
            command_timeout=answer_max_s,
            timeout=url.host_max_s,
        )
    except TimeoutError:
        raise
    except (FileNotFoundError, PermissionError) as error:
        if host.name.startswith("/"):
            raise _unfit(error) from None
        raise _Unfit("a file of sslrootcert, sslcert, sslkey or sslcrl cannot be read", is_lasting=True) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise _unfit(error) from None


def _system_roots(url: DatabaseUrl) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificate := url.tls.get("sslcert"):
        context.load_cert_chain(certificate, url.tls.get("sslkey"), url.tls.get("sslpassword", ""))
    return context


def _unfit(error: Exception) -> _Unfit:
    """Say what is the matter in words of our own: the server's and the library's may quote what we sent."""
    if found := next((why for kind, why in _LASTING if isinstance(error, kind)), _of_tls(error)):
        return _Unfit(found, is_lasting=True)
    if found := next((why for kind, why in _PASSING if isinstance(error, kind)), None):
        return _Unfit(found)
    if isinstance(error, asyncpg.PostgresError):
        return _Unfit(f"it answers {type(error).__name__} ({error.sqlstate})")
    return _Unfit(f"it cannot be reached ({type(error).__name__})")


def _of_tls(error: Exception) -> str | None:
    """Say what is wrong with TLS, or None if it is something else."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS fails: {error.reason}"
        case ConnectionError() if "rejected SSL" in str(error):
            return "it offers no TLS, which sslmode asks for"
        case asyncpg.ClientConfigurationError():
            return "sslmode needs sslrootcert: a file, or system for the machine's own roots"
        case _:
            return None


def _away(unfit: Sequence[tuple[Host, _Unfit]]) -> SpoolAway:
    text = "; ".join(f"{host}: {error}" for host, error in unfit)
    return SpoolAway(f"the database cannot be used: {text}", is_lasting=any(error.is_lasting for _, error in unfit))
