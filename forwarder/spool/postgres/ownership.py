"""Which partitions are this replica's, and until when it may act on them.

A partition has one owner, by a row of the database; the owner lives as long as it renews its own row, by the database's
clock. Locally that is counted from the moment a renewal was sent, so that it ends here before it can end there.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil
from uuid import UUID, uuid4

import asyncpg

from forwarder.clock import wait_within
from forwarder.errors import SpoolTooNew
from forwarder.spool.postgres.appends import PARTITIONS
from forwarder.spool.postgres.layout_steps import Program, look, refuse
from forwarder.spool.postgres.reconnecting import AWAY, Connection

LEASE_S = 25.0
RENEW_S = 5.0
_MARGIN_S = 1.0
_SEND_S = 11.0  # what an exchange may take, 10 s at most: with less left nothing is sent
_BEFORE_SEND_S = 2.0  # what lies between a lease and its exchange, as a rule
_RETRY_S = 0.5
_GIVE_AWAY_S = 0.2  # between two tries to give away what is too much, which nobody may lease meanwhile
_RELEASE_MAX_S = 3.0  # of the end: what is not told by then lapses

_RENEW = """
INSERT INTO forwarder.replicas (replica, until, host, layout)
VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3, $4)
ON CONFLICT (replica) DO UPDATE SET until = excluded.until
RETURNING (SELECT max(number) FROM forwarder.layout) > $4
"""
# Their rows are held while their partitions are taken over: one that renews itself just now waits, and then sees it.
_LAPSED = (
    "SELECT replica FROM forwarder.replicas WHERE until < clock_timestamp() ORDER BY replica FOR UPDATE SKIP LOCKED"
)
_TAKE = """
UPDATE forwarder.partitions SET owner = $1, epoch = epoch + 1 WHERE no IN
  (SELECT no FROM forwarder.partitions WHERE owner IS NULL OR owner = ANY($2::uuid[])
     OR NOT EXISTS (SELECT FROM forwarder.replicas WHERE replica = owner) ORDER BY no LIMIT $3 FOR UPDATE SKIP LOCKED)
"""
_BALANCE = """
SELECT (SELECT count(*) FROM forwarder.replicas WHERE until >= clock_timestamp()) AS replicas,
  EXISTS (SELECT FROM forwarder.partitions WHERE owner IS NULL) AS is_any_free
"""
_TAKE_AWAY = """
UPDATE forwarder.partitions SET owner = NULL, epoch = epoch + 1 WHERE no IN
  (SELECT no FROM forwarder.partitions WHERE no = ANY($1::smallint[]) AND (owner IS NULL OR owner = ANY($2::uuid[])
     OR NOT EXISTS (SELECT FROM forwarder.replicas WHERE replica = owner)) ORDER BY no FOR UPDATE SKIP LOCKED)
