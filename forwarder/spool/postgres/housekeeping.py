"""Tidy, on the one replica that does so for all: history past its retention, and what was counted beside.

Blocks go whole once all of them is past the retention. Where little happens, and a block is filled over weeks, its
events go one by one a while later. At the cap the oldest blocks go early, but for what is pending or dead.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import asyncpg

from forwarder.ports import Clock
from forwarder.spool.limits import EVICTION_FRACTION, SpoolLimits
from forwarder.spool.postgres.blocks import (
    blocks_without_indexes,
    drop_history,
    full_blocks,
    index_labels,
    is_past,
)
from forwarder.spool.postgres.key_spans import spans_at
from forwarder.spool.postgres.reconnecting import Connection
from forwarder.spool.postgres.tidying import drop_arrivals, drop_old, drop_spans, purge, sum_up
from forwarder.spool.postgres.transaction import Transaction
from forwarder.spool.postgres.writer import Writer

T = TypeVar("T")
_EVERY_S = 15.0
_SWEEP_EVERY_S = 60.0
_SEEN_BY_ALL_S = 120.0  # a replica that has not looked for so long begins anew
_STAY_MAX = 0.25  # of a block: with more the copy is not worth it
_LATER = 7  # of the retention: how much later events go one by one
_USED = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
    "WHERE relnamespace = 'forwarder'::regnamespace AND relkind = 'r'"
)
_OVER = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


class Housekeeping:
    """Steps on a writer of its own, as long as `leads` says so."""

    def __init__(
        self,
        connection: Connection,
        limits: SpoolLimits,
        clock: Clock,
        leads: Callable[[], bool],
        failed: Callable[[Exception], None],
    ) -> None:
        self.writer = Writer(connection, limits=limits, clock=clock, heard=lambda: None)
        self._limits = limits
        self._clock = clock
        self._leads = leads
        self._failed = failed
        self._wake = asyncio.Event()
        self._is_ended = False
        self._xids: deque[tuple[float, int]] = deque()  # when it was read, and what was over by then
        self._swept_s = 0.0

    async def run(self) -> None:
        """Tidy every few seconds until `end`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.writer.run())
            await self._tidy_until_end()

    async def _tidy_until_end(self) -> None:
        while not self._is_ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._wake.wait()
            if self._leads():
                await self._try_to_tidy()

    async def _try_to_tidy(self) -> None:
        try:
            await self.tidy()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next round may do
            self._failed(error)

    def end(self) -> None:
        """Let `run` return."""
        self._is_ended = True
        self._wake.set()
        self.writer.end()

    async def tidy(self) -> None:
        """Do one round."""
        await self._tidy_arrivals()
        await self._do(sum_up)
        if await self._used() > self._limits.bytes_max * EVICTION_FRACTION:
            await self._drop_blocks(yields=True)
        now_s = self._clock.monotonic_s()
        if now_s >= self._swept_s + _SWEEP_EVERY_S:
            self._swept_s = now_s
            await self._sweep()

    async def _sweep(self) -> None:
        now_ms, retention_s = self._clock.wall_ms(), self._limits.retention_s
        before_ms = now_ms - retention_s * 1_000
        await self._drop_blocks(yields=False)
        later_ms, after = before_ms - retention_s * 1_000 // _LATER, 0
        while not self._is_ended and (after := await self._do(partial(purge, before_ms=later_ms, after=after))):
            pass
        await self._do(partial(drop_old, before_ms=before_ms))
        await self._do(partial(drop_spans, spans=spans_at(now_ms, retention_s=retention_s)))
        # Last: a server too slow for it, which ends it every time, must still get rid of what is old.
        for block in await self._ask(blocks_without_indexes):
            await self._do(partial(index_labels, block=block))

    async def _drop_blocks(self, *, yields: bool) -> None:
        """Drop what may go of the full blocks, oldest first; at the cap until enough is free."""
        before_ms = self._clock.wall_ms() - self._limits.retention_s * 1_000
        for block in await self._ask(full_blocks):
            if not yields and not await self._ask(partial(is_past, block=block, before_ms=before_ms)):
                return  # those behind it are younger
            drop = partial(drop_history, block=block, before_ms=before_ms, yields=yields, stay_max=_STAY_MAX)
            is_dropped = await self._do(drop)
            if yields and is_dropped and await self._used() <= self._limits.bytes_max * EVICTION_FRACTION:
                return

    async def _tidy_arrivals(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._xids and self._xids[0][0] <= now_s - _SEEN_BY_ALL_S:
            _, before = self._xids.popleft()
            await self._do(partial(drop_arrivals, before_xid=before))
        self._xids.append((now_s, await self._ask(lambda connection: connection.fetchval(_OVER))))

    async def _used(self) -> int:
        return int(await self._ask(lambda connection: connection.fetchval(_USED)))

    async def _ask(self, read: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async with self.writer.connection.statement() as connection:
            return await read(connection)

    async def _do(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self.writer.run_job(work)
