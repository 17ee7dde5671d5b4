"""A database that goes away: nothing acknowledged is lost, nothing that was settled comes again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from spool.postgres.conftest import open_spool

from forwarder.errors import SpoolFull
from forwarder.model import RouteName, State
from stand_ins.postgres_server import PostgresServer
from stand_ins.spool_acts import Work, an_envelope, leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK


@pytest.fixture
async def spool(server: PostgresServer) -> AsyncIterator[Any]:
    """Return an empty spool on it."""
    spool = await open_spool(server.url())
    yield spool
    await spool.close()


async def accepted(spool: Any, number: int) -> bool:
    """Append one; tell whether it was taken."""
    try:
        await stored(spool, [an_envelope(number)])
    except SpoolFull:
        return False
    return True


async def test_a_crash_loses_nothing_and_settles_once(spool: Any, server: PostgresServer) -> None:
    """The sender is told to come back; what was delivered meanwhile is settled after the reconnect, and not leased."""
    async with asyncio.timeout(60):
        assert all([await accepted(spool, number) for number in range(10)])
        leases = await leased(spool, OUT, fresh=5)
        server.stop("immediate")
        settling = asyncio.create_task(settle(spool, [lease.sequence for lease in leases], State.DELIVERED))
        assert not await accepted(spool, 10)
        assert not await leased(spool, OUT)
        assert not settling.done()
        server.start()
        await settling
        number = 10
        while not await accepted(spool, number):  # noqa: ASYNC110 - as a sender does: nobody tells it
            await asyncio.sleep(0.02)
        work = Work(spool)
        while not (rest := await leased(spool, OUT)):
            await work.wait(within_s=1)
    assert [int.from_bytes(lease.envelope.event_key, "big") for lease in rest] == [*range(5, 11)]
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.delivered, totals.pending) == (11, 5, 6)
    assert totals.is_balanced()
