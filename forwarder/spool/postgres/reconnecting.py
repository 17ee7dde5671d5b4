"""Connections to Postgres, for a server that may go away at any moment, and for PgBouncer in transaction mode.

Nothing outlives a transaction: no session settings, no listening, no session locks. A connection that failed is thrown
away; the next transaction opens another.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from forwarder.errors import SpoolAway, SpoolUnusable
from forwarder.spool.postgres.connecting import Connector

_END_MAX_S = 5.0
VACUUM_TIMEOUT_S = 300.0
STATEMENT_TIMEOUT_S = 8  # below Courier's 10 s: who waits for an answer is told before the sender gives up
# A replica that is stopped in the middle of a transaction holds its locks no longer than others wait for them.
_IDLE_TIMEOUT_S = 5
# A table that was made a minute ago has no statistics, and a plan for it that reads all of it is kept for long: a drain
# of 1,000 events a second was measured instead of 17,000. Every statement here goes by an index.
_BY_INDEX = (
    "SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; "
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_material = off"
)
_LIMITS = (
    f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'; "
    f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'; " + _BY_INDEX
)
# Who tidies puts other tables into the place of a block's, see `blocks.py`. A snapshot of before sees none of their
# rows; so this comes before it: nothing is replaced while it lasts.
IN_PLACE = "LOCK TABLE ONLY forwarder.events IN ACCESS SHARE MODE"
_BEGIN = "BEGIN; SET LOCAL synchronous_commit = on; " + _LIMITS
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; " + _LIMITS + "; " + IN_PLACE

# What says nothing against a job: the same may succeed at once, in another transaction.
AGAIN = (
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.CheckViolationError,  # no table takes the next sequences yet
)
AWAY = (
    SpoolAway,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # shut down, crashed, a statement that took too long
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InvalidTransactionStateError,  # among them: a standby, or a primary that was demoted
    asyncpg.ObjectNotInPrerequisiteStateError,
    *AGAIN,
    OSError,
    TimeoutError,
)


def words(error: BaseException) -> str:
    """Return what can be told of a failure: its kind, never its text, which may quote a value."""
    if isinstance(error, asyncpg.DiskFullError):
        return "the database's disk is full"
    if isinstance(error, SpoolAway):
        return str(error)
    return f"the database is away ({type(error).__name__})"


def unusable(error: BaseException) -> Exception | None:
    """Return what it means for an opening: `SpoolAway`, `SpoolUnusable`, or None for an error of its own."""
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return SpoolUnusable(
            "the database's user may not make or use the schema forwarder: GRANT CREATE ON DATABASE to it, or make it "
            "the schema's owner"
        )
    return SpoolAway(words(error)) if isinstance(error, AWAY) and not isinstance(error, SpoolAway) else None


class Connection:
    """One connection, opened when it is needed; one transaction at a time, others wait their turn."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self._is_closed = False
        self.opened = 0  # how often: whoever keeps count of what a session did starts anew with each

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Do what is inside in one transaction, synced at its end.

        What it raises rolls back. After an error of `AWAY` raised by the end itself nobody knows whether it was done.
        """
        async with self._used(_BEGIN) as connection:
            yield connection
            if connection.is_in_transaction():  # the last statement may have brought the end with it
                await connection.execute("COMMIT")

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[asyncpg.Connection]:
        """Read what is inside as of one moment. There must be a spool."""
        async with self._used(_BEGIN_READ) as connection:
            yield connection
            await connection.execute("COMMIT")

    @contextlib.asynccontextmanager
    async def statement(self) -> AsyncIterator[asyncpg.Connection]:
        """Run single statements, each a transaction of its own."""
        is_pooled = self._connector.is_pooled  # then what prepares and what runs it must be one transaction
        async with self._used(_BEGIN if is_pooled else "") as connection:
            yield connection
            if is_pooled:
                await connection.execute("COMMIT")

    async def vacuum(self, tables: str) -> None:
        """Take what was deleted out of these tables; no transaction may be around it."""
        async with self._used("") as connection:
            await connection.execute(f"VACUUM {tables}", timeout=VACUUM_TIMEOUT_S)

    @contextlib.asynccontextmanager
    async def _used(self, begin: str) -> AsyncIterator[asyncpg.Connection]:
        async with self._turn:
            try:
                connection = await self._opened()
                if begin:
                    await connection.execute(begin)
                yield connection
            except BaseException as error:
                await self._after(error)
                raise

    async def _opened(self) -> asyncpg.Connection:
        if self._is_closed:
            raise asyncpg.InterfaceError("closed")
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connector.open()
            self.opened += 1
        return self._connection

    async def _after(self, error: BaseException) -> None:
        """Roll back; a connection that cannot, or whose statement was cut off, goes."""
        connection = self._connection
        if connection is None or connection.is_closed():
            self._connection = None
            return
        if isinstance(error, Exception) and not isinstance(error, OSError | TimeoutError):
            with contextlib.suppress(*AWAY):
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK", timeout=_END_MAX_S)
                return
        connection.terminate()
        self._connection = None

    async def close(self) -> None:
        """End it once what is under way is done."""
        async with self._turn:
            self._is_closed = True
            connection, self._connection = self._connection, None
            if connection is not None and not connection.is_closed():
                try:
                    await connection.close(timeout=_END_MAX_S)
                except AWAY:
                    connection.terminate()
