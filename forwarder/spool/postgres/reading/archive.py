"""The reading half of the spool: what people and programs ask of what the database holds."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

import asyncpg

from forwarder.archive_port import (
    AuditRow,
    EventDetail,
    EventPage,
    EventQuery,
    EventTypeRow,
    ReasonGroup,
    SpoolFacts,
)
from forwarder.errors import NoSuchEvent, SpoolAway, SpoolClosed
from forwarder.model import RouteName, State
from forwarder.ports import Clock
from forwarder.spool.codes import ROUTES, STATE_CODES, Account, route_code, totals_of
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.reading.search import search
from forwarder.spool.postgres.reading.standing import read_detail, read_states
from forwarder.spool.postgres.reconnecting import AWAY, Connection, words
from forwarder.spool.postgres.transaction import ACCOUNTS, read_totals

# Up to its floor nothing of a partition is pending that was never given back.
_OLDEST = """
SELECT least(
  (SELECT e.received_at_ms FROM forwarder.events e
    WHERE e.route = $1 AND e.sequence > (SELECT min(floors[$1 + 1]) FROM forwarder.floors)
    AND (SELECT 1 FROM forwarder.outcomes o WHERE o.sequence = e.sequence LIMIT 1) IS NULL
    AND (SELECT 1 FROM forwarder.work w WHERE w.sequence = e.sequence LIMIT 1) IS NULL ORDER BY e.sequence LIMIT 1),
  (SELECT e.received_at_ms FROM forwarder.work w JOIN forwarder.events e ON e.sequence = w.sequence
    WHERE w.route = $1 AND w.replayed_ms IS NULL ORDER BY w.sequence LIMIT 1),
  (SELECT min(replayed_ms) FROM forwarder.work WHERE route = $1))
"""
_USED = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint, current_setting('server_version') FROM pg_class "
    "WHERE relnamespace = 'forwarder'::regnamespace AND relkind = 'r'"
)
_TYPES = """
SELECT route, type, event, sum(count)::bigint AS count, min(first_at_ms) AS first_at_ms, max(last_at_ms) AS last_at_ms
FROM forwarder.event_types WHERE $1::smallint IS NULL OR route = $1
GROUP BY route, type, event ORDER BY 6 DESC, route, type COLLATE "C", event COLLATE "C" LIMIT $2
"""
_GROUPS = """
WITH groups AS (
  SELECT r.reason, sum(c.count)::bigint AS count, array_agg(DISTINCT r.reason_id) AS ids
  FROM forwarder.reasons r JOIN forwarder.reason_counts c ON c.reason_id = r.reason_id
  WHERE r.state = $1 AND ($2::smallint IS NULL OR r.route = $2)
  GROUP BY r.reason HAVING sum(c.count) > 0 ORDER BY 2 DESC, r.reason COLLATE "C" LIMIT $3)
SELECT g.reason, g.count, s.sequence AS sample_sequence, s.settled_at_ms AS last_at_ms FROM groups g, LATERAL (
  SELECT o.sequence, o.settled_at_ms FROM unnest(g.ids) AS i(id), LATERAL (
    SELECT sequence, settled_at_ms FROM forwarder.outcomes WHERE reason_id = i.id AND is_discarded = false
    ORDER BY sequence DESC LIMIT 1) o
  ORDER BY o.sequence DESC LIMIT 1) s
