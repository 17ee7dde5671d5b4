"""The connection and the thread that a backlog is read with."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import apsw

from forwarder.spool.sqlite.transaction import Reader

T = TypeVar("T")


class BacklogReader:
    """Read one thing after the other, each as of one moment."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-refill")

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Do work over one moment of the database."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(self._in_one_view, work))

    async def close(self) -> None:
        """Wait for what is under way, and close the connection."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.close)
        self._executor.shutdown(wait=False)

    def _in_one_view(self, work: Callable[[Reader], T]) -> T:
        self._connection.execute("BEGIN")
        try:
            return work(self._connection)
        finally:
            self._connection.execute("ROLLBACK")
