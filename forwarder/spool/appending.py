"""Wait for an append, where a caller can afford a future: cold paths and tests. The public listener does not."""

import asyncio
from collections.abc import Sequence

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Envelope, Receipt
from forwarder.ports import Spool


async def stored(spool: Spool, envelopes: Sequence[Envelope]) -> Receipt:
    """Append the envelopes and return once they are on disk; raises `SpoolFull` or `SpoolClosed`."""
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    def on_commit(receipt: Receipt) -> None:
        if not future.done():
            future.set_result(receipt)

    def on_rollback(error: SpoolFull | SpoolClosed) -> None:
        if not future.done():
            future.set_exception(error)

    spool.append(envelopes, on_commit=on_commit, on_rollback=on_rollback)
    return await future
