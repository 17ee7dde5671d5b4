"""Read what can be leased next: what became visible since the last look, and the backlog behind a cursor.

One read is one snapshot. An event comes once: with the read that first sees its commit, if it lies before the cursor or
the cursor has caught up; else with the cursor. So nothing need be deleted for what was found, and commits that overtake
each other lose nothing.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import asyncpg

from forwarder.model import Lease
from forwarder.spool.held_leases import AHEAD_MS_MAX, KINDS
from forwarder.spool.lease_window import FRESH_MAX, Refill, Wanted
from forwarder.spool.postgres.floors import Floors
from forwarder.spool.postgres.lease_statements import (
    FLOORS,
    NEWEST,
    NEWEST_DUE,
    SINCE,
    WORK,
    lease_of,
    lease_with_history,
)
from forwarder.spool.postgres.one_read import Freed, OneRead
from forwarder.spool.postgres.own_commits import OwnCommits
from forwarder.spool.postgres.reconnecting import Connection

SEEN_MAX_S = 60.0  # what arrived before is dropped a while after it was seen, see `housekeeping.py`


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions a read saw: all before `past` but those of `running`."""

    past: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, words: str) -> "Snapshot":
        """Read `pg_current_snapshot()`: xmin, xmax and what runs between."""
        match = re.fullmatch(r"\d+:(\d+):([\d,]*)", words)
        assert match is not None, words  # noqa: S101 - Postgres' own form
        return cls(int(match[1]), tuple(int(xid) for xid in match[2].split(",") if xid))


