"""Work that a caller waits for: handed to the writer, heard in the order of the commits, answered by a future."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from forwarder.errors import SpoolClosed
from forwarder.spool.sqlite.transaction import Transaction
from forwarder.spool.sqlite.writer_jobs import Job

T = TypeVar("T")


class AwaitedWork:
    """Submit jobs, and wait for their commits. Lives on the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, submit: Callable[[Job], None]) -> None:
        self._loop = loop
        self._submit = submit
        self._pending: set[asyncio.Future[Any]] = set()
        self._is_ended = False

    async def run(
        self,
        work: Callable[[Transaction], T],
        *,
        heard: Callable[[T], None] | None = None,
        missed: Callable[[], None] | None = None,
        is_settlement: bool = False,
    ) -> T:
        """Do work in the next commit. `heard` is told its result in the order of the commits, `missed` that it failed.

        A caller that is cancelled stops waiting; the work is done and heard all the same.
        """
        if self._is_ended:
            raise SpoolClosed("the spool is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

        def done(result: T) -> None:
            if not future.done():
                future.set_result(result)
            if heard is not None:
                heard(result)

        def failed(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)
            if missed is not None:
                missed()

        self._submit(Job(work, done, failed, is_settlement))
        return await future

    def refuse(self) -> None:
        """Take nothing new; what was submitted is still answered."""
        self._is_ended = True

    def end(self) -> None:
        """Tell whoever still waits, and whoever comes, that the spool is closed."""
        self._is_ended = True
        for future in list(self._pending):
            if not future.done():
                future.set_exception(SpoolClosed("the spool is closed"))
