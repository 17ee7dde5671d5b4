"""Commit what waits together, on one connection and one task of the event loop.

A job that fails does not fail its commit-mates: the group is rolled back and each tried alone. While the database is
away, settlements are kept and tried again; everything else is refused at once.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ports import Clock
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.reconnecting import AGAIN, AWAY, Connection, words
from forwarder.spool.postgres.transaction import Slot, Transaction

T = TypeVar("T")
Item = TypeVar("Item")
RETRY_AFTER_S = 5
_GROUP_MAX = 512
_BACKOFF_S = 0.05, 2.0
_TRIES = 3
_REFUSED_MAX = 8  # tries of a deferred settlement, over some seconds


@dataclass(slots=True)
class Job:
    """Work inside a transaction. `done` and `failed` are called on the event loop's thread, one of them once.

    Neighbours in a commit that share their work have it done at once: it is given the items of all, and returns a
    result for each.
    """

    work: Callable[[Transaction, Sequence[Any]], Awaitable[Sequence[Any]]]
    item: Any
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    is_settlement: bool = False


class Writer:
    """Work jobs off, all or none in one transaction."""

    def __init__(
        self,
        connection: Connection,
        *,
        limits: SpoolLimits,
        clock: Clock,
        heard: Callable[[], None],
        synced: Callable[[float], object] = lambda _duration_s: None,
    ) -> None:
        self.connection = connection
        self._synced = synced  # called with how long a commit took, in seconds
        self._limits = limits
        self._clock = clock
        self._heard = heard  # called when `refusal` or `deferred` changes
        self._jobs: deque[Job] = deque()
        self._deferred: deque[Job] = deque()
        self._is_waiting = asyncio.Event()
        self._slot = Slot()
        self._opened = 0
        self._is_ended = False
        self._refused = 0  # how often in a row the oldest deferred one was
        self.refusal = ""  # why nothing can be written
        self.amounts = self._slot.amounts

    @property
    def slot(self) -> int:
        """Whose account in the totals is `amounts`."""
        return self._slot.slot

    @property
    def deferred(self) -> int:
        """How many settlements wait for the database."""
        return len(self._deferred)

    def submit(self, job: Job) -> None:
        """Have a job done in the next commit."""
        if self._is_ended:
            job.failed(SpoolClosed("the spool is closed"))
        elif self.refusal and not job.is_settlement:
            job.failed(self._no_room())
        else:
            self._jobs.append(job)
            self._is_waiting.set()

    async def run_job(self, work: Callable[[Transaction], Awaitable[T]], **how: Any) -> T:
        """Do work of its own in the next commit; the rest as with `run_shared`."""

        async def alone(transaction: Transaction, _items: Sequence[None]) -> Sequence[T]:
            return [await work(transaction)]

        return await self.run_shared(alone, None, **how)

    async def run_shared(
        self,
        work: Callable[[Transaction, Sequence[Item]], Awaitable[Sequence[T]]],
        item: Item,
        *,
        on_commit: Callable[[T], None] | None = None,
        on_rollback: Callable[[], None] | None = None,
        is_settlement: bool = False,
    ) -> T:
        """Do work in the next commit, for all its neighbours at once; `on_commit` is called with this one's result.

        It is called in the order of the commits. A caller that is cancelled stops waiting; the work is done and
        `on_commit` called all the same.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T) -> None:
            try:
                if on_commit is not None:
                    on_commit(result)
            finally:  # whoever waits goes on, also after a bug in who listens
                if not future.done():
                    future.set_result(result)

        def failed(error: Exception) -> None:
            if on_rollback is not None:
                on_rollback()
            if not future.done():
                future.set_exception(error)

        self.submit(Job(work, item, done, failed, is_settlement))
        return await future

    async def run(self) -> None:
        """Work until `end`, and then what is left."""
        backoff_s = _BACKOFF_S[0]
        while not (self._is_ended and (self.refusal or not (self._jobs or self._deferred))):
            if self.refusal:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff_s):
                        await self._wait_for_end()
                backoff_s = min(_BACKOFF_S[1], backoff_s * 2)
                await self._recover()
                continue
            backoff_s = _BACKOFF_S[0]
            if not self._jobs:
                self._is_waiting.clear()
                await self._is_waiting.wait()
            jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), _GROUP_MAX))]
            await self._work_off(jobs)
        for job in (*self._deferred, *self._jobs):
            self._call(job.failed, SpoolClosed("the spool closed before this could be written"))

    async def _wait_for_end(self) -> None:
        while not self._is_ended:
            self._is_waiting.clear()
            await self._is_waiting.wait()

    def end(self) -> None:
        """Take nothing new; `run` does what is left, if it can be done, and returns."""
        self._is_ended = True
        self._is_waiting.set()

    async def _work_off(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        try:
            await self._commit_soon(jobs)
        except AWAY as error:
            self._meet_away(error, jobs)
        except Exception as error:  # noqa: BLE001 - one of them is the culprit: each is tried alone
            if len(jobs) == 1:
                self._call(jobs[0].failed, error)
                return
            for job in jobs:
                await self._work_off([job])

    async def _commit_soon(self, jobs: Sequence[Job]) -> None:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(*AGAIN):
                return await self._commit(jobs)
        return await self._commit(jobs)

    async def _commit(self, jobs: Sequence[Job]) -> None:
        async with self.connection.transaction() as connection:
            if self.connection.opened != self._opened:
                self._opened, self._slot = self.connection.opened, Slot()
            transaction = Transaction(connection, self._slot, self._limits, now_ms=self._clock.wall_ms())
            results: list[Any] = []
            for work, neighbours in itertools.groupby(jobs, key=lambda job: job.work):
                results += await work(transaction, [job.item for job in neighbours])
            began_s = self._clock.monotonic_s()
            await transaction.end()
            self._synced(self._clock.monotonic_s() - began_s)
        self.amounts = self._slot.amounts
        for job, result in zip(jobs, results, strict=True):
            self._call(job.done, result)

    async def _recover(self) -> None:
        """Write what was deferred, oldest first; then take new work again."""
        try:
            while self._deferred:
                await self._commit([self._deferred[0]])
                self._deferred.popleft()
                self._refused = 0
            async with self.connection.statement() as connection:
                await connection.fetchval("SELECT 1")
        except AGAIN as error:  # the database is there: it is this settlement that it refuses
            self._refused += 1
            if self._refused >= _REFUSED_MAX and self._deferred:
                self._give_up(error)
            return
        except AWAY:
            return
        except Exception as error:  # noqa: BLE001 - a settlement that can never be written must not stop the others
            if self._deferred:
                self._give_up(error)
            return
        self.refusal = ""
        self._heard()

    def _give_up(self, error: Exception) -> None:
        self._refused = 0
        self._call(self._deferred.popleft().failed, error)

    def _meet_away(self, error: BaseException, jobs: Sequence[Job]) -> None:
        self.refusal = words(error)
        for job in (*jobs, *self._jobs):
            if job.is_settlement:
                self._deferred.append(job)
            else:
                self._call(job.failed, self._no_room())
        self._jobs.clear()
        self._heard()

    def _no_room(self) -> SpoolFull:
        return SpoolFull(self.refusal, retry_after_s=RETRY_AFTER_S)

    def _call(self, call: Callable[[Any], None], result: object) -> None:
        try:
            call(result)
        except Exception as error:  # noqa: BLE001 - a bug in one must not leave the others waiting for ever
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a commit could not be heard", "exception": error}
            )