ORDER BY g.count DESC, g.reason COLLATE "C"
"""
_AUDIT = "SELECT at_ms, who, action, detail, count, outcome FROM forwarder.audit ORDER BY audit_id DESC LIMIT $1"


class PostgresArchive:
    """`archive_port.Archive` of a replica, on a connection of its own; every answer is one moment's.

    While the database is away each call raises `SpoolAway`.
    """

    def __init__(
        self, connection: Connection, limits: SpoolLimits, clock: Clock, *, refused_for: Callable[[], str]
    ) -> None:
        self._read_connection = connection
        self._limits = limits
        self._clock = clock
        self._refused_for = refused_for  # why the last append was refused, or would be; "" when it would not
        self._is_closed = False
        self._last_facts: SpoolFacts | None = None

    async def facts(self) -> SpoolFacts:
        """Return the spool's state; see `archive_port.Archive.facts`. While the database is away, as it was last."""
        try:
            self._last_facts = await self._read_facts()
        except SpoolAway as error:
            if self._last_facts is None:
                raise
            return replace(self._last_facts, is_accepting=False, refusal=str(error))
        return self._last_facts

    async def _read_facts(self) -> SpoolFacts:
        async with self._snapshot() as connection:
            sums = await read_totals(connection)
            used, version = await connection.fetchrow(_USED)
            oldest = {
                name: await connection.fetchval(_OLDEST, route) if sums[route * ACCOUNTS + Account.PENDING] else None
                for route, name in enumerate(ROUTES)
            }

        def account(which: int) -> dict[RouteName, int]:
            return {name: sums[route * ACCOUNTS + which] for route, name in enumerate(ROUTES)}

        refusal = self._refused_for()
        return SpoolFacts(
            size_bytes=used,
            cap_bytes=self._limits.bytes_max,
            unsettled_bytes=account(Account.UNSETTLED_BYTES),
            totals={name: totals_of(dict(enumerate(sums[route * ACCOUNTS :]))) for route, name in enumerate(ROUTES)},
            oldest_pending_ms=oldest,
            retrying=account(Account.RETRYING),
            open_dead=account(Account.OPEN_DEAD),
            discarded=account(Account.DISCARDED),
            corrupt_rows=0,
            is_accepting=not refusal,
            refusal=refusal,
            engine=f"Postgres {version.partition(' ')[0]}",
        )

    async def events(self, query: EventQuery) -> EventPage:
        """List events; see `archive_port.Archive.events`."""
        async with self._snapshot() as connection:
            return await search(connection, query, now_s=self._clock.monotonic_s)

    async def event(self, sequence: int) -> EventDetail:
        """Return one event; raises `NoSuchEvent`."""
        async with self._snapshot() as connection:
            detail = await read_detail(connection, sequence, attempts_max=self._limits.attempts_max)
        if detail is None:
            raise NoSuchEvent(f"no event {sequence} in this spool: it never was, or its history was purged")
        return detail

    async def states(self, sequences: Sequence[int]) -> Mapping[int, State]:
        """Return the state of each of these events."""
        async with self._snapshot() as connection:
            return await read_states(connection, sequences)

    async def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """List the event types seen, last seen first."""
        async with self._snapshot() as connection:
            rows = await connection.fetch(_TYPES, route_code(route), limit)
        return [EventTypeRow(**{**dict(row.items()), "route": ROUTES[row["route"]]}) for row in rows]

    async def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Group settled, not discarded events by reason, largest first; the sample is the newest of its group."""
        if state is State.PENDING:
            return []
        async with self._snapshot() as connection:
            rows = await connection.fetch(_GROUPS, STATE_CODES[state], route_code(route), limit)
        return [ReasonGroup(**dict(row.items())) for row in rows]

    async def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """List the audit log, newest first."""
        async with self._snapshot() as connection:
            return [AuditRow(**dict(row.items())) for row in await connection.fetch(_AUDIT, limit)]

    async def get(self, key: str) -> bytes | None:
        """Return a kept value, or None; see `ports.Spool.get`."""
        async with self._snapshot() as connection:
            found: bytes | None = await connection.fetchval(
                "SELECT value FROM forwarder.kept_values WHERE key = $1", key
            )
        return found

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise SpoolClosed("the spool is closed")

    @contextlib.asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[asyncpg.Connection]:
        self._refuse_closed()
        try:
            async with self._read_connection.snapshot() as connection:
                yield connection
        except AWAY as error:
            raise SpoolAway(words(error)) from error