class QueueReads:
    """What the lease queues have read, on a connection of its own. See `leasing.Reads`."""

    def __init__(
        self, connection: Connection, mine: Callable[[], Collection[int]], *, own: int, cache_bytes_max: int
    ) -> None:
        self._connection = connection
        self._opened = 0
        self._mine = mine
        self._own = own  # the writer's number
        self.commits = OwnCommits(cache_bytes_max)
        self._seen: list[Snapshot | None] = [None, None]
        self._seen_s = [0.0, 0.0]  # when
        self._floors = Floors((0, 0), ())
        self._freed: tuple[set[Freed], set[Freed]] = (set(), set())
        self.moved: Callable[[], None] = lambda: None  # called when everything must be looked at anew
        self.is_others_busy = False  # other replicas brought something at the last look

    async def refill(self, route: int, wanted: Wanted, *, now_ms: int) -> Refill:
        """Bring what a queue wants, and what arrived since the last look."""
        now_s = asyncio.get_running_loop().time()
        if self._seen[route] is not None and now_s > self._seen_s[route] + SEEN_MAX_S:
            self._seen[route] = None
            asyncio.get_running_loop().call_soon(self.moved)
        freed = set(self._freed[route])  # before the snapshot, which sees all that was settled so far
        async with self._connection.snapshot() as connection:
            await self._look_at_connection(connection)
            mine, floor = self._mine(), self._floors.by_route[route]
            read = OneRead(connection, route, wanted, mine=mine, floor=floor, now_ms=now_ms)
            seen = Snapshot.parse(await connection.fetchval("SELECT pg_current_snapshot()::text"))
            arrived = await self._arrived_since(connection, route, read.mine)
            if wanted.fresh_max:
                await read.backlog()
                arrived = [sequence for sequence in arrived if sequence <= wanted.after]
            for kind in KINDS:
                if wanted.due_max[kind] >= 0:
                    await read.due(kind)
            read.result.promoted = await read.some(wanted.promoted)
            if arrived:
                await self._bring(read, sorted(arrived))
            if freed:
                read.result.late += await read.freed(freed)
        self._seen[route], self._seen_s[route] = seen, now_s
        self._freed[route].difference_update(freed)
        return read.result

    def free(self, route: int, freed: Freed) -> None:
        """Hear that an event of an order was settled: the next read brings the one behind it, if the cursor passed it.

        Only a read that sees the settlement can tell: one before it saw an older one pending, and left it.
        """
        self._freed[route].add(freed)

    async def _look_at_connection(self, connection: asyncpg.Connection) -> None:
        """Begin anew with each connection: a server that crashed, or another, gives numbers again that it forgot."""
        if self._opened == self._connection.opened:
            return
        is_first, self._opened = not self._opened, self._connection.opened
        if is_first:
            return
        mine = self._mine()
        rows = await connection.fetch(FLOORS, list(mine))
        if mine is self._mine():
            self.begin((min((row[0][0] for row in rows), default=0), min((row[0][1] for row in rows), default=0)))
        asyncio.get_running_loop().call_soon(self.moved)

    async def _arrived_since(self, connection: asyncpg.Connection, route: int, mine: list[int]) -> list[int]:
        """Return the sequences whose commits were not seen before."""
        seen = self._seen[route]
        if seen is None:
            return []
        arrived: list[int] = []
        others = False
        for _, writer, is_moved, sequences, _ in await connection.fetch(SINCE, route, seen.past, seen.running, mine):
            others |= writer != self._own
            if not is_moved:
                arrived += sequences
            elif writer != self._own:
                asyncio.get_running_loop().call_soon(self.moved)
        self.is_others_busy = others
        return arrived

    async def _bring(self, read: OneRead, arrived: Sequence[int]) -> None:
        """Bring what arrived: late ones, and those behind a cursor that has caught up."""
        wanted, result, mine = read.wanted, read.result, frozenset(read.mine)
        taken = [s for s in arrived if s <= wanted.after]
        ahead = [s for s in arrived if s > wanted.after] if wanted.is_caught_up else []
        known = {s: lease for s in (*taken, *ahead) if (lease := self.commits.take(s)) is not None}
        ordered = {s for s, lease in known.items() if lease.envelope.partition_key}
        heads = await read.heads(sorted(ordered)) if ordered else set()
        foreign = {s for s, lease in known.items() if lease.partition not in mine}
        leases = {s: known[s] for s in known.keys() - foreign - (ordered - heads)}
        rest = await read.some([s for s in (*taken, *ahead) if s not in known])
        leases |= {lease.sequence: lease for lease in rest}
        result.late = [leases[s] for s in taken if s in leases]
        room = wanted.bytes_max
        for sequence in ahead:
            lease = leases.get(sequence)
            if lease is not None:
                if room <= 0 or len(result.fresh) >= FRESH_MAX * 4:
                    return  # the rest is behind the cursor: it has not caught up any more
                result.fresh.append(lease)
                room -= len(lease.envelope.payload)
            result.up_to = sequence
        if not wanted.fresh_max:  # else the read of the backlog has told
            result.is_all = True

    async def newest(
        self, route: int, *, known: frozenset[int], now_ms: int
    ) -> tuple[Lease | None, bool, Sequence[int]]:
        """Return the newest event that could be leased."""
        async with self._connection.snapshot() as connection:
            mine = list(self._mine())
            row = await connection.fetchrow(NEWEST, route, mine, self._floors.by_route[route], list(known))
            found = lease_of(row, route) if row is not None else None
            listed = await connection.fetchval(NEWEST_DUE, route, mine, now_ms, now_ms + AHEAD_MS_MAX, list(known))
            if listed is not None and (found is None or listed > found.sequence):
                rows = await connection.fetch(WORK, [listed])
                return (lease_with_history(rows[0], route) if rows else None), True, ()
        return found, False, ()

    async def raise_floors(self, writing: Connection) -> None:
        """Look how far everything is settled or given back."""
        await self._floors.look(self._connection, writing)

    def begin(self, floors: tuple[int, int]) -> None:
        """Begin anew: what is pending is read by the cursor, from the floors on."""
        self._seen = [None, None]
        self._floors = Floors(floors, self._mine())

    async def close(self) -> None:
        """Wait for the reads that are under way, and close the connection."""
        await self._connection.close()
