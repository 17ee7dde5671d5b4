"""Is this Postgres one that a spool may live in? What `check` reads of the server, and what it says of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import asyncpg

from forwarder.errors import SpoolAway
from forwarder.spool.postgres.connecting import Connector
from forwarder.spool.postgres.layout_steps import LAYOUT, too_new
from forwarder.spool.postgres.layout_steps import look as look_at_layout

Level = Literal["ok", "warn", "fail"]  # as `check` has them

CONNECTIONS: Final = 7  # that a replica takes at most
_VERSION_MIN: Final = 130_000  # pg_current_xact_id
_XMIN_AGE_MAX: Final = 10_000_000  # transactions
_REPLICAS_LEAST: Final = 2
# Tables of rudder-server's queue, such as gw_jobs_12 and batch_rt_job_status_3.
_RUDDER_TABLES: Final = "^(gw|rt|batch_rt|proc_error|arc|esch)_(jobs|job_status)_[0-9]"

# One row of one snapshot. Of other users' sessions everybody sees database and user, and only members of
# pg_read_all_stats (or pg_monitor) what they are and hold. Walsenders have no database and a limit of their own.
_READ: Final = """
SELECT
  current_setting('server_version') AS version,
  current_setting('server_version_num')::int AS version_number,
  current_setting('server_encoding') AS encoding,
  current_setting('fsync') = 'on' AS is_synced,
  current_setting('full_page_writes') = 'on' AS keeps_whole_pages,
  current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('synchronous_standby_names') AS standby_names,
  (SELECT count(*) FROM pg_stat_replication)::int AS standbys,
  current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int AS connections_max,
  (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL)::int AS connections,
  (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()) AS database_connections_max,
  (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())::int AS database_connections,
  (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user) AS user_connections_max,
  (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)::int AS user_connections,
  greatest(
    (SELECT max(age(backend_xmin)) FROM pg_stat_activity),
    (SELECT max(age(xmin)) FROM pg_replication_slots),
    (SELECT max(age(transaction)) FROM pg_prepared_xacts),
    0
  ) AS xmin_age,
  pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all_sessions,
  has_database_privilege(current_database(), 'CREATE') AS may_create,
  EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p') AND relname ~ $1) AS has_rudder_server
