"""From the event loop to the writer thread and back: each call is a job, each answer a future.

Nothing here knows what the work is. What a commit brought is heard on the loop's thread in the order of
the commits, before the caller that asked for it goes on.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from forwarder.errors import SpoolClosed
from forwarder.model import Envelope, Receipt
from forwarder.spool.store.jobs import AppendJob, Job
from forwarder.spool.store.transaction import Transaction

T = TypeVar("T")


class Commits:
    """Submit jobs to a writer, and wait for their commits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, submit: Callable[[AppendJob | Job], None]) -> None:
        self._loop = loop
        self._submit = submit
        self._pending: set[asyncio.Future[Any]] = set()
        self._is_ended = False

    def append(
        self, envelopes: Sequence[Envelope], done: Callable[[Receipt], None], failed: Callable[[Exception], None]
    ) -> None:
        """Store envelopes; they share a commit with whatever else is queued."""
        future = self._future()
        future.add_done_callback(partial(_answered, done=done, failed=failed))
        self._submit(AppendJob(envelopes, *_callbacks(future)))

    async def run(
        self,
        work: Callable[[Transaction], T],
        *,
        heard: Callable[[T], None] | None = None,
        missed: Callable[[], None] | None = None,
        must_succeed: bool = False,
        is_read: bool = False,
    ) -> T:
        """Do work in the next commit. `heard` is told its result in the order of the commits, `missed` that it failed.

        A caller that is cancelled stops waiting; the work is done and heard all the same.
        """
        future = self.begin(work, heard=heard, missed=missed, must_succeed=must_succeed, is_read=is_read)
        result: T = await future
        return result

    def begin(
        self,
        work: Callable[[Transaction], T],
        *,
        heard: Callable[[T], None] | None = None,
        missed: Callable[[], None] | None = None,
        must_succeed: bool = False,
        is_read: bool = False,
    ) -> "asyncio.Future[T]":
        """Submit work as `run` does, without waiting for it."""
        future = self._future()
        done, failed = _callbacks(future)

        def told(result: T) -> None:
            if heard is not None:
                heard(result)
            done(result)

        def refused(error: Exception) -> None:
            if missed is not None:
                missed()
            failed(error)

        self._submit(Job(work, told, refused, must_succeed, is_read))
        return future

    def end(self) -> None:
        """Tell whoever still waits, and whoever comes, that the spool is closed."""
        self._is_ended = True
        for future in list(self._pending):
            if not future.done():
                future.set_exception(SpoolClosed("the spool is closed"))

    def _future(self) -> "asyncio.Future[Any]":
        if self._is_ended:
            raise SpoolClosed("the spool is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future


def _answered(
    future: "asyncio.Future[Receipt]", *, done: Callable[[Receipt], None], failed: Callable[[Exception], None]
) -> None:
    error = future.exception()
    if error is None:
        done(future.result())
    elif isinstance(error, Exception):
        failed(error)


def _callbacks(future: "asyncio.Future[Any]") -> tuple[Callable[[Any], None], Callable[[Exception], None]]:
    def done(result: Any) -> None:
        if not future.done():
            future.set_result(result)

    def failed(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    return done, failed
