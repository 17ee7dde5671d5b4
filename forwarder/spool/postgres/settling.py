"""Settle what is leased here, as long as it is this replica's to settle.

A lease ends with the ownership of its partition, also when that comes back: what happened meanwhile is unknown here. It
stays in hand, and is not leased again, until its holder settles it; that then changes nothing.
"""

import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

import asyncpg

from forwarder.errors import SpoolFull
from forwarder.model import Attempt, Lease, Returned, Settlement
from forwarder.spool.claims import Claim
from forwarder.spool.codes import ROUTES
from forwarder.spool.leasing import Leasing
from forwarder.spool.postgres.ownership import Ownership
from forwarder.spool.postgres.reads import QueueReads
from forwarder.spool.postgres.settlement import Fence, Settlements, move
from forwarder.spool.postgres.settlement_rows import Move
from forwarder.spool.postgres.transaction import Transaction
from forwarder.spool.postgres.writer import Writer
from forwarder.telemetry.reporter import Reporter

_SAME = (
    "SELECT e.sequence FROM unnest($1::bigint[], $2::bytea[]) AS u(sequence, event_key), LATERAL (SELECT sequence "
    "FROM forwarder.events e WHERE e.sequence = u.sequence AND e.event_key = u.event_key LIMIT 1) e"
)


class Settling:
    """What one replica has in hand, on its way into the database."""

    def __init__(
        self,
        moves: Writer,
        leasing: Leasing,
        reads: QueueReads,
        ownership: Ownership,
        reporter: Reporter,
        *,
        nudge: Callable[[], None],
        begin_anew: Callable[[], None],
    ) -> None:
        self._moves = moves
        self._leasing = leasing
        self._reads = reads
        self._ownership = ownership
        self._reporter = reporter
        self._nudge = nudge
        self._begin_anew = begin_anew
        self._stale: set[int] = set()  # leases in hand whose partition was another's since
        self._doubtful: set[int] = set()  # from a server whose place another took, which may not have them

    @property
    def has_stale(self) -> bool:
        """Tell whether something in hand may be in another's hand as well."""
        return bool(self._stale)

    def busy_partitions(self) -> set[int]:
        """Return the partitions that have something in hand."""
        return {lease.partition for queue in self._leasing.queues for lease in queue.leased.values()}

    def own(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Return those that may be leased; the others are another's, or will be: their owner reads them."""
        mine = self._ownership.mine()
        if all(lease.partition in mine for lease in leases):
            return leases
        self._drop([lease for lease in leases if lease.partition not in mine])
        return [lease for lease in leases if lease.partition in mine]

    async def own_or_return(self, lease: Lease) -> Lease | None:
        """Return a lease that took a read to get, if it may be had still."""
        if self._ownership.may_lease():
            return next(iter(self.own([lease])), None)
        await self.settle([Returned([lease.sequence], 0, "", None, counts=False)])
        return None

    def hear_ended(self, partitions: Collection[int]) -> None:
        """Hear that these partitions were another's."""
        leased = [lease for queue in self._leasing.queues for lease in queue.leased.values()]
        self._stale.update(lease.sequence for lease in leased if lease.partition in partitions)

    def hear_promoted(self) -> None:
        """Hear that a standby took the server's place: what it lacks is lost, and its numbers are given again."""
        self._reads.commits.forget()
        self._doubtful.update(*(queue.leased for queue in self._leasing.queues))

    async def _look_for_doubtful(self, transaction: Transaction, sequences: Collection[int]) -> None:
        """Have those stale that are not the events they were: another's outcome is not written for them."""
        asked = self._doubtful.intersection(sequences)
        if not asked:
            return
        leased = {
            s: of[s].envelope.event_key for of in (q.leased for q in self._leasing.queues) for s in asked if s in of
        }
        rows = await transaction.connection.fetch(_SAME, list(leased), list(leased.values()))
        self._stale.update(leased.keys() - {row[0] for row in rows})
        self._doubtful -= asked

    def fence_all(self) -> Fence:
        """Return as owner of what this replica may change events."""
        return Fence(self._ownership.replica, self._ownership.epochs(self._ownership.mine()))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle leased events or give them back; see `ports.Spool.settle`."""
        self._let_go([sequence for settlement in settlements for sequence in settlement.sequences])
        claims = self._leasing.claims.take(settlements)
        if claims:
            settling = self._moves.run_shared(
                self._move,
                Move(claims=claims),
                on_commit=partial(self._settled, claims),
                on_rollback=partial(self._leasing.claims.drop, claims),
                is_settlement=True,
            )
            await self._written(settling, events=sum(len(claim.leases) for claim in claims))

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a leased event's progress; see `ports.Spool.note`."""
        self._leasing.claims.note_begins(sequence)
        noting = self._moves.run_shared(
            self._move,
            Move(progress=(sequence, progress)),
            on_commit=lambda _: self._leasing.noted(sequence, progress),
            on_rollback=lambda: self._leasing.claims.note_ended(sequence),
            is_settlement=True,
        )
        await self._written(noting, events=1)

    async def _written(self, job: Awaitable[object], *, events: int) -> None:
        """Wait for it; what the database refuses for good is set aside, in hand, and the others go on."""
        try:
            await job
        except asyncpg.PostgresError as error:
            self._reporter.settlement_waiting(reason=f"the database refuses it ({type(error).__name__})", events=events)

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of leased events; see `ports.Spool.record`."""
        asked = Move(exchanged=self._leasing.claims.leased_of(sequences), attempt=attempt)
        with contextlib.suppress(SpoolFull):  # the log of attempts is what a full disk can do without
            await self._moves.run_shared(self._move, asked)

    async def _move(self, transaction: Transaction, moves: Sequence[Move]) -> Sequence[Settlements]:
        sequences = {lease.sequence for asked in moves for claim in asked.claims for lease in claim.leases}
        sequences.update(*(asked.exchanged for asked in moves))
        sequences.update(asked.progress[0] for asked in moves if asked.progress is not None)
        await self._look_for_doubtful(transaction, sequences)
        leased = [queue.leased for queue in self._leasing.queues]
        partitions = {s: of[s].partition for s in sequences - self._stale for of in leased if s in of}
        fence = Fence(self._ownership.replica, self._ownership.epochs(set(partitions.values())))
        return await move(transaction, moves, fence, partitions)

    def _settled(self, claims: Sequence[Claim], done: Settlements) -> None:
        if done.lost:
            self._reporter.settlements_lost(events=len(done.lost))
            self._drop(done.lost)
        self._leasing.settled(claims, done.moves)
        for route, freed in done.freed:
            self._reads.free(route, freed)
        if done.freed:
            self._nudge()

    def _let_go(self, sequences: Sequence[int]) -> None:
        """Give up what is another's by now."""
        if self._stale and (gone := self._stale.intersection(sequences)):
            leased = [queue.leased for queue in self._leasing.queues]
            lost = [of[sequence] for of in leased for sequence in gone if sequence in of]
            self._reporter.settlements_lost(events=len(lost))
            self._drop(lost)

    def _drop(self, lost: Sequence[Lease]) -> None:
        """Have leases gone from here as if they were settled: their owner sees to them."""
        if not lost:
            return
        for queue, route in zip(self._leasing.queues, ROUTES, strict=True):
            queue.settled([lease for lease in lost if lease.envelope.route is route])
        self._stale.difference_update([lease.sequence for lease in lost])
        if not self._stale:  # some may be this replica's own again
            self._begin_anew()
