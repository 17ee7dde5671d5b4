"""One read for a lease queue: what it asked for, as of one snapshot."""

from collections.abc import Collection, Sequence

import asyncpg

from forwarder.model import Lease
from forwarder.spool.held_leases import AHEAD_MS_MAX
from forwarder.spool.lease_window import Refill, Wanted
from forwarder.spool.postgres.lease_statements import (
    BACKLOG,
    DUE,
    FREED,
    HEADS,
    LAST_LOOKED_AT,
    SOME,
    WORK,
    lease_of,
    lease_with_history,
)

Freed = tuple[int, int, bool]  # an order, which of it was settled, and whether that was given back before


class OneRead:
    """One read: its snapshot and what it has brought so far."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        route: int,
        wanted: Wanted,
        *,
        mine: Collection[int],
        floor: int,
        now_ms: int,
    ) -> None:
        self._connection = connection
        self._route = route
        self.mine = list(mine)
        self.floor = floor
        self.wanted = wanted
        self._now_ms = now_ms
        self.result = Refill(last_sequence=0)

    async def backlog(self) -> None:
        """Bring the next of the backlog."""
        wanted, result = self.wanted, self.result
        after = max(wanted.after, self.floor)
        rows = await self._connection.fetch(
            BACKLOG, self._route, self.mine, self.floor, after, wanted.fresh_max, wanted.bytes_max
        )
        result.fresh = [lease_of(row, self._route) for row in rows]
        if rows and (len(rows) < rows[0]["found"] or len(rows) >= wanted.fresh_max):
            result.up_to = rows[-1]["sequence"]
            return
        looked_at = await self._connection.fetchval(LAST_LOOKED_AT, after)
        result.is_all = looked_at is None
        if result.is_all:
            newest = await self._connection.fetchval("SELECT max(sequence) FROM forwarder.events")
            result.up_to = result.last_sequence = max(wanted.after, newest or 0)
        else:
            result.up_to = looked_at

    async def due(self, kind: int) -> None:
        """Bring what is due of those given back, and when the next one is."""
        most, far_ms = self.wanted.due_max[kind], self._now_ms + AHEAD_MS_MAX
        limit = most + len(self.wanted.known) + 1
        # What is too far ahead is due as well, as if its time had come long ago.
        late = await self._connection.fetch(DUE, self._route, self.mine, kind, far_ms, 2**62, limit)
        rows = await self._connection.fetch(DUE, self._route, self.mine, kind, -1, far_ms, limit)
        found = [(0, row["sequence"]) for row in late] + [(row["not_before_ms"], row["sequence"]) for row in rows]
        others = [(at_ms, sequence) for at_ms, sequence in found if sequence not in self.wanted.known]
        due = {sequence: at_ms for at_ms, sequence in others[:most] if at_ms <= self._now_ms}
        if due:
            for row in await self._connection.fetch(WORK, list(due)):
                self.result.due[kind].append((due[row["sequence"]], lease_with_history(row, self._route)))
        rest = others[len(due) :]
        self.result.next_due_ms[kind] = rest[0][0] if rest else None

    async def some(self, sequences: Sequence[int]) -> list[Lease]:
        """Read those of these that can be leased and were never given back."""
        if not sequences:
            return []
        rows = await self._connection.fetch(SOME, self._route, self.mine, self.floor, sequences)
        return [lease_of(row, self._route) for row in rows]

    async def freed(self, freed: Collection[Freed]) -> list[Lease]:
        """Read the oldest of these orders that the cursor has passed, if it can be leased."""
        columns = [list(column) for column in zip(*freed, strict=True)]
        rows = await self._connection.fetch(FREED, self._route, self.mine, self.floor, *columns)
        return [lease_of(row, self._route) for row in rows if row["sequence"] <= self.wanted.after]

    async def heads(self, sequences: Sequence[int]) -> set[int]:
        """Return those of these that can be leased and were never given back."""
        rows = await self._connection.fetch(HEADS, self._route, self.mine, self.floor, sequences)
        return {row[0] for row in rows}