RETURNING no
"""


# The partitions of $2, at the epochs of $3, that are still owned by $1: held until the transaction ends, so that nobody
# takes them over.
HELD = """
SELECT p.no FROM forwarder.partitions p JOIN unnest($2::smallint[], $3::bigint[]) AS u(no, epoch) USING (no, epoch)
WHERE p.owner = $1 ORDER BY p.no FOR SHARE OF p
"""


@dataclass(frozen=True, slots=True)
class Share:
    """What one look at the table found."""

    owned: dict[int, int]  # partition to epoch
    replicas: int
    floors: tuple[int, int]  # by route: the lowest of its partitions'


class Ownership:
    """Keep this replica's share of the partitions."""

    def __init__(
        self,
        connection: Connection,
        program: Program,
        busy: Callable[[], Collection[int]],
        failed: Callable[[Exception], None],
    ) -> None:
        self.replica = uuid4()
        self._connection = connection
        self._failed = failed
        self.program = program
        self._busy = busy  # partitions that have events in flight: not given away
        self._owned: dict[int, int] = {}
        self._leaving: frozenset[int] = frozenset()
        self._mine: frozenset[int] = frozenset()
        self._until_s = 0.0
        self.floors = 0, 0
        self._homes: Sequence[int] = ()
        self._next_home = 0
        self._wake = asyncio.Event()
        self._is_ended = False
        # Called when `mine` changes, or this replica did not run for long; with what another owned meanwhile, or owns.
        self.changed: Callable[[Collection[int]], None] = lambda _: None

    def mine(self) -> frozenset[int]:
        """Return the partitions whose events may be leased."""
        return self._mine

    def epochs(self, partitions: Collection[int]) -> dict[int, int]:
        """Return those of these that are still owned, with their epochs."""
        return {no: self._owned[no] for no in partitions if no in self._owned}

    def home(self) -> int:
        """Return a partition for an event without order: one of this replica's own, in turn."""
        homes = self._homes or range(PARTITIONS)
        self._next_home += 1
        return homes[self._next_home % len(homes)]

    def left_s(self) -> float:
        """Return for how long this replica may act, at least."""
        return self._until_s - _now_s()

    def age(self, by_s: float) -> None:
        """Count so much time of the lease as over, as a replica finds it that did not run for so long."""
        self._until_s -= by_s

    def may_lease(self) -> bool:
        """Tell whether what is leased now can be sent in time."""
        return self.left_s() > _SEND_S + _BEFORE_SEND_S

    def leads(self) -> bool:
        """Tell whether this replica does what one does for all."""
        return 0 in self._mine and self.left_s() > 0

    def may_send(self) -> bool:
        """Tell whether an exchange that begins now ends before anyone else may take over."""
        return self.left_s() > _SEND_S

    async def look(self, connection: Connection) -> None:
        """Have the lease renewed at once where partitions are to change hands: their events wait for it."""
        async with connection.statement() as session:
            row = await session.fetchrow(_BALANCE)
        most = _most(row["replicas"])
        if len(self._owned) > most or (row["is_any_free"] and len(self._owned) < most):
            self._wake.set()

    async def renew(self) -> None:
        """Renew, take what is free, offer what is too much; raises one of `AWAY`, and `SpoolTooNew` for the end.

        Who has lapsed itself takes nothing over this time: so may all others have, while the database was away, and
        each of them may still have to settle what it had in hand.
        """
        sent_s = _now_s()
        has_lapsed = 0 < self._until_s < sent_s
        leaving = self._leaving - set(self._busy())
        async with self._connection.transaction() as connection:
            is_too_new = await connection.fetchval(
                _RENEW, self.replica, LEASE_S, socket.gethostname(), self.program.layout
            )
            if is_too_new:
                refuse(await look(connection), self.program)
            if leaving:
                await connection.execute(
                    "UPDATE forwarder.partitions SET owner = NULL WHERE owner = $1 AND no = ANY($2::smallint[])",
                    self.replica,
                    list(leaving),
                )
            share = await self._take(connection, takes_over=not has_lapsed)
        self._until_s = sent_s + LEASE_S - _MARGIN_S
        had, most = self._owned, _most(share.replicas)
        self._owned = share.owned
        self._leaving = frozenset(sorted(share.owned)[most:])
        mine = frozenset(share.owned) - self._leaving
        # An epoch that moved on means that somebody else owned it meanwhile.
        ended = {no for no, epoch in had.items() if share.owned.get(no) != epoch}
        if ended or has_lapsed or mine != self._mine:
            self._mine, self._homes, self.floors = mine, sorted(mine), share.floors
            self.changed(ended)

    async def _take(self, connection: asyncpg.Connection, *, takes_over: bool) -> Share:
        lapsed = [row[0] for row in await connection.fetch(_LAPSED)] if takes_over else []
        live = await connection.fetchval("SELECT count(*) FROM forwarder.replicas WHERE until >= clock_timestamp()")
        owned = await connection.fetchval("SELECT count(*) FROM forwarder.partitions WHERE owner = $1", self.replica)
        room = _most(live) - owned
        if room > 0:
            await connection.execute(_TAKE, self.replica, lapsed, room)
        await connection.execute(
            "DELETE FROM forwarder.replicas r WHERE replica = ANY($1::uuid[]) "
            "AND NOT EXISTS (SELECT FROM forwarder.partitions WHERE owner = r.replica)",
            lapsed,
        )
        rows = await connection.fetch(
            "SELECT no, epoch, floors FROM forwarder.partitions JOIN forwarder.floors USING (no) WHERE owner = $1",
            self.replica,
        )
        lowest = [min((row["floors"][route] for row in rows), default=0) for route in (0, 1)]
        return Share({row["no"]: row["epoch"] for row in rows}, live, (lowest[0], lowest[1]))

    async def run(self) -> None:
        """Renew until `end`; raises `SpoolTooNew` once a version is needed that knows a later layout."""
        while not self._is_ended:
            try:
                await self.renew()
                wait_s = _GIVE_AWAY_S if self._leaving else RENEW_S
            except SpoolTooNew:
                self._until_s = 0.0
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, who does not renew ends by itself
                wait_s = _RETRY_S
                self._failed(error)
            self._wake.clear()
            await wait_within(wait_s, self._wake)

    def end(self) -> None:
        """Let `run` return."""
        self._is_ended = True
        self._wake.set()

    async def release(self) -> None:
        """Give everything away at once, at the end; what cannot be told lapses by itself."""
        self._owned, self._leaving, self._mine = {}, frozenset(), frozenset()
        if self._until_s:  # else it never had any
            with contextlib.suppress(*AWAY, asyncpg.PostgresError):
                async with asyncio.timeout(_RELEASE_MAX_S), self._connection.transaction() as connection:
                    await connection.execute(
                        "UPDATE forwarder.partitions SET owner = NULL WHERE owner = $1", self.replica
                    )
                    await connection.execute("DELETE FROM forwarder.replicas WHERE replica = $1", self.replica)
        await self._connection.close()


def _most(replicas: int) -> int:
    """Return how many partitions each of so many replicas owns at most."""
    return ceil(PARTITIONS / max(1, replicas))


def _now_s() -> float:
    """Return the time on a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


async def take_away(connection: asyncpg.Connection, partitions: Collection[int]) -> set[int]:
    """Have nobody own those of these whose owner has lapsed or is gone; return what nobody owns until the end.

    An owner that comes back finds that they were another's: nothing that it has in hand of them is sent or settled.
    """
    lapsed = [row[0] for row in await connection.fetch(_LAPSED)]
    return {row[0] for row in await connection.fetch(_TAKE_AWAY, sorted(partitions), lapsed)}


async def hold(connection: asyncpg.Connection, replica: UUID, epochs: dict[int, int]) -> set[int]:
    """Hold these partitions until the transaction ends, so that nobody takes them over; return those still owned so."""
    rows = await connection.fetch(HELD, replica, list(epochs), list(epochs.values()))
    return {row[0] for row in rows}
