"""Erase while several replicas lease and deliver: what is pending is erased by the owner of its partition.

Only an owner knows what it has in hand. So who is asked to erase does what is its own, settled, or nobody's, and asks
the others for the rest by a table that each looks at once a second. What is not answered in time counts as leased.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial

from forwarder.ports import Erased
from forwarder.spool.erasing import ERASED, Emptied, Eraser
from forwarder.spool.leasing import Leasing
from forwarder.spool.postgres.erasure import Scrubber, erase, rewrite_audit
from forwarder.spool.postgres.reconnecting import Connection
from forwarder.spool.postgres.settling import Settling
from forwarder.spool.postgres.transaction import Transaction
from forwarder.spool.postgres.writer import Writer

_ANSWER_MAX_S = 3.0
_LOOK_S = 0.1
_ASKED_MAX = 1_000  # done in one look
_ASK = """
INSERT INTO forwarder.erasures SELECT sequence, partition_no FROM forwarder.events WHERE sequence = ANY($1::bigint[])
ON CONFLICT DO NOTHING
"""
_IS_WAITING = "SELECT EXISTS (SELECT FROM forwarder.erasures WHERE sequence = ANY($1::bigint[]))"
_DONE = "DELETE FROM forwarder.erasures WHERE sequence = ANY($1::bigint[])"
_MINE = "SELECT sequence FROM forwarder.erasures WHERE partition_no = ANY($1::smallint[]) ORDER BY sequence LIMIT $2"
_ERASED = """
SELECT o.sequence FROM forwarder.outcomes o JOIN forwarder.reasons r ON r.reason_id = o.reason_id
WHERE o.sequence = ANY($1::bigint[]) AND r.reason = $2
"""


class SharedErasing:
    """Erase here, and have the others erase."""

    def __init__(self, moves: Writer, leasing: Leasing, settling: Settling, connection: Connection) -> None:
        self._moves = moves
        self._leasing = leasing
        self._settling = settling
        self._connection = connection
        self._scrubber = Scrubber(connection)

    async def erase(self, sequences: Sequence[int]) -> Erased:
        """Erase these events; see `ports.Spool.erase`."""
        left: list[int] = []
        met = await Eraser(partial(self._erase, left), self._leasing).erase(sequences)
        if not left:
            return met
        gone = await self._asked(left)
        rest = [sequence for sequence in left if sequence not in gone]
        again = await Eraser(partial(self._erase, []), self._leasing).erase(rest)
        return Erased(
            events=met.events + len(gone) + again.events,
            pending=met.pending + len(gone) + again.pending,
            leased=met.leased - len(left) + again.leased,
        )

    async def scrub(self, user_ids: Sequence[str]) -> bool:
        """Let what was erased leave the tables; see `ports.Spool.scrub`."""
        await self._moves.run_job(partial(rewrite_audit, users=user_ids))
        return await self._scrubber.vacuum()

    async def look(self, mine: Collection[int]) -> None:
        """Erase what others ask for, of these partitions. Raises what the database raises."""
        async with self._connection.statement() as connection:
            rows = await connection.fetch(_MINE, list(mine), _ASKED_MAX)
        if rows:
            sequences = [row[0] for row in rows]
            await Eraser(partial(self._erase, []), self._leasing).erase(sequences)
            await self._do(_DONE, sequences)

    async def _asked(self, sequences: Sequence[int]) -> set[int]:
        """Ask the others, and wait; return what they erased."""
        await self._do(_ASK, sequences)
        try:
            async with asyncio.timeout(_ANSWER_MAX_S):
                while await self._is_waiting(sequences):  # noqa: ASYNC110 - another process answers
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            pass  # a replica that hangs: it is asked again by whoever tries again
        await self._do(_DONE, sequences)
        async with self._connection.statement() as connection:
            return {row[0] for row in await connection.fetch(_ERASED, sequences, ERASED)}

    async def _is_waiting(self, sequences: Sequence[int]) -> bool:
        async with self._connection.statement() as connection:
            return bool(await connection.fetchval(_IS_WAITING, sequences))

    async def _do(self, statement: str, sequences: Sequence[int]) -> None:
        async def work(transaction: Transaction) -> None:
            await transaction.connection.execute(statement, sequences)

        await self._moves.run_job(work)

    async def _erase(
        self,
        left: list[int],
        sequences: Sequence[int],
        *,
        on_commit: Callable[[Emptied], None],
        on_rollback: Callable[[], None],
    ) -> Emptied:
        async def work(transaction: Transaction) -> Emptied:
            await self._scrubber.note(transaction, sequences)
            return await erase(transaction, sequences, fence=self._settling.fence_all())

        def heard(met: Emptied) -> None:
            on_commit(met)
            left.extend(met.left)
            if any(met.waited):
                self._leasing.reset()  # who came behind an erased one is read anew

        return await self._moves.run_job(work, on_commit=heard, on_rollback=on_rollback)