"""


_SCHEMA: Final = """
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'forwarder') AS exists,
  EXISTS (SELECT FROM pg_namespace WHERE nspname = 'forwarder'
    AND has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE')) AS is_ours
"""
_REPLICAS: Final = "SELECT count(*) FROM forwarder.replicas WHERE until >= clock_timestamp()"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What the server said, in one snapshot. The connection that asked is counted among the others."""

    version: str
    version_number: int  # 150018 is 15.18
    encoding: str
    is_synced: bool
    keeps_whole_pages: bool
    synchronous_commit: str  # of other sessions; ours set their own
    standby_names: str
    standbys: int  # connected now, synchronous or not
    connections_max: int  # for those who are no superuser
    connections: int
    database_connections_max: int | None  # None: no limit of its own
    database_connections: int
    user_connections_max: int | None
    user_connections: int
    xmin_age: int  # in transactions
    sees_all_sessions: bool
    may_create: bool
    has_rudder_server: bool

    @property
    def connections_free(self) -> int:
        """Return how many more connections we could have."""
        limits = (
            (self.connections_max, self.connections),
            (self.database_connections_max, self.database_connections),
            (self.user_connections_max, self.user_connections),
        )
        return max(0, min(most - taken for most, taken in limits if most is not None))


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing of the server: how it is and, unless ok, what to do."""

    level: Level
    text: str


async def read_server(connection: asyncpg.Connection) -> ServerFacts:
    """Read them. Raises what asyncpg raises."""
    async with connection.transaction(readonly=True):
        row = await connection.fetchrow(_READ, _RUDDER_TABLES)
    return ServerFacts(**row)


async def look(read_url: Callable[[], str]) -> Sequence[Remark]:
    """Connect, and say how the server and our schema in it are. What keeps us out is a remark, too."""
    connector = Connector(read_url)
    try:
        connection = await connector.open()
    except SpoolAway as error:
        return [Remark("fail", str(error))]
    try:
        facts = await read_server(connection)
        said = [*judge(facts), await _schema(connection, may_create=facts.may_create)]
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        return [Remark("fail", f"the database does not answer ({type(error).__name__})")]
    finally:
        connection.terminate()
    if connector.is_pooled:
        said.append(Remark("ok", "a pooler stands between: transaction mode is enough"))
    return said


async def read_value(read_url: Callable[[], str], key: str) -> bytes | None:
    """Return a small value of the daemon's own; None for none, and where nothing can be read."""
    try:
        connection = await Connector(read_url).open()
    except SpoolAway:
        return None
    try:
        async with connection.transaction(readonly=True):
            found: bytes | None = await connection.fetchval(
                "SELECT value FROM forwarder.kept_values WHERE key = $1", key
            )
            return found
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        return None
    finally:
        connection.terminate()


async def _schema(connection: asyncpg.Connection, *, may_create: bool) -> Remark:
    async with connection.transaction(readonly=True):
        row = await connection.fetchrow(_SCHEMA)
        if not row["exists"]:
            if not may_create:
                return Remark(
                    "fail", "there is no schema yet, and this user may not create it: GRANT CREATE ON DATABASE"
                )
            return Remark("ok", "nothing is kept there yet; the schema forwarder is made at the start")
        if not row["is_ours"]:
            return Remark(
                "fail", "this user may not use the schema forwarder: GRANT USAGE, CREATE ON SCHEMA, or be its owner"
            )
        found = await look_at_layout(connection)
        replicas = await connection.fetchval(_REPLICAS)
    if found.is_unfinished:
        return Remark("fail", "a move into this database was begun and is not complete: run `forwarder migrate` again")
    if found.needed > LAYOUT:
        return Remark("fail", too_new(found))
    moved = "" if found.step >= LAYOUT else f", moved on to {LAYOUT} at the next start"
    return Remark("ok", f"layout {found.step}{moved}; {replicas} {'replica runs' if replicas == 1 else 'replicas run'}")


def judge(facts: ServerFacts) -> Iterator[Remark]:
    """Say what is right and what is not; a `fail` means that no spool may live there. Pure."""
    yield _version(facts)
    yield _disk(facts)
    yield _standbys(facts)
    yield _connections(facts)
    yield _oldest(facts)
    if facts.encoding != "UTF8":
        yield Remark("fail", f"the database's encoding is {facts.encoding}: create one with ENCODING 'UTF8'")
    if facts.has_rudder_server:
        yield Remark(
            "warn",
            "the database is rudder-server's too: its backlog and ours slow each other down. Use a database, better a "
            "server, of its own",
        )


def _version(facts: ServerFacts) -> Remark:
    if facts.version_number < _VERSION_MIN:
        return Remark("fail", f"Postgres {facts.version} is too old: 13 is the least")
    return Remark("ok", f"Postgres {facts.version}")


def _disk(facts: ServerFacts) -> Remark:
    if not facts.is_synced:
        return Remark("fail", "fsync is off: a crash loses what was acknowledged. Set fsync = on")
    if not facts.keeps_whole_pages:
        return Remark(
            "warn", "full_page_writes is off: a crash may damage pages unless the file system prevents it. Set it on"
        )
    others = "" if facts.synchronous_commit == "on" else f" (others commit with {facts.synchronous_commit})"
    return Remark("ok", f"fsync is on, our commits wait for the disk{others}")


def _standbys(facts: ServerFacts) -> Remark:
    if facts.standby_names and not facts.standbys:
        return Remark(
            "warn",
            f"synchronous_standby_names is {facts.standby_names}, but no standby is connected: commits may hang",
        )
    if facts.standby_names:
        return Remark(
            "ok", f"commits wait for a standby ({facts.standby_names}): a failover loses nothing acknowledged"
        )
    if facts.standbys:
        return Remark(
            "warn",
            "the standby is asynchronous: a failover may lose events acknowledged in its last moments. Set "
            "synchronous_standby_names",
        )
    return Remark("ok", "no standby that the server knows of")


def _connections(facts: ServerFacts) -> Remark:
    free = facts.connections_free
    text = f"{free} connections free; a replica takes up to {CONNECTIONS}"
    if free < CONNECTIONS * _REPLICAS_LEAST:
        return Remark("warn", f"{text}. Raise max_connections or the limit of the user or database, or use PgBouncer")
    return Remark("ok", text)


def _oldest(facts: ServerFacts) -> Remark:
    seen = "" if facts.sees_all_sessions else " that this user sees (GRANT pg_monitor shows all)"
    text = f"the oldest snapshot{seen} is {facts.xmin_age:,} transactions old"
    if facts.xmin_age > _XMIN_AGE_MAX:
        return Remark(
            "warn",
            f"{text}: nothing dead since then is removed. End the transaction, prepared transaction or replication "
            "slot that holds it",
        )
    return Remark("ok", text)
